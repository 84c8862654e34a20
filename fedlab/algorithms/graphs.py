"""Graphs of neighbours for decentralized learning, and weights of neighbours that preserve the mean of all models."""

import math
from itertools import pairwise
from typing import Annotated

import numpy as np

from fedlab.core.registry import Registry
from fedlab.core.typing import Bools, Floats

TOPOLOGIES = Registry("topology")


@TOPOLOGIES.add
def ring(sites: int, rng: np.random.Generator) -> Bools:
    """Each site with the previous and the next one."""
    return _linked(sites, [(k, (k + 1) % sites) for k in range(sites)])


@TOPOLOGIES.add
def torus(sites: int, rng: np.random.Generator) -> Bools:
    """Four neighbours on a periodic grid, as square as the number of sites allows; a ring if it is prime."""
    rows = next(r for r in range(math.isqrt(sites), 0, -1) if sites % r == 0)
    columns = sites // rows
    across = [(k, k // columns * columns + (k + 1) % columns) for k in range(sites)]
    down = [(k, (k + columns) % sites) for k in range(sites)]
    return _linked(sites, across + down)


@TOPOLOGIES.add
def complete(sites: int, rng: np.random.Generator) -> Bools:
    """Every site with every other one."""
    return ~np.eye(sites, dtype=bool)


@TOPOLOGIES.add
def star(sites: int, rng: np.random.Generator) -> Bools:
    """Every site with the first one only."""
    return _linked(sites, [(0, k) for k in range(1, sites)])


@TOPOLOGIES.add
def matching(sites: int, rng: np.random.Generator) -> Bools:
    """Random pairs, new in every round; one site is alone if their number is odd (Boyd 2006)."""
    order = rng.permutation(sites).tolist()
    return _linked(sites, list(pairwise(order))[::2])


def check(topology: str) -> None:
    """Refuse a topology that does not exist, or arguments that it lacks."""
    TOPOLOGIES.parse(topology, given=2)


Topology = Annotated[str, check]


def links(topology: str, sites: int, rng: np.random.Generator) -> Bools:
    """Symmetric matrix (K, K): which sites are neighbours."""
    function, args, named = TOPOLOGIES.parse(topology, given=2)
    found: Bools = function(sites, rng, *args, **named)
    return found


def metropolis(neighbours: Bools) -> Floats:
    """W_kj = 1 / (1 + max(d_k, d_j)) for neighbours, the rest on the diagonal: symmetric, rows and columns sum to 1.

    Xiao & Boyd 2004, doi:10.1016/j.sysconle.2004.02.022.
    """
    degree = neighbours.sum(1)
    weights = np.where(neighbours, 1 / (1 + np.maximum.outer(degree, degree)), 0.0)
    np.fill_diagonal(weights, 1 - weights.sum(1))
    return weights


def _linked(sites: int, pairs: list[tuple[int, int]]) -> Bools:
    """The matrix of these pairs."""
    found = np.zeros((sites, sites), bool)
    for k, j in pairs:
        found[k, j] = found[j, k] = k != j
    return found
