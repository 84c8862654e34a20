"""`Observed`: the assigned cases as the measures of shift see them, and permutation of sites within strata.

The unit of permutation and of the bootstrap is a group: the cases of one patient at one site and in one split.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property

import numpy as np

from fedlab.core.rng import stream
from fedlab.core.typing import Bools, Floats, Ints

RARE = 5  # groups; patterns of fewer groups are pooled with similar ones, else they could not be permuted
COMMON = 30  # cases per site; combinations of findings with fewer are pooled
SPARSE = 16  # ids per case, up to which a lookup table of all ids is faster than sorting
CELLS = 20_000_000  # numbers held in memory at a time


@dataclass(frozen=True)
class Observed:
    """Assigned cases, each (n,): site 0 to K - 1, label, unit and split as ids; the task and its number of classes.

    levels: axis ("presentation", "population") -> (n,) level of each case, -1 where unknown. missing: axis -> name of
    the column, where any of its values is unknown. numbers: column -> (n,), NaN where unknown. moved: axes with a dose.
    annotated: (n,) labels as the readers gave them. region: (sites,) region of each site.
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
    missing: dict[str, str] = field(default_factory=dict)
    moved: frozenset[str] = frozenset()
    annotated: Ints | None = None
    region: Ints | None = None

    @cached_property
    def group(self) -> Ints:
        """Group of each case, (n,): the cases of a unit at one site and in one split, which change sites together."""
        return joint_ids(self.units, self.site, self.split)

    @cached_property
    def order(self) -> Ints:
        """Positions of the cases sorted by group, (n,)."""
        return np.argsort(self.group, kind="stable")

    @cached_property
    def start(self) -> Ints:
        """Position in `order` at which each group starts, (groups,)."""
        size = np.bincount(self.group)
        return np.cumsum(size) - size

    @property
    def first(self) -> Ints:
        """Position of one case of each group, (groups,)."""
        return self.order[self.start]

    def group_patterns(self, ids: Ints) -> Ints:
        """Pattern of each group, (groups,): groups whose cases have the same ids, in any order, share a pattern.

        A group is identified by the sum of a random 64-bit number for each of its cases: two patterns coincide with
        probability 2^-64.
        """
        if len(self.start) == len(ids):
            return ids[self.first]
        tokens = stream(0, "tokens").integers(0, 2**64, int(ids.max()) + 1, dtype=np.uint64)
        sums = np.add.reduceat(tokens[ids][self.order], self.start)
        return np.unique(sums, return_inverse=True)[1].reshape(-1).astype(np.int64)

    @cached_property
    def pooled_labels(self) -> Ints:
        """Labels (n,); of a multi-label task, rare combinations of findings are pooled by their first finding.

        In a layer of a few cases even a perfectly even assignment seems to tell sites apart, more so than a random one.
        """
        if self.task != "multilabel":
            return self.labels
        sets, of, count = np.unique(self.labels, return_inverse=True, return_counts=True)
        pooled = np.where(count < COMMON * self.sites, -(sets & -sets), sets)
        return joint_ids(pooled[of.reshape(-1)])

    def strata(self, *axes: str, given: Ints | None = None) -> Ints:
        """Stratum of each group, (groups,), within which sites are exchangeable under the null hypothesis.

        Groups of a stratum agree in split, in `given` (n,), e.g. the label, and in the levels of these axes where
        moved, for all of their cases, and so in size. Patterns of fewer than RARE groups, or of groups that are all at
        one site, are pooled by the median level of their cases.
        """
        levels = [self.levels[axis] for axis in axes if axis in self.moved and axis in self.levels]
        condition = joint_ids(self.split, *([] if given is None else [given]), *levels)
        pattern = self.group_patterns(condition)
        if len(self.start) == len(condition):
            return pattern
        rare = (np.bincount(pattern)[pattern] < RARE) | self._at_one_site(pattern)
        size = np.diff(np.append(self.start, len(condition)))
        middle = condition[self.order][np.lexsort((condition[self.order], self.group[self.order]))]
        return joint_ids(np.where(rare, pattern.max() + 1 + middle[self.start + size // 2], pattern))

    def _at_one_site(self, pattern: Ints) -> Bools:
        """Tell whether all groups of a pattern are at one site, (groups,), so that nothing could be permuted."""
        site = self.site[self.first]
        present = np.zeros((int(pattern.max()) + 1, self.sites), bool)
        present[pattern, site] = True
        return present.sum(axis=1)[pattern] == 1

    def permuted(self, stratum: Ints, draws: int, purpose: str, cells: int = 0) -> Iterator[Ints]:
        """Blocks (some draws, groups) of sites, permuted over groups that share a stratum (groups,).

        cells: numbers that the caller computes from each draw, which limits the number of draws in a block.
        """
        rng, site = stream(self.seed, "shift", purpose), self.site[self.first]
        order = np.argsort(stratum, kind="stable")
        blocks = np.split(order, np.flatnonzero(np.diff(stratum[order])) + 1)
        blocks = [block for block in blocks if len(block) > 1]
        for count in batch_sizes(draws, len(site) + cells):
            moved = np.tile(site, (count, 1))
            for block in blocks:
                moved[:, block] = rng.permuted(moved[:, block], axis=1)
            yield moved

    def select(self, rows: Ints) -> "Observed":
        """The cases at these positions."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("site", "labels", "units", "split"):
            parts[name] = parts[name][rows]
        for name in ("levels", "numbers"):
            parts[name] = {key: values[rows] for key, values in parts[name].items()}
        parts["annotated"] = None if self.annotated is None else self.annotated[rows]
        return Observed(**parts)


def joint_ids(*ids: Ints) -> Ints:
    """Return one dense id, 0, 1, ..., for each combination of ids, each (n,), in lexicographic order."""
    found = np.zeros(len(ids[0]), np.int64)
    for each in ids:
        low = int(each.min(initial=0))
        width = int(each.max(initial=0)) - low + 1
        if int(found.max(initial=0)) + 1 > 2**62 // width:
            found = np.unique(found, return_inverse=True)[1].reshape(-1)
        found = found * width + (each - low)
    top = int(found.max(initial=0))
    if top > SPARSE * len(found):
        return np.unique(found, return_inverse=True)[1].reshape(-1).astype(np.int64)
    present = np.zeros(top + 1, bool)
    present[found] = True
    return (np.cumsum(present) - 1)[found]


def first_positions(ids: Ints) -> Ints:
    """Return the position of the first occurrence of each of the dense ids 0, 1, ..."""
    found = np.empty(int(ids.max(initial=-1)) + 1, np.int64)
    found[ids[::-1]] = np.arange(len(ids))[::-1]
    return found


def batch_sizes(draws: int, cells: int) -> Iterator[int]:
    """Split a number of draws, of so many cells each, into batches that fit in memory."""
    most = max(1, CELLS // max(1, cells))
    for start in range(0, draws, most):
        yield min(most, draws - start)
