"""Sites by labels, subtypes, population levels and numbers such as age: the contingency tables of each axis."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fedlab.core.typing import Bools, Floats, Ints
from fedlab.heterogeneity.shift import divergences
from fedlab.heterogeneity.shift.divergences import LABEL, ORDINAL, within_layers
from fedlab.heterogeneity.shift.null_intervals import Resampling, Row, recentred, row
from fedlab.heterogeneity.shift.observed import Observed, first_positions, joint_ids
from fedlab.heterogeneity.shift.permutation import ContingencyTables

Measure = Callable[[Floats], Floats]

MAX_POINTS = 256


@dataclass(frozen=True)
class AxisTables:
    """Tables of sites by categories of one axis, whose columns form layers, and the measures taken in each layer."""

    axis: str
    tables: ContingencyTables
    layers: int
    measures: Mapping[str, Measure]

    def rows(self, resampling: Resampling) -> Iterator[Row]:
        """Yield a row for each included measure; all measures use the same draws."""
        measures = {name: measure for name, measure in self.measures.items() if resampling.includes(self.axis, name)}
        if not measures:
            return
        purpose = f"{self.axis} {next(iter(self.measures))}"
        value = self._evaluate(measures, [self.tables.observed()])
        null = self._evaluate(measures, self.tables.null(resampling.permutations, purpose))
        resampled = self._evaluate(measures, self.tables.bootstrap(resampling.resamples, purpose))
        for name in measures:
            interval = np.maximum(recentred(float(value[name][0]), resampled[name]), 0)
            yield row(self.axis, name, float(value[name][0]), null[name], interval, 0.0)

    def layered(self, tables: Floats) -> Floats:
        """Reshape tables (draws, sites, columns) to (draws, sites, layers, categories)."""
        return tables.reshape(*tables.shape[:2], self.layers, -1)

    def _evaluate(self, measures: Mapping[str, Measure], blocks: Iterable[Floats]) -> dict[str, Floats]:
        """Evaluate each measure on all tables, (draws,)."""
        parts = [[within_layers(measure, self.layered(b)) for measure in measures.values()] for b in blocks]
        return {name: np.concatenate(part) for name, part in zip(measures, zip(*parts, strict=True), strict=True)}


def axis_tables(cases: Observed, resampling: Resampling) -> Iterator[AxisTables]:
    """Yield the tables of every assignment axis that is known; numbers only in the full report."""
    yield label_tables(cases)
    for axis, measure, given, other in (
        ("presentation", "I(S;Z|Y)", cases.labels, "population"),
        ("population", "I(S;A|Y)", cases.pooled_labels, "presentation"),
    ):
        if axis not in cases.levels:
            continue
        known = cases.levels[axis] >= 0
        if known.any():
            seen, label = known_cases(cases, known), given[known]
            yield tables_within_label(seen, axis, measure, label, seen.levels[axis], seen.strata(other, given=label))
        if axis in cases.missing and not resampling.headlines:
            yield missing_tables(cases, axis, cases.missing[axis], ~known, cases.strata(other, given=given))
    for column, values in cases.numbers.items() if not resampling.headlines else ():
        if len(np.unique(values[~np.isnan(values)])) > 1:
            known = ~np.isnan(values)
            yield number_tables(known_cases(cases, known), column, values[known])


def known_cases(cases: Observed, known: Bools) -> Observed:
    """Return the cases of known value: only these are compared and, under the null, change sites."""
    return cases if known.all() else cases.select(np.flatnonzero(known))


def missing_tables(cases: Observed, axis: str, column: str, missing: Bools, stratum: Ints) -> AxisTables:
    """Return sites by whether a value is missing: the measure is the difference between two sites' shares."""
    from scipy.sparse import csr_matrix

    tables = ContingencyTables(cases, missing.astype(np.int64), csr_matrix(np.eye(2)), stratum)
    return AxisTables(axis, tables, 1, {f"missing {column}": divergences.total_variation})


def label_tables(cases: Observed) -> AxisTables:
    """Return sites by classes; the findings of a multi-label task are layers, each of absence and presence."""
    from scipy.sparse import csr_matrix

    registries = [LABEL, ORDINAL] if cases.task == "ordinal" else [LABEL]
    measures = {name: registry.function(name) for registry in registries for name in registry}
    categories, design, layers = cases.labels, csr_matrix(np.eye(cases.classes)), 1
    if cases.task == "multilabel":
        sets, categories = np.unique(cases.labels, return_inverse=True)
        present = (sets[:, None] >> np.arange(cases.classes)) & 1
        design = csr_matrix(np.stack([1.0 - present, present], axis=2).reshape(len(sets), -1))
        layers = cases.classes
    tables = ContingencyTables(cases, categories.reshape(-1), design, cases.strata("population"))
    return AxisTables("prevalence", tables, layers, measures)


def tables_within_label(
    cases: Observed, axis: str, measure: str, given: Ints, categories: Ints, stratum: Ints
) -> AxisTables:
    """Return sites by categories (n,) with a layer for each label `given` (n,).

    Categories are renumbered within a layer, which keeps the table small.
    """
    from scipy.sparse import coo_matrix

    given = joint_ids(given)
    pair = joint_ids(given, categories)
    layer = given[first_positions(pair)]
    place = np.arange(len(layer)) - np.flatnonzero(np.diff(layer, prepend=-1))[layer]
    layers, width = int(layer[-1]) + 1, int(place.max()) + 1
    ones = (np.ones(len(layer)), (np.arange(len(layer)), layer * width + place))
    design = coo_matrix(ones, (len(layer), layers * width)).tocsr()
    measures = {measure: divergences.mutual_information, "TV within class": divergences.total_variation}
    return AxisTables(axis, ContingencyTables(cases, pair, design, stratum), layers, measures)


def number_tables(cases: Observed, column: str, values: Floats) -> AxisTables:
    """Return sites by values of a number."""
    from scipy.sparse import csr_matrix

    points, categories = _points(values)
    design = csr_matrix(np.eye(len(points)))
    measures = {f"W1 of {column}": lambda tables: divergences.wasserstein_of(tables, points)}
    stratum = cases.strata("presentation", given=cases.pooled_labels)
    return AxisTables("population", ContingencyTables(cases, categories, design, stratum), 1, measures)


def _points(values: Floats) -> tuple[Floats, Ints]:
    """Return (points, ascending, index of the nearest point of each value).

    All distinct values; of more than MAX_POINTS an even grid, which moves a mean by less than a step.
    """
    points = np.unique(values)
    if len(points) > MAX_POINTS:
        points = np.linspace(points[0], points[-1], MAX_POINTS)
    return points, np.searchsorted((points[1:] + points[:-1]) / 2, values).astype(np.int64)
