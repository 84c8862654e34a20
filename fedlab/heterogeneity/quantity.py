"""Quantity: sites differ in how many cases they hold."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fedlab.core.registry import Registry, nearest
from fedlab.core.rng import stream
from fedlab.core.typing import Floats, Ints
from fedlab.heterogeneity.profiles import profile, quoted
from fedlab.heterogeneity.raking import TINY, largest_remainder
from fedlab.heterogeneity.site_coordinates import SiteEffects, dose

Quantity = float | str | Sequence[float] | Floats
Draw = Callable[[SiteEffects], Floats]

SIZES = Registry("quantity scheme")


def shares(value: Quantity, atlas: SiteEffects) -> Floats:
    """Each site's share of the cases, (sites,): a dose h for shares in proportion 1 : (1-h) : (1-h)^2 : ..., a scheme
    such as "dirichlet(0.5)" or "like(fed_isic2019)", or a list.

    h = 0: equal shares. h = 1: one site has everything (above the floor). A list holds relative sizes in the sites'
    order; everything else seats the largest where the coordinate is highest. Raises ValueError for anything else.
    """
    if isinstance(value, str):
        weights = _scheme(value)(atlas)
    elif isinstance(value, Sequence | np.ndarray):
        weights = _given(value, atlas.sites)
    else:
        weights = _seated(np.full(atlas.sites, 1.0 - dose(value, "quantity")) ** np.arange(atlas.sites), atlas)
    return weights / weights.sum()


def check(value: Quantity) -> None:
    """ValueError for what can be no quantity of any cases, naming the nearest scheme."""
    if isinstance(value, str):
        _scheme(value)
    elif isinstance(value, Sequence | np.ndarray):
        _given(value, len(value))
    else:
        dose(value, "quantity")


@SIZES.add
def dirichlet(beta: float = 0.5) -> Draw:
    """Shares drawn from Dir(beta): the smaller beta, the more unequal (NIID-Bench, arXiv:2102.02079).

    Departs: no draw is thrown away, but sites below the floor are raised to it. beta -> infinity is equal shares. The
    standard deviation of a share is h * sqrt(1/K (1 - 1/K)) with K beta = 1/h^2 - 1.
    """
    _check(beta, "dirichlet", "beta")
    return lambda atlas: _seated(_rng(atlas, "dirichlet").dirichlet(np.full(atlas.sites, float(beta))), atlas)


@SIZES.add
def lognormal(sigma: float = 1.0) -> Draw:
    """Sizes in proportion to exp(sigma z), z standard normal (FedDyn, arXiv:2111.04263); z is frozen in sigma.

    sigma = 0 is equal shares; of many sites the Gini coefficient is erf(sigma / 2).
    """
    _check(sigma, "lognormal", "sigma", zero=True)

    def draw(atlas: SiteEffects) -> Floats:
        z = _rng(atlas, "lognormal").normal(size=atlas.sites)
        return _seated(np.exp(float(sigma) * (z - z.max())), atlas)

    return draw


@SIZES.add
def power(exponent: float = 1.0) -> Draw:
    """Sizes in proportion to rank^-exponent (Zipf's law); exponent = 0 is equal shares."""
    _check(exponent, "power", "exponent", zero=True)
    return lambda atlas: _seated(np.arange(1.0, atlas.sites + 1) ** -float(exponent), atlas)


@SIZES.add
def like(federation: str = "") -> Draw:
    """Sizes in proportion to those of a real federation, e.g. like(fets2022); see fedlab.heterogeneity.profiles."""
    real = profile(federation)
    return lambda atlas: real.sizes[real.seats(atlas)].astype(np.float64)


def sizes(shares: Floats, total: int, floor: int = 0) -> Ints:
    """Whole site sizes in proportion to shares, (sites,); sites below the floor are raised to it.

    The others give in proportion. The floor itself is lowered to total // sites where there are too few cases for it.
    """
    floor = min(floor, total // len(shares))
    raised = np.zeros(len(shares), bool)
    wanted = shares / shares.sum() * total
    while (wanted < floor - TINY).any():
        raised |= wanted < floor - TINY
        left = total - floor * int(raised.sum())
        wanted = np.where(raised, floor, shares * left / shares[~raised].sum())
    return largest_remainder(wanted, total)


def _scheme(text: str) -> Draw:
    if "(" not in text and text.strip() not in SIZES:
        raise ValueError(
            f"quantity is {text!r}: give a dose in [0, 1], relative sizes, or a scheme; {nearest(text, SIZES)}"
        )
    scheme, args, knobs = SIZES.parse(quoted(text))
    return scheme(*args, **knobs)  # type: ignore[no-any-return]


def _seated(weights: Floats, atlas: SiteEffects) -> Floats:
    """Weights in the order of the sites' coordinates, so that doses and schemes agree on who is large."""
    seated = np.empty(atlas.sites)
    seated[np.argsort(-atlas.coordinates("quantity"), kind="stable")] = np.sort(weights)[::-1]
    return seated


def _rng(atlas: SiteEffects, scheme: str) -> np.random.Generator:
    return stream(atlas.seed, "quantity", scheme)


def _check(value: object, scheme: str, knob: str, zero: bool = False) -> None:
    """ValueError unless a positive number, or zero where that means equal shares."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not (number and (value > 0 or (zero and value == 0))):  # type: ignore[operator]
        kind = "zero or a positive number" if zero else "a positive number"
        raise ValueError(f"{scheme}({value!r}): {knob} is {kind}, e.g. '{scheme}(0.5)'")


def _given(value: Sequence[Any] | Floats, sites: int) -> Floats:
    weights = np.array([_relative_size(part) for part in value])
    if weights.shape != (sites,) or not sites:
        raise ValueError(f"quantity lists {len(weights)} relative sizes for {sites} sites: give one for each site")
    return weights / weights.sum()


def _relative_size(value: object) -> float:
    number = float(value) if isinstance(value, int | float | np.number) and not isinstance(value, bool) else 0.0
    if not 0.0 < number < np.inf:
        raise ValueError(f"quantity holds {value!r}: relative sizes are positive numbers, e.g. quantity=[3, 2, 1, 1]")
    return number
