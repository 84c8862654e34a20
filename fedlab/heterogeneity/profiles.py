"""Profiles: how many cases, and of which classes, the institutions of real federations hold.

Small facts with their source and licence (`profiles.json`), to be imitated by simulated sites: `"like(fed_isic2019)"`.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.registry import nearest
from fedlab.core.typing import Ints
from fedlab.heterogeneity.site_coordinates import SiteEffects

FILE = Path(__file__).with_name("profiles.json")
LIKE = re.compile(r"^\s*like\(\s*([A-Za-z_]\w*)\s*\)\s*$")


@dataclass(frozen=True)
class Labels:
    """Cases of each class at each institution, (institutions, classes), and the kind of task they belong to."""

    task: str
    classes: tuple[str, ...]
    counts: Ints


@dataclass(frozen=True)
class Profile:
    """One real federation. sizes: (institutions,) cases. labels: where they are public."""

    name: str
    title: str
    institutions: tuple[str, ...]
    sizes: Ints
    labels: Labels | None
    source: str
    licence: str

    def __len__(self) -> int:
        return len(self.institutions)

    def seats(self, atlas: SiteEffects) -> NDArray[np.int64]:
        """(sites,) the institution that each site imitates: the largest where the coordinate of quantity is highest.

        For fewer sites than institutions, those at evenly spaced ranks of size, largest and smallest among them.
        Quantity and prevalence seat sites alike, so that a site gets the size and the classes of one institution.
        Raises ValueError for more sites than institutions.
        """
        if atlas.sites > len(self):
            larger = [f"{other.name} ({len(other)})" for other in profiles().values() if len(other) >= atlas.sites]
            raise ValueError(
                f"like({self.name}) knows {len(self)} institutions, fewer than the {atlas.sites} sites asked for: ask"
                f" for at most {len(self)} sites, or imitate {' or '.join(larger) or 'none; draw lognormal(1) sizes'}"
            )
        ranks = np.rint(np.linspace(0, len(self) - 1, atlas.sites)).astype(np.int64)
        chosen = np.argsort(-self.sizes, kind="stable")[ranks]
        seats = np.empty(atlas.sites, np.int64)
        seats[np.argsort(-atlas.coordinates("quantity"), kind="stable")] = chosen
        return seats


@cache
def profiles() -> MappingProxyType[str, Profile]:
    """All profiles by name."""
    return MappingProxyType({name: _read(name, facts) for name, facts in json.loads(FILE.read_text()).items()})


def profile(name: object) -> Profile:
    """The profile of that name; ValueError with the nearest names if there is none."""
    if not isinstance(name, str) or name not in profiles():
        raise ValueError(f"there is no profile {name!r} to be like: {nearest(str(name), profiles())}")
    return profiles()[name]


def quoted(text: str) -> str:
    """`like(fed_ixi)` -> `like('fed_ixi')`, so that a name needs no marks; any other text as it is."""
    return LIKE.sub(r"like('\1')", text)


def _read(name: str, facts: dict[str, Any]) -> Profile:
    labels = facts.get("labels")
    known = Labels(labels["task"], tuple(labels["classes"]), np.array(labels["counts"])) if labels else None
    sizes = np.array(facts["sizes"], np.int64)
    return Profile(name, facts["title"], tuple(facts["institutions"]), sizes, known, facts["source"], facts["licence"])
