"""Prevalence: sites differ in how often each class occurs, while images of a class are the same everywhere.

The literature calls it label shift, prior shift or label distribution skew: p(y) differs between sites, p(x | y) does
not. The dose h, 0 to 1, is the strength: at 0 all sites have the class shares of the pool, at 1 the log-odds of a
balanced binary class differ by 2 ln 19 between the two extreme sites (5 % against 95 %).
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import Floats, Ints
from fedlab.heterogeneity.log_odds import L, LogOdds, cyclic_shifts
from fedlab.heterogeneity.prevalence import class_counts, multilabel
from fedlab.heterogeneity.prevalence.schemes import SCHEMES, LabelledCases, Scheme
from fedlab.heterogeneity.profiles import quoted
from fedlab.heterogeneity.site_effects import dose

SHARE_TOLERANCE = 0.01  # how far the listed shares of a site may be from adding up to one
FAR = 0.1  # bits between drawn and realised class shares from which a warning is given

Prevalence: TypeAlias = float | str | Sequence[float] | Sequence[Sequence[float]] | NDArray[np.float64]


def check(value: Prevalence) -> None:
    """Class frequencies of the sites (label shift): refuse a value that cannot be a prevalence.

    Parameters
    ----------
    value : float, str or list
        A dose, 0 to 1; a published scheme such as ``"dirichlet(0.3)"``, ``"mix(0.5)"``, ``"shards(2)"``; or the exact
        prevalence at each site: for a binary task one number per site, else one list of class shares per site
        (multi-label: the prevalence of each finding).

    Raises
    ------
    ValueError
        If the value is none of these; the message names the nearest scheme.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=400, size=16)")
    >>> part = fedlab.partition(cases, sites=2, prevalence=[0.1, 0.3])
    >>> counts = part.counts("train")
    >>> (counts["nodule"] / counts.sum(axis=1)).round(2).tolist()
    [0.1, 0.3]
    """
    if isinstance(value, str):
        _scheme(value)
    elif isinstance(value, Sequence | np.ndarray):
        _listed(value)
    else:
        dose(value, "prevalence")


def log_odds(value: Prevalence, cases: LabelledCases) -> LogOdds:
    """Return the log-odds of the axis for a dose, a published scheme, or the exact prevalence at each site.

    Raises ValueError for anything else, naming the nearest scheme.
    """
    if isinstance(value, str):
        return _checked(_scheme(value), value, cases)
    if isinstance(value, Sequence | np.ndarray):
        return _exact(_listed(value), cases)
    return dosed(dose(value, "prevalence"), cases)


def shortfall(value: Prevalence, axis: LogOdds, counts: Ints) -> list[str]:
    """Return a warning if the realised class shares are far from the drawn ones, else an empty list.

    Every case is assigned and site sizes are kept, so that not every draw can be realised. counts: (sites, levels)
    assigned cases. The distance is the Kullback-Leibler divergence from the drawn shares, in bits per case.
    """
    if not isinstance(value, str) or axis.count_rule or not value.strip().startswith("dirichlet"):
        return []
    drawn = axis.odds * counts.sum(axis=0)
    joint, size = counts / max(counts.sum(), 1), counts.sum(axis=1, keepdims=True)
    realised = np.divide(counts, size, out=np.zeros(counts.shape), where=size > 0)
    shares = drawn / drawn.sum(axis=1, keepdims=True)
    ratio = np.divide(realised, shares, out=np.ones(counts.shape), where=(realised > 0) & (shares > 0))
    far = float((joint * np.log2(ratio)).sum())
    if far <= FAR:
        return []
    return [
        f"realised class shares are {far:.2g} bits per case from the shares drawn for prevalence={value!r}, since site"
        " sizes and the pool of cases are kept"
    ]


def dosed(h: float, cases: LabelledCases) -> LogOdds:
    """Return log-odds h L u[site] score: between sites k and l they differ by h L (u[k] - u[l]) per unit of score.

    Scores span one unit: binary y - 1/2; ordinal c / (C - 1) - 1/2; multi-label any finding against none. Nominal
    classes have no order: each shifts the site effects cyclically by a different step, at half the strength.
    """
    u = cases.effects.of("prevalence")
    if cases.task == "multilabel":
        return LogOdds((cases.labels > 0).astype(np.int64), np.exp(h * L * np.outer(u, [-0.5, 0.5])))
    if cases.task == "multiclass":
        return LogOdds(cases.labels, np.exp(h * L * 0.5 * cyclic_shifts(u, cases.classes)))
    scores = np.linspace(-0.5, 0.5, cases.classes)
    return LogOdds(cases.labels, np.exp(h * L * np.outer(u, scores)))


def _scheme(text: str) -> Scheme:
    """Read a scheme with its arguments."""
    scheme, args, arguments = SCHEMES.parse(quoted(text))
    return scheme(*args, **arguments)  # type: ignore[no-any-return]


def _checked(scheme: object, text: str, cases: LabelledCases) -> LogOdds:
    """Return what a scheme gives; raise ValueError unless it is log-odds of all sites for all cases."""
    found = scheme(cases) if callable(scheme) else None
    if not isinstance(found, LogOdds) or not found.fits(cases.sites, len(cases.labels)):
        raise ValueError(
            f"prevalence scheme {text!r} does not give odds of {cases.sites} sites: return a function of the labelled"
            " cases that returns LogOdds(levels (cases,), odds (sites, levels))"
        )
    return found


def _exact(wanted: Floats, cases: LabelledCases) -> LogOdds:
    """Return the axis for prevalences (sites,) of a binary task, or shares (sites, classes)."""
    if wanted.ndim == 1 and cases.task != "binary":
        raise ValueError(
            f"prevalence lists one value per site, but the task is {cases.task}: give a list of {cases.classes} shares"
            f" for each site, a dose or one of {list(SCHEMES)}"
        )
    if len(wanted) != cases.sites:
        raise ValueError(f"prevalence lists {len(wanted)} values for {cases.sites} sites: give one for each site")
    if wanted.ndim == 2 and wanted.shape[1] != cases.classes:
        raise ValueError(
            f"prevalence lists {wanted.shape[1]} shares per site for {cases.classes} classes: give one per class"
        )
    if cases.task == "multilabel":
        return _findings(wanted, cases)
    shares = np.stack([1 - wanted, wanted], axis=1) if wanted.ndim == 1 else wanted
    if np.abs(shares.sum(axis=1) - 1).max() > SHARE_TOLERANCE:
        raise ValueError(
            f"prevalence lists shares that add up to {shares.sum(axis=1).tolist()}: those of a site must add up to 1"
        )
    shares = shares / shares.sum(axis=1, keepdims=True)
    return LogOdds(cases.labels, np.ones_like(shares), class_counts.exact(shares, cases.seed))


def _findings(wanted: Floats, cases: LabelledCases) -> LogOdds:
    """Return the axis of a multi-label task, whose levels are the combinations of findings that occur."""
    masks, levels = np.unique(cases.labels, return_inverse=True)
    findings = (masks[:, None] >> np.arange(cases.classes)) & 1
    return LogOdds(
        levels.astype(np.int64), np.ones((cases.sites, len(masks))), multilabel.exact_findings(wanted, findings)
    )


def _listed(value: Sequence[object] | NDArray[np.float64]) -> Floats:
    """Return the listed numbers from 0 to 1 as an array, (sites,) or (sites, classes)."""
    rows = [
        list(part) if isinstance(part, Sequence | np.ndarray) and not isinstance(part, str) else part for part in value
    ]
    widths = {len(row) if isinstance(row, list) else None for row in rows}
    if len(widths) != 1 or widths == {0}:
        raise ValueError(
            f"prevalence lists {list(value)!r}: give one number per site, or equally many shares for each site"
        )
    for part in [part for row in rows for part in (row if isinstance(row, list) else [row])]:
        if isinstance(part, bool) or not isinstance(part, int | float | np.number) or not 0 <= part <= 1:
            raise ValueError(f"prevalence holds {part!r}: the prevalence at a site is between 0 and 1")
    return np.array(rows, np.float64)
