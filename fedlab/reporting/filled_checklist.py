"""`checklist`: the items of CLAIM or TRIPOD+AI, answered from run folders as far as these know."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from fedlab.analysis.alignment import MEAN
from fedlab.analysis.comparison import Comparison, compare
from fedlab.core.registry import choose
from fedlab.core.site_names import natural
from fedlab.core.summary import plural, with_article
from fedlab.data.cases import SPLITS
from fedlab.data.extents import size_of
from fedlab.evaluation import report_metrics
from fedlab.experiments.run_folder import Run
from fedlab.partitioning.partitions import Partition
from fedlab.reporting import methods
from fedlab.reporting.checklist_items import CHECKLISTS, Item
from fedlab.reporting.findings import SUMMARIES, interval
from fedlab.reporting.gather import Federation, collect, federations, names_of
from fedlab.reporting.setting import called, doses, unknown_patients, versions

REPORTED, SIMULATED, AUTHORS = "reported", "not applicable", "for the authors"
COLUMNS = ["item", "topic", "state", "answer", "source"]
Answer = tuple[str, str]  # what the runs say, and where they say it


class Checklist(pd.DataFrame):
    """The table of `fedlab.checklist`: an ordinary DataFrame."""

    @property
    def _constructor(self) -> type["Checklist"]:
        return Checklist


def checklist(runs: Any, which: str = "claim", *, partition: Partition | None = None) -> Checklist:
    """Answer the items of a reporting checklist from the run folders, and name what is left to the authors.

    Parameters
    ----------
    runs : Run, sequence of Run, str or Path
        Runs of one federation, run folders, or the folder that holds them.
    which : {"claim", "tripod"}, default "claim"
        "claim": the 2024 update of CLAIM, for AI in medical imaging. "tripod": TRIPOD+AI, for prediction models.
    partition : Partition, optional
        The partition of the runs, if it was made by hand.

    Returns
    -------
    Checklist
        A row for each item: item (its number), topic (in our words; read the items in the papers), state ("reported",
        "not applicable" or "for the authors"), answer, and source (files of the run folders, and functions).

    Raises
    ------
    ValueError
        If there are no runs, they are of several federations, or there is no such checklist.

    Notes
    -----
    Nothing is typed in: each number is read from a run folder or computed by `fedlab.compare`. An answer that begins
    with "not applicable: simulation" is one that only a study with patients can give; where sites are those of a column
    of the dataset, it is left to the authors.

    References
    ----------
    Tejani et al. 2024, Radiology: Artificial Intelligence 6:e240300; Collins et al. 2024, BMJ 385:e078378.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = fedlab.checklist(fedlab.grid(base, folder=folder, method=["local", "fedavg"]))
    >>> len(table), table["answer"][10]
    (44, 'for the authors: how cases were de-identified')
    """
    choose("which", which, tuple(CHECKLISTS))
    found = federations(collect(runs), partition)
    if len(found) > 1:
        raise ValueError(f"found runs of {len(found)} federations: fill a checklist for the runs of one")
    return filled(found[0], which)


def filled(federation: Federation, which: str, compared: Comparison | None = None) -> Checklist:
    """The checklist of one federation."""
    facts = Facts(federation, compared)
    rows = [{"item": item.number, "topic": item.topic, **_answered(item, facts)} for item in CHECKLISTS[which]]
    return Checklist(rows, columns=COLUMNS)


def _answered(item: Item, facts: "Facts") -> dict[str, str]:
    """State, answer and source of an item."""
    open_item = f"for the authors: {item.authors}" if item.authors else ""
    if item.answer == "simulation":
        if facts.simulated:
            return {"state": SIMULATED, "answer": "not applicable: simulation", "source": "experiment.json"}
        return {"state": AUTHORS, "answer": open_item, "source": ""}
    text, source = getattr(facts, item.answer) if item.answer else ("", "")
    if not text:
        return {"state": AUTHORS, "answer": open_item or "for the authors: not known from the runs", "source": ""}
    return {"state": REPORTED, "answer": f"{text} ({open_item})" if open_item else text, "source": source}


@dataclass(eq=False)
class Facts:
    """What the runs of a federation say; each property is an answer: its text, and where it is from."""

    federation: Federation
    given: Comparison | None = None

    @property
    def runs(self) -> list[Run]:
        return self.federation.runs

    @property
    def run(self) -> Run:
        return self.federation.runs[0]

    @property
    def part(self) -> Partition | None:
        return self.federation.partition

    @property
    def unit(self) -> str:
        """What is counted: patients, or images where the dataset names no patients."""
        return "different image" if unknown_patients(self.federation) else "patient"

    @property
    def simulated(self) -> bool:
        """Whether sites were drawn, not those of a column or given by case."""
        return isinstance(self.run.partition_spec.get("sites"), int)

    @cached_property
    def comparison(self) -> Comparison:
        if self.given is not None:
            return self.given
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return compare(self.runs)

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(run.method for run in self.runs))

    @property
    def counts(self) -> pd.Series:
        """Cases of each split, at the sites that train."""
        table = self.run.partition_table
        inside = table[~table["site"].isin(self.run.unseen)]
        return inside["split"].value_counts().reindex(SPLITS, fill_value=0)

    def _each(self, value: Callable[[Any], object]) -> str:
        return " or ".join(dict.fromkeys(str(value(run.experiment)) for run in self.runs))

    # -- study and data --

    @property
    def kind(self) -> Answer:
        model, task = self._each(lambda e: e.model), with_article(f"{self.run.task} task")
        return f"Federated learning of {model} for {task} by {names_of(self.methods)}", "experiment.json"

    @property
    def compared(self) -> Answer:
        return f"Comparison of {plural(len(self.methods), 'method')}: {names_of(self.methods)}", "experiment.json"

    @property
    def source(self) -> Answer:
        card = self.part.cases.card if self.part is not None else {}
        said = [f"{name} {card[name]}" for name in ("source", "citation", "licence") if card.get(name)]
        return "; ".join([f"Dataset {called(self.federation)}", *said]), "experiment.json, card of the dataset"

    @property
    def centres(self) -> Answer:
        sites = sorted(set(self.run.partition_table["site"]) - set(self.run.unseen), key=natural)
        kind = "simulated site" if self.simulated else "site"
        return f"{plural(len(sites), kind)}: {names_of(sites)}", "partition.parquet"

    @property
    def left_out(self) -> Answer:
        if self.part is None:
            return "", ""
        flow = self.part.flow()
        out = flow[flow["split"] == "left out"] if "split" in flow else flow.iloc[:0]
        reasons = [f"{row.reason}: {plural(int(row.cases), 'case')}" for row in out.itertuples()]
        return "; ".join(reasons) or "Every case of the dataset is at a site", "Partition.flow()"

    @property
    def preprocessing(self) -> Answer:
        normal, augment = self._each(lambda e: e.normalisation), self._each(lambda e: e.augment)
        shape = ""
        if self.part is not None:
            cases = self.part.cases
            shape = f"images of {' x '.join(map(str, cases.shape))} (channels first); "
            if cases.extents is not None:
                shape = f"images of {size_of(cases)}, {cases.shape[0]} channels, each of its own size; "
        return f"{shape}normalisation {normal}; augmentation {augment}", "experiment.json, dataset"

    @property
    def subset(self) -> Answer:
        at_sites = len(self.run.partition_table)
        if self.part is None:
            return f"{plural(at_sites, 'case')} at sites", "partition.parquet"
        return f"{at_sites:,} of {plural(len(self.part.cases), 'case')} are at sites", "partition.parquet, dataset"

    @property
    def missing(self) -> Answer:
        if self.part is None:
            return "", ""
        table = pd.DataFrame(self.part.describe()).query("site == 'all sites'")
        lost = table.groupby("characteristic", sort=False)["missing"].max()
        found = [f"{name} of {plural(int(n), self.unit)}" for name, n in lost.items() if n]
        return (
            f"Not known: {names_of(found)}" if found else "No value of a covariate is missing",
            "Partition.describe()",
        )

    @property
    def acquisition(self) -> Answer:
        dose = self.run.partition_spec.get("acquisition", 0)
        return (f"Scanners of the sites were simulated, acquisition {dose}", "experiment.json") if dose else ("", "")

    @property
    def labels(self) -> Answer:
        return f"Classes: {names_of(self.run.structures[1:] or self.run.classes)}", "experiment.json"

    @property
    def test_labels(self) -> Answer:
        return "Test cases are judged by the labels of the dataset", "predictions.parquet: label"

    @property
    def readers(self) -> Answer:
        dose = self.run.partition_spec.get("annotation", 0)
        return (f"Readers of the sites were simulated, annotation {dose}", "experiment.json") if dose else ("", "")

    @property
    def balance(self) -> Answer:
        if self.part is None or self.run.task == "segmentation":
            return "", ""
        parts = []
        for split in SPLITS:
            table = pd.DataFrame(self.part.describe(split=split, columns=[])).query("site == 'all sites'")
            rows = table[table["characteristic"] == "class"]
            each = [f"{row.level} {int(row.value):,}" for row in rows.itertuples()]
            parts.append(f"{methods.SPLIT_NAMES[split]}: {names_of(each)}")
        return f"Cases of each class, {'; '.join(parts)}", "Partition.describe()"

    # -- splits --

    @property
    def splits(self) -> Answer:
        how = methods.split_how(self.run)
        counts = ", ".join(f"{n:,} {methods.SPLIT_NAMES[split]}" for split, n in self.counts.items())
        return f"{how + ': ' if how else ''}{counts} cases", "partition.parquet"

    @property
    def disjoint(self) -> Answer:
        if self.part is None:
            return "", ""
        units = self.part.cases.units[self.part.rows]
        split = self.part.table["split"].to_numpy()
        shared = sum(len(set(split[units == unit])) > 1 for unit in np.unique(units))
        found = f"{plural(shared, 'patient')} in several splits" if shared else "no patient is in two splits"
        if "patient" not in self.part.cases.table:
            found = "identical images are in one split; the dataset does not name patients"
            return f"Image: {found}", "partition.parquet, dataset"
        return f"Patient: {found}", "partition.parquet, dataset"

    @property
    def test_size(self) -> Answer:
        rows = self.comparison[self.comparison["site"] == "pooled"]
        return f"{plural(int(rows['cases'].iloc[0]), 'test case')}; no sample size was computed", "predictions.parquet"

    # -- training --

    @property
    def model(self) -> Answer:
        sizes = dict.fromkeys(f"{run.trainable(run.models[0]).numel():,}" for run in self.runs[:1])
        return f"{self._each(lambda e: e.model)} with {names_of(sizes)} trainable parameters", "weights.safetensors"

    @property
    def software(self) -> Answer:
        return versions(self.runs), "environment.json"

    @property
    def initial(self) -> Answer:
        seeds = names_of(sorted({int(run.experiment.seed) for run in self.runs}))
        weights = self._each(lambda e: e.weights or "random weights")
        return f"{weights}, seed {seeds}", "experiment.json"

    @property
    def training(self) -> Answer:
        return " ".join(methods.training(self.runs)), "experiment.json"

    @property
    def choice(self) -> Answer:
        label = report_metrics.metric_label(self.run.headline)
        return f"The model of the round with the best {label} on validation cases", "experiment.json: headline"

    @property
    def ensemble(self) -> Answer:
        found = [name for name in self.methods if name.split("(")[0] == "ensemble"]
        what = "predictions" if self.run.task == "regression" else "probabilities"
        return (f"{names_of(found)} averages {what}" if found else "No method is an ensemble"), "experiment.json"

    # -- evaluation --

    @property
    def metrics(self) -> Answer:
        return (
            f"{report_metrics.metric_label(self.run.headline)}; others with fedlab.compare",
            "experiment.json: headline",
        )

    @property
    def statistics(self) -> Answer:
        return methods.evaluation(self.federation)[0], "fedlab.compare"

    @property
    def robustness(self) -> Answer:
        seeds = plural(len({int(run.experiment.seed) for run in self.runs}), "seed")
        return f"{seeds}; heterogeneity of sites: {doses(self.run) or 'none was simulated'}", "experiment.json"

    @property
    def output(self) -> Answer:
        if self.run.task == "segmentation":
            return "A mask of each case", "predictions.parquet"
        if self.run.task == "regression":
            return f"A number of each case, in the unit of {self.run.target}", "predictions.parquet"
        if self.run.task == "multilabel":
            return "A probability of each finding; decisions at 0.5", "predictions.parquet"
        return "Probabilities of classes; decisions take the most probable class", "predictions.parquet"

    @property
    def internal(self) -> Answer:
        rows = pd.DataFrame(self.comparison).drop_duplicates("site")
        rows = rows[~rows["site"].isin(SUMMARIES) & rows["site"].isin(self.run.partition_table["site"])]
        each = [f"{row.site} {int(row.cases):,} ({int(row.support):,})" for row in rows.itertuples()]
        what = f"{self.unit}s" + " of the rarest class" * (self.run.task not in ("segmentation", "regression"))
        return f"Test cases of each site ({what}): {names_of(each)}", "predictions.parquet"

    @property
    def external(self) -> Answer:
        if not self.run.unseen:
            return "No site was held out of training", "experiment.json: unseen"
        count = int(self.run.partition_table["site"].isin(self.run.unseen).sum())
        return f"Held-out sites {names_of(self.run.unseen)} with {plural(count, 'case')}", "experiment.json: unseen"

    @property
    def flow(self) -> Answer:
        counts = ", ".join(f"{n:,} {methods.SPLIT_NAMES[split]}" for split, n in self.counts.items())
        return f"{self.subset[0]}; {counts} cases", "partition.parquet; figure: fedlab.plots.flow"

    @property
    def table_one(self) -> Answer:
        if self.part is None:
            return "", ""
        names = dict.fromkeys(self.part.describe()["characteristic"])
        return f"Table 1: {names_of(names)} of each site", "Partition.describe()"

    # -- results --

    def _said(self, site: str) -> list[str]:
        """The value of each method at a place."""
        rows = pd.DataFrame(self.comparison)
        rows = rows[rows["site"] == site]
        return [f"{row.method} {interval(row.value, row.low, row.high)}" for row in rows.itertuples()]

    @property
    def performance(self) -> Answer:
        label = report_metrics.metric_label(self.run.headline)
        return f"{label}, mean of sites (95 % CI): {'; '.join(self._said(MEAN))}", "fedlab.compare"

    @property
    def sites(self) -> Answer:
        rows = pd.DataFrame(self.comparison)
        rows = rows[rows["site"].isin(self.run.partition_table["site"])]
        label = report_metrics.metric_label(self.run.headline)
        each = [f"{site}: {', '.join(self._said(str(site)))}" for site in dict.fromkeys(rows["site"])]
        return f"{label} (95 % CI), {'; '.join(each)}", "fedlab.compare"

    @property
    def errors(self) -> Answer:
        rows = pd.DataFrame(self.comparison)
        rows = rows[(rows["site"] == "worst site") & rows["low"].notna()]
        each = [f"{row.method} {interval(np.nan, row.low, row.high)}" for row in rows.itertuples()]
        return (f"Worst site, 95 % CI: {'; '.join(each)}" if each else ""), "fedlab.compare"

    # -- the rest --

    @property
    def again(self) -> Answer:
        return (
            "fedlab.reproduce trains each run again and compares; methods: fedlab.methods_paragraph",
            "experiment.json",
        )

    @property
    def available(self) -> Answer:
        own = sorted({name for run in self.runs for name in run.code})
        code = f"own code: {names_of(own)}" if own else "no code of the authors' own"
        card = self.part.cases.card if self.part is not None else {}
        licence = f"; licence of the data: {card['licence']}" if card.get("licence") else ""
        return (
            f"Weights and predictions are in the run folders; {code}{licence}",
            "weights.safetensors, environment.json",
        )
