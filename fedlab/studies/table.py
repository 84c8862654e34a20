"""The table of a study: what each dose costs, with intervals."""

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fedlab.analysis.alignment import MEAN, Alignment, align
from fedlab.analysis.comparison import find_reference, gains, score_methods
from fedlab.analysis.grouping import by_setting
from fedlab.analysis.scores import Estimate, MeanOfSites, Score
from fedlab.core.warnings import HeterogeneityWarning, LeakageWarning
from fedlab.evaluation.intervals.decisions import holm
from fedlab.evaluation.intervals.interval import NONE, Interval
from fedlab.evaluation.report_metrics import higher_is_better
from fedlab.experiments.experiment import DESCRIBED, Experiment
from fedlab.experiments.run_folder import Run
from fedlab.heterogeneity.shift.null_intervals import HEADLINES
from fedlab.partitioning.dose_curve import measurable
from fedlab.studies.design import PlannedRun
from fedlab.studies.partitions import Apart, OverPartitions, OverSplits, contributions

Shifts = dict[str, tuple[str, float, float]]  # axis and federation -> measure, value, mean under random assignment
UNKNOWN = (float("nan"), NONE)
NO_COST = {"cost": 0.0, "cost_low": float("nan"), "cost_high": float("nan"), "cost_p": float("nan")}


@dataclass(frozen=True, eq=False)
class ScoredFederation:
    """The runs of one federation: the cases they are tested on, and the scores of each method at each place."""

    runs: list[Run]
    cases: Alignment
    scores: dict[str, dict[str, Estimate]]

    @classmethod
    def of(cls, runs: list[Run], metric: str | None, choice: str) -> "ScoredFederation":
        inside, outside = align(runs, metric, choice, "test", "true")
        return cls(runs, inside, score_methods(by_setting(runs), inside, outside))

    @property
    def experiment(self) -> Experiment:
        return self.runs[0].experiment

    def has_cases_of(self, other: "ScoredFederation") -> bool:
        """Whether both test the same cases at the same sites."""
        return self.cases.table[["case", "site"]].equals(other.cases.table[["case", "site"]])

    def count(self, *splits: str) -> int:
        return int(self.runs[0].partition_table["split"].isin(splits).sum())


Federations = dict[int, ScoredFederation]  # partition seed -> federation


def study_table(
    levels: Sequence[tuple[str, Any, str]],
    finished: Iterable[tuple[PlannedRun, Run]],
    metric: str | None,
    reference: str,
    choice: str,
    shifts: Shifts | None,
) -> pd.DataFrame:
    """Put finished runs in one table, see `Study.table`.

    levels: (axis, dose, axis of its runs). shifts: those measured so far, to which others are added; None for no shift.
    """
    scored = {key: _scored(runs, metric, choice) for key, runs in _by_federation(finished).items()}
    rows: list[dict[str, Any]] = []
    base: Federations = {}
    for axis, dose, where in levels:
        at = scored.get((where, repr(dose if where == axis else None)), {})
        base = at if where != axis else base
        about: dict[str, Any] = {"axis": axis, "dose": dose}
        measured = _mean_shift(axis, at, shifts)
        for row in _rows(at, base if where == axis else None, reference):
            rows.append(about | row | measured)
    frame = pd.DataFrame(rows)
    mean = frame["site"] == MEAN
    adjusted = pd.Series(np.nan, frame.index)
    for _, family in frame.groupby(["method", mean]):
        adjusted[family.index] = holm(list(family["cost_p"]))
    frame.insert(list(frame).index("cost_p") + 1, "cost_p_holm", adjusted)
    return frame[[*(name for name in frame if name != "paired"), "paired"]]


def _by_federation(finished: Iterable[tuple[PlannedRun, Run]]) -> dict[tuple[str, str], dict[int, list[Run]]]:
    found: dict[tuple[str, str], dict[int, list[Run]]] = {}
    for planned, run in finished:
        partitions = found.setdefault((planned.axis, repr(planned.dose)), {})
        partitions.setdefault(planned.experiment.partition_seed, []).append(run)
    return found


def _scored(partitions: dict[int, list[Run]], metric: str | None, choice: str) -> Federations:
    return {seed: ScoredFederation.of(runs, metric, choice) for seed, runs in partitions.items()}


def _rows(at: Federations, base: Federations | None, reference: str) -> Iterator[dict[str, Any]]:
    """The rows of one dose: for each method the sites, if there is one partition, and their mean.

    base: the federations of the base dose; None if this is the base dose.
    """
    if not at:
        return
    first = next(iter(at.values()))
    methods = list(dict.fromkeys(method for one in at.values() for method in one.scores))
    versus = find_reference(methods, reference)
    before = base or {}
    shared = {seed: (one, before[seed]) for seed, one in at.items() if seed in before}
    paired = bool(shared) and all(one.has_cases_of(other) for one, other in shared.values())
    for method in methods:
        those = {seed: one for seed, one in at.items() if method in one.scores}
        for place in [*(first.cases.sites if len(at) == 1 else []), MEAN]:
            score = combine([one.scores[method][place] for one in those.values()], those)
            lost = _costs(method, place, shared, paired)
            against = {
                seed: gains(one.scores[method], one.scores[versus])
                for seed, one in those.items()
                if versus in one.scores
            }
            gained = [found[place] for found in against.values() if place in found] if method != versus else []
            yield {
                "method": method,
                "site": place,
                "metric": first.cases.metric,
                **_value(score),
                "cases": first.cases.size(place),
                **(NO_COST if base is None else _cost(lost, those)),
                "versus": versus,
                **_gain(gained, those, first.cases.metric),
                **_repeats(those, method),
                **contributions(score),
                "paired": paired,
            }


def combine(parts: Sequence[Estimate], federations: Federations) -> Estimate:
    """One estimate from those of several partitions."""
    each = list(federations.values())
    if len(parts) == 1:
        return parts[0]
    cases = [set(one.cases.table["case"]) for one in each]
    if all(one == cases[0] for one in cases):
        return OverPartitions(parts)
    return OverSplits(parts, each[0].count("test"), each[0].count("train", "val"))


def _costs(
    method: str, place: str, shared: dict[int, tuple[ScoredFederation, ScoredFederation]], paired: bool
) -> list[Estimate]:
    """The loss against the base dose in each partition, positive is worse; of sites only where cases are the same."""
    found: list[Estimate] = []
    for now, before in shared.values():
        if method not in now.scores or method not in before.scores or not (paired or place == MEAN):
            continue
        pair = before.scores[method], now.scores[method]
        first, second = pair if higher_is_better(now.cases.metric) else pair[::-1]
        if not paired:
            found.append(Apart(first[place], second[place]))
        elif place in (losses := gains(first, second)):
            found.append(losses[place])
    return found


def _value(score: Estimate) -> dict[str, Any]:
    limits = score.limits
    shown = score.method if np.isfinite(limits.low) else ""
    names = ("value", "low", "high", "interval", "support")
    return dict(zip(names, (score.value, *limits, shown, _support(score)), strict=True))


def _support(score: Estimate) -> int:
    """The fewest patients behind a score of one site."""
    if isinstance(score, OverPartitions):
        return min(map(_support, score.parts))
    if isinstance(score, MeanOfSites):
        return min(map(_support, score.sites), default=0)
    return score.test.support if isinstance(score, Score) else 0


def _cost(lost: list[Estimate], federations: Federations) -> dict[str, float]:
    value, limits, p_value = float("nan"), NONE, float("nan")
    if lost:
        whole = combine(lost, federations)
        value, limits, p_value = whole.value, whole.limits, whole.p_value
    return {"cost": value, "cost_low": limits.low, "cost_high": limits.high, "cost_p": p_value}


def _gain(gained: list[Estimate], federations: Federations, metric: str) -> dict[str, float]:
    value, limits = UNKNOWN
    if gained:
        whole = combine(gained, federations)
        value, limits = whole.value, whole.limits
    if not higher_is_better(metric):
        value, limits = -value, Interval(-limits.high, -limits.low)
    return {"gain": value, "gain_low": limits.low, "gain_high": limits.high}


def _repeats(federations: Federations, method: str) -> dict[str, Any]:
    """How many seeds and partitions there are, and what an interval is about."""
    seeds = max(len([run for run in one.runs if run.method == method]) for one in federations.values())
    varied = ["test cases"]
    varied += [f"{seeds} seeds"] if seeds > 1 else []
    varied += [f"{len(federations)} partitions"] if len(federations) > 1 else []
    return {"seeds": seeds, "partitions": len(federations), "varied": ", ".join(varied)}


def _mean_shift(axis: str, federations: Federations, shifts: Shifts | None) -> dict[str, Any]:
    """The realised shift of an axis, and its mean under random assignment; means over partitions."""
    found = [] if shifts is None or axis not in HEADLINES else [_shift(axis, f, shifts) for f in federations.values()]
    if not found:
        return {"measure": "", "shift": float("nan"), "shift_null": float("nan")}
    value, null = np.mean([each[1:] for each in found], axis=0)
    return {"measure": found[0][0], "shift": float(value), "shift_null": float(null)}


def _shift(axis: str, federation: ScoredFederation, shifts: Shifts) -> tuple[str, float, float]:
    key = json.dumps([axis, {name: getattr(federation.experiment, name) for name in DESCRIBED}])
    if key not in shifts:
        with warnings.catch_warnings():
            for expected in (HeterogeneityWarning, LeakageWarning):
                warnings.simplefilter("ignore", expected)
            part = federation.experiment.make_partition()
        table = measurable(part).shift(brief=True)
        row = table[(table["axis"] == axis) & (table["measure"] == HEADLINES[axis])]
        values = (float(row[name].iloc[0]) if len(row) else float("nan") for name in ("value", "null"))
        shifts[key] = (HEADLINES[axis], *values)  # type: ignore[assignment]
    return shifts[key]
