"""Rows of the table of shifts that compare images: features of some cases of each site, as its scanner shows them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.core.rng import stream
from fedlab.core.typing import Ints
from fedlab.heterogeneity.embedding import Embedding
from fedlab.heterogeneity.shift.image_distances import Distance, equal_numbers, frechet, mmd, rbf_kernel, site_auc
from fedlab.heterogeneity.shift.null_intervals import Effort, Row, row
from fedlab.heterogeneity.shift.observed import Observed

Images = NDArray[np.generic]
Features = NDArray[np.float32]
Look = Callable[[Ints], tuple[Images, Images] | Features]

BLOCKS = 20
FOLDS = 5
FEWEST_DRAWS = 50
MOST_DRAWN = 4000  # permutations times sites; many sites get fewer permutations, at least FEWEST_DRAWS


@dataclass(frozen=True)
class Seen:
    """Features (n, d) of some observed cases, and the classes (n,) within which they are compared."""

    cases: Observed
    features: Features
    classes: Ints

    def rows(self, suffix: str, effort: Effort) -> Iterator[Row]:
        classes, sites = self.classes, self.cases.sites
        kernel = rbf_kernel(self.features)
        even = mmd(kernel, classes, sites, even=True)(self.cases.site[None])[0]
        yield self._row("MMD^2" + suffix, mmd(kernel, classes, sites), effort, float(even))
        if effort.headlines:
            return
        alike = self.of_equal_numbers()
        yield alike._row("Frechet" + suffix, frechet(alike.features, alike.classes, sites), effort, 0.0)
        fold = self._parts(FOLDS, "folds")
        yield self._row("site AUC" + suffix, site_auc(self.features, classes, sites, fold), effort)

    def of_equal_numbers(self) -> "Seen":
        """As many of each site in a class, for measures that depend on how many there are."""
        rows = equal_numbers(self.cases.site, self.classes, self.cases.sites)
        return Seen(self.cases.take(rows), self.features[rows], self.classes[rows])

    def _row(self, name: str, distance: Distance, effort: Effort, even: float | None = None) -> Row:
        """even: what sites alike would give; where that is not known, the least of all chance draws."""
        stratum = self.cases.alike("presentation", "population", given=self.cases.findings)
        draws = max(FEWEST_DRAWS, min(effort.permutations, MOST_DRAWN // self.cases.sites))
        moved = self.cases.permuted(stratum, draws, name)
        chance = np.concatenate([distance(sites[:, self.cases.group]) for sites in moved])
        block = self._parts(BLOCKS, "blocks")
        kept = [np.where(block == one, -1, self.cases.site) for one in range(-1, BLOCKS)]
        value, *without = distance(np.stack(kept))
        spread = 1.96 * np.sqrt((BLOCKS - 1) * np.var(without))
        even = float(chance.min()) if even is None else even
        return row("acquisition", name, float(value), chance, value + np.linspace(-spread, spread, 2), even)

    def _parts(self, count: int, purpose: str) -> Ints:
        """(n,) part 0..count-1 of each case, groups whole."""
        groups = len(self.cases.start)
        return stream(self.cases.seed, "shift", purpose).permutation(groups)[self.cases.group] % count


def image_rows(seen: Observed, look: Look, effort: Effort) -> tuple[list[Row], dict[str, object]]:
    """The rows, and on how many images they rest."""
    some = _some(seen, effort.images)
    few, features = seen.take(some), _features(look(some))
    kind = (few.labels > 0).astype(np.int64) if seen.task == "multilabel" else few.labels
    found: list[Row] = []
    notes: dict[str, object] = {"images": len(some)}
    for suffix, classes in (("", np.zeros_like(kind)), (" within class", kind)):
        if effort.asks("acquisition", "MMD^2" + suffix):
            compared = Seen(few, features, classes)
            found += compared.rows(suffix, effort)
            if effort.headlines:
                continue
            equal = compared.of_equal_numbers()
            of_site = pd.crosstab(equal.classes, equal.cases.site).max(axis=1)
            notes["Frechet" + suffix] = [int(count) for count in of_site]
    return found, notes


def _some(seen: Observed, most: int) -> Ints:
    """Positions of at most so many cases, sites as equal as their sizes allow."""
    rng = stream(seen.seed, "shift", "images")
    order = rng.permutation(len(seen.site))
    turn = pd.Series(seen.site[order]).groupby(seen.site[order]).cumcount().to_numpy()
    return np.sort(order[np.argsort(turn, kind="stable")[:most]])


def _features(found: tuple[Images, Images] | Features) -> Features:
    if isinstance(found, tuple):
        plain, shown = found
        return Embedding.fit(plain)(shown)
    return found
