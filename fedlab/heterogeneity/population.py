"""Population: sites differ in their patients, by age, sex or another column, or by a synthetic covariate.

The literature calls it population shift, covariate shift of the patients, or case-mix: p(a) of a covariate a differs
between sites. Sites select patients, not diseases: given the covariate, the class does not matter. Where covariate and
disease are associated, prevalence differs between sites too, and standardising by the covariate removes that
difference. The dose h, 0 to 1, is the strength: at 0 sites agree, at 1 the log-odds of a balanced binary covariate
differ by 2 ln 19 between the two extreme sites.
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
from fedlab.heterogeneity.covariates import read_column
from fedlab.heterogeneity.log_odds import Levels, LogOdds, checked_column, column_levels, usable_columns
from fedlab.heterogeneity.site_effects import SiteEffects, dose

COLUMNS = ("age", "sex")  # default columns, in this order

Population = float | str
SCHEMES = Registry("population scheme")


@dataclass(frozen=True)
class Covariate:
    """A synthetic binary covariate, A ~ Bernoulli(sigmoid(c (y - 1/2))), drawn once per patient.

    The odds ratio of covariate and disease y is e^c. confounding: c. visible: how strongly the covariate shows in the
    image, 0 (not at all) to 1.
    """

    seed: int
    confounding: float = 0.0
    visible: float = 0.0

    def draw(self, cases: Cases) -> Ints:
        """Draw the covariate, 0 or 1, of each case (n,); y is whether the patient has any finding."""
        _, unit = np.unique(cases.units, return_inverse=True)
        ill = np.zeros(unit.max(initial=-1) + 1, bool)
        np.logical_or.at(ill, unit, cases.labels > 0)
        probability = 1 / (1 + np.exp(-self.confounding * (ill - 0.5)))
        drawn = stream(self.seed, "population", "covariate").random(len(ill)) < probability
        return drawn[unit].astype(np.int64)

    def show(self, images: NDArray[np.generic], bits: Ints) -> NDArray[np.generic]:
        """Images (n, channels, height, width[, depth]) in which a covariate of 1 enlarges and brightens the body.

        At visible = 1 the body is a tenth larger and a twentieth of the intensity range brighter.
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
    """Enlarge (channels, ...) by a factor about its centre, with linear interpolation."""
    from scipy.ndimage import affine_transform

    space = np.array(image.shape[1:])
    centre = (space - 1) / 2
    scale = np.full(len(space), 1 / factor)
    return np.stack([affine_transform(part, scale, centre - scale * centre, order=1, mode="nearest") for part in image])


@dataclass(frozen=True)
class Preferences:
    """Which patients sites prefer: levels, odds (sites, levels), arrows of the causal diagram, synthetic covariate."""

    levels: Levels
    odds: Floats
    causes: list[str]
    covariate: Covariate | None = None


def check(value: Population) -> None:
    """Patients of the sites (population or covariate shift): refuse a value that cannot be a population.

    Parameters
    ----------
    value : float or str
        A dose, 0 to 1, on age or sex where the cases have them, else on a synthetic covariate; or text:
        ``"sex(0.5)"`` for a chosen column, ``"synthetic(0.5, confounding=1.0, visible=0.5)"``,
        ``"dirichlet(0.3, column='sex')"``.

    Raises
    ------
    ValueError
        If the value is none of these.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=400, size=16)")
    >>> part = fedlab.partition(cases, sites=2, population="age(0.8)")
    >>> part.spec["causes"]
    ['site -> age', 'age -> label (as found)', 'age -> image (as found)']
    """
    name, _, args, arguments = read(value)
    if name == "synthetic":
        _check_strengths(*args, **arguments)
    if name == "dirichlet":
        _check_alpha(*args, **arguments)


def read(value: Population) -> tuple[str, float, list[Any], dict[str, Any]]:
    """Return (column or scheme, dose, further values, arguments); an empty name is the default column of the cases."""
    if not isinstance(value, str):
        return "", dose(value, "population"), [], {}
    name, args, arguments = split_call(value, "population")
    if name in SCHEMES:
        SCHEMES.parse(value, given=2)
    if name == "dirichlet":
        return name, 1.0, list(args), arguments
    if name not in SCHEMES and (len(args) != 1 or arguments):
        raise ValueError(f"population is {value!r}: write a dose, '{name}(0.5)', or one of {list(SCHEMES)}")
    if not args and "dose" not in arguments:
        raise ValueError(f"population is {value!r}: give a dose, as in '{name}(0.5)'")
    h = dose(args[0] if args else arguments.pop("dose"), f"population {name!r}")
    return name, h, list(args[1:]), arguments


def preferences(value: Population, cases: Cases, effects: SiteEffects) -> Preferences | None:
    """Return which patients sites prefer, or None at dose 0.

    value: see `check`. Raises ValueError naming the usable columns where one is missing.
    """
    name, h, args, arguments = read(value)
    if h == 0:
        return None
    if name == "dirichlet":
        return dirichlet(cases, effects, *args, **arguments)
    if name in SCHEMES and name != "synthetic":  # of the user's own
        return _checked(SCHEMES.function(name)(cases, effects, h, *args, **arguments), value, cases, effects)
    column = "" if name == "synthetic" else _column(cases, name)
    if not column:
        return synthetic(cases, effects, h, *args, **arguments)
    levels = column_levels(cases, column)
    if len(levels.values) < 2:
        raise ValueError(f"column {column!r} has one value, so that nothing can differ: {usable_columns(cases)}")
    return Preferences(levels, levels.odds(h, effects.of("population")), _causes(column))


def _checked(found: object, value: Population, cases: Cases, effects: SiteEffects) -> Preferences:
    """Return what a scheme gives; raise ValueError unless these are levels of all cases and odds of all sites."""
    if not isinstance(found, Preferences) or not LogOdds(found.levels.of, found.odds).fits(effects.sites, len(cases)):
        raise ValueError(
            f"population scheme {value!r} does not give odds of {effects.sites} sites: return Preferences(levels, odds"
            " (sites, levels), causes), with odds as levels.odds(dose, effects.of('population'))"
        )
    return found


@SCHEMES.add
def synthetic(
    cases: Cases, effects: SiteEffects, dose: float, confounding: float = 1.0, visible: float = 0.0
) -> Preferences:
    """Synthetic binary covariate of the patients, with a known odds ratio with disease and a known effect on images.

    A ~ Bernoulli(sigmoid(c (y - 1/2))), so that the odds ratio of covariate and disease y is e^c. Sites prefer
    patients with the log-odds ``h L u[k] (a - 1/2)``. A dose of 0 is no shift; confounding = 0 changes no prevalence.

    Parameters
    ----------
    cases, effects
        Given by the partition; a user writes the other arguments.
    dose : float
        Strength h, 0 to 1.
    confounding : float, default 1.0
        Log-odds ratio c between covariate and disease, -10 to 10.
    visible : float, default 0.0
        Strength with which images show the covariate, 0 to 1.

    Returns
    -------
    Preferences
        Levels 0 and 1, odds (sites, 2), causal diagram and the covariate.

    References
    ----------
    Castro et al. 2020 on causality in medical imaging, arXiv:1912.08142, for the diagram.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=400, size=16)")
    >>> part = fedlab.partition(cases, sites=2, population="synthetic(0.8, confounding=2.0)")
    >>> part.spec["causes"]
    ['site -> covariate', 'covariate -> label (log odds ratio 2)']
    """
    _check_strengths(confounding, visible)
    covariate = Covariate(effects.seed, float(confounding), float(visible))
    levels = covariate_levels(covariate, cases)
    return Preferences(levels, levels.odds(dose, effects.of("population")), _causes("covariate", covariate), covariate)


@SCHEMES.add
def dirichlet(cases: Cases, effects: SiteEffects, alpha: float = 0.5, column: str = "") -> Preferences:
    """Site shares of each level of a column drawn from Dir(alpha), raked to the site sizes.

    alpha -> infinity is no shift, alpha -> 0 assigns each level to one site, as far as the sizes allow.

    Parameters
    ----------
    cases, effects
        Given by the partition; a user writes the other arguments.
    alpha : float, default 0.5
        Concentration per site, positive.
    column : str, optional
        Column of the covariate; by default age, else sex.

    Returns
    -------
    Preferences
        Levels of the column, odds (sites, levels) and causal diagram.

    References
    ----------
    After Hsu et al. 2019, arXiv:1909.06335, who draw class shares.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=400, size=16)")
    >>> part = fedlab.partition(cases, sites=2, population="dirichlet(0.3, column='sex')")
    >>> part.levels["population"].names
    ['F', 'M']
    """
    _check_alpha(alpha)
    found = _column(cases, column)
    if not found:
        raise ValueError("population='dirichlet' needs a column, and the cases have none: use 'synthetic(0.5)'")
    levels = column_levels(cases, found)
    rng = stream(effects.seed, "population", "dirichlet")
    odds = np.ones((effects.sites, len(levels)))  # of unknown values
    drawn = rng.dirichlet(np.full(effects.sites, float(alpha)), len(levels.values))
    odds[:, levels.values] = np.maximum(drawn.T, 1e-9)
    return Preferences(levels, odds, _causes(found))


def covariate_levels(covariate: Covariate, cases: Cases) -> Levels:
    """Return the two levels of a synthetic covariate."""
    return Levels("covariate", covariate.draw(cases), np.zeros(2, np.int64), np.array([-0.5, 0.5]), ["0", "1"])


def default(cases: Cases) -> str:
    """Return the column on which a dose acts, "" for none."""
    return next((name for name in COLUMNS if name in cases.table and read_column(cases.table[name]).distinct > 1), "")


def _column(cases: Cases, name: str) -> str:
    """Return the named or the default column."""
    return checked_column(cases, name, "population", "'synthetic(0.5)'") if name else default(cases)


def _causes(name: str, covariate: Covariate | None = None) -> list[str]:
    """Return the arrows of the causal diagram; the effects of a metadata column are as found in the data."""
    if covariate is None:
        return [f"site -> {name}", f"{name} -> label (as found)", f"{name} -> image (as found)"]
    arrows = [f"site -> {name}"]
    if covariate.confounding:
        arrows.append(f"{name} -> label (log odds ratio {covariate.confounding:g})")
    if covariate.visible:
        arrows.append(f"{name} -> image (strength {covariate.visible:g})")
    return arrows


def _check_strengths(confounding: object = 1.0, visible: object = 0.0) -> None:
    """Raise ValueError unless both strengths are in range."""
    if isinstance(confounding, bool) or not isinstance(confounding, int | float) or not abs(confounding) <= 10:
        raise ValueError(f"synthetic(confounding={confounding!r}): give a log odds ratio between -10 and 10")
    if isinstance(visible, bool) or not isinstance(visible, int | float) or not 0 <= visible <= 1:
        raise ValueError(f"synthetic(visible={visible!r}): give a strength between 0 and 1")


def _check_alpha(alpha: object = 0.5, column: str = "") -> None:
    """Raise ValueError unless alpha is a positive number."""
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
        raise ValueError(f"dirichlet({alpha!r}): alpha is a positive number, e.g. 'dirichlet(0.3)'")
