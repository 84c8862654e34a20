"""The terms on which runs are compared: the same federation, the same metric, the same cases and resamples of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.analysis.bootstrap import resamples
from fedlab.core.registry import nearest
from fedlab.core.rng import stream
from fedlab.core.site_names import natural
from fedlab.evaluation.evaluate import ACQUAINTED, UNSEEN
from fedlab.learning.metrics import METRICS, targets

if TYPE_CHECKING:
    from fedlab.experiments.run_folder import Run

POOLED, MEAN, WORST = "pooled", "mean of sites", "worst site"
AWAY = f"{UNSEEN}: "  # stands before the name of an unseen site
LABELS = {"true": "label", "marked": "marked"}  # whose labels count -> column of predictions


@dataclass(frozen=True, eq=False)
class Alignment:
    """The terms on which all runs are judged: the same metric, the same cases, the same resamples of them.

    table: columns case, site, unit, label; site after site. sites: natural order, also those without a case here.
    split: of the cases; stored: what predictions call it.
    """

    table: pd.DataFrame
    sites: list[str]
    choice: str
    split: str
    stored: str
    classes: list[str]
    task: str
    metric: str
    draws: int

    @cached_property
    def y(self) -> NDArray[np.int64]:
        return targets(self.table["label"], self.task, len(self.classes))

    @cached_property
    def spans(self) -> dict[str, slice]:
        """The rows of each site; all rows for "pooled"."""
        rows = {site: np.flatnonzero(self.table["site"] == site) for site in self.sites}
        spans = {site: slice(at[0], at[-1] + 1) if len(at) else slice(0, 0) for site, at in rows.items()}
        return spans | {POOLED: slice(0, len(self.table))}

    @cached_property
    def multiplicities(self) -> NDArray[np.uint16]:
        """(draws, cases) bootstrap stratified by site and class, whole patients together.

        Multi-label cases are stratified by site alone: most combinations of labels are too rare to resample within.
        """
        site = pd.factorize(self.table["site"])[0]
        label = 0 if self.task == "multilabel" else self.table["label"].to_numpy()
        rng = stream(0, "bootstrap", f"{UNSEEN} cases" if self.stored == UNSEEN else "cases")
        return resamples(site * len(self.classes) + label, self.table["unit"], rng, self.draws)

    @cached_property
    def scored(self) -> list[str]:
        """The sites whose labels let the metric be computed, whatever is predicted."""
        guess = np.full((len(self.table), len(self.classes)), 1 / len(self.classes))
        measure = METRICS.function(self.metric)
        return [site for site in self.sites if np.isfinite(measure(self.y[self.spans[site]], guess[self.spans[site]]))]

    def size(self, site: str) -> int:
        """Cases behind a number; for a summary of sites those of the sites that count."""
        spans = [self.spans[name] for name in (self.scored if site in (MEAN, WORST) else [site])]
        return int(sum(span.stop - span.start for span in spans))

    def remark(self, site: str) -> str:
        """What a reader must know of a site's cases: that there are none, or none of some class."""
        y = self.y[self.spans[site]]
        if not len(y):
            return f"no {self.split} case"
        seen = {f"of class {name!r}": y == index for index, name in enumerate(self.classes)}
        if self.task == "multilabel":
            seen = {f"with {name!r}": y[:, index] == 1 for index, name in enumerate(self.classes)}
            seen |= {f"without {name!r}": y[:, index] == 0 for index, name in enumerate(self.classes)}
        return ", ".join(f"no {self.split} case {what}" for what, cases in seen.items() if not cases.any())


def agree(
    runs: "Sequence[Run]", metric: str | None, choice: str, split: str, labels: str, draws: int
) -> tuple[Alignment, Alignment]:
    """Terms for the sites that trained, and for unseen ones, of which only test cases are predicted."""
    _check_one_federation(runs)
    if split == UNSEEN:
        raise ValueError("unseen sites stand beside the others in every comparison of test cases: choose split='test'")
    run = runs[0]
    name = metric or run.headline
    METRICS.function(name)  # a misspelt metric is refused before any work
    column = _column(runs, labels)
    dealt = run.partition_table[run.partition_table["site"] != "unassigned"]
    away = dealt["site"].isin(run.unseen)
    visited = dealt[away & (split == "test")]
    places = ((split, dealt[~away]), (UNSEEN, visited.assign(site=AWAY + visited["site"])))
    home, abroad = (
        Alignment(*_facts(run, cases, column, (choice, split, stored)), list(run.classes), run.task, name, draws)
        for stored, cases in places
    )
    return home, abroad


def _facts(
    run: "Run", dealt: pd.DataFrame, column: str, asked: tuple[str, str, str]
) -> tuple[pd.DataFrame, list[str], str, str, str]:
    """The first fields of Terms: unit and label of each case as the run's predictions have them."""
    choice, split, stored = asked
    sites = sorted(dealt["site"].unique(), key=natural)
    table = dealt.loc[dealt["split"] == split, ["case", "site"]]
    table = table.iloc[np.argsort(pd.Categorical(table["site"], sites).codes, kind="stable")].reset_index(drop=True)
    if stored == UNSEEN and table.empty:
        return table.assign(unit=0, label=0), sites, *asked
    facts = answers(run, choice, stored)[0]
    facts = facts.iloc[_positions(facts, run, table)][["unit", column]].reset_index(drop=True)
    return table.join(facts.set_axis(["unit", "label"], axis=1)), sites, *asked


def answers(run: "Run", choice: str, stored: str, stranger: str = "average") -> list[pd.DataFrame]:
    """The predictions that count: of the model that each site uses.

    An unseen site has no model of its own: the global one's, or of each site's where there is none; stranger="estimate"
    has the global one's with normalisation statistics of the site's own images, where it has such.
    """
    found = kept(run, choice, stored)
    if stored != UNSEEN:
        return [as_used(found)]
    models = set(found["model"])
    wanted = {ACQUAINTED} & models if stranger == "estimate" else set()
    chosen = wanted or {"global"} & models or models - {ACQUAINTED}
    return [found[found["model"] == model] for model in sorted(chosen, key=natural)]


def as_used(predictions: pd.DataFrame) -> pd.DataFrame:
    """The predictions of the model that each site uses: its own if it has one, else the global one."""
    own = predictions["site"].isin(predictions["model"].unique())
    return predictions[predictions["model"] == predictions["site"].where(own, "global")]


def kept(run: "Run", choice: str, stored: str) -> pd.DataFrame:
    """All predictions of that choice and split."""
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
    run: "Run", terms: Alignment, model: str | None = None, stranger: str = "average"
) -> list[NDArray[np.float64]]:
    """(cases, classes) in the order of the terms' cases: of each model that counts, or of the one named."""
    if terms.table.empty:
        return [np.empty((0, len(terms.classes)))]
    found = answers(run, terms.choice, terms.stored, stranger)
    if model is not None:
        every = kept(run, terms.choice, terms.stored)
        found = [every[every["model"] == model]]
    return [_aligned(frame, run, terms) for frame in found]


def _aligned(predictions: pd.DataFrame, run: "Run", terms: Alignment) -> NDArray[np.float64]:
    """(cases, classes) probabilities in the order of the terms' cases."""
    columns = [f"p{index}" for index in range(len(terms.classes))]
    return predictions[columns].to_numpy(np.float64)[_positions(predictions, run, terms.table)]


def _positions(predictions: pd.DataFrame, run: "Run", table: pd.DataFrame) -> NDArray[np.intp]:
    """Where each case of the table stands among one model's predictions."""
    rows = pd.Index(predictions["case"]).get_indexer(pd.Index(table["case"]))
    if (rows < 0).any():
        raise ValueError(
            f"{run.method!r} (seed {run.experiment.seed}) predicts {(rows >= 0).sum()} of {len(rows)} cases (first"
            f" missing: {table['case'][rows < 0].iloc[0]!r}): run it again on this partition"
        )
    return rows


def _column(runs: "Sequence[Run]", labels: str) -> str:
    """The column of predictions with the labels asked for."""
    if labels not in LABELS:
        raise ValueError(f"labels is {labels!r}: {nearest(labels, LABELS)}")
    without = [run for run in runs if LABELS[labels] not in run.predictions]
    if without:
        raise ValueError(
            f"{without[0].method!r} keeps no marked labels, as all its sites annotate alike: compare with labels='true'"
        )
    return LABELS[labels]


def _check_one_federation(runs: "Sequence[Run]") -> None:
    if not runs:
        raise ValueError("there are no runs to compare: pass the runs of one grid")
    first, dealt = runs[0], _deal(runs[0])
    for run in runs[1:]:
        if (found := _world(run)) != (wanted := _world(first)):
            raise ValueError(
                f"{run.method!r} ran on {found} and {first.method!r} on {wanted}: compare runs of one dataset, seen by"
                " the same scanners and readers, with the same sites held out"
            )
        if differing := dealt ^ _deal(run):
            raise ValueError(
                f"{run.method!r} (seed {run.experiment.seed}) and {first.method!r} (seed {first.experiment.seed}) deal"
                f" {len({case for case, *_ in differing})} cases to different sites or splits, so they are different"
                " federations: compare runs of one partition"
            )


def _world(run: "Run") -> dict[str, Any]:
    """What runs must share beside the partition: scanners and readers change what is seen, not who has which case."""
    seen = {axis: getattr(run.experiment, axis, 0.0) for axis in ("acquisition", "annotation")}
    return {"dataset": run.experiment.dataset, "classes": list(run.classes), **seen, "unseen": list(run.unseen)}


def _deal(run: "Run") -> set[tuple[Any, ...]]:
    table = run.partition_table
    return set(zip(table["case"], table["site"], table["split"], strict=True))
