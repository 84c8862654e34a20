"""Prevalence: sites differ in how often each class occurs, while a class looks alike everywhere."""

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import Floats, Ints
from fedlab.heterogeneity import multilabel, quotas
from fedlab.heterogeneity.odds import LogOdds
from fedlab.heterogeneity.prevalence_schemes import SCHEMES, Labelled, Scheme
from fedlab.heterogeneity.profiles import quoted
from fedlab.heterogeneity.site_coordinates import dose

L = math.log(19.0)  # at full dose a balanced class runs from 5 % at one end to 95 % at the other
UNEVEN = 0.01  # how far the listed shares of a site may be from adding up to one
FAR = 0.1  # bits between drawn and realised class shares that are worth a word

Prevalence: TypeAlias = float | str | Sequence[float] | Sequence[Sequence[float]] | NDArray[np.float64]


def tilt(value: Prevalence, seen: Labelled) -> LogOdds:
    """The axis for a dose in [0, 1], a published scheme such as "dirichlet(0.3)", or the prevalence at each site: a
    number for a binary task, else a list of one share a class (multi-label: one prevalence a finding).

    Raises ValueError for anything else, naming the nearest scheme.
    """
    if isinstance(value, str):
        return _scheme(value)(seen)
    if isinstance(value, Sequence | np.ndarray):
        return _exact(_listed(value), seen)
    return dosed(dose(value, "prevalence"), seen)


def check(value: Prevalence) -> None:
    """ValueError for what can be no prevalence of any cases, naming the nearest scheme."""
    if isinstance(value, str):
        _scheme(value)
    elif isinstance(value, Sequence | np.ndarray):
        _listed(value)
    else:
        dose(value, "prevalence")


def shortfall(value: Prevalence, axis: LogOdds, counts: Ints) -> list[str]:
    """A line if what was drawn came true only from afar, since every case is dealt and sizes are kept; else none.

    counts: (sites, levels) cases dealt. The distance is Kullback's from the drawn shares, in bits a case.
    """
    if not isinstance(value, str) or axis.quota or not value.strip().startswith("dirichlet"):
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
        f"class shares lie {far:.2g} bits from those drawn for prevalence={value!r}: the cases there are decide too"
    ]


def dosed(h: float, seen: Labelled) -> LogOdds:
    """Log-odds h * L * u[site] * score: between sites k and l the odds ratio is h * L * (u[k] - u[l]) per unit of
    score.

    Scores span one unit: binary y - 1/2; ordinal c / (C-1) - 1/2; multi-label any finding against none. Nominal classes
    have no order: each turns the sites' coordinates round by its own step and counts half.
    """
    u = seen.atlas.coordinates("prevalence")
    if seen.task == "multilabel":
        return LogOdds((seen.labels > 0).astype(np.int64), np.exp(h * L * np.outer(u, [-0.5, 0.5])))
    if seen.task == "multiclass":
        turns = [round(c * seen.sites / seen.classes) for c in range(seen.classes)]
        return LogOdds(seen.labels, np.exp(h * L * 0.5 * np.stack([np.roll(u, turn) for turn in turns], axis=1)))
    scores = np.linspace(-0.5, 0.5, seen.classes)
    return LogOdds(seen.labels, np.exp(h * L * np.outer(u, scores)))


def _scheme(text: str) -> Scheme:
    scheme, args, knobs = SCHEMES.parse(quoted(text))
    return scheme(*args, **knobs)  # type: ignore[no-any-return]


def _exact(wanted: Floats, seen: Labelled) -> LogOdds:
    """Prevalences (sites,) of a binary task, else shares (sites, classes)."""
    if wanted.ndim == 1 and seen.task != "binary":
        raise ValueError(
            f"prevalence lists one value a site, but the task is {seen.task}: give a list of {seen.classes} shares for"
            f" each site, a dose or one of {list(SCHEMES)}"
        )
    if len(wanted) != seen.sites:
        raise ValueError(f"prevalence lists {len(wanted)} values for {seen.sites} sites: give one for each site")
    if wanted.ndim == 2 and wanted.shape[1] != seen.classes:
        raise ValueError(
            f"prevalence lists {wanted.shape[1]} shares a site for {seen.classes} classes: give one a class"
        )
    if seen.task == "multilabel":
        return _findings(wanted, seen)
    shares = np.stack([1 - wanted, wanted], axis=1) if wanted.ndim == 1 else wanted
    if np.abs(shares.sum(axis=1) - 1).max() > UNEVEN:
        raise ValueError(f"prevalence lists shares that add up to {shares.sum(axis=1).tolist()}: a site's add up to 1")
    shares = shares / shares.sum(axis=1, keepdims=True)
    return LogOdds(seen.labels, np.ones_like(shares), quotas.exact(shares, seen.seed))


def _findings(wanted: Floats, seen: Labelled) -> LogOdds:
    """Levels are the combinations of findings that occur."""
    masks, levels = np.unique(seen.labels, return_inverse=True)
    findings = (masks[:, None] >> np.arange(seen.classes)) & 1
    return LogOdds(levels.astype(np.int64), np.ones((seen.sites, len(masks))), multilabel.exact(wanted, findings))


def _listed(value: Sequence[object] | NDArray[np.float64]) -> Floats:
    """(sites,) or (sites, classes) numbers from 0 to 1."""
    rows = [
        list(part) if isinstance(part, Sequence | np.ndarray) and not isinstance(part, str) else part for part in value
    ]
    widths = {len(row) if isinstance(row, list) else None for row in rows}
    if len(widths) != 1 or widths == {0}:
        raise ValueError(f"prevalence lists {list(value)!r}: give one number a site, or as many shares for each site")
    for part in [part for row in rows for part in (row if isinstance(row, list) else [row])]:
        if isinstance(part, bool) or not isinstance(part, int | float | np.number) or not 0 <= part <= 1:
            raise ValueError(f"prevalence holds {part!r}: the prevalence at a site lies between 0 and 1")
    return np.array(rows, np.float64)
