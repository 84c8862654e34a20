"""Aggregation rules: the weighted mean, and robust rules that a few broken or malicious models cannot move far.

A rule is `(models, shares, w) -> Merged`: models as a stack (m, ...), the weights (m,) of the method's mean, and the
model that was broadcast. **Under label skew robust rules reject honest minority sites as outliers**: the influence of
each site's model is recorded.
"""

import math
from collections.abc import Callable
from typing import Annotated, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedlab.core.arguments import Bounds, Count, Positive, Whole
from fedlab.core.memory import chunks, to_host
from fedlab.core.registry import Registry
from fedlab.core.typing import Floats
from fedlab.core.weights import Weights, squared_distances, stack, weighted_mean

RULES = Registry("aggregation rule")
BelowHalf = Annotated[float, Bounds(0, 0.5, below=True)]
Steps = Annotated[int, Bounds(1, 1_000_000)]


class Merged(NamedTuple):
    """The merged model, and the influence (m,) of each site's model, summing to 1."""

    model: Weights
    influence: Floats


class TooFewError(ValueError):
    """There are fewer models than a rule needs."""


Rule = Callable[[Weights, Floats, Weights], Merged]


def rule(text: str) -> Rule:
    """Parse a rule such as "trimmed(0.2)"."""
    function, args, named = RULES.parse(text, given=3)
    return lambda models, shares, w: function(models, shares, w, *args, **named)


def least(text: str) -> int:
    """The fewest models that a rule needs; ValueError if its arguments make no sense."""
    function, args, named = RULES.parse(text, given=3)
    return _krum_least(*args, **named) if function in (krum, multikrum) else 1


@RULES.add
def mean(models: Weights, shares: Floats, w: Weights) -> Merged:
    """The weighted mean of the method: every model counts by its weight.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(aggregate="mean").aggregate
    'mean'
    """
    return Merged(weighted_mean(models, shares), shares)


@RULES.add
def median(models: Weights, shares: Floats, w: Weights, weighted: bool = False) -> Merged:
    """Median of each coordinate; of an even number of models the mean of the middle two (Yin 2018).

    Breaks down at half of the sites. Unweighted by default, since a site could claim any number of cases.

    Parameters
    ----------
    weighted : bool, default False
        Weighted median: the smallest x at which the weights of all x_i <= x reach one half, or the midpoint to the
        next value if they are exactly one half.

    References
    ----------
    Yin et al. 2018, arXiv:1803.01498.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(aggregate="median").aggregate
    'median'
    """
    p = shares if weighted else np.full(len(models), 1 / len(models))
    return _by_coordinate(models, lambda rows: _middle(rows, torch.as_tensor(p, device=rows.device)))


@RULES.add
def trimmed(models: Weights, shares: Floats, w: Weights, share: BelowHalf = 0.2) -> Merged:
    """Mean of each coordinate without the lowest and highest `share` of its values, unweighted (Yin 2018).

    share = 0 is the uniform mean; trimming all but one of an odd number of models is the median.

    Parameters
    ----------
    share : float, default 0.2
        Share of the models dropped at either end, 0 to below 0.5, rounded down to whole models.

    References
    ----------
    Yin et al. 2018, arXiv:1803.01498.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(aggregate="trimmed(0.1)").aggregate
    'trimmed(0.1)'
    """
    m = len(models)
    cut = math.floor(share * m + 1e-9)
    kept = torch.zeros(m, dtype=torch.float64, device=models.vector.device)
    kept[cut : m - cut] = 1 / (m - 2 * cut)
    return _by_coordinate(models, lambda rows: kept[:, None].expand(rows.shape))


@RULES.add
def krum(models: Weights, shares: Floats, w: Weights, f: Count = 1) -> Merged:
    """The one model that is closest to its m - f - 2 nearest others (Blanchard 2017).

    Ties go to the first site.

    Parameters
    ----------
    f : int, default 1
        Number of sites that may be malicious; the rule needs 2 f + 3 models or more.

    References
    ----------
    Blanchard et al. 2017, arXiv:1703.02757.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(aggregate="krum(f=1)").aggregate
    'krum(f=1)'
    """
    return multikrum(models, shares, w, f, 1)


@RULES.add
def multikrum(models: Weights, shares: Floats, w: Weights, f: Count = 1, c: Whole | None = None) -> Merged:
    """Mean of the `c` models that `krum` ranks first (Blanchard 2017).

    Weights of the method are renormalised over them, so that c = m is its mean; c = 1 is `krum`.

    Parameters
    ----------
    f : int, default 1
        Number of sites that may be malicious; the rule needs 2 f + 3 models or more.
    c : int, optional
        Number of models that are averaged, m - f by default.

    References
    ----------
    Blanchard et al. 2017, arXiv:1703.02757.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(aggregate="multikrum(f=1, c=3)").aggregate
    'multikrum(f=1, c=3)'
    """
    m = len(models)
    chosen = m - f if c is None else c
    if not 1 <= chosen <= m:
        raise TooFewError(f"multikrum(c={c}) averages more models than the {m} there are: lower c")
    apart = squared_distances(models)
    np.fill_diagonal(apart, np.inf)
    score = np.sort(apart, 1)[:, : m - f - 2].sum(1)
    best = np.argsort(score, kind="stable")[:chosen]
    influence, held = np.zeros(m), float(shares[best].sum())
    influence[best] = shares[best] / held if held else 1 / len(best)
    return Merged(_of_rows(models, influence), influence)


@RULES.add
def geomedian(models: Weights, shares: Floats, w: Weights, nu: Positive = 1e-6, steps: Steps = 100) -> Merged:
    """Geometric median: the point with the least weighted distance to all models (Pillutla 2022, RFA).

    Weiszfeld's iteration from the mean, smoothed by `nu`. The point is a mean of the models, so the iteration runs on
    their weights and on the distances between them. Breaks down at half of the weight; a model with more than half of
    the weight is the result. Difference from the paper: iterated to convergence; the paper takes steps=4, nu=1e-5.

    Parameters
    ----------
    nu : float, default 1e-6
        Smallest distance that counts, above 0.
    steps : int, default 100
        Maximal number of iterations, 1 or more.

    References
    ----------
    Pillutla et al. 2022, arXiv:1912.13445.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(aggregate="geomedian").aggregate
    'geomedian'
    """
    apart = squared_distances(models)
    influence = np.array(shares, np.float64)
    for _ in range(steps):
        squared = apart @ influence - influence @ apart @ influence / 2  # |w_k - z|^2 of z = sum influence_k w_k
        pull = shares / np.maximum(nu, np.sqrt(np.maximum(squared, 0)))
        before, influence = influence, pull / pull.sum()
        if np.abs(influence - before).max() < 1e-15:
            break
    return Merged(weighted_mean(models, influence), influence)


@RULES.add
def clipped(models: Weights, shares: Floats, w: Weights, bound: Positive = 1.0) -> Merged:
    """Weighted mean of updates clipped to length `bound` (Sun 2019).

    Normalisation statistics are averaged without clipping. bound above all lengths is the mean.

    Parameters
    ----------
    bound : float, default 1.0
        Longest update that counts in full, above 0, as Euclidean length over all parameters.

    References
    ----------
    Sun et al. 2019, arXiv:1911.07963.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(aggregate="clipped(10.0)").aggregate
    'clipped(10.0)'
    """
    moved = (models.parameters.double() - w.parameters.double()).norm(dim=1).cpu().numpy()
    kept = shares * np.minimum(1.0, bound / np.maximum(moved, 1e-300))
    whole = weighted_mean(models, shares)
    rest = np.array([1 - kept.sum(), *kept])
    every = stack([w.without_moments(), *(models[i] for i in range(len(models)))])
    near = weighted_mean(every, np.maximum(rest, 0) / rest.clip(0).sum())
    return Merged(whole.with_parameters(near.parameters), kept / kept.sum() if kept.sum() else kept)


def _krum_least(f: int = 1, c: int | None = None) -> int:
    return max(2 * f + 3, c or 1)


def _of_rows(models: Weights, influence: Floats) -> Weights:
    """The mean of the rows with influence; if there is only one, that row bit for bit."""
    counted = np.flatnonzero(influence)
    if len(counted) == 1:
        return models[int(counted[0])].without_moments()
    picked = models.only([models.owners[i] for i in counted])
    return weighted_mean(Weights(picked.layout, picked.vector, picked.counts), influence[counted])


def _by_coordinate(models: Weights, weigh: Callable[[Tensor], Tensor]) -> Merged:
    """Sort the values of each coordinate and weigh them by rank; weigh(order) gives weights (m, coordinates).

    Influence is over the coordinates in which models differ.
    """
    m, vector = len(models), torch.empty_like(models.vector[0])
    counted = vector.new_zeros(m, dtype=torch.float64)
    differing = vector.new_zeros((), dtype=torch.int64)
    for piece in chunks(vector, m):
        values, order = models.vector[:, piece].double().sort(0)
        ranks = weigh(order)
        vector[piece] = values[0] + ((values - values[0]) * ranks).sum(0)  # exact where all agree
        apart = values[0] != values[-1]
        counted += torch.zeros_like(values).scatter_(0, order, ranks).mul_(apart).sum(1)
        differing += apart.sum()
    influence = np.array(to_host([counted / differing])[0])  # NaN where no two models differ
    influence = np.full(m, 1 / m) if np.isnan(influence).all() else influence
    return Merged(Weights(models.layout, vector, models.counts.amax(0)), influence)


def _middle(order: Tensor, p: Tensor) -> Tensor:
    """Weights by rank (m, coordinates) of the weighted median: 1 at its rank, or 1/2 at both ranks of a tie."""
    reached = p[order].cumsum(0)
    half = 0.5 * float(p.sum())
    tie = (reached - half).abs() < 1e-12
    first = (reached >= half - 1e-12).to(torch.uint8).argmax(0, keepdim=True)
    picked = torch.zeros_like(reached).scatter_(0, first, 1.0)
    tied = tie.gather(0, first)
    following = torch.zeros_like(reached).scatter_(0, (first + 1).clamp(max=len(reached) - 1), 1.0)
    return torch.where(tied, (picked + following) / 2, picked)


def check(text: str, sites: int) -> None:
    """Refuse a rule that needs more sites."""
    needed = least(text)
    if sites < needed:
        raise ValueError(
            f"aggregate={text!r} needs at least {needed} sites, found {sites}: lower f, use more sites, or"
            " another rule such as 'median'"
        )
