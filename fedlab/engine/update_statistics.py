"""Update statistics: how much the updates of a round disagree, from two passes over them.

D_k = w_k - w is what site k changed of the parameters w that all sites started from; p_k are the sites' weights.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedlab.core.memory import ALIGNMENT, GPU_CHUNK, to_device
from fedlab.core.typing import Floats

MEASURES = {  # name in run.rounds -> meaning
    "gradient diversity": "sum |D_k|^2 / |sum D_k|^2, from 1/K for equal updates (Yin 2018, arXiv:1706.05699)",
    "update cosine": "mean over pairs of sites of the cosine of D_k and D_l",
    "client drift": "mean over sites of |D_k|",
    "update spread": "sum p_k |w_k - sum p_l w_l|^2",
    "dissimilarity": "B^2 = sum p_k |D_k|^2 / |sum p_k D_k|^2, from 1 for equal updates (Li 2020, arXiv:1812.06127)",
}
CPU_CHUNK = 2**20  # numbers processed at a time on a CPU


def count_different(start: Tensor, counted: Tensor | None = None) -> Tensor:
    """How many of the starts (K, P) differ from the first, shape (1,).

    counted: bool (P,), the coordinates to compare; all if None.
    """
    if start.stride(0) == 0:
        return start.new_zeros(1, dtype=torch.int64)
    unequal = start[1:] != start[0]
    return (unequal if counted is None else unequal & counted).any(1).sum()[None]


@dataclass(frozen=True)
class SquaredNorms:
    """|D_k|^2 of each update (K,); |sum D_k|^2, |sum p_k D_k|^2 and |sum D_k / |D_k||^2."""

    updates: Floats
    total: float
    mean: float
    direction: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "SquaredNorms":
        """From the K + 3 numbers in this order."""
        *updates, total, mean, direction = numbers
        return cls(np.array(updates), total, mean, direction)


def squared_norms(start: Tensor, trained: Tensor, shares: Floats, counted: Tensor | None = None) -> Tensor:
    """The numbers (K + 3,) of `SquaredNorms`, of updates from `start` (P,) to `trained` (K, P) with weights p (K,).

    counted: bool (P,), the coordinates that count; all if None.
    """
    norms = torch.zeros(len(trained), dtype=torch.float64, device=trained.device)
    for update in _chunks(start, trained, counted):
        norms += update.square().sum(1)
    factors = torch.stack(
        [torch.ones_like(norms), to_device(np.asarray(shares, np.float64), norms.device), norms.rsqrt()]
    )
    sums = torch.zeros(3, dtype=torch.float64, device=trained.device)
    for update in _chunks(start, trained, counted):
        sums += (factors @ update).square().sum(1)
    return torch.cat([norms, sums])


def _chunks(start: Tensor, trained: Tensor, counted: Tensor | None) -> Iterator[Tensor]:
    """Updates (K, chunk) in float64, from weights of any precision; zero in coordinates that do not count."""
    most = CPU_CHUNK if trained.device.type == "cpu" else GPU_CHUNK
    step = max(ALIGNMENT, most // len(trained))
    for first in range(0, len(start), step):
        chunk = slice(first, first + step)
        update = trained[:, chunk].double() - start[chunk].double()
        yield update if counted is None else update * counted[chunk]


def measures(found: SquaredNorms, shares: Floats) -> dict[str, float]:
    """The measures of MEASURES from weights (K,) that sum to 1; NaN if no model moved."""
    squares, pairs = found.updates, len(shares) * (len(shares) - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = {
            "gradient diversity": squares.sum() / np.float64(found.total),
            "update cosine": (found.direction - len(shares)) / np.float64(pairs),
            "client drift": np.sqrt(squares).mean(),
            "update spread": max(0.0, shares @ squares - found.mean),
            "dissimilarity": shares @ squares / np.float64(found.mean),
        }
    return {name: float(value) for name, value in values.items()}
