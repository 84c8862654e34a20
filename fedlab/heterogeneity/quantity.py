"""Quantity: sites differ in how many cases they hold.

The literature calls it quantity skew or data imbalance. The dose h, 0 to 1, is the strength: site sizes are in
proportion 1 : (1 - h) : (1 - h)^2 : ..., so that 0 gives equal sizes and 1 gives one site all cases above the minimum.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fedlab.core.registry import Registry, nearest
from fedlab.core.rng import stream
from fedlab.core.typing import Floats, Ints
from fedlab.heterogeneity.profiles import profile, quoted
from fedlab.heterogeneity.raking import TINY, largest_remainder
from fedlab.heterogeneity.site_effects import SiteEffects, dose

Quantity = float | str | Sequence[float] | Floats
SizeScheme = Callable[[SiteEffects], Floats]

SIZES = Registry("quantity scheme")


def check(value: Quantity) -> None:
    """Site sizes (quantity skew): refuse a value that cannot be a quantity.

    Parameters
    ----------
    value : float, str or list of float
        A dose, 0 to 1; a scheme such as ``"dirichlet(0.5)"``, ``"lognormal(1.0)"``, ``"like(fed_isic2019)"``; or
        relative sizes, one per site.

    Raises
    ------
    ValueError
        If the value is none of these; the message names the nearest scheme.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=400, size=16)")
    >>> fedlab.partition(cases, sites=3, quantity=[3, 2, 1]).counts("train").sum(axis=1).tolist()
    [142, 94, 47]
    """
    if isinstance(value, str):
        _scheme(value)
    elif isinstance(value, Sequence | np.ndarray):
        _relative_sizes(value, len(value))
    else:
        dose(value, "quantity")


def shares(value: Quantity, effects: SiteEffects) -> Floats:
    """Return each site's share of the cases, (sites,), for a dose, a scheme or a list of relative sizes.

    A list is in the order of the sites; otherwise the largest share goes to the site with the highest effect. Raises
    ValueError for anything else.
    """
    if isinstance(value, str):
        weights = _checked_sizes(_scheme(value), value, effects)
    elif isinstance(value, Sequence | np.ndarray):
        weights = _relative_sizes(value, effects.sites)
    else:
        geometric: Floats = np.full(effects.sites, 1.0 - dose(value, "quantity")) ** np.arange(effects.sites)
        weights = _sorted_by_effect(geometric, effects)
    return weights / weights.sum()


@SIZES.add
def dirichlet(beta: float = 0.5) -> SizeScheme:
    """Size shares drawn from a Dirichlet distribution, q ~ Dir(beta): the smaller beta, the more unequal.

    The standard deviation of a share is ``h sqrt(1/K (1 - 1/K))`` for ``K beta = 1/h^2 - 1`` and K sites. beta ->
    infinity is equal shares. Difference from the paper: no draw is rejected; sites below the minimum size are raised
    to it.

    Parameters
    ----------
    beta : float, default 0.5
        Concentration per site, positive.

    Returns
    -------
    callable
        Site effects -> relative sizes (sites,).

    References
    ----------
    Li et al. 2022 (NIID-Bench), arXiv:2102.02079.

    Examples
    --------
    >>> shares("dirichlet(1e9)", SiteEffects(4, seed=0)).round(3).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    _check_positive(beta, "dirichlet", "beta")
    return lambda effects: _sorted_by_effect(
        _rng(effects, "dirichlet").dirichlet(np.full(effects.sites, float(beta))), effects
    )


@SIZES.add
def lognormal(sigma: float = 1.0) -> SizeScheme:
    """Log-normal sizes, in proportion to exp(sigma z) with z standard normal; z does not depend on sigma.

    sigma = 0 is equal sizes; with many sites the Gini coefficient is ``erf(sigma / 2)``.

    Parameters
    ----------
    sigma : float, default 1.0
        Standard deviation of the log of the sizes, zero or positive.

    Returns
    -------
    callable
        Site effects -> relative sizes (sites,).

    References
    ----------
    Acar et al. 2021 (FedDyn), arXiv:2111.04263.

    Examples
    --------
    >>> shares("lognormal(0)", SiteEffects(4, seed=0)).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    _check_positive(sigma, "lognormal", "sigma", zero=True)

    def draw(effects: SiteEffects) -> Floats:
        z = _rng(effects, "lognormal").normal(size=effects.sites)
        return _sorted_by_effect(np.exp(float(sigma) * (z - z.max())), effects)

    return draw


@SIZES.add
def power(exponent: float = 1.0) -> SizeScheme:
    """Power law (Zipf's law): sizes in proportion to rank^-exponent; exponent = 0 is equal sizes.

    Parameters
    ----------
    exponent : float, default 1.0
        Exponent of the power law, zero or positive.

    Returns
    -------
    callable
        Site effects -> relative sizes (sites,).

    References
    ----------
    Li et al. 2020 (FedProx), arXiv:1812.06127, whose numbers of samples per device follow a power law.

    Examples
    --------
    >>> sorted((shares("power(1)", SiteEffects(3, seed=0)) * 11).round(2).tolist())  # 1 : 1/2 : 1/3
    [2.0, 3.0, 6.0]
    """
    _check_positive(exponent, "power", "exponent", zero=True)
    return lambda effects: _sorted_by_effect(np.arange(1.0, effects.sites + 1) ** -float(exponent), effects)


@SIZES.add
def like(federation: str = "") -> SizeScheme:
    """Sizes in proportion to those of a real federation, e.g. like(fets2022).

    Parameters
    ----------
    federation : str
        Name of a profile, see `fedlab.heterogeneity.profiles`. It needs at least as many real sites as simulated ones.

    Returns
    -------
    callable
        Site effects -> relative sizes (sites,).

    References
    ----------
    The source of each profile is in `profiles.json`; most are of FLamby, Ogier du Terrail et al. 2022,
    arXiv:2210.04620.

    Examples
    --------
    >>> sorted(shares("like(fed_ixi)", SiteEffects(3, seed=0)).round(2).tolist())
    [0.13, 0.32, 0.55]
    """
    real = profile(federation)
    return lambda effects: real.sizes[real.match(effects)].astype(np.float64)


def sizes(shares: Floats, total: int, floor: int = 0) -> Ints:
    """Return whole site sizes in proportion to shares, (sites,); sites below the floor are raised to it.

    The other sites give in proportion. With too few cases for the floor it is lowered to total // sites.
    """
    floor = min(floor, total // len(shares))
    raised = np.zeros(len(shares), bool)
    wanted = shares / shares.sum() * total
    while (wanted < floor - TINY).any():
        raised |= wanted < floor - TINY
        left = total - floor * int(raised.sum())
        wanted = np.where(raised, floor, shares * left / shares[~raised].sum())
    return largest_remainder(wanted, total)


def _scheme(text: str) -> SizeScheme:
    """Read a scheme with its arguments."""
    if "(" not in text and text.strip() not in SIZES:
        raise ValueError(
            f"quantity is {text!r}: give a dose in [0, 1], relative sizes, or a scheme; {nearest(text, SIZES)}"
        )
    scheme, args, arguments = SIZES.parse(quoted(text))
    return scheme(*args, **arguments)  # type: ignore[no-any-return]


def _checked_sizes(scheme: object, text: str, effects: SiteEffects) -> Floats:
    """Return the relative sizes that a scheme draws; raise ValueError unless there is one, not negative, per site."""
    weights = np.asarray(scheme(effects) if callable(scheme) else None)
    numbers = weights.shape == (effects.sites,) and weights.dtype.kind in "iuf"
    if numbers and (weights >= 0).all() and 0 < weights.sum() < np.inf:
        return weights
    raise ValueError(
        f"quantity scheme {text!r} does not give {effects.sites} relative sizes: return a function of the site effects"
        " that returns a positive number per site"
    )


def _sorted_by_effect(weights: Floats, effects: SiteEffects) -> Floats:
    """Order weights by the site effects, so that doses and schemes agree on which site is large."""
    ordered = np.empty(effects.sites)
    ordered[np.argsort(-effects.of("quantity"), kind="stable")] = np.sort(weights)[::-1]
    return ordered


def _rng(effects: SiteEffects, scheme: str) -> np.random.Generator:
    return stream(effects.seed, "quantity", scheme)


def _check_positive(value: object, scheme: str, argument: str, zero: bool = False) -> None:
    """Raise ValueError unless the argument is a positive number, or zero where that means equal shares."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not (number and (value > 0 or (zero and value == 0))):  # type: ignore[operator]
        kind = "zero or a positive number" if zero else "a positive number"
        raise ValueError(f"{scheme}({value!r}): {argument} is {kind}, e.g. '{scheme}(0.5)'")


def _relative_sizes(value: Sequence[Any] | Floats, sites: int) -> Floats:
    """Return the listed relative sizes as shares, (sites,)."""
    weights = np.array([_relative_size(part) for part in value])
    if weights.shape != (sites,) or not sites:
        raise ValueError(f"quantity lists {len(weights)} relative sizes for {sites} sites: give one for each site")
    return weights / weights.sum()


def _relative_size(value: object) -> float:
    """Return a positive number; raise ValueError otherwise."""
    number = float(value) if isinstance(value, int | float | np.number) and not isinstance(value, bool) else 0.0
    if not 0.0 < number < np.inf:
        raise ValueError(f"quantity holds {value!r}: relative sizes are positive numbers, e.g. quantity=[3, 2, 1, 1]")
    return number
