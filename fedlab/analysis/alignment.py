"""Alignment of runs before they are compared: one federation, one metric, the same cases."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.analysis.grouping import check_one_federation
from fedlab.analysis.scores import TestSet
from fedlab.core.registry import nearest
from fedlab.core.site_names import natural
from fedlab.evaluation import report_metrics
from fedlab.evaluation.evaluate import ADAPTED, UNSEEN
from fedlab.experiments.run_folder import Run
from fedlab.learning import mask_metrics, regression_metrics
from fedlab.learning.metrics import METRICS, present_classes, targets

POOLED, MEAN, WORST = "pooled", "mean of sites", "worst site"
HELD_OUT = f"{UNSEEN}: "  # prefix of the name of a held-out site
LABELS = {"true": "label", "annotated": "annotated"}  # labels to compare with -> column of predictions
FORMER_LABELS = {"marked": "annotated"}
MARGIN, OF_TARGET = 0.02, 0.1  # usual margins: of a score, and of an error in standard deviations of the target
IN_UNIT_OF_TARGET = ("mae", "rmse", "bias")
NAMED = 3  # absent classes that a note names, at most


def check_margin(margin: float | None) -> None:
    """Raise ValueError unless a margin is above 0, or is left to the metric."""
    if isinstance(margin, bool) or (margin is not None and not 0 < margin < float("inf")):
        raise ValueError(f"margin={margin!r}: give the largest difference that would not matter, above 0")


def margin_of(alignment: "Alignment", margin: float | None = None) -> float:
    """The largest difference that would not matter: the one that is given, else the usual one of the metric.

    That of an error in the unit of a target is a tenth of the standard deviation of the test cases' targets, which no
    model can change, rounded to two digits.
    """
    check_margin(margin)
    if margin is not None:
        return float(margin)
    spread = float(np.std(alignment.y)) if alignment.metric in IN_UNIT_OF_TARGET and len(alignment.y) else 0.0
    return float(f"{OF_TARGET * spread:.2g}") if spread > 0 else MARGIN


@dataclass(frozen=True, eq=False)
class Alignment:
    """What all runs have in common: the metric and the cases.

    table: columns case, site, unit, label (the target of a regression); site after site. sites: natural order, also
    those without a case here.
    split: of the cases; stored: its name in predictions. classes: in segmentation the structures but the background;
    columns "has1", "has2", ... of the table then say which of them the mask of a case has. metric: as it was named;
    "dice[core]" is about the cases' one structure.
    """

    table: pd.DataFrame
    sites: list[str]
    choice: str
    split: str
    stored: str
    classes: list[str]
    task: str
    metric: str

    @cached_property
    def y(self) -> NDArray[Any]:
        """The labels, (cases,), or (cases, classes) in a multi-label task; the targets (cases,) of a regression."""
        return targets(self.table["label"], self.task, len(self.classes))

    @cached_property
    def spans(self) -> dict[str, slice]:
        """The rows of each site; all rows for "pooled"."""
        rows = {site: np.flatnonzero(self.table["site"] == site) for site in self.sites}
        spans = {site: slice(at[0], at[-1] + 1) if len(at) else slice(0, 0) for site, at in rows.items()}
        return spans | {POOLED: slice(0, len(self.table))}

    def test_set(self, site: str) -> TestSet:
        """The cases of a site, or of all sites, with the patient of each."""
        rows = self.spans[site]
        return TestSet(self.base, self.y[rows], self.table["unit"].to_numpy()[rows], len(self.classes))

    @property
    def numeric(self) -> bool:
        """Whether predictions are numbers."""
        return self.task == "regression"

    @property
    def segmented(self) -> bool:
        """Whether predictions are masks."""
        return self.task == "segmentation"

    @property
    def base(self) -> str:
        """The metric without the name of a structure."""
        return mask_metrics.of_structure(self.metric)[0] if self.segmented else self.metric

    @property
    def scored_classes(self) -> list[str]:
        """The classes that the metric is about: one structure if the metric names it, else all."""
        structure = mask_metrics.of_structure(self.metric)[1] if self.segmented else ""
        return [structure] if structure else self.classes

    @cached_property
    def columns(self) -> list[str]:
        """The columns of predictions that metrics use."""
        if self.segmented:
            every, kinds = mask_metrics.columns(len(self.classes) + 1), len(mask_metrics.KINDS)
            first = self.classes.index(self.scored_classes[0]) * kinds
            return list(every[first : first + kinds * len(self.scored_classes)])
        return [regression_metrics.COLUMN] if self.numeric else [f"p{index}" for index in range(len(self.classes))]

    def _has(self, site: str) -> NDArray[np.bool_]:
        """Which structures that are scored some mask of a site has, (structures,)."""
        names = [f"has{self.classes.index(name) + 1}" for name in self.scored_classes]
        held = self.table.iloc[self.spans[site]][names]
        return np.asarray(held.to_numpy(bool).any(0))

    @cached_property
    def scored(self) -> list[str]:
        """The sites whose labels define the metric for any prediction, or whose masks have a structure."""
        if self.segmented and self.base in mask_metrics.ALWAYS:
            return [site for site in self.sites if self.size(site)]
        if self.segmented:
            return [site for site in self.sites if self._has(site).any()]
        if reported := report_metrics.find(self.metric):
            return [site for site in self.sites if reported.is_defined(self.y[self.spans[site]])]
        guess = np.full((len(self.table), len(self.columns)), 1 / len(self.columns))
        measure = METRICS.function(self.metric)
        return [site for site in self.sites if np.isfinite(measure(self.y[self.spans[site]], guess[self.spans[site]]))]

    def size(self, site: str) -> int:
        """Number of cases behind a score; for a summary of sites those of all scored sites."""
        spans = [self.spans[name] for name in (self.scored if site in (MEAN, WORST) else [site])]
        return int(sum(span.stop - span.start for span in spans))

    def present(self, site: str) -> int:
        """Number of classes, or structures, that have a case (multi-label: also one without); of sites the smallest."""
        if site in (MEAN, WORST):
            return min((self.present(name) for name in self.scored), default=0)
        if self.segmented:
            return int(self._has(site).sum())
        y = self.y[self.spans[site]]
        if self.numeric:
            return 0
        return len(np.unique(y)) if y.ndim == 1 else len(present_classes(y, len(self.classes)))

    def remark(self, site: str) -> str:
        """Note on a site's cases: that there are none, or none of some class."""
        y = self.y[self.spans[site]]
        if not len(y):
            return f"no {self.split} case"
        if self.numeric:
            return f"all {self.split} cases have one target" if len(np.unique(y)) == 1 else ""
        if self.segmented:
            missing = ~self._has(site)
            return f"no {self.split} case with {self._named(missing)}" if missing.any() else ""
        if self.task == "multilabel":
            absent = {"with": np.atleast_1d(~y.any(0)), "without": np.atleast_1d(y.all(0))}
        else:
            absent = {"of class": ~np.isin(np.arange(len(self.classes)), y)}
        lacks = [f"{what} {self._named(classes)}" for what, classes in absent.items() if classes.any()]
        text = ", ".join(f"no {self.split} case {each}" for each in lacks)
        counted = lacks and self.present(site) > 1 and len(self.classes) > 2
        return f"{text}: {self.present(site)} of {len(self.classes)} classes can be scored" if counted else text

    def _named(self, chosen: NDArray[np.bool_]) -> str:
        """The names of classes in a sentence, the first few of many."""
        names = [repr(name) for name, one in zip(self.scored_classes, chosen, strict=True) if one]
        if len(names) > NAMED:
            return f"{', '.join(names[:NAMED])} or {len(names) - NAMED} more"
        return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def align(runs: Sequence[Run], metric: str | None, choice: str, split: str, labels: str) -> tuple[Alignment, Alignment]:
    """Align runs on the sites that trained, and on held-out sites, of which only test cases are predicted."""
    check_one_federation(runs)
    if split == UNSEEN:
        raise ValueError("every comparison of test cases includes held-out sites: choose split='test'")
    run = runs[0]
    name = metric or run.headline
    classes = run.structures[1:] if run.task == "segmentation" else list(run.classes) * (run.task != "regression")
    report_metrics.check(name, run.task, classes)  # before any work
    check_stored(runs, name)
    column = _column(runs, labels)
    assigned = run.partition_table[run.partition_table["site"] != "unassigned"]
    external = assigned["site"].isin(run.unseen)
    held_out = assigned[external & (split == "test")]
    parts = ((split, assigned[~external]), (UNSEEN, held_out.assign(site=HELD_OUT + held_out["site"])))
    inside, outside = (
        Alignment(*_facts(run, cases, column, (choice, split, stored)), classes, run.task, name)
        for stored, cases in parts
    )
    return inside, outside


def check_stored(runs: Sequence[Run], metric: str) -> None:
    """Raise ValueError for a metric of lesions and a run of an earlier version, which counted none."""
    if mask_metrics.of_structure(metric)[0] in mask_metrics.LESIONS:
        without = [run for run in runs if "lesions1" not in run.predictions]
        if without:
            raise ValueError(
                f"{without[0].method!r} was trained by an earlier version, which counted no lesions: run it again in"
                " another folder, or compare dice"
            )


def _facts(
    run: Run, assigned: pd.DataFrame, column: str, which: tuple[str, str, str]
) -> tuple[pd.DataFrame, list[str], str, str, str]:
    """The first fields of an `Alignment`: unit and label of each case are those in the run's predictions."""
    choice, split, stored = which
    sites = sorted(assigned["site"].unique(), key=natural)
    table = assigned.loc[assigned["split"] == split, ["case", "site"]]
    table = table.iloc[np.argsort(pd.Categorical(table["site"], sites).codes, kind="stable")].reset_index(drop=True)
    if stored == UNSEEN and table.empty:
        return table.assign(unit=0, label=0, **dict.fromkeys(_held(run), False)), sites, *which
    facts = used_predictions(run, choice, stored)[0]
    facts = facts.iloc[_positions(facts, run, table)].reset_index(drop=True)
    held = {name: facts[f"tp{name[3:]}"] + facts[f"fn{name[3:]}"] > 0 for name in _held(run)}
    return table.join(facts[["unit", column]].set_axis(["unit", "label"], axis=1)).assign(**held), sites, *which


def _held(run: Run) -> list[str]:
    """Names of the columns that tell which structures a mask has; none in classification."""
    return [f"has{index}" for index in range(1, len(run.structures))] if run.task == "segmentation" else []


def used_predictions(run: Run, choice: str, stored: str, external: str = "average") -> list[pd.DataFrame]:
    """The predictions of the model that each site uses.

    A held-out site uses the global model, or tries the model of every site where there is none. external="estimate"
    takes the global model with batch norm adapted to the images of the held-out site, if the run has one.
    """
    found = stored_predictions(run, choice, stored)
    if stored != UNSEEN:
        return [of_used_models(found)]
    models = set(found["model"])
    wanted = {ADAPTED} & models if external == "estimate" else set()
    chosen = wanted or {"global"} & models or models - {ADAPTED}
    return [found[found["model"] == model] for model in sorted(chosen, key=natural)]


def of_used_models(predictions: pd.DataFrame) -> pd.DataFrame:
    """Select the predictions of the model that each site uses: its own if it has one, else the global one."""
    own = predictions["site"].isin(predictions["model"].unique())
    return predictions[predictions["model"] == predictions["site"].where(own, "global")]


def stored_predictions(run: Run, choice: str, stored: str) -> pd.DataFrame:
    """Select all predictions of one choice ("last" or "best") and split."""
    predictions = run.predictions
    found = predictions[(predictions["choice"] == choice) & (predictions["split"] == stored)]
    if found.empty:
        seen = predictions[predictions["split"] != UNSEEN]
        there = sorted(set(zip(seen["choice"], seen["split"], strict=True)))
        raise ValueError(
            f"{run.method!r} keeps no predictions of {(choice, stored)}: choose (choice, split) from {there}"
        )
    return found


def probabilities(
    run: Run, alignment: Alignment, model: str | None = None, external: str = "average"
) -> list[NDArray[np.float64]]:
    """Class probabilities (cases, classes) of each model in use, or of the named one, in the order of the alignment.

    Of a segmentation task the stored numbers (cases, columns) of each case.
    """
    if alignment.table.empty:
        return [np.empty((0, len(alignment.columns)))]
    found = used_predictions(run, alignment.choice, alignment.stored, external)
    if model is not None:
        every = stored_predictions(run, alignment.choice, alignment.stored)
        found = [every[every["model"] == model]]
    return [_aligned(frame, run, alignment) for frame in found]


def _aligned(predictions: pd.DataFrame, run: Run, alignment: Alignment) -> NDArray[np.float64]:
    """Class probabilities (cases, classes) in the order of the alignment."""
    return predictions.reindex(columns=alignment.columns).to_numpy(np.float64)[
        _positions(predictions, run, alignment.table)
    ]


def _positions(predictions: pd.DataFrame, run: Run, table: pd.DataFrame) -> NDArray[np.intp]:
    """The row of each case of the table in one model's predictions."""
    rows = pd.Index(predictions["case"]).get_indexer(pd.Index(table["case"]))
    if (rows < 0).any():
        raise ValueError(
            f"{run.method!r} (seed {run.experiment.seed}) predicts {(rows >= 0).sum()} of {len(rows)} cases (first"
            f" missing: {table['case'][rows < 0].iloc[0]!r}): run it again on this partition"
        )
    return rows


def _column(runs: Sequence[Run], labels: str) -> str:
    """The column of predictions that holds these labels."""
    labels = FORMER_LABELS.get(labels, labels)
    if labels not in LABELS:
        raise ValueError(f"labels is {labels!r}: {nearest(labels, LABELS)}")
    if labels != "true" and runs[0].task == "segmentation":
        raise ValueError(
            "predicted masks of test cases are compared with the true ones alone: compare with labels='true'"
        )
    if labels == "true" and runs[0].task == "regression":
        return "target"
    without = [run for run in runs if LABELS[labels] not in run.predictions]
    if without:
        raise ValueError(
            f"{without[0].method!r} has no annotated labels, since all its sites label in the same"
            " way: compare with labels='true'"
        )
    return LABELS[labels]
