"""Sites crossed with what an axis deals by: labels, kinds of a disease, levels of a population, numbers such as age."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fedlab.core.typing import Floats, Ints
from fedlab.heterogeneity.shift import divergences
from fedlab.heterogeneity.shift.divergences import LABEL, ORDINAL, within_layers
from fedlab.heterogeneity.shift.null_intervals import Effort, Row, recentred, row
from fedlab.heterogeneity.shift.observed import Observed, firsts, joint
from fedlab.heterogeneity.shift.permutation import Tables

Measure = Callable[[Floats], Floats]

MOST_POINTS = 256


@dataclass(frozen=True)
class Crossing:
    """Tables of sites by answers, whose columns are so many layers of answers, and the measures taken in a layer."""

    axis: str
    tables: Tables
    layers: int
    named: Mapping[str, Measure]

    def rows(self, effort: Effort) -> Iterator[Row]:
        """Of each measure that is asked for; all of them see the same draws."""
        named = {name: measure for name, measure in self.named.items() if effort.asks(self.axis, name)}
        if not named:
            return
        purpose = f"{self.axis} {next(iter(self.named))}"
        value = self._each(named, [self.tables.observed()])
        chance = self._each(named, self.tables.by_chance(effort.permutations, purpose))
        again = self._each(named, self.tables.resampled(effort.resamples, purpose))
        for name in named:
            interval = np.maximum(recentred(float(value[name][0]), again[name]), 0)
            yield row(self.axis, name, float(value[name][0]), chance[name], interval, 0.0)

    def layered(self, tables: Floats) -> Floats:
        """(draws, sites, layers, answers) of tables (draws, sites, columns)."""
        return tables.reshape(*tables.shape[:2], self.layers, -1)

    def _each(self, named: Mapping[str, Measure], blocks: Iterable[Floats]) -> dict[str, Floats]:
        parts = [[within_layers(measure, self.layered(b)) for measure in named.values()] for b in blocks]
        return {name: np.concatenate(part) for name, part in zip(named, zip(*parts, strict=True), strict=True)}


def crossings(seen: Observed, effort: Effort) -> Iterator[Crossing]:
    """Every axis that deals cases to sites, as far as it is known; numbers where more than headlines are asked for."""
    yield labels(seen)
    for axis, name, given, other in (
        ("presentation", "I(S;Z|Y)", seen.labels, "population"),
        ("population", "I(S;A|Y)", seen.findings, "presentation"),
    ):
        if axis in seen.levels:
            yield within_label(seen, axis, name, given, seen.levels[axis], seen.alike(other, given=given))
    for column, values in seen.numbers.items() if not effort.headlines else ():
        if len(np.unique(values[~np.isnan(values)])) > 1:
            yield numbers(seen, column, values)


def labels(seen: Observed) -> Crossing:
    """Sites by classes; a multi-label task's findings are layers, each of absence and presence."""
    from scipy.sparse import csr_matrix

    registries = [LABEL, ORDINAL] if seen.task == "ordinal" else [LABEL]
    named = {name: registry.function(name) for registry in registries for name in registry}
    answers, spelled, layers = seen.labels, csr_matrix(np.eye(seen.classes)), 1
    if seen.task == "multilabel":
        sets, answers = np.unique(seen.labels, return_inverse=True)
        present = (sets[:, None] >> np.arange(seen.classes)) & 1
        spelled = csr_matrix(np.stack([1.0 - present, present], axis=2).reshape(len(sets), -1))
        layers = seen.classes
    tables = Tables(seen, answers.reshape(-1), spelled, seen.alike("population"))
    return Crossing("prevalence", tables, layers, named)


def within_label(seen: Observed, axis: str, name: str, given: Ints, answers: Ints, stratum: Ints) -> Crossing:
    """Sites by answers (n,) with a layer for each label given (n,), in which answers are numbered anew to keep the
    table small."""
    from scipy.sparse import coo_matrix

    given = joint(given)
    pair = joint(given, answers)
    layer = given[firsts(pair)]
    place = np.arange(len(layer)) - np.flatnonzero(np.diff(layer, prepend=-1))[layer]
    layers, wide = int(layer[-1]) + 1, int(place.max()) + 1
    ones = (np.ones(len(layer)), (np.arange(len(layer)), layer * wide + place))
    spelled = coo_matrix(ones, (len(layer), layers * wide)).tocsr()
    named = {name: divergences.mutual_information, "TV within class": divergences.total_variation}
    return Crossing(axis, Tables(seen, pair, spelled, stratum), layers, named)


def numbers(seen: Observed, column: str, values: Floats) -> Crossing:
    """Sites by values of a number; cases of which it is not known count nowhere."""
    from scipy.sparse import csr_matrix

    points, answers = _points(values)
    spelled = csr_matrix(np.eye(len(points) + 1)[:, :-1])
    named = {f"W1 of {column}": lambda tables: divergences.wasserstein_of(tables, points)}
    return Crossing(
        "population", Tables(seen, answers, spelled, seen.alike("presentation", given=seen.findings)), 1, named
    )


def _points(values: Floats) -> tuple[Floats, Ints]:
    """(points, ascending, nearest point of each value or len(points) where it is NaN).

    All values there are; of more than MOST_POINTS an even grid, which moves a mean by less than a step.
    """
    there = ~np.isnan(values)
    points = np.unique(values[there])
    if len(points) > MOST_POINTS:
        points = np.linspace(points[0], points[-1], MOST_POINTS)
    answers = np.full(len(values), len(points), np.int64)
    answers[there] = np.searchsorted((points[1:] + points[:-1]) / 2, values[there])
    return points, answers
