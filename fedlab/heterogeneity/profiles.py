"""Profiles of real federations: how many cases, and of which classes, their sites hold.

Published facts with source and licence (`profiles.json`), which simulated sites can imitate: `"like(fed_isic2019)"`.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from fedlab.core.registry import nearest
from fedlab.core.typing import Ints
from fedlab.heterogeneity.site_effects import SiteEffects

FILE = Path(__file__).with_name("profiles.json")
LIKE = re.compile(r"^\s*like\(\s*([A-Za-z_]\w*)\s*\)\s*$")


@dataclass(frozen=True)
class ClassCounts:
    """Cases of each class at each real site, (real sites, classes), and the kind of task."""

    task: str
    classes: tuple[str, ...]
    counts: Ints


@dataclass(frozen=True)
class Profile:
    """One real federation. sites: their names. sizes: (real sites,) cases. labels: by class, where they are public."""

    name: str
    title: str
    sites: tuple[str, ...]
    sizes: Ints
    labels: ClassCounts | None
    source: str
    licence: str

    def __len__(self) -> int:
        return len(self.sites)

    def match(self, effects: SiteEffects) -> Ints:
        """Index of the real site that each simulated site imitates, (sites,).

        The largest real site is imitated where the quantity effect is highest. With fewer simulated sites, real sites
        at evenly spaced ranks of size are used, among them the largest and the smallest. Quantity and prevalence use
        the same match, so that a site has the size and the classes of one real site. Raises ValueError for more
        simulated than real sites.
        """
        if effects.sites > len(self):
            larger = [f"{other.name} ({len(other)})" for other in profiles().values() if len(other) >= effects.sites]
            raise ValueError(
                f"like({self.name}) has {len(self)} sites, fewer than the {effects.sites} requested sites: use"
                f" at most {len(self)} sites, or imitate {' or '.join(larger) or 'none; draw lognormal(1) sizes'}"
            )
        ranks = np.rint(np.linspace(0, len(self) - 1, effects.sites)).astype(np.int64)
        chosen = np.argsort(-self.sizes, kind="stable")[ranks]
        matched = np.empty(effects.sites, np.int64)
        matched[np.argsort(-effects.of("quantity"), kind="stable")] = chosen
        return matched


@cache
def profiles() -> MappingProxyType[str, Profile]:
    """Return all profiles by name."""
    return MappingProxyType(
        {name: _read(name, facts) for name, facts in json.loads(FILE.read_text(encoding="utf-8")).items()}
    )


def profile(name: object) -> Profile:
    """Return the profile of that name; raise ValueError with the nearest names if there is none."""
    if not isinstance(name, str) or name not in profiles():
        raise ValueError(f"there is no profile {name!r} to imitate: {nearest(str(name), profiles())}")
    return profiles()[name]


def quoted(text: str) -> str:
    """Put quotes around a bare name, `like(fed_ixi)` -> `like('fed_ixi')`; leave other text unchanged."""
    return LIKE.sub(r"like('\1')", text)


def _read(name: str, facts: dict[str, Any]) -> Profile:
    """Build a profile from its entry in profiles.json."""
    labels = facts.get("labels")
    known = ClassCounts(labels["task"], tuple(labels["classes"]), np.array(labels["counts"])) if labels else None
    sizes = np.array(facts["sizes"], np.int64)
    return Profile(name, facts["title"], tuple(facts["institutions"]), sizes, known, facts["source"], facts["licence"])
