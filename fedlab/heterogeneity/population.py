"""Population: whom a site treats, by age, sex or any other column, or by a synthetic covariate with known confounding.

Sites pick patients, not diseases: given the covariate a case's class does not matter. Where covariate and disease go
together, prevalence differs between sites all the same, and standardising by the covariate takes that away.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.registry import Registry, split_call
from fedlab.core.rng import stream
from fedlab.core.typing import Floats, Ints
from fedlab.data.cases import Cases
from fedlab.heterogeneity.levels import Levels, column_levels, column_of, usable
from fedlab.heterogeneity.site_coordinates import SiteEffects, dose


@dataclass(frozen=True)
class Covariate:
    """A ~ Bernoulli(sigmoid(-c/2 + c y)), so that the odds ratio of covariate and disease is e^c; one draw a patient.

    confounding: c. visible: how strongly the covariate shows in the image, 0 not at all.
    """

    seed: int
    confounding: float = 0.0
    visible: float = 0.0

    def draw(self, cases: Cases) -> Ints:
        """(n,) 0 or 1; y is whether the patient has any finding."""
        _, unit = np.unique(cases.units, return_inverse=True)
        ill = np.zeros(unit.max(initial=-1) + 1, bool)
        np.logical_or.at(ill, unit, cases.labels > 0)
        chance = 1 / (1 + np.exp(-self.confounding * (ill - 0.5)))
        drawn = stream(self.seed, "population", "covariate").random(len(ill)) < chance
        return drawn[unit].astype(np.int64)

    def show(self, images: NDArray[np.generic], bits: Ints) -> NDArray[np.generic]:
        """Images (n, channels, height, width[, depth]) in which a covariate of 1 widens the body and brightens it.

        At visible = 1 the habitus is a tenth larger and a twentieth of the range brighter.
        """
        if not self.visible or not bits.any():
            return images
        shown = np.array(images)
        full = 255.0 if images.dtype == np.uint8 else 1.0
        for row in np.flatnonzero(bits):
            wide = _enlarged(shown[row].astype(np.float32), 1 + 0.1 * self.visible)
            wide = np.clip(wide + 0.05 * self.visible * full, 0, full)
            shown[row] = np.rint(wide) if full == 255 else wide
        return shown


def _enlarged(image: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """(channels, ...) seen `factor` times larger about its centre, by linear interpolation."""
    from scipy.ndimage import affine_transform

    space = np.array(image.shape[1:])
    centre = (space - 1) / 2
    scale = np.full(len(space), 1 / factor)
    return np.stack([affine_transform(part, scale, centre - scale * centre, order=1, mode="nearest") for part in image])


COLUMNS = ("age", "sex")  # looked for in this order

Population = float | str
SCHEMES = Registry("population scheme")


@dataclass(frozen=True)
class Choice:
    """Levels, odds (sites, levels), the arrows of the causal diagram, and the covariate if it is synthetic."""

    levels: Levels
    odds: Floats
    causes: list[str]
    covariate: Covariate | None = None


def check(value: Population) -> None:
    """ValueError for what can be no population shift of any cases."""
    name, _, args, knobs = read(value)
    if name == "synthetic":
        _check_strengths(*args, **knobs)
    if name == "dirichlet":
        _check_alpha(*args, **knobs)


def read(value: Population) -> tuple[str, float, list[Any], dict[str, Any]]:
    """(column or scheme, dose, further values, knobs): "" where the cases shall say which column."""
    if not isinstance(value, str):
        return "", dose(value, "population"), [], {}
    name, args, knobs = split_call(value, "population")
    if name in SCHEMES:
        SCHEMES.parse(value, given=2)
    if name == "dirichlet":
        return name, 1.0, list(args), knobs
    if name not in SCHEMES and (len(args) != 1 or knobs):
        raise ValueError(f"population is {value!r}: write a dose, '{name}(0.5)', or one of {list(SCHEMES)}")
    if not args and "dose" not in knobs:
        raise ValueError(f"population is {value!r}: give a dose, as in '{name}(0.5)'")
    h = dose(args[0] if args else knobs.pop("dose"), f"population {name!r}")
    return name, h, list(args[1:]), knobs


def lean(value: Population, cases: Cases, atlas: SiteEffects) -> Choice | None:
    """How sites pick patients, or None at dose 0.

    value: a dose in [0, 1] on age or sex where the cases have them, else on a synthetic covariate; "sex(0.5)" for a
    column of choice; "synthetic(0.5, confounding=1.0, visible=0.5)"; "dirichlet(0.3, column='sex')".
    Raises ValueError naming the columns there are.
    """
    name, h, args, knobs = read(value)
    if h == 0:
        return None
    if name == "dirichlet":
        return dirichlet(cases, atlas, *args, **knobs)
    found = "" if name == "synthetic" else _column(cases, name)
    if not found:
        return synthetic(cases, atlas, h, *args, **knobs)
    chosen = column_levels(cases, found)
    if len(chosen) == 1:
        raise ValueError(f"column {found!r} has one value, nothing to deal by: {usable(cases) or 'none'} would do")
    return Choice(chosen, chosen.odds(h, atlas.coordinates("population")), _causes(found))


@SCHEMES.add
def synthetic(cases: Cases, atlas: SiteEffects, dose: float, confounding: float = 1.0, visible: float = 0.0) -> Choice:
    """A covariate drawn a patient: e^confounding is its odds ratio with disease, visible how much images show it."""
    _check_strengths(confounding, visible)
    covariate = Covariate(atlas.seed, float(confounding), float(visible))
    levels = covariate_levels(covariate, cases)
    return Choice(
        levels, levels.odds(dose, atlas.coordinates("population")), _causes("covariate", covariate), covariate
    )


def covariate_levels(covariate: Covariate, cases: Cases) -> Levels:
    """The two levels of a synthetic covariate."""
    return Levels("covariate", covariate.draw(cases), np.zeros(2, np.int64), np.array([-0.5, 0.5]), ["0", "1"])


@SCHEMES.add
def dirichlet(cases: Cases, atlas: SiteEffects, alpha: float = 0.5, column: str = "") -> Choice:
    """Each level of a column spread over sites by Dir(alpha), raked to the site sizes (after Hsu 2019)."""
    _check_alpha(alpha)
    found = _column(cases, column)
    if not found:
        raise ValueError("population='dirichlet' needs a column, and the cases have none: 'synthetic(0.5)' needs none")
    chosen = column_levels(cases, found)
    rng = stream(atlas.seed, "population", "dirichlet")
    odds = np.maximum(rng.dirichlet(np.full(atlas.sites, float(alpha)), len(chosen)).T, 1e-9)
    return Choice(chosen, odds, _causes(found))


def default(cases: Cases) -> str:
    """The column that a bare dose acts on, "" for none."""
    return next((name for name in COLUMNS if name in cases.table and cases.table[name].nunique() > 1), "")


def _column(cases: Cases, name: str) -> str:
    return column_of(cases, name, "population", "'synthetic(0.5)'") if name else default(cases)


def _causes(name: str, covariate: Covariate | None = None) -> list[str]:
    """The causal diagram, an arrow a line; what metadata do to disease and image is nature's business."""
    if covariate is None:
        return [f"site -> {name}", f"{name} -> label (as found)", f"{name} -> image (as found)"]
    arrows = [f"site -> {name}"]
    if covariate.confounding:
        arrows.append(f"{name} -> label (log odds ratio {covariate.confounding:g})")
    if covariate.visible:
        arrows.append(f"{name} -> image (strength {covariate.visible:g})")
    return arrows


def _check_strengths(confounding: object = 1.0, visible: object = 0.0) -> None:
    if isinstance(confounding, bool) or not isinstance(confounding, int | float) or not abs(confounding) <= 10:
        raise ValueError(f"synthetic(confounding={confounding!r}): give a log odds ratio between -10 and 10")
    if isinstance(visible, bool) or not isinstance(visible, int | float) or not 0 <= visible <= 1:
        raise ValueError(f"synthetic(visible={visible!r}): give a strength between 0 and 1")


def _check_alpha(alpha: object = 0.5, column: str = "") -> None:
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
        raise ValueError(f"dirichlet({alpha!r}): alpha is a positive number, e.g. 'dirichlet(0.3)'")
