"""Methods against each other at every site, from the predictions that runs keep; nothing is trained here.

Every method is judged on the same resampled cases, so its difference to the reference is paired. Several seeds of one
method are averaged, and the bootstrap then resamples seeds before cases.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.heterogeneity.naming import natural
from fedlab.intervals import UNDEFINED, Estimate, estimate, over_seeds, over_sites, resamples
from fedlab.metrics import HIGHER_IS_BETTER, METRICS, targets
from fedlab.randomness import stream
from fedlab.registry import nearest

if TYPE_CHECKING:
    from fedlab.runs import Run

POOLED, MEAN, WORST = "pooled", "mean of sites", "worst site"


def compare(
    runs: "Sequence[Run]",
    metric: str | None = None,
    *,
    reference: str = "local",
    choice: str = "best",
    split: str = "test",
    draws: int = 2000,
) -> pd.DataFrame:
    """One row per method and site, and per method for all cases pooled, the mean of sites and the worst site.

    Columns: method, site, cases, metric, value, low, high, versus, difference, difference_low, difference_high, seeds,
    note. Differences are paired, to the method whose name or family is `reference` (NaN without one): to "local" they
    are the benefit of federation, to "centralized" the gap that remains. metric: the runs' headline if None. A site
    whose labels leave the metric undefined is NaN and left out of mean and worst, whose notes count it. ValueError for
    runs of different datasets or partitions, and for two runs of one method and seed.
    """
    terms, methods = _terms(runs, metric, choice, split, draws), _by_method(runs)
    scores = {method: _scores(group, terms) for method, group in methods.items()}
    versus = _reference(list(methods), reference)
    rows = []
    for method, places in scores.items():
        notes = _notes(places, terms)
        for site, score in places.items():
            gain = score - scores[versus][site] if versus else UNDEFINED
            row = {"method": method, "site": site, "cases": terms.size(site), "metric": terms.metric}
            row |= {"value": score.value, "low": score.low, "high": score.high, "versus": versus}
            row |= {"difference": gain.value, "difference_low": gain.low, "difference_high": gain.high}
            rows.append(row | {"seeds": len(methods[method]), "note": notes[site]})
    return pd.DataFrame(rows)


def transfer(
    runs: "Sequence[Run]", metric: str | None = None, choice: str = "best", split: str = "test", draws: int = 2000
) -> pd.DataFrame:
    """What was learned in one place, tested at every site: trained_at, tested_on, metric, value, low, high, cases.

    First the own model of each site from the local run, then one block of rows per method with a global model.
    """
    terms, methods = _terms(runs, metric, choice, split, draws), _by_method(runs)
    local = _reference(list(methods), "local")
    models = [(site, site, methods[local]) for site in terms.sites if local]
    models += [(method, "global", group) for method, group in methods.items() if method != local]
    rows = []
    for trained_at, model, group in models:
        kept = [_kept(run, choice, split) for run in group]
        if all(model in set(frame["model"]) for frame in kept):
            tables = [_aligned(f[f["model"] == model], run, terms) for f, run in zip(kept, group, strict=True)]
            for site in terms.sites:
                score = _score(tables, group, terms, site)
                row = {"trained_at": trained_at, "tested_on": site, "metric": terms.metric, "value": score.value}
                rows.append(row | {"low": score.low, "high": score.high, "cases": terms.size(site)})
    return pd.DataFrame(rows, columns=["trained_at", "tested_on", "metric", "value", "low", "high", "cases"])


def matrix(frame: pd.DataFrame) -> pd.DataFrame:
    """The table of `compare` for reading: methods x sites, each "0.87 (0.84 to 0.90)", a dash where undefined."""
    numbers = frame[["value", "low", "high"]].to_numpy(np.float64)
    texts = [f"{v:.2f} ({low:.2f} to {high:.2f})" if np.isfinite(v) else "–" for v, low, high in numbers]
    wide = frame.assign(text=texts).pivot(index="method", columns="site", values="text")
    return wide.loc[frame["method"].unique(), frame["site"].unique()].rename_axis(index=None, columns=None)


def family(method: str) -> str:
    """The method without its knobs: "fedprox" of "fedprox(mu=0.01)"."""
    return method.split("(")[0].strip()


def as_used(predictions: pd.DataFrame) -> pd.DataFrame:
    """The predictions of the model that each site uses: its own if it has one, else the global one."""
    own = predictions["site"].isin(predictions["model"].unique())
    return predictions[predictions["model"] == predictions["site"].where(own, "global")]


@dataclass(frozen=True, eq=False)
class Terms:
    """The terms on which all runs are judged: the same metric, the same cases, the same resamples of them.

    table: columns case, site, unit, label; site after site. sites: natural order, also those without a case here.
    """

    table: pd.DataFrame
    sites: list[str]
    classes: list[str]
    task: str
    metric: str
    choice: str
    split: str
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
        rng = stream(0, "bootstrap", "cases")
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


def _terms(runs: "Sequence[Run]", metric: str | None, choice: str, split: str, draws: int) -> Terms:
    """The cases of that split at all sites, label and unit as the first run's predictions have them."""
    _check_one_federation(runs)
    run = runs[0]
    name = metric or run.headline
    METRICS.function(name)  # a misspelt metric is refused before any work
    dealt = run.partition_table[run.partition_table["site"] != "unassigned"]
    sites = sorted(dealt["site"].unique(), key=natural)
    table = dealt.loc[dealt["split"] == split, ["case", "site"]]
    table = table.iloc[np.argsort(pd.Categorical(table["site"], sites).codes, kind="stable")].reset_index(drop=True)
    facts = as_used(_kept(run, choice, split))
    facts = facts.iloc[_positions(facts, run, table)][["unit", "label"]].reset_index(drop=True)
    return Terms(table.join(facts), sites, list(run.classes), run.task, name, choice, split, draws)


def _check_one_federation(runs: "Sequence[Run]") -> None:
    if not runs:
        raise ValueError("there are no runs to compare: pass the runs of one grid")
    first, dealt = runs[0], _deal(runs[0])
    for run in runs[1:]:
        if (found := _world(run)) != (wanted := _world(first)):
            raise ValueError(
                f"{run.method!r} ran on {found} and {first.method!r} on {wanted}: compare runs of one dataset, seen by"
                " the same scanners"
            )
        if differing := dealt ^ _deal(run):
            raise ValueError(
                f"{run.method!r} (seed {run.experiment.seed}) and {first.method!r} (seed {first.experiment.seed}) deal"
                f" {len({case for case, *_ in differing})} cases to different sites or splits, so they are different"
                " federations: compare runs of one partition"
            )


def _world(run: "Run") -> dict[str, Any]:
    """What runs must share beside the partition: acquisition changes pixels, not who has which case."""
    acquisition = getattr(run.experiment, "acquisition", 0.0)
    return {"dataset": run.experiment.dataset, "classes": list(run.classes), "acquisition": acquisition}


def _deal(run: "Run") -> set[tuple[Any, ...]]:
    table = run.partition_table
    return set(zip(table["case"], table["site"], table["split"], strict=True))


def _by_method(runs: "Sequence[Run]") -> "dict[str, list[Run]]":
    """Method -> its runs by ascending seed; methods in the order they were passed."""
    methods: dict[str, list[Run]] = {run.method: [] for run in runs}
    for run in sorted(runs, key=lambda run: int(run.experiment.seed)):
        group = methods[run.method]
        if group and group[-1].experiment.seed == run.experiment.seed:
            raise ValueError(
                f"two runs of {run.method!r} have seed {run.experiment.seed}: only seeds are averaged, so compare one"
                " setting at a time"
            )
        group.append(run)
    return methods


def _kept(run: "Run", choice: str, split: str) -> pd.DataFrame:
    predictions = run.predictions
    kept = predictions[(predictions["choice"] == choice) & (predictions["split"] == split)]
    if kept.empty:
        there = sorted(set(zip(predictions["choice"], predictions["split"], strict=True)))
        raise ValueError(
            f"{run.method!r} keeps no predictions of {(choice, split)}: choose (choice, split) from {there}"
        )
    return kept


def _aligned(predictions: pd.DataFrame, run: "Run", terms: Terms) -> NDArray[np.float64]:
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


def _scores(group: "list[Run]", terms: Terms) -> dict[str, Estimate]:
    """Site, or summary of sites -> what a method reaches there."""
    tables = [_aligned(as_used(_kept(run, terms.choice, terms.split)), run, terms) for run in group]
    scores = {site: _score(tables, group, terms, site) for site in [*terms.sites, POOLED]}
    inside = [scores[site] for site in terms.scored]
    worst = np.min if HIGHER_IS_BETTER[terms.metric] else np.max
    return scores | {MEAN: over_sites(inside, np.mean), WORST: over_sites(inside, worst)}


def _score(tables: list[NDArray[np.float64]], group: "list[Run]", terms: Terms, site: str) -> Estimate:
    """One method at one site, or pooled: the mean over seeds, which are resampled alike for methods that share them."""
    rows = terms.spans[site]
    found = [estimate(terms.metric, terms.y[rows], p[rows], terms.multiplicities[:, rows]) for p in tables]
    seeds = [int(run.experiment.seed) for run in group]
    return found[0] if len(found) == 1 else over_seeds(found, stream(0, "bootstrap", "seeds", *seeds))


def _reference(methods: list[str], reference: str) -> str:
    """The method of that name, or the only one of that family; empty if there is none."""
    if reference in methods:
        return reference
    relatives = [method for method in methods if family(method) == reference]
    if len(relatives) > 1:
        raise ValueError(f"reference {reference!r} may be any of {relatives}: name one of them")
    if not relatives and reference != "local":
        raise ValueError(f"no run has method {reference!r}: {nearest(reference, methods)}")
    return relatives[0] if relatives else ""


def _notes(scores: dict[str, Estimate], terms: Terms) -> dict[str, str]:
    """What a reader must know of each number; the worst site's note begins with its name."""
    notes = {site: terms.remark(site) for site in [*terms.sites, POOLED]} | {MEAN: "", WORST: ""}
    left_out = len(terms.sites) - len(terms.scored)
    if left_out:
        notes |= dict.fromkeys([MEAN, WORST], f"{left_out} of {len(terms.sites)} sites left out")
    broken = [site for site in terms.scored if not np.isfinite(scores[site].value)]
    notes |= dict.fromkeys(broken, "predictions are not finite")
    if terms.scored and not broken:
        worst = min if HIGHER_IS_BETTER[terms.metric] else max
        notes[WORST] = "; ".join(filter(None, [worst(terms.scored, key=lambda s: scores[s].value), notes[WORST]]))
    return notes
