"""Scores of one method on one test set, their differences, and means of them over sites, with intervals.

An `Estimate` has a value for each seed and an interval over cases; `interval` joins both. Which interval is named by
`method`. See `fedlab.evaluation.intervals` for what each holds.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.rng import stream
from fedlab.core.typing import Floats, Ints
from fedlab.evaluation import report_metrics
from fedlab.evaluation.intervals import auroc, means, proportions, repeats, sites
from fedlab.evaluation.intervals.calibration import ENOUGH, calibrated_ece
from fedlab.evaluation.intervals.interval import LEVEL, NONE, Interval, root
from fedlab.evaluation.report_metrics import ReportMetric
from fedlab.learning import mask_metrics
from fedlab.learning.metrics import present_classes
from fedlab.learning.regression_metrics import REGRESSION_METRICS

GROUPS = 200  # patients are left out one by one up to so many, else in so many groups
FEW = 10  # patients below which a mean of scores has no interval
SCALES = {
    "brier": "log",
    "log_loss": "log",
    "hd95": "log",
    "volume_error": "log",
    "false_lesions": "log",
    "mae": "log",
    "kappa": "atanh",
} | dict.fromkeys(
    ("auroc", "average_precision", "accuracy", "balanced_accuracy", "sensitivity", "specificity"), "logit"
)
RANGES = {
    "logit": (0.0, 1.0),
    "log": (0.0, np.inf),
    "atanh": (-1.0, 1.0),
    "identity": (-np.inf, np.inf),
}
UNCERTAIN = ("rmse", "r2")  # metrics that no interval covered in simulations of few large errors
OF_CLASSES = ("auroc", "average_precision", "balanced_accuracy")  # metrics whose support is the rarer class
UNLIKELY = -9.0  # logarithm of the smallest p-value


class Estimate(ABC):
    """A number with a value for each seed, and an interval over cases and seeds."""

    values: Floats
    range: tuple[float, float]

    @property
    @abstractmethod
    def method(self) -> str:
        """The name of the interval."""

    @abstractmethod
    def cases(self, level: float = LEVEL) -> Interval:
        """The interval of the mean over these seeds, for new cases."""

    @property
    def value(self) -> float:
        return float(np.mean(self.values)) if len(self.values) else float("nan")

    def interval(self, level: float = LEVEL) -> Interval:
        """The interval for new cases and, with several seeds, new seeds; within the range of the metric."""
        if not len(self.values):
            return NONE
        found = repeats.over_seeds(self.values, self.cases(level), level)
        return found if np.isnan(found.low) else found.clipped(*self.range)

    @cached_property
    def limits(self) -> Interval:
        """The 95 % interval."""
        return self.interval()

    @property
    def p_value(self) -> float:
        """P value of 0: one less the level at which the interval ends there."""
        if not np.isfinite(self.limits.low):
            return float("nan")

        def end(exponent: float) -> float:
            found = self.interval(1 - 10**exponent)
            return found.low if self.value > 0 else -found.high

        if end(-1e-6) <= 0:
            return 1.0
        return float(10 ** (UNLIKELY if end(UNLIKELY) > 0 else root(end, UNLIKELY, -1e-6, 1e-3)))


@dataclass(frozen=True, eq=False)
class TestSet:
    """The cases of one place: labels (n,) or (n, labels), the patient of each, the metric, the number of classes.

    Of a regression y holds the targets (n,), and there are no classes.
    """

    __test__ = False  # no class of tests

    metric: str
    y: NDArray[Any]
    patient: Ints
    classes: int

    @cached_property
    def patients(self) -> int:
        return len(np.unique(self.patient))

    @property
    def single(self) -> bool:
        """Whether every patient has one image."""
        return self.patients == len(self.y)

    @property
    def binary_auroc(self) -> bool:
        return self.metric == "auroc" and self.classes == 2 and self.y.ndim == 1

    @property
    def scale(self) -> str:
        """The scale of the metric's intervals."""
        return SCALES.get(self.metric, "logit" if self.bounded else "identity")

    @property
    def numeric(self) -> bool:
        """Whether the metric compares numbers."""
        return self.metric in REGRESSION_METRICS

    @property
    def segmented(self) -> bool:
        """Whether the metric is a mean over cases of a score of their masks."""
        return self.metric in mask_metrics.MASK_METRICS

    @property
    def bounded(self) -> bool:
        """Whether the score of a mask is between 0 and 1."""
        return self.metric in mask_metrics.BOUNDED

    @property
    def reported(self) -> ReportMetric | None:
        """The metric, if it is one that no training computes."""
        return report_metrics.find(self.metric)

    @property
    def of_classes(self) -> bool:
        """Whether the metric rests on the patients of single classes."""
        return self.metric in OF_CLASSES or bool(self.reported and self.reported.needs)

    @cached_property
    def counted(self) -> NDArray[np.bool_] | None:
        """The cases whose share of correct decisions is the metric; None for a metric that is no such share."""
        if self.metric == "accuracy":
            return np.ones(len(self.y), bool)
        if self.reported and self.metric in SHARES:
            return self.y == SHARES[self.metric]
        return None

    @property
    def few_for_ece(self) -> bool:
        """Whether the metric is the ECE, and its bias in so few cases is larger than what an interval would say."""
        return self.metric == "ece" and len(self.y) < ENOUGH

    @property
    def size(self) -> int:
        """Number of cases that count."""
        return len(self.y) if self.counted is None else int(self.counted.sum())

    @cached_property
    def support(self) -> int:
        """Patients of the rarest class that the metric rests on; all patients for one that rests on no class."""
        if not self.of_classes:
            return self.patients
        if self.reported:
            return min(len(np.unique(self.patient[self.y == label])) for label in self.reported.needs)
        if self.y.ndim == 1 and len(np.unique(self.y)) < 2:
            return 0
        if self.y.ndim == 2:
            members = [self.y[:, label] == value for label in present_classes(self.y, self.classes) for value in (0, 1)]
        else:
            members = [self.y == label for label in np.unique(self.y)]
        return min((len(np.unique(self.patient[member])) for member in members), default=0)

    @cached_property
    def without(self) -> Floats:
        """Weights (groups, n) that leave out one patient each, or one group of patients each."""
        group = np.unique(self.patient, return_inverse=True)[1]
        if self.patients > GROUPS:  # at random, since the patients of a class or site may follow each other
            group = stream(0, "jackknife groups").permutation(self.patients)[group] % GROUPS
        return (group != np.arange(group.max(initial=-1) + 1)[:, None]).astype(np.float64)

    def score(self, models: Sequence[Floats]) -> "SeedScore":
        """The mean score of models on these cases; models: probabilities (n, classes) of each."""
        measure, finite = report_metrics.measure(self.metric), all(np.isfinite(p).all() for p in models)
        if self.reported and not finite:
            return SeedScore(float("nan"), models=tuple(models))
        value = float(np.mean([measure(self.y, p) for p in models]))
        found = partial(SeedScore, value, models=tuple(models))
        if self.segmented:
            left = np.mean([measure(self.y, p, self.without) for p in models], axis=0)
            return found(left=left, masks=_mean_known([mask_metrics.case_scores(self.metric, p) for p in models]))
        if self.binary_auroc:
            if not (finite and np.isfinite(value)):
                return found()
            each = [auroc.auroc_parts(p[:, 1], self.y == 1, self.patient) for p in models]
            return found(parts=auroc.mean_parts(each))
        if self.metric == "brier":
            return found(errors=np.mean([self._errors(p) for p in models], axis=0))
        if self.counted is not None:
            return found(right=np.mean([self.right(p) for p in models], axis=0))
        if self.reported:
            return found()
        right = np.mean([self.right(p) for p in models], axis=0) if self.metric == "balanced_accuracy" else None
        return found(left=np.mean([measure(self.y, p, self.without) for p in models], axis=0), right=right)

    def right(self, p: Floats) -> Floats:
        """The share of correct decisions in each case, (n,)."""
        if self.y.ndim == 2:
            return np.asarray(((p > 0.5) == self.y).mean(1))
        decision = p[:, 1] > 0.5 if p.shape[1] == 2 else p.argmax(1)
        return (decision == self.y).astype(np.float64)

    def _errors(self, p: Floats) -> Floats:
        """The squared error of each case, (n,), as in the Brier score."""
        if self.y.ndim == 2:
            return np.asarray(((p - self.y) ** 2).mean(1))
        if p.shape[1] == 2:
            return np.asarray((p[:, 1] - self.y) ** 2)
        return np.asarray(((p - (self.y[:, None] == np.arange(p.shape[1]))) ** 2).sum(1))

    def by_patient(self, values: Floats) -> Floats:
        """Values of the cases that count as values of their patients, whose mean is that over cases."""
        member = slice(None) if self.counted is None else self.counted
        member = np.isfinite(values) if self.segmented else member
        patient = np.unique(self.patient[member], return_inverse=True)[1]
        sums = np.bincount(patient, values[member])
        return np.asarray(sums * len(sums) / len(patient))


SHARES = {"sensitivity": 1, "specificity": 0}  # metrics that are the accuracy of one class


@dataclass(frozen=True, eq=False)
class SeedScore:
    """The metric of one seed's model, without each group of patients, and what closed forms need.

    models: probabilities (n, classes) of each model that the score is the mean of. masks: the score of each case's
    mask (n,), NaN where it is undefined.
    """

    value: float
    left: Floats | None = None
    right: Floats | None = None
    errors: Floats | None = None
    parts: auroc.AurocParts | None = None
    masks: Floats | None = None
    models: tuple[Floats, ...] = ()


class Score(Estimate):
    """The score of a method on one test set: one `SeedScore` for each seed."""

    def __init__(self, test: TestSet, seeds: Mapping[int, SeedScore]) -> None:
        self.test, self.seeds, self.range = test, dict(seeds), RANGES[test.scale]
        self.values = np.array([seed.value for seed in self.seeds.values()])

    @property
    def parts(self) -> auroc.AurocParts | None:
        """The parts of the mean AUROC over seeds."""
        each = [seed.parts for seed in self.seeds.values()]
        return auroc.mean_parts([parts for parts in each if parts]) if each and all(each) else None

    @property
    def left(self) -> Floats:
        """The mean over seeds of the metric without each group of patients."""
        each = [seed.left for seed in self.seeds.values() if seed.left is not None]
        return np.asarray(np.mean(each, axis=0)) if each else np.empty(0)

    @property
    def errors(self) -> Floats | None:
        """The mean over seeds of the squared error of each case, (n,)."""
        each = [seed.errors for seed in self.seeds.values() if seed.errors is not None]
        return np.asarray(np.mean(each, axis=0)) if each else None

    @property
    def patients(self) -> int:
        """Patients behind the value: of a metric of masks those with a case for which it is defined."""
        if not self.test.segmented:
            return self.test.patients
        return 0 if self.masks is None else len(self.test.by_patient(self.masks))

    @property
    def support(self) -> int:
        """As that of the test set; for a metric of masks the patients behind the value."""
        return self.patients if self.test.segmented else self.test.support

    @property
    def masks(self) -> Floats | None:
        """The mean over seeds of the score of each case's mask, (n,), NaN where it is undefined."""
        each = [seed.masks for seed in self.seeds.values() if seed.masks is not None]
        return _mean_known(each) if each else None

    @property
    def right(self) -> Floats | None:
        """The mean over seeds of correct decisions, (n,)."""
        each = [seed.right for seed in self.seeds.values() if seed.right is not None]
        return np.mean(each, axis=0) if each else None

    @cached_property
    def calibrated(self) -> Floats | None:
        """The mean over seeds of the ECE of as many cases if the probabilities were calibrated, (draws,)."""
        models = [p for seed in self.seeds.values() for p in seed.models]
        if self.test.metric != "ece" or self.test.y.ndim == 2 or not models or not np.isfinite(self.value):
            return None
        each = [calibrated_ece(p, self.test.patient, stream(0, "calibrated labels")) for p in models]
        return np.asarray(np.mean(each, axis=0))

    @property
    def method(self) -> str:
        test = self.test
        if test.segmented:
            return "bounded mean" if test.bounded else "jackknife"
        if test.binary_auroc:
            return "Newcombe"
        if test.counted is not None:
            return "Wilson and mid-P" if self._whole else "Korn-Graubard"
        if test.metric == "balanced_accuracy" and test.classes == 2:
            return "MOVER mid-P" if self._whole else "MOVER Korn-Graubard"
        if test.reported:
            return test.reported.interval
        return "jackknife" if self.errors is None else "bounded mean"

    @property
    def _whole(self) -> bool:
        """Whether correct decisions are counts of patients."""
        right, member = self.right, slice(None) if self.test.counted is None else self.test.counted
        patient = self.test.patient[member]
        return right is not None and len(np.unique(patient)) == len(patient) and bool(np.isin(right, (0, 1)).all())

    def cases(self, level: float = LEVEL) -> Interval:
        test, value = self.test, self.value
        if not np.isfinite(value):
            return NONE
        if test.segmented:
            return self._of_masks(level)
        if test.binary_auroc:
            parts = self.parts
            return NONE if parts is None else auroc.auroc_interval(parts, level)
        if test.counted is not None:
            return self._proportion(test.counted, level)
        if test.support < (2 if test.of_classes else FEW) or test.few_for_ece or test.metric in UNCERTAIN:
            return NONE
        if test.reported:
            return self._reported(level)
        if self.method.startswith("MOVER"):
            return self._balanced(level)
        if self.errors is not None:
            low, high = means.bounded_mean(test.by_patient(self.errors), 0.0, self._highest, level)
            return Interval(min(low, value), max(high, value))
        return means.jackknife(value, self.left, test.scale, level, self._df)

    @property
    def _highest(self) -> float:
        """The largest squared error of a case."""
        return 1.0 if self.test.classes == 2 or self.test.y.ndim == 2 else 2.0

    @property
    def _df(self) -> float | None:
        """Degrees of freedom of the jackknife; None for those of all patients."""
        if self.test.metric == "mae":
            errors = [np.abs(p[:, 0] - self.test.y) for seed in self.seeds.values() for p in seed.models]
            return means.effective_number(self.test.by_patient(np.mean(errors, axis=0))) - 1
        return self.test.support - 1 if self.test.metric in OF_CLASSES else None

    def _of_masks(self, level: float) -> Interval:
        """The interval of the mean score of masks; none for too few patients with a defined score."""
        each = self.test.by_patient(self.masks) if self.masks is not None else np.empty(0)
        if len(each) < FEW:
            return NONE
        if not self.test.bounded:
            return means.jackknife(self.value, self.left, self.test.scale, level, len(each) - 1)
        low, high = means.bounded_mean(each, 0.0, 1.0, level)
        return Interval(min(low, self.value), max(high, self.value))

    def _proportion(self, member: NDArray[np.bool_], level: float) -> Interval:
        """The interval of the share of correct decisions among some cases."""
        patient = np.unique(self.test.patient[member], return_inverse=True)[1]
        if self.right is None or len(set(patient)) < 2:
            return NONE
        right = self.right[member]
        if self._whole:
            return proportions.proportion(int(right.sum()), len(right), level)
        return proportions.clustered_proportion(np.bincount(patient, right), np.bincount(patient), level)

    def _reported(self, level: float) -> Interval:
        """The interval of a metric of calibration: the mean of those of the models, as if they were one model."""
        limits, patient = (
            self.test.reported and self.test.reported.limits,
            None if self.test.single else self.test.patient,
        )
        if not limits:
            return NONE
        models = [np.mean([limits(p[:, 1], self.test.y, level, patient)[1] for p in seed.models], axis=0)
                  for seed in self.seeds.values()]  # fmt: skip
        return Interval(*map(float, np.mean(models, axis=0)))

    def _balanced(self, level: float) -> Interval:
        """The interval of the mean of sensitivity and specificity."""
        members = [self.test.y == label for label in (0, 1)]
        limits = [self._proportion(member, level) for member in members]
        right = self.right if self.right is not None else np.full(len(self.test.y), np.nan)
        return sites.weighted_sum([float(right[member].mean()) for member in members], limits, [0.5, 0.5])

    @cached_property
    def spread(self) -> means.Spread | None:
        """The standard error over cases; None for an AUROC, for a metric of calibration, and without an interval."""
        test = self.test
        if test.binary_auroc or np.isnan(self.cases().low):
            return None
        if self.masks is not None:
            each = test.by_patient(self.masks)
            return (
                means.bounded_spread(each)[1]
                if test.bounded
                else means.jackknife_spread(self.value, self.left, len(each) - 1)
            )
        if test.counted is not None:
            return self._share_spread(test.counted)
        if test.reported:
            return None
        if self.method.startswith("MOVER"):
            return means.Spread.of_sum([self._share_spread(test.y == label) for label in (0, 1)], 0.5)
        if self.errors is not None:
            return means.bounded_spread(test.by_patient(self.errors), 0.0, self._highest)[1]
        return means.jackknife_spread(self.value, self.left, self._df)

    def _share_spread(self, member: NDArray[np.bool_]) -> means.Spread:
        """The standard error of the share of correct decisions among some cases."""
        patient = np.unique(self.test.patient[member], return_inverse=True)[1]
        right = np.zeros(len(self.test.y)) if self.right is None else self.right
        return proportions.proportion_spread(np.bincount(patient, right[member]), np.bincount(patient))


class Gain(Estimate):
    """The paired difference of two methods on one test set, over the seeds that both have."""

    def __init__(self, score: Score, reference: Score) -> None:
        shared = [seed for seed in score.seeds if seed in reference.seeds]
        self.test = score.test
        self.first, self.second = (
            Score(self.test, {seed: s.seeds[seed] for seed in shared}) for s in (score, reference)
        )
        self.values = self.first.values - self.second.values
        if report_metrics.higher_is_better(self.test.metric) is None:
            self.values = np.full(len(shared), np.nan)  # neither the higher nor the lower value is better
        self.range = (-1.0, 1.0) if self.test.scale == "logit" else RANGES["identity"]

    @property
    def method(self) -> str:
        if self.test.segmented:
            return "paired mean"
        if self.test.binary_auroc:
            return "MOVER"
        if self._discordant:
            return "Tango"
        if self.test.reported and self.test.counted is None:
            return ""
        return "paired mean" if self.test.counted is not None or self.test.metric == "brier" else "paired jackknife"

    @property
    def _discordant(self) -> tuple[int, int] | None:
        """Cases that only the first, only the second method classifies correctly, where these are counts."""
        member = self.test.counted
        if member is None or len(self.values) != 1 or not (self.first._whole and self.second._whole):
            return None
        first, second = self.first.right, self.second.right
        if first is None or second is None or not member.any():
            return None
        return int((first > second)[member].sum()), int((first < second)[member].sum())

    def cases(self, level: float = LEVEL) -> Interval:
        if not np.isfinite(self.value):
            return NONE
        if self.test.segmented:
            return self._of_masks(level)
        if self.test.binary_auroc:
            first, second = self.first.parts, self.second.parts
            return auroc.paired_auroc_interval(first, second, level) if first and second else NONE
        if counts := self._discordant:
            return proportions.tango(*counts, self.test.size, level)
        if self.test.support < (2 if self.test.metric in OF_CLASSES else FEW) or self.test.patients < FEW:
            return NONE
        if (self.test.reported and self.test.counted is None) or self.test.metric == "rmse":
            return NONE
        shares = self.test.counted is not None
        pair = [score.right if shares else score.errors for score in (self.first, self.second)]
        if pair[0] is not None and pair[1] is not None:
            return means.paired_mean(self.test.by_patient(pair[0] - pair[1]), 0.5, level)
        return means.jackknife(self.value, self.first.left - self.second.left, "identity", level)

    def _of_masks(self, level: float) -> Interval:
        """The interval of the mean difference of the scores of masks."""
        first, second = self.first.masks, self.second.masks
        if first is None or second is None or min(self.first.patients, self.second.patients) < FEW:
            return NONE
        found = _mask_differences(first, second, self.test.patient)
        low, high = means.paired_mean(found, 0.5 if self.test.bounded else None, level)
        return Interval(min(low, self.value), max(high, self.value))

    @property
    def p_value(self) -> float:
        counts = self._discordant
        return proportions.mcnemar(*counts) if counts else super().p_value


def _mask_differences(first: Floats, second: Floats, patient: Ints) -> Floats:
    """A number for each patient, whose mean is the difference of the mean scores of two models' masks.

    first, second: scores of the cases (n,), NaN where that model's is undefined. Each mean is over the model's own
    defined cases; where these are the same and a patient has one image, the number is the difference of its scores,
    otherwise the difference of the two linearised means.
    """
    known = np.isfinite(first) | np.isfinite(second)
    group = np.unique(patient[known], return_inverse=True)[1]
    found = np.zeros(group.max() + 1)
    for scores, sign in ((first[known], 1), (second[known], -1)):
        defined = np.isfinite(scores)
        mean = scores[defined].mean()
        sums = np.bincount(group, np.where(defined, scores - mean, 0.0))
        found += sign * (mean + len(found) / defined.sum() * sums)
    return found


def _mean_known(rows: Sequence[Floats]) -> Floats:
    """The mean of the values that are not NaN, NaN where all of them are."""
    values = np.asarray(rows, np.float64)
    known = np.isfinite(values)
    count = known.sum(0)
    return np.where(count > 0, np.where(known, values, 0.0).sum(0) / np.maximum(count, 1), np.nan)


class MeanOfSites(Estimate):
    """The mean over sites of scores, or of gains; each site has the same weight."""

    def __init__(self, parts: Sequence[Estimate]) -> None:
        self.sites = list(parts)
        self.values = np.mean([site.values for site in self.sites], axis=0) if self.sites else np.empty(0)
        self.range = self.sites[0].range if self.sites else RANGES["identity"]

    @property
    def _aurocs(self) -> list[auroc.AurocParts]:
        """The parts of the AUROC of each site, if this is a mean of AUROCs."""
        found = [site.parts for site in self.sites if isinstance(site, Score) and site.test.binary_auroc]
        return [parts for parts in found if parts]

    @property
    def method(self) -> str:
        return "sum of variances" if self._aurocs or self._spreads else "MOVER"

    @property
    def _spreads(self) -> list[means.Spread]:
        """The standard errors of all sites; empty if a site has none."""
        found = [site.spread for site in self.sites if isinstance(site, Score)]
        spreads = [spread for spread in found if spread]
        return spreads if len(spreads) == len(self.sites) else []

    def cases(self, level: float = LEVEL) -> Interval:
        if not self.sites or not np.isfinite(self.value):
            return NONE
        if self._aurocs:
            return sites.mean_auroc(self._aurocs, level) if len(self._aurocs) == len(self.sites) else NONE
        values, limits = [site.value for site in self.sites], [site.cases(level) for site in self.sites]
        first = self.sites[0]
        if (spreads := self._spreads) and isinstance(first, Score):
            return sites.mean_of_sites(values, spreads, limits, first.test.scale, level)
        return sites.weighted_sum(values, limits, [1 / len(values)] * len(values))

    @property
    def differ(self) -> float:
        """P value of the hypothesis that all sites have one AUROC; NaN for other metrics."""
        found = self._aurocs
        return sites.sites_differ(found) if found and len(found) == len(self.sites) else float("nan")

    def worst(self, higher_is_better: bool) -> Interval:
        """The interval of the worst site."""
        level = sites.sidak_level(max(1, len(self.sites)))
        return sites.worst_site(
            [site.limits for site in self.sites], [site.interval(level) for site in self.sites], higher_is_better
        )


def apart(first: Estimate, second: Estimate) -> tuple[float, Interval]:
    """The difference of two estimates on different cases, by MOVER."""
    limits = sites.weighted_sum([first.value, second.value], [first.limits, second.limits], [1, -1])
    return first.value - second.value, limits
