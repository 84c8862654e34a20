"""`Observed`: what measures get to see of dealt cases, and sites permuted among cases that are alike."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedlab.core.rng import stream
from fedlab.core.typing import Floats, Ints

RARE = 5  # groups; fewer of a kind are pooled with those that resemble them, else they could not be permuted
COMMON = 30  # cases a site, fewer of which with the same findings are not compared by themselves
SPARSE = 16  # ids a case, up to which a table of all ids is quicker than sorting
CELLS = 20_000_000  # numbers held at a time


@dataclass(frozen=True)
class Observed:
    """Dealt cases, each (n,): site 0..K-1, label, unit and split as ids; and the task with its number of classes.

    levels: axis ("presentation", "population") -> (n,) level of each case. numbers: column -> (n,), NaN where unknown.
    moved: axes with a dose. annotated: (n,) labels as annotators wrote them. region: (sites,) number of each site's.
    """

    site: Ints
    labels: Ints
    units: Ints
    split: Ints
    task: str
    classes: int
    sites: int
    seed: int
    levels: dict[str, Ints] = field(default_factory=dict)
    numbers: dict[str, Floats] = field(default_factory=dict)
    moved: frozenset[str] = frozenset()
    annotated: Ints | None = None
    region: Ints | None = None

    @cached_property
    def group(self) -> Ints:
        """(n,) cases that change sites together: a unit's cases at one site and in one split."""
        return joint(self.units, self.site, self.split)

    @cached_property
    def order(self) -> Ints:
        """(n,) positions of the cases, those of a group side by side."""
        return np.argsort(self.group, kind="stable")

    @cached_property
    def start(self) -> Ints:
        """(groups,) where each group starts in `order`."""
        size = np.bincount(self.group)
        return np.cumsum(size) - size

    @property
    def first(self) -> Ints:
        """(groups,) position of one case of each group."""
        return self.order[self.start]

    def bags(self, ids: Ints) -> Ints:
        """(groups,) groups whose cases have the same ids, in any order, are alike.

        A group is told by the sum of a 64-bit token of each of its cases: two kinds coincide once in 2^64 pairs.
        """
        if len(self.start) == len(ids):
            return ids[self.first]
        tokens = stream(0, "tokens").integers(0, 2**64, int(ids.max()) + 1, dtype=np.uint64)
        sums = np.add.reduceat(tokens[ids][self.order], self.start)
        return np.unique(sums, return_inverse=True)[1].reshape(-1).astype(np.int64)

    @cached_property
    def findings(self) -> Ints:
        """(n,) the label; of a multi-label task rare sets of findings are joined by their first finding.

        In a layer of a few cases even a perfectly even deal tells sites apart, and more so than a random one.
        """
        if self.task != "multilabel":
            return self.labels
        sets, of, count = np.unique(self.labels, return_inverse=True, return_counts=True)
        joined = np.where(count < COMMON * self.sites, -(sets & -sets), sets)
        return joint(joined[of.reshape(-1)])

    def alike(self, *axes: str, given: Ints | None = None) -> Ints:
        """(groups,) stratum within which sites are permuted: same split, label or whatever else is given (n,), and
        levels of these axes where moved.

        Groups must agree in the levels of all their cases, and so in size. Kinds of fewer than RARE groups, or of
        groups that all lie at one site, are pooled by the level in the middle of their cases.
        """
        levels = [self.levels[axis] for axis in axes if axis in self.moved and axis in self.levels]
        condition = joint(self.split, *([] if given is None else [given]), *levels)
        kind = self.bags(condition)
        if len(self.start) == len(condition):
            return kind
        rare = (np.bincount(kind)[kind] < RARE) | self._at_one_site(kind)
        size = np.diff(np.append(self.start, len(condition)))
        middle = condition[self.order][np.lexsort((condition[self.order], self.group[self.order]))]
        return joint(np.where(rare, kind.max() + 1 + middle[self.start + size // 2], kind))

    def _at_one_site(self, kind: Ints) -> NDArray[np.bool_]:
        """(groups,) whether all groups of a kind lie at one site, so that nothing could be permuted."""
        site = self.site[self.first]
        there = np.zeros((int(kind.max()) + 1, self.sites), bool)
        there[kind, site] = True
        return there.sum(axis=1)[kind] == 1

    def permuted(self, stratum: Ints, draws: int, purpose: str, cells: int = 0) -> Iterator[Ints]:
        """Blocks (some draws, groups) of the sites of groups, permuted over groups that share a stratum (groups,).

        cells: numbers that the caller makes of each draw, which limits how many draws are in a block.
        """
        rng, site = stream(self.seed, "shift", purpose), self.site[self.first]
        order = np.argsort(stratum, kind="stable")
        blocks = np.split(order, np.flatnonzero(np.diff(stratum[order])) + 1)
        blocks = [block for block in blocks if len(block) > 1]
        for count in portions(draws, len(site) + cells):
            moved = np.tile(site, (count, 1))
            for block in blocks:
                moved[:, block] = rng.permuted(moved[:, block], axis=1)
            yield moved

    def take(self, rows: Ints) -> "Observed":
        """The cases at these positions."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("site", "labels", "units", "split"):
            parts[name] = parts[name][rows]
        for name in ("levels", "numbers"):
            parts[name] = {key: values[rows] for key, values in parts[name].items()}
        parts["annotated"] = None if self.annotated is None else self.annotated[rows]
        return Observed(**parts)


def joint(*ids: Ints) -> Ints:
    """(n,) one dense id, 0, 1, ..., for each combination of ids, each (n,), in their order."""
    found = np.zeros(len(ids[0]), np.int64)
    for each in ids:
        low = int(each.min(initial=0))
        wide = int(each.max(initial=0)) - low + 1
        if int(found.max(initial=0)) + 1 > 2**62 // wide:
            found = np.unique(found, return_inverse=True)[1].reshape(-1)
        found = found * wide + (each - low)
    top = int(found.max(initial=0))
    if top > SPARSE * len(found):
        return np.unique(found, return_inverse=True)[1].reshape(-1).astype(np.int64)
    there = np.zeros(top + 1, bool)
    there[found] = True
    return (np.cumsum(there) - 1)[found]


def firsts(ids: Ints) -> Ints:
    """(kinds,) position of the first of each of the dense ids 0, 1, ..."""
    found = np.empty(int(ids.max(initial=-1)) + 1, np.int64)
    found[ids[::-1]] = np.arange(len(ids))[::-1]
    return found


def portions(draws: int, cells: int) -> Iterator[int]:
    """How many draws of so many numbers each to hold at a time; together `draws`."""
    most = max(1, CELLS // max(1, cells))
    for begun in range(0, draws, most):
        yield min(most, draws - begun)
