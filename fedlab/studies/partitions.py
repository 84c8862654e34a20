"""Scores over several partitions of one pool of cases, and differences of scores between doses."""

from collections.abc import Sequence

import numpy as np

from fedlab.analysis.scores import Estimate
from fedlab.evaluation.intervals.interval import LEVEL, NONE, Interval, z_quantile
from fedlab.evaluation.intervals.repeats import over_splits


class OverPartitions(Estimate):
    """The mean of a score over partitions that have the same test cases.

    The values that vary are those of partitions, each a mean over seeds, so that their variance has that of seeds in
    it. Cases are the same in all partitions, which therefore do not make their share smaller: its interval has the mean
    width of the partitions'.
    """

    def __init__(self, parts: Sequence[Estimate]) -> None:
        self.parts, self.range = list(parts), parts[0].range
        self.values = np.array([part.value for part in parts])

    @property
    def method(self) -> str:
        return self.parts[0].method

    def cases(self, level: float = LEVEL) -> Interval:
        limits = [part.cases(level) for part in self.parts]
        return Interval(*(float(np.mean([limit[end] for limit in limits])) for end in (0, 1)))


class OverSplits(OverPartitions):
    """The mean of a score over partitions that drew their test cases anew from one pool (Nadeau and Bengio 2003)."""

    def __init__(self, parts: Sequence[Estimate], tested: int, trained: int) -> None:
        super().__init__(parts)
        self.tested, self.trained = tested, trained

    @property
    def method(self) -> str:
        return "Nadeau-Bengio"

    def interval(self, level: float = LEVEL) -> Interval:
        found = over_splits(self.values, self.tested, self.trained, level) if len(self.values) > 2 else NONE
        return found if np.isnan(found.low) else found.clipped(*self.range)


class Apart(Estimate):
    """The difference of two scores on different cases, over the seeds that both have (MOVER)."""

    def __init__(self, first: Estimate, second: Estimate) -> None:
        self.first, self.second = first, second
        self.range = (-1.0, 1.0) if first.range == (0.0, 1.0) else (-np.inf, np.inf)
        same = len(first.values) == len(second.values)
        self.values = first.values - second.values if same else np.array([first.value - second.value])

    @property
    def method(self) -> str:
        return "MOVER"

    def cases(self, level: float = LEVEL) -> Interval:
        one, two = self.first.cases(level), self.second.cases(level)
        below = np.hypot(self.first.value - one.low, two.high - self.second.value)
        above = np.hypot(one.high - self.first.value, self.second.value - two.low)
        return Interval(float(self.value - below), float(self.value + above))


def contributions(score: Estimate) -> dict[str, float]:
    """The standard deviations that test cases, seeds and partitions contribute to a score; NaN where not varied."""
    limits = score.cases()
    over_partitions = isinstance(score, OverPartitions)
    within = [part.values for part in score.parts] if isinstance(score, OverPartitions) else [score.values]
    seeds = float(np.mean([np.var(values, ddof=1) for values in within])) if len(within[0]) > 1 else np.nan
    partitions = np.nan
    if over_partitions:
        between = float(np.var(score.values, ddof=1))
        partitions = max(0.0, between - (0.0 if np.isnan(seeds) else seeds / len(within[0])))
    return {
        "sd_cases": (limits.high - limits.low) / 2 / z_quantile(LEVEL),
        "sd_seeds": float(np.sqrt(seeds)),
        "sd_partitions": float(np.sqrt(partitions)),
    }
