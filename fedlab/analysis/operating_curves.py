"""Curves of stored test predictions: ROC, reliability, net benefit of decisions, and risk against coverage.

Each is computed for every method at every site, at every held-out site, and on the pool of all cases. Several seeds of
a method are averaged. Limits are 95 % intervals with the patient as the unit; where fewer than 10 patients are behind a
point, there are none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fedlab.analysis.alignment import HELD_OUT, POOLED, Alignment, align, probabilities
from fedlab.analysis.grouping import by_setting
from fedlab.analysis.scores import FEW, Score, TestSet
from fedlab.core.registry import nearest
from fedlab.core.typing import Floats, Ints
from fedlab.evaluation.intervals import means, proportions
from fedlab.evaluation.intervals.interval import NONE, Interval
from fedlab.experiments.run_folder import Run

BINS = 10  # of reliability, at most
THRESHOLDS = np.arange(1, 100) / 100
COVERAGES = np.arange(1, 21) / 20
OPERATING = 0.5  # probability above which a case counts as positive
ALL, NOBODY = "treat all", "treat none"  # the decisions that need no model


@dataclass(frozen=True, eq=False)
class Place:
    """The test cases of a site, or of all, with what each method predicts for them.

    test: labels and patients. y: 0 or 1 for each case, of a task with one class of interest; else the class. models:
    method -> seed -> probabilities (n, classes) of each model in use.
    """

    site: str
    test: TestSet
    y: Ints
    models: Mapping[str, Mapping[int, Sequence[Floats]]]

    @property
    def classes(self) -> tuple[int, int]:
        """Patients with a case of class 1, and with one of another class."""
        first, second = (len(np.unique(self.test.patient[self.y == label])) for label in (1, 0))
        return first, second

    def each(self, method: str) -> list[Floats]:
        """The probabilities of every model of every seed."""
        return [p for models in self.models[method].values() for p in models]

    @property
    def about(self) -> dict[str, Any]:
        """The columns that every row of this place has."""
        return {"site": self.site, "cases": len(self.y), "patients": self.test.patients}


def places(
    runs: Sequence[Run],
    positive: str | None = None,
    *,
    by: str | None = None,
    choice: str = "best",
    any_class: bool = False,
) -> list[Place]:
    """The pool, the sites and the held-out sites of runs of one federation.

    positive: the class of interest of a task with several; any_class: whether curves need none.
    """
    runs = list(runs)
    if runs and runs[0].task == "segmentation":
        raise ValueError("these runs predict masks: curves need class probabilities, compare dice with fedlab.compare")
    if runs and runs[0].task == "regression":
        raise ValueError("these runs predict numbers: curves need class probabilities, compare mae with fedlab.compare")
    both = align(runs, "accuracy", choice, "test", "true")
    column = None if any_class else _column(runs[0], positive)
    if column is None and runs[0].task == "multilabel":
        raise ValueError("a case may have several findings: curves of top classes need tasks with one class a case")
    methods, found = by_setting(runs, by), []
    for part in both:
        predicted = {
            name: {int(run.experiment.seed): probabilities(run, part) for run in group}
            for name, group in methods.items()
        }
        found += [_place(part, site, predicted, column) for site in _listed(part)]
    return found


def _listed(part: Alignment) -> list[str]:
    """The places of an alignment: the pool first; held-out sites have none."""
    inside = not any(site.startswith(HELD_OUT) for site in part.sites)
    return [*([POOLED] if inside and len(part.table) else []), *(site for site in part.sites if part.size(site))]


def _place(part: Alignment, site: str, predicted: Any, column: int | None) -> Place:
    """The cases of one place; with a class of interest probabilities are those of it, (n, 2)."""
    rows, test = part.spans[site], part.test_set(site)
    y = test.y
    if column is not None:
        y = np.asarray(test.y[:, column] if test.y.ndim == 2 else test.y == column).astype(np.int64)

    def taken(p: Floats) -> Floats:
        own = p[rows]
        return own if column is None else np.column_stack([1 - own[:, column], own[:, column]])

    models = {
        name: {seed: [taken(p) for p in each] for seed, each in seeds.items()} for name, seeds in predicted.items()
    }
    if column is not None:
        test = TestSet("auroc", y, test.patient, 2)
    return Place(site, test, y, models)


def _column(run: Run, positive: str | None) -> int:
    """The class of interest."""
    if positive is None:
        if len(run.classes) == 2 and run.task != "multilabel":
            return 1
        raise ValueError(
            f"the task has {len(run.classes)} classes: name the one to detect with positive=, one of"
            f" {', '.join(map(repr, run.classes))}"
        )
    if positive not in run.classes:
        raise ValueError(f"positive={positive!r} is no class: {nearest(str(positive), run.classes)}")
    return run.classes.index(positive)


def share(successes: Floats, images: Floats, patient: Ints) -> Interval:
    """The interval of sum(successes) / sum(images) over cases, (n,) each; none for fewer than 10 patients."""
    member = images > 0
    person = np.unique(patient[member], return_inverse=True)[1]
    right, count = np.bincount(person, successes[member]), np.bincount(person, images[member])
    if len(count) < FEW:
        return NONE
    if (count == 1).all() and np.isin(right, (0, 1)).all():
        return proportions.proportion(int(right.sum()), len(right))
    return proportions.clustered_proportion(right, count)


def _table(found: Sequence[Place], rows: Callable[[Place, str], list[dict[str, Any]]]) -> pd.DataFrame:
    """The rows of every method at every place."""
    lines = [
        {"method": method, **place.about, **row}
        for place in found
        for method in place.models
        for row in rows(place, method)
    ]
    return pd.DataFrame(lines)


# -- ROC -------------------------------------------------------------------------------------------------------------


def roc_points(positive: ArrayLike, score: ArrayLike) -> tuple[Floats, Floats]:
    """False and true positive rate at every threshold, from (0, 0) to (1, 1); cases of one score in one step.

    Examples
    --------
    >>> from fedlab.analysis.operating_curves import roc_points
    >>> false, true = roc_points([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8])
    >>> false.tolist(), true.tolist()
    ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0])
    """
    y, s = np.asarray(positive, bool), np.asarray(score, np.float64)
    order = np.argsort(-s, kind="stable")
    last = np.flatnonzero(np.append(np.diff(s[order]) != 0, True))
    true, false = np.cumsum(y[order])[last], np.cumsum(~y[order])[last]
    return np.append(0.0, false / max(1, (~y).sum())), np.append(0.0, true / max(1, y.sum()))


def mean_roc(curves: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """The mean true positive rate of curves at each false positive rate; its area is the mean of their areas.

    Examples
    --------
    >>> from fedlab.analysis.operating_curves import mean_roc, roc_points
    >>> curves = [roc_points([0, 1], [0, 1]), roc_points([1, 0], [0, 1])]
    >>> [each.tolist() for each in mean_roc(curves)]
    [[0.0, 0.0, 1.0, 1.0], [0.0, 0.5, 0.5, 1.0]]
    """
    if len(curves) == 1:
        return curves[0]
    grid = np.unique(np.concatenate([false for false, _ in curves]))
    ends = [[_limits(false, true, at) for at in grid] for false, true in curves]
    mean = np.mean(ends, axis=0)  # (points, 2): from the left and from the right
    return np.repeat(grid, 2), mean.ravel()


def _limits(false: Floats, true: Floats, at: float) -> tuple[float, float]:
    """The lowest and the highest true positive rate of a curve at a false positive rate."""
    here = true[false == at]
    if len(here):
        return float(here[0]), float(here[-1])
    value = float(np.interp(at, false, true))
    return value, value


def roc(found: Sequence[Place]) -> pd.DataFrame:
    """Points of ROC curves: columns method, site, cases, patients, false_positive_rate, true_positive_rate."""

    def rows(place: Place, method: str) -> list[dict[str, Any]]:
        if min(place.classes) == 0:
            return []
        false, true = mean_roc([roc_points(place.y, p[:, 1]) for p in place.each(method)])
        return [
            {"false_positive_rate": x, "true_positive_rate": y}
            for x, y in zip(false.tolist(), true.tolist(), strict=True)
        ]

    return _table(found, rows)


def operating_points(found: Sequence[Place]) -> pd.DataFrame:
    """AUROC, and sensitivity and specificity at a probability of 0.5, with intervals as `fedlab.compare` has them.

    Columns: method, site, cases, patients, positives and negatives (patients), and for each number its value and _low
    and _high.
    """

    def rows(place: Place, method: str) -> list[dict[str, Any]]:
        positives, negatives = place.classes
        row: dict[str, Any] = {"positives": positives, "negatives": negatives}
        for name in ("auroc", "sensitivity", "specificity"):
            test = TestSet(name, place.y, place.test.patient, 2)
            each = {seed: test.score(models) for seed, models in place.models[method].items()}
            score = Score(test, each) if min(positives, negatives) else None
            row |= {
                name: score.value if score else np.nan,
                f"{name}_low": score.limits.low if score else np.nan,
                f"{name}_high": score.limits.high if score else np.nan,
            }
        return [row]

    return _table(found, rows)


# -- reliability -----------------------------------------------------------------------------------------------------


def reliability(found: Sequence[Place], bins: int = BINS) -> pd.DataFrame:
    """Predicted probability against observed frequency, in bins with equal numbers of cases.

    Of a task with a class of interest the probability is that of the class; otherwise it is that of the most probable
    class, and the frequency is how often that class is right. There are at most as many bins as leave 10 patients in
    each; none where fewer than 20 patients are tested. Columns: method, site, cases, patients, bin, count (cases in the
    bin, of all seeds), predicted (their mean), observed, low, high.
    """

    def rows(place: Place, method: str) -> list[dict[str, Any]]:
        use = min(bins, place.test.patients // FEW)
        if use < 2:
            return []
        each = [_predicted(place, p) for p in place.each(method)]
        p, y = np.concatenate([one[0] for one in each]), np.concatenate([one[1] for one in each])
        patient = np.tile(place.test.patient, len(each))
        place_of = np.empty(len(p), int)
        place_of[np.argsort(p, kind="stable")] = np.arange(len(p)) * use // len(p)
        return [
            {
                "bin": k,
                "count": int((place_of == k).sum()),
                "predicted": float(p[place_of == k].mean()),
                "observed": float(y[place_of == k].mean()),
                **_ends(share(y[place_of == k], np.ones((place_of == k).sum()), patient[place_of == k])),
            }
            for k in range(use)
        ]

    return _table(found, rows)


def _predicted(place: Place, p: Floats) -> tuple[Floats, Floats]:
    """The probability that is judged and whether its class is true, (n,) each."""
    if place.y.ndim == 1 and p.shape[1] == 2 and place.test.classes == 2:
        return p[:, 1], place.y.astype(np.float64)
    return p.max(1), (p.argmax(1) == place.y).astype(np.float64)


def _ends(limits: Interval) -> dict[str, float]:
    return {"low": limits.low, "high": limits.high}


# -- net benefit -----------------------------------------------------------------------------------------------------


def net_benefit(found: Sequence[Place], thresholds: ArrayLike | None = None) -> pd.DataFrame:
    """Net benefit of treating the cases whose probability reaches a threshold (Vickers and Elkin 2006).

    True positives / n - false positives / n * t / (1 - t). Columns: method (also "treat all" and "treat none"), site,
    cases, patients, threshold, net_benefit, low, high, over_all (difference to treating all), over_all_low and
    over_all_high. What a patient adds is bounded, so limits are those of the mean of a bounded score.
    """
    at = THRESHOLDS if thresholds is None else np.asarray(thresholds, np.float64)
    if not len(at) or not ((at > 0) & (at < 1)).all():
        raise ValueError(f"thresholds={at.tolist()}: give probabilities between 0 and 1, such as [0.1, 0.2]")

    def rows(place: Place, method: str) -> list[dict[str, Any]]:
        return _benefits(place, np.mean([[p[:, 1] >= t for t in at] for p in place.each(method)], axis=0), at)

    table = _table(found, rows)
    fixed = []
    for place in found:
        for name, treated in ((ALL, 1.0), (NOBODY, 0.0)):
            lines = _benefits(place, np.full((len(at), len(place.y)), treated), at, exact=True)
            fixed += [{"method": name, **place.about, **line} for line in lines]
    return pd.concat([table, pd.DataFrame(fixed)], ignore_index=True)


def _benefits(place: Place, treated: Floats, thresholds: Floats, exact: bool = False) -> list[dict[str, Any]]:
    """A row for each threshold; treated: the share of models that treat each case, (thresholds, n).

    exact: whether they treat all or nobody by definition, so that a benefit of 0 needs no interval. A model that treats
    nobody among these cases may treat others.
    """
    lines = []
    for threshold, chosen in zip(thresholds.tolist(), treated, strict=True):
        odds = threshold / (1 - threshold)
        gain = np.where(place.y == 1, 1.0, -odds)
        value, low, high = _mean(place, chosen * gain, -odds, 1.0, exact)
        over, over_low, over_high = _mean(place, (chosen - 1) * gain, -1.0, odds, exact)
        line = {"threshold": threshold, "net_benefit": value, "low": low, "high": high}
        lines.append(line | {"over_all": over, "over_all_low": over_low, "over_all_high": over_high})
    return lines


def _mean(place: Place, values: Floats, low: float, high: float, exact: bool) -> tuple[float, float, float]:
    """The mean of bounded values of cases, with its interval; exact: none about a mean of values that are all 0.

    Of values that are all 0 the share that is not is at most the upper limit of no patient among all of them.
    """
    value, patients = float(values.mean()), place.test.patients
    if exact and not values.any():
        return 0.0, 0.0, 0.0
    if patients < FEW:
        return value, np.nan, np.nan
    if not values.any():
        most = proportions.proportion(0, patients).high
        return 0.0, low * most, high * most
    limits = means.bounded_mean(place.test.by_patient(values), low, high)
    return value, min(limits.low, value), max(limits.high, value)


# -- risk and coverage -----------------------------------------------------------------------------------------------


def risk_coverage(found: Sequence[Place], coverages: ArrayLike | None = None) -> pd.DataFrame:
    """The share of wrong decisions among the cases of which a model is most sure (selective classification).

    Confidence is the probability of the most probable class; of cases with the same confidence each counts in part.
    Columns: method, site, cases, patients, coverage (share of cases that are decided), count (of them), risk, low,
    high.
    """
    at = COVERAGES if coverages is None else np.asarray(coverages, np.float64)
    if not len(at) or not ((at > 0) & (at <= 1)).all():
        raise ValueError(f"coverages={at.tolist()}: give shares above 0, at most 1, such as [0.5, 1.0]")

    def rows(place: Place, method: str) -> list[dict[str, Any]]:
        n, lines = len(place.y), []
        each = [(p.max(1), place.test.right(p) < 1) for p in place.each(method)]
        for coverage in at.tolist():
            count = max(1, int(np.ceil(coverage * n - 1e-9)))
            kept = np.array([most_sure(confidence, count) for confidence, _ in each])
            wrong = np.array([wrong for _, wrong in each]) * kept
            limits = share(wrong.sum(0), kept.sum(0), place.test.patient)
            risk = float(wrong.sum() / kept.sum())
            lines.append({"coverage": coverage, "count": count, "risk": risk, **_ends(limits)})
        return lines

    return _table(found, rows)


def most_sure(confidence: Floats, count: int) -> NDArray[np.float64]:
    """1 for the `count` cases of the highest confidence, 0 for others; cases that tie for the last place share it.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.analysis.operating_curves import most_sure
    >>> most_sure(np.array([0.9, 0.6, 0.7, 0.7]), 2).tolist()
    [1.0, 0.0, 0.5, 0.5]
    """
    last = np.sort(confidence)[-count]
    above, same = confidence > last, confidence == last
    return np.asarray(above + same * (count - above.sum()) / same.sum(), np.float64)
