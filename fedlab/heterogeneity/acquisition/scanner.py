"""Acquisition: sites differ in how their scanners render the same patient.

A scanner is drawn once a site and then applied deterministically to all of that site's cases, train and test alike.
What differs is what differs between scanners of that modality; see `fedlab.heterogeneity.acquisition.modalities`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.core.registry import nearest
from fedlab.core.rng import stream
from fedlab.core.typing import Floats
from fedlab.data.cases import Cases
from fedlab.heterogeneity.acquisition.modalities import CHAINS, EFFECTS, MODALITIES, check_colour, modality_of
from fedlab.heterogeneity.acquisition.optics import Pixels, Scan
from fedlab.heterogeneity.acquisition.presets import STYLES, Acquisition, Requested, check_suits, read, settings_of
from fedlab.heterogeneity.site_coordinates import SiteEffects

CHUNK = 2**21  # pixels in work at a time, so that a large site fits in memory
STEPS = 32  # to which jittered settings are rounded, so that images of like settings are rendered together


@dataclass(frozen=True)
class Scanner:
    """How one site renders images; the defaults change nothing.

    settings: effect -> setting, from -1 to 1 (0 to 1 for effects that can only do harm), where 0 changes nothing; see
    `parameters` for what they mean. jitter: standard deviation of a setting between cases of the site.
    """

    site: str = ""
    seed: int = 0
    modality: str = "generic"
    settings: dict[str, float] = field(default_factory=dict)
    jitter: float = 0.0

    def __post_init__(self) -> None:
        for name, setting in self.settings.items():
            if name not in EFFECTS:
                raise ValueError(f"a scanner has no effect {name!r}: {nearest(name, EFFECTS)}")
            if not EFFECTS[name].lowest <= setting <= 1:
                raise ValueError(f"{name} is set to {setting!r}: give {EFFECTS[name].lowest:.0f} to 1")

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> "Scanner":
        """The scanner of which `dataclasses.asdict` was written as JSON."""
        return cls(**written)

    @property
    def neutral(self) -> bool:
        """Whether images stay as they are."""
        return not self.jitter and not any(self.settings.values())

    @property
    def parameters(self) -> dict[str, float]:
        """effect -> physical value, in the unit of `EFFECTS[effect].unit`."""
        return {name: EFFECTS[name].value(setting) for name, setting in self.settings.items()}

    def settings_of(self, case_ids: Sequence[str]) -> dict[str, Floats]:
        """effect -> (n,) setting that each case is taken with: the scanner's own but for jitter."""
        return {name: self._jittered(name, setting, case_ids) for name, setting in self.settings.items()}

    def _jittered(self, name: str, setting: float, case_ids: Sequence[str]) -> Floats:
        if not self.jitter:
            return np.full(len(case_ids), setting)
        drawn = [stream(self.seed, "jitter", name, self.site, str(case)).standard_normal() for case in case_ids]
        shaken = np.rint((setting + self.jitter * np.array(drawn)) * STEPS) / STEPS
        return np.clip(shaken, EFFECTS[name].lowest, 1.0)

    def apply(
        self, images: NDArray[np.generic], case_ids: Sequence[str], labels: ArrayLike | None = None
    ) -> NDArray[np.generic]:
        """The images (n, channels, height, width[, depth]) as this scanner renders them, in their own dtype.

        uint8 stands for 0..1 in steps of 1/255 and is rounded back. labels: how positive each case is, (n,) in [0, 1];
        only a marker looks at them. A case looks the same in any order and any batch. A neutral scanner returns the
        very same array.
        """
        if self.neutral or not len(images):
            return images
        positive = None if labels is None else np.asarray(labels, float)
        step = max(1, CHUNK // int(np.prod(images.shape[1:])))
        rendered = np.empty_like(images)
        for start in range(0, len(images), step):
            rows = slice(start, start + step)
            full = np.float32(255 if images.dtype == np.uint8 else 1)
            at = Scan(self.site, self.seed, case_ids[rows], None if positive is None else positive[rows])
            shown = self._render(images[rows].astype(np.float32) / full, at)
            rendered[rows] = np.rint(shown * full) if full == 255 else shown
        return rendered

    def _render(self, x: Pixels, at: Scan) -> Pixels:
        """Effects in the order of EFFECTS; what leaves the grey scale is cut off at each stage."""
        for name in (name for name in EFFECTS if name in self.settings):
            settings = self._jittered(name, self.settings[name], at.cases)
            for setting in np.unique(settings[settings != 0]):
                like = settings == setting
                value = EFFECTS[name].value(float(setting))
                if like.all():
                    x = np.clip(EFFECTS[name].function(x, value, at), 0, 1)
                else:
                    x[like] = np.clip(EFFECTS[name].function(x[like], value, at.take(like)), 0, 1)
        return x


def draw(
    sites: Sequence[str], value: Acquisition, atlas: SiteEffects, cases: Cases | None = None
) -> dict[str, Scanner]:
    """A scanner for each site: at a dose h, those of the cases' modality; see `check` for other values.

    Every effect has its own order of the sites' coordinates u in [-1, 1], but old scanners have noise, blur and coarse
    voxels together. Settings are h u, or h (1 + u) / 2 for effects that can only do harm. No sites differ at
    h = 0: no scanner then, and identical bytes.
    """
    asked = read(value)
    if asked.styles:
        return _styled(sites, asked, atlas, cases)
    if not (asked.dose or asked.jitter):
        return {}
    modality = asked.modality or modality_of(cases)
    names = asked.only or CHAINS[modality]
    check_colour(modality, names, cases)
    settings = {name: _settings(name, asked.dose, atlas) for name in EFFECTS if name in names}
    return {
        site: Scanner(site, atlas.seed, modality, {name: float(s[k]) for name, s in settings.items()}, asked.jitter)
        for k, site in enumerate(sites)
    }


def _settings(name: str, h: float, atlas: SiteEffects) -> Floats:
    """(sites,) settings of one effect."""
    effect = EFFECTS[name]
    u = effect.age * atlas.coordinates("acquisition age") if effect.age else atlas.coordinates(f"acquisition {name}")
    return h * u if effect.signed else h * (1 + u) / 2


def _styled(sites: Sequence[str], asked: Requested, atlas: SiteEffects, cases: Cases | None) -> dict[str, Scanner]:
    """Scanners of named styles, in turn over the sites."""
    if not asked.turns and len(asked.styles) != len(sites):
        raise ValueError(
            f"acquisition names {len(asked.styles)} styles for {len(sites)} sites: name one a site, or let them take"
            f" turns with 'styles({', '.join(asked.styles)})'"
        )
    modality = modality_of(cases)
    scanners = {}
    for k, site in enumerate(sites):
        style = asked.styles[k % len(asked.styles)]
        check_suits(style, modality)
        settings = settings_of(style)
        check_colour(style, tuple(settings), cases)
        scanners[site] = Scanner(site, atlas.seed, modality, settings, asked.jitter)
    return scanners


def check(value: object) -> None:
    """ValueError for what can be no acquisition shift of any cases.

    A value is a dose in [0, 1] for the cases' own modality; text that names a modality, "mri(0.5)" or
    "xray(0.4, jitter=0.2, only='blur')", or "marker(0.8)" for a shortcut alone; "styles(ct_soft, ct_sharp)" for named
    styles that take turns; or a list of styles, one a site.
    """
    read(value)


def positivity(cases: Cases, rows: ArrayLike) -> Floats:
    """(n,) in [0, 1]: how positive cases are to a marker, by the place of their class; any finding of several is 1."""
    labels = cases.labels[np.asarray(rows)]
    top = 1 if cases.task == "multilabel" else max(len(cases.classes) - 1, 1)
    return np.clip(labels / top, 0.0, 1.0)


def icc(settings: Sequence[ArrayLike]) -> float:
    """Share of a setting's variance that lies between sites, from each site's realised settings (cases,): 1 without
    jitter, 0 where sites are alike; NaN if nothing varies. Sites weigh alike."""
    values = [np.asarray(site, float) for site in settings]
    between = float(np.var([site.mean() for site in values]))
    within = float(np.mean([site.var() for site in values]))
    return between / (between + within) if between + within else float("nan")


__all__ = ["MODALITIES", "STYLES", "Scanner", "check", "draw", "icc", "positivity"]
