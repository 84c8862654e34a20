"""The image rows of the table of shifts: features of a sample of each site's cases, as its scanner shows them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fedlab.core.rng import stream
from fedlab.core.typing import Ints
from fedlab.heterogeneity.shift.embedding import Embedding, Features, Images
from fedlab.heterogeneity.shift.image_distances import Distance, equal_numbers, frechet, mmd, rbf_kernel, site_auc
from fedlab.heterogeneity.shift.null_intervals import Resampling, Row, row
from fedlab.heterogeneity.shift.observed import Observed

LoadImages = Callable[[Ints], tuple[Images, Images] | Features]

JACKKNIFE_BLOCKS = 20
FOLDS = 5
MIN_DRAWS = 50
MAX_WORK = 4000  # permutations times sites; many sites get fewer permutations, at least MIN_DRAWS


@dataclass(frozen=True)
class FeatureSample:
    """Features (n, d) of some observed cases, and the classes (n,) within which they are compared."""

    cases: Observed
    features: Features
    classes: Ints

    def rows(self, suffix: str, resampling: Resampling) -> Iterator[Row]:
        """Yield the rows of all image measures, or of the headline measure."""
        classes, sites = self.classes, self.cases.sites
        kernel = rbf_kernel(self.features)
        even = mmd(kernel, classes, sites, identical=True)(self.cases.site[None])[0]
        yield self._row("MMD^2" + suffix, mmd(kernel, classes, sites), resampling, float(even))
        if resampling.headlines:
            return
        equal = self.of_equal_numbers()
        yield equal._row("Frechet" + suffix, frechet(equal.features, equal.classes, sites), resampling, 0.0)
        fold = self._random_parts(FOLDS, "folds")
        yield self._row("site AUC" + suffix, site_auc(self.features, classes, sites, fold), resampling)

    def of_equal_numbers(self) -> "FeatureSample":
        """Equal numbers of cases of each site in a class, for measures that depend on the number."""
        rows = equal_numbers(self.cases.site, self.classes, self.cases.sites)
        return FeatureSample(self.cases.select(rows), self.features[rows], self.classes[rows])

    def _row(self, measure: str, distance: Distance, resampling: Resampling, even: float | None = None) -> Row:
        """Return a row; even: the value for identical sites, by default the smallest value under the null."""
        if not len(self.classes):  # no site has enough cases of a class
            return row("acquisition", measure, np.nan, np.full(1, np.nan), np.full(1, np.nan), np.nan)
        stratum = self.cases.strata("presentation", "population", given=self.cases.pooled_labels)
        draws = max(MIN_DRAWS, min(resampling.permutations, MAX_WORK // self.cases.sites))
        moved = self.cases.permuted(stratum, draws, measure)
        null = np.concatenate([distance(sites[:, self.cases.group]) for sites in moved])
        block = self._random_parts(JACKKNIFE_BLOCKS, "blocks")
        kept = [np.where(block == left_out, -1, self.cases.site) for left_out in range(-1, JACKKNIFE_BLOCKS)]
        value, *jackknife = distance(np.stack(kept))
        spread = 1.96 * np.sqrt((JACKKNIFE_BLOCKS - 1) * np.var(jackknife))
        even = float(null.min()) if even is None else even
        return row("acquisition", measure, float(value), null, value + np.linspace(-spread, spread, 2), even)

    def _random_parts(self, count: int, purpose: str) -> Ints:
        """Return the part, 0 to count - 1, of each case, (n,); groups stay whole."""
        groups = len(self.cases.start)
        return stream(self.cases.seed, "shift", purpose).permutation(groups)[self.cases.group] % count


def image_rows(cases: Observed, load: LoadImages, resampling: Resampling) -> tuple[list[Row], dict[str, object]]:
    """Return the image rows, and the numbers of images on which they are based."""
    sample = sample_positions(cases, resampling.images)
    few, features = cases.select(sample), _features(load(sample))
    label = (few.labels > 0).astype(np.int64) if cases.task == "multilabel" else few.labels
    found: list[Row] = []
    notes: dict[str, object] = {"images": len(sample)}
    for suffix, classes in (("", np.zeros_like(label)), (" within class", label)):
        if resampling.includes("acquisition", "MMD^2" + suffix):
            compared = FeatureSample(few, features, classes)
            found += compared.rows(suffix, resampling)
            if resampling.headlines:
                continue
            equal = compared.of_equal_numbers()
            of_site = pd.crosstab(equal.classes, equal.cases.site).max(axis=1)
            notes["Frechet" + suffix] = [int(count) for count in of_site]
    return found, notes


def sample_positions(cases: Observed, most: int) -> Ints:
    """Return positions of at most this number of cases, as equal over sites as their sizes allow."""
    rng = stream(cases.seed, "shift", "images")
    order = rng.permutation(len(cases.site))
    turn = pd.Series(cases.site[order]).groupby(cases.site[order]).cumcount().to_numpy()
    return np.sort(order[np.argsort(turn, kind="stable")[:most]])


def _features(found: tuple[Images, Images] | Features) -> Features:
    """Return features, of images after the scanners if images before and after them are given."""
    if isinstance(found, tuple):
        before, after = found
        return Embedding.fit(before)(after)
    return found
