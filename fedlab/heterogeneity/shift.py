"""The shift that sites realise, beside what chance alone would make of the same cases, and with its interval.

null: site labels permuted over units (patients) within each split; for sizes, units dealt with equal probability.
interval: bootstrap over units, recentred on the value because plug-in measures of resamples are biased away from zero;
for image measures a block jackknife.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.heterogeneity.measures import LABEL, ORDINAL, QUANTITY, mean_defined, mmd2, rbf_kernel
from fedlab.randomness import stream
from fedlab.registry import Registry

Ids = NDArray[np.int64]
Array = NDArray[np.float64]
Look = Callable[[Ids], tuple[NDArray[np.generic], NDArray[np.generic]]]
Row = tuple[str, str, float, float, float, float, float, float]

PERMUTATIONS = 200
RESAMPLES = 300
BLOCKS = 20
MOST_IMAGES = 1500
COLUMNS = ("axis", "measure", "value", "null_low", "null", "null_high", "low", "high")


@dataclass(frozen=True)
class Observed:
    """Dealt cases, each (n,): site 0..K-1, label, unit and split as ids; and the task with its number of classes."""

    site: Ids
    labels: Ids
    units: Ids
    split: Ids
    task: str
    classes: int
    sites: int
    seed: int

    @cached_property
    def group(self) -> Ids:
        """(n,) cases that change sites together: a unit's cases at one site and in one split."""
        joint = np.stack([self.units, self.site, self.split], axis=1)
        return np.unique(joint, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)

    @cached_property
    def first(self) -> Ids:
        """(groups,) position of one case of each group."""
        return np.unique(self.group, return_index=True)[1].astype(np.int64)

    @property
    def questions(self) -> list[tuple[Ids, int]]:
        """(answers (n,), how many there are): the class, or for a multi-label task each finding's absence or
        presence."""
        if self.task == "multilabel":
            return [((self.labels >> bit) & 1, 2) for bit in range(self.classes)]
        return [(self.labels, self.classes)]

    def permuted(self, within: Ids, draws: int, purpose: str) -> Iterator[Ids]:
        """Site of each case (n,) with sites permuted over groups that share `within` (n,)."""
        rng = stream(self.seed, "shift", purpose)
        blocks = [np.flatnonzero(within[self.first] == kind) for kind in np.unique(within)]
        site = self.site[self.first]
        for _ in range(draws):
            moved = site.copy()
            for block in blocks:
                moved[block] = site[rng.permutation(block)]
            yield moved[self.group]

    def take(self, rows: Ids) -> "Observed":
        parts = (self.site[rows], self.labels[rows], self.units[rows], self.split[rows])
        return Observed(*parts, self.task, self.classes, self.sites, self.seed)


def shift(seen: Observed, look: Look) -> pd.DataFrame:
    """Columns axis, measure, value, null_low, null, null_high (mean and 95 % of chance), low, high (95 % interval).

    look(rows) returns the images of these rows before and after their sites' scanners. NaN where a measure is
    undefined.
    """
    return pd.DataFrame([*_quantity(seen), *_labels(seen), *_images(seen, look)], columns=list(COLUMNS))


def _quantity(seen: Observed) -> Iterator[Row]:
    """Sizes count cases; the null deals whole units to sites with equal probability."""
    rng = stream(seen.seed, "shift", "quantity")
    size = np.bincount(seen.group)
    sizes = np.bincount(seen.site, minlength=seen.sites).astype(np.float64)
    chance, again = np.zeros((PERMUTATIONS, seen.sites)), np.zeros((RESAMPLES, seen.sites))
    for m in np.unique(size):
        units = np.bincount(seen.site[seen.first[size == m]], minlength=seen.sites)
        chance += m * rng.multinomial(units.sum(), np.full(seen.sites, 1 / seen.sites), PERMUTATIONS)
        again += m * rng.multinomial(units.sum(), units / units.sum(), RESAMPLES)
    for name in QUANTITY:
        measure = QUANTITY.function(name)
        value, possible = (
            float(measure(sizes)),
            [float(measure(row)) for row in (np.eye(seen.sites)[0], np.ones(seen.sites))],
        )
        interval = np.clip(_recentred(value, measure(again)), min(possible), max(possible))
        yield _row("quantity", name, value, measure(chance), interval)


def _labels(seen: Observed) -> Iterator[Row]:
    tables = [np.stack([_count(seen, seen.site)])]
    tables.append(np.stack([_count(seen, site) for site in seen.permuted(seen.split, PERMUTATIONS, "labels")]))
    tables.append(np.stack([_count(seen, seen.site, weights) for weights in _resampled(seen)]))
    registries: list[Registry] = [LABEL, ORDINAL] if seen.task == "ordinal" else [LABEL]
    for registry in registries:
        for name in registry:
            measure = registry.function(name)
            value, chance, again = (mean_defined(measure(table)) for table in tables)
            interval = np.maximum(_recentred(float(value[0]), again), 0)
            yield _row("prevalence", name, float(value[0]), chance, interval)


def _count(seen: Observed, site: Ids, weights: Array | None = None) -> Array:
    """Counts (questions, sites, answers)."""
    return np.stack(
        [
            np.bincount(site * wide + answer, weights, seen.sites * wide).reshape(seen.sites, wide)
            for answer, wide in seen.questions
        ]
    ).astype(np.float64)


def _resampled(seen: Observed) -> Iterator[Array]:
    """Multiplicity of each case (n,) when groups are drawn with replacement."""
    rng, groups = stream(seen.seed, "shift", "bootstrap"), len(seen.first)
    for _ in range(RESAMPLES):
        yield np.bincount(rng.integers(0, groups, groups), minlength=groups)[seen.group].astype(np.float64)


def _images(seen: Observed, look: Look) -> Iterator[Row]:
    from fedlab.heterogeneity.embedding import Embedding

    rows = _some(seen)
    few = seen.take(rows)
    plain, shown = look(rows)
    kernel = rbf_kernel(Embedding.fit(plain)(shown))
    kind = (few.labels > 0).astype(np.int64) if seen.task == "multilabel" else few.labels
    blocks = stream(seen.seed, "shift", "blocks").integers(0, BLOCKS, len(few.first))[few.group]
    for name, classes, within in (
        ("MMD^2", np.zeros_like(kind), few.split),
        ("MMD^2 within class", kind, few.split * (kind.max() + 1) + kind),
    ):
        chance = _class_mmd(kernel, np.stack([*few.permuted(within, PERMUTATIONS, name)]), classes, few.sites)
        kept = np.stack([np.where(blocks == block, -1, few.site) for block in range(-1, BLOCKS)])
        value, *without = _class_mmd(kernel, kept, classes, few.sites)
        spread = 1.96 * np.sqrt((BLOCKS - 1) * np.var(without))
        band = float(value) + np.linspace(-spread, spread, 2)
        yield _row("acquisition", name, float(value), chance, band)


def _some(seen: Observed) -> Ids:
    """Positions of at most MOST_IMAGES cases, sites as equal as their sizes allow."""
    rng = stream(seen.seed, "shift", "images")
    order = rng.permutation(len(seen.site))
    turn = pd.Series(seen.site[order]).groupby(seen.site[order]).cumcount().to_numpy()
    return np.sort(order[np.argsort(turn, kind="stable")[:MOST_IMAGES]])


def _class_mmd(kernel: NDArray[np.floating], site: Ids, classes: Ids, sites: int) -> Array:
    """mmd2 within classes, (draws,), mean over classes and pairs by their weights; site: (draws, n), -1 for left out.

    The weights keep a class that a site hardly has, mostly noise, from drowning the others.
    """
    found = []
    for one in np.unique(classes):
        inside = np.flatnonzero(classes == one)
        own = kernel[np.ix_(inside, inside)]
        batches = np.array_split(site[:, inside], -(-len(site) * sites // 2000))  # memory: 2000 columns at a time
        parts = [mmd2(own, batch[:, :, None] == np.arange(sites)) for batch in batches]
        found.append(tuple(np.concatenate(part) for part in zip(*parts, strict=True)))
    values, weights = (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
    return mean_defined(values, weights)


def _recentred(value: float, again: Array) -> Array:
    return value + again - mean_defined(again)


def _row(axis: str, name: str, value: float, chance: Array, interval: Array) -> Row:
    (null_low, null_high), (low, high) = _band(chance), _band(interval)
    return axis, name, value, null_low, float(mean_defined(chance)), null_high, min(low, value), max(high, value)


def _band(draws: Array) -> tuple[float, float]:
    there = draws[~np.isnan(draws)]
    low, high = np.quantile(there, [0.025, 0.975]) if len(there) else (np.nan, np.nan)
    return float(low), float(high)
