"""Acquisition: sites differ in how their scanners render the same patient.

The literature calls it covariate shift, feature shift or (scanner) domain shift: p(image | patient) differs between
sites. The dose h, 0 to 1, is the strength: at 0 images stay identical, at 1 the settings of scanners span the range
found in the literature. A scanner is drawn once per site and then applied deterministically to all cases of that site,
for training and for testing. Which image transforms differ depends on the modality, see
`fedlab.heterogeneity.acquisition.modalities`.
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
from fedlab.heterogeneity.acquisition.modalities import (
    CHAINS,
    MODALITIES,
    TRANSFORMS,
    check_colour,
    check_kspace,
    modality_of,
)
from fedlab.heterogeneity.acquisition.optics import Pixels, ScanContext
from fedlab.heterogeneity.acquisition.presets import PRESETS, Acquisition, Requested, check_suits, read, settings_of
from fedlab.heterogeneity.site_effects import SiteEffects

CHUNK = 2**21  # pixels rendered at a time, so that a large site fits in memory
STEPS = 32  # to which jittered settings are rounded, so that images of equal settings are rendered together

__all__ = ["MODALITIES", "PRESETS", "Scanner", "check", "draw", "icc", "positivity"]


@dataclass(frozen=True)
class Scanner:
    """How one site renders images; the defaults change nothing.

    Parameters
    ----------
    site : str
        Name of the site.
    seed : int
        Seed of the partition.
    modality : str, default "generic"
        A name in MODALITIES.
    settings : dict of str to float
        Transform -> setting, -1 to 1 for signed transforms, else 0 to 1; 0 changes nothing.
    jitter : float, default 0.0
        Standard deviation of a setting between the cases of the site.

    Examples
    --------
    >>> Scanner("Site A", settings={"gamma": 1.0}).parameters  # an exponent
    {'gamma': 2.0}
    """

    site: str = ""
    seed: int = 0
    modality: str = "generic"
    settings: dict[str, float] = field(default_factory=dict)
    jitter: float = 0.0

    def __post_init__(self) -> None:
        for name, setting in self.settings.items():
            if name not in TRANSFORMS:
                raise ValueError(f"a scanner has no transform {name!r}: {nearest(name, TRANSFORMS)}")
            if not TRANSFORMS[name].lowest <= setting <= 1:
                raise ValueError(f"{name} is set to {setting!r}: give {TRANSFORMS[name].lowest:.0f} to 1")

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> "Scanner":
        """Return the scanner that `dataclasses.asdict` has written as JSON."""
        return cls(**written)

    @property
    def neutral(self) -> bool:
        """Whether images stay unchanged."""
        return not self.jitter and not any(self.settings.values())

    @property
    def parameters(self) -> dict[str, float]:
        """Transform -> physical value, in the unit of `TRANSFORMS[transform].unit`."""
        return {name: TRANSFORMS[name].value(setting) for name, setting in self.settings.items()}

    def settings_of(self, case_ids: Sequence[str]) -> dict[str, Floats]:
        """Transform -> settings of the cases (n,): the scanner's setting plus jitter."""
        return {name: self._jittered(name, setting, case_ids) for name, setting in self.settings.items()}

    def _jittered(self, name: str, setting: float, case_ids: Sequence[str]) -> Floats:
        """Return the setting of each case, rounded to multiples of 1 / STEPS."""
        if not self.jitter:
            return np.full(len(case_ids), setting)
        drawn = [stream(self.seed, "jitter", name, self.site, str(case)).standard_normal() for case in case_ids]
        jittered = np.rint((setting + self.jitter * np.array(drawn)) * STEPS) / STEPS
        return np.clip(jittered, TRANSFORMS[name].lowest, 1.0)

    def apply(
        self, images: NDArray[np.generic], case_ids: Sequence[str], labels: ArrayLike | None = None
    ) -> NDArray[np.generic]:
        """Render images with this scanner.

        Parameters
        ----------
        images : ndarray, (n, channels, height, width[, depth])
            uint8 (0 to 255) or float (0 to 1).
        case_ids : sequence of str, (n,)
            Identifiers of the cases. Noise depends on them only, not on the order of the cases or on the batch.
        labels : array_like, (n,), optional
            How positive each case is, 0 to 1. Only a marker uses it.

        Returns
        -------
        ndarray
            Images of the same shape and dtype; the same array if the scanner is neutral.
        """
        if self.neutral or not len(images):
            return images
        positive = None if labels is None else np.asarray(labels, float)
        step = max(1, CHUNK // int(np.prod(images.shape[1:])))
        rendered = np.empty_like(images)
        for start in range(0, len(images), step):
            rows = slice(start, start + step)
            full = np.float32(255 if images.dtype == np.uint8 else 1)
            scan = ScanContext(self.site, self.seed, case_ids[rows], None if positive is None else positive[rows])
            shown = self._render(images[rows].astype(np.float32) / full, scan)
            rendered[rows] = np.rint(shown * full) if full == 255 else shown
        return rendered

    def _render(self, x: Pixels, scan: ScanContext) -> Pixels:
        """Apply the transforms in the order of TRANSFORMS, clipping to [0, 1] after each."""
        for name in (name for name in TRANSFORMS if name in self.settings):
            settings = self._jittered(name, self.settings[name], scan.cases)
            for setting in np.unique(settings[settings != 0]):
                same = settings == setting
                value = TRANSFORMS[name].value(float(setting))
                if same.all():
                    x = np.clip(TRANSFORMS[name].function(x, value, scan), 0, 1)
                else:
                    x[same] = np.clip(TRANSFORMS[name].function(x[same], value, scan.select(same)), 0, 1)
        return x


def check(value: object) -> None:
    """Scanners of the sites (covariate or feature shift): refuse a value that cannot be an acquisition.

    Parameters
    ----------
    value : float, str or list of str
        A dose, 0 to 1, for the modality of the cases; text with a modality, ``"mri(0.5)"`` or
        ``"xray(0.4, jitter=0.2, only='blur')"``; ``"marker(0.8)"`` for a shortcut; ``"artefacts(0.5)"``
        for motion, ghosts and spikes of MRI; ``"styles(ct_soft, ct_sharp)"`` for scanner presets that take turns over
        the sites; or a list of presets, one per site.

    Raises
    ------
    ValueError
        If the value is none of these; the message names the nearest name.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=400, size=16)")
    >>> part = fedlab.partition(cases, sites=2, acquisition="xray(0.5, only='blur')")
    >>> sorted(scanner.parameters["blur"] for scanner in part.scanners.values())
    [0.0, 0.5]
    """
    read(value)


def draw(
    sites: Sequence[str], value: Acquisition, effects: SiteEffects, cases: Cases | None = None
) -> dict[str, Scanner]:
    """Draw a scanner for each site: at a dose h, of the modality of the cases; see `check` for other values.

    Each transform has its own order of the site effects u in [-1, 1], except that old scanners have more noise, blur
    and larger voxels together. Settings are h u for signed transforms, else h (1 + u) / 2. At h = 0 no scanner is drawn
    and images stay identical.
    """
    request = read(value)
    if request.presets:
        return _draw_presets(sites, request, effects, cases)
    if not (request.dose or request.jitter):
        return {}
    modality = request.modality or modality_of(cases)
    names = request.only or CHAINS[modality]
    check_colour(modality, names, cases)
    if not request.modality:
        check_kspace(names, cases)
    settings = {name: _settings(name, request.dose, effects) for name in TRANSFORMS if name in names}
    return {
        site: Scanner(site, effects.seed, modality, {name: float(s[k]) for name, s in settings.items()}, request.jitter)
        for k, site in enumerate(sites)
    }


def _settings(name: str, h: float, effects: SiteEffects) -> Floats:
    """Return the setting of one transform at each site, (sites,)."""
    transform = TRANSFORMS[name]
    u = transform.age * effects.of("acquisition age") if transform.age else effects.of(f"acquisition {name}")
    return h * u if transform.signed else h * (1 + u) / 2


def _draw_presets(
    sites: Sequence[str], request: Requested, effects: SiteEffects, cases: Cases | None
) -> dict[str, Scanner]:
    """Return scanners with named presets, in turn over the sites."""
    if not request.turns and len(request.presets) != len(sites):
        raise ValueError(
            f"acquisition names {len(request.presets)} scanner presets for {len(sites)} sites: name one per site, or"
            f" let them take turns with 'styles({', '.join(request.presets)})'"
        )
    modality = modality_of(cases)
    scanners = {}
    for k, site in enumerate(sites):
        preset = request.presets[k % len(request.presets)]
        check_suits(preset, modality)
        settings = settings_of(preset)
        check_colour(preset, tuple(settings), cases)
        scanners[site] = Scanner(site, effects.seed, modality, settings, request.jitter)
    return scanners


def positivity(cases: Cases, rows: ArrayLike) -> Floats:
    """Return how positive cases are for a marker, (n,) in [0, 1]: rank of the class; multi-label, 1 for any finding."""
    labels = cases.labels[np.asarray(rows)]
    top = 1 if cases.task == "multilabel" else max(len(cases.classes) - 1, 1)
    return np.clip(labels / top, 0.0, 1.0)


def icc(settings: Sequence[ArrayLike]) -> float:
    """Intraclass correlation of a setting: the share of its variance between sites, which are weighted equally.

    settings: realised settings (cases,) of each site. 1 without jitter, 0 where sites have equal means, NaN if nothing
    varies.
    """
    values = [np.asarray(site, float) for site in settings]
    between = float(np.var([site.mean() for site in values]))
    within = float(np.mean([site.var() for site in values]))
    return between / (between + within) if between + within else float("nan")
