"""Quantity: sites differ in how many cases they hold."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedlab.heterogeneity.coordinates import Atlas, dose
from fedlab.heterogeneity.tables import Counts, largest_remainder

Quantity = float | Sequence[float] | NDArray[np.float64]


def shares(value: Quantity, atlas: Atlas) -> NDArray[np.float64]:
    """Each site's share of the cases, shape (sites,): a dose h for shares in proportion 1 : (1-h) : (1-h)^2 : ..., or a
    list.

    h = 0: equal shares. h = 1: one site has everything (above the floor). A list holds relative sizes in the sites'
    order.
    """
    if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str):
        return _given(value, atlas.sites)
    ratio = 1.0 - dose(value, "quantity")
    rank = (1.0 - atlas.coordinates("quantity")) / 2 * (atlas.sites - 1)
    weights = ratio**rank
    return weights / weights.sum()


def sizes(shares: NDArray[np.float64], total: int, floor: int = 0) -> Counts:
    """Whole site sizes in proportion to shares, (sites,); sites below the floor are raised to it.

    The others give in proportion. The floor itself is lowered to total // sites where there are too few cases for it.
    """
    floor = min(floor, total // len(shares))
    raised = np.zeros(len(shares), bool)
    wanted = shares / shares.sum() * total
    while (wanted < floor).any():
        raised |= wanted < floor
        left = total - floor * int(raised.sum())
        wanted = np.where(raised, floor, shares * left / shares[~raised].sum())
    return largest_remainder(wanted, total)


def _given(value: Sequence[float] | NDArray[np.float64], sites: int) -> NDArray[np.float64]:
    weights = np.array([_relative_size(part) for part in value])
    if weights.shape != (sites,):
        raise ValueError(f"quantity lists {len(weights)} relative sizes for {sites} sites: give one for each site")
    return weights / weights.sum()


def _relative_size(value: object) -> float:
    number = float(value) if isinstance(value, int | float | np.number) and not isinstance(value, bool) else 0.0
    if not 0.0 < number < np.inf:
        raise ValueError(f"quantity holds {value!r}: relative sizes are positive numbers, e.g. quantity=[3, 2, 1, 1]")
    return number
