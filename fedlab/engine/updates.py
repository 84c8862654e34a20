"""How far the updates of a round point apart: the optimisation family of heterogeneity, from one Gram matrix.

D_k = w_k - w is what site k changed of the parameters w that all sites started from; p_k are the sites' weights.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MEASURES = {  # name in run.rounds -> meaning
    "gradient diversity": "sum |D_k|^2 / |sum D_k|^2, from 1/K for equal updates (Yin 2018, arXiv:1706.05699)",
    "update cosine": "mean over pairs of sites of the cosine of D_k and D_l",
    "client drift": "mean over sites of |D_k|",
    "update spread": "sum p_k |w_k - sum p_l w_l|^2",
    "dissimilarity": "B^2 = sum p_k |D_k|^2 / |sum p_k D_k|^2, from 1 for equal updates (Li 2020, arXiv:1812.06127)",
}
PIECE = 2**18  # numbers in work at a time, so that they stay in cache

Floats = NDArray[np.float64]


def common(start: Tensor, counted: Tensor | None = None) -> bool:
    """Whether all sites start from the same parameters (K, P), at least where `counted` (P,)."""
    if len(start) < 2:
        return False
    if start.stride(0) == 0:
        return True
    first, *others = start if counted is None else (row[counted] for row in start)
    return all(torch.equal(first, other) for other in others)


def gram(start: Tensor, trained: Tensor, counted: Tensor | None = None) -> Floats:
    """<D_k, D_l> of the updates from `start` (P,) to `trained` (K, P), float64 (K, K); over coordinates `counted`."""
    products = torch.zeros(len(trained), len(trained), dtype=torch.float64, device=trained.device)
    for first in range(0, len(start), step := max(1, PIECE // len(trained))):
        piece = slice(first, first + step)
        moved = trained[:, piece] - start[piece].double()  # in float64, whatever the weights are in
        if counted is not None:
            moved = moved[:, counted[piece]]
        products.addmm_(moved, moved.T)
    return products.cpu().numpy()


def measures(products: Floats, shares: Floats) -> dict[str, float]:
    """The measures of MEASURES from a Gram matrix (K, K) and weights (K,) that sum to 1; NaN where nothing moved."""
    squares = np.diag(products)
    apart = np.add.outer(squares, squares) - 2 * products  # |w_k - w_l|^2
    pairs = np.triu_indices(len(products), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = (products / np.sqrt(np.outer(squares, squares)))[pairs]
        found = {
            "gradient diversity": squares.sum() / products.sum(),
            "update cosine": cosines.mean(),
            "client drift": np.sqrt(squares).mean(),
            "update spread": max(0.0, shares @ apart @ shares / 2),
            "dissimilarity": shares @ squares / (shares @ products @ shares),
        }
    return {name: float(value) for name, value in found.items()}
