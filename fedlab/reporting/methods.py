"""`methods_paragraph`: what was done, in sentences made of the fields of the runs."""

import re
from typing import Any

import pandas as pd

from fedlab.core.summary import plural, with_article
from fedlab.data.cases import SPLITS
from fedlab.evaluation import report_metrics
from fedlab.evaluation.intervals.repeats import SEEDS
from fedlab.experiments.experiment import Experiment
from fedlab.experiments.run_folder import Run
from fedlab.reporting.gather import Federation, collect, federations
from fedlab.reporting.setting import doses, unknown_patients, versions

SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}
MOVED = re.compile(r"^[\d,]+ \w+ cases? went to ")  # notes of a partition on cases that left their split
PATIENTS = "The dataset does not name patients, so that each different image counts as one."
SPLIT_HOW = {
    "official": "The splits are those of the dataset",
    "site": "Splits were made within each site, whole patients at a time",
    "common": "The test cases of each site were drawn at random, the same at every dose",
}


def methods_paragraph(runs: Any) -> str:
    """Write the methods paragraph of a paper from the fields of runs.

    Parameters
    ----------
    runs : Run, sequence of Run, str or Path
        Runs of one federation, run folders, or the folder that holds them.

    Returns
    -------
    str
        Sentences on data, sites, training, methods and evaluation: what the runs have in common, and nothing else.

    Raises
    ------
    ValueError
        If there are no runs, or they are of several federations.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     text = fedlab.methods_paragraph(fedlab.grid(base, folder=folder, method=["local", "fedavg"]))
    >>> print(text.split(". ")[0])
    The dataset phantoms(cases=120, size=16) was used for a binary task (normal, nodule)
    """
    found = federations(collect(runs))
    if len(found) > 1:
        raise ValueError(f"found runs of {len(found)} federations: write a paragraph on the runs of one")
    return paragraph(found[0])


def paragraph(federation: Federation) -> str:
    """The sentences on one federation."""
    runs = federation.runs
    unnamed = [PATIENTS] if unknown_patients(federation) else []
    return " ".join([*_data(runs[0]), *unnamed, *training(runs), *evaluation(federation)])


def _data(run: Run) -> list[str]:
    """Sentences on cases, sites and splits."""
    table, classes = run.partition_table, [f"of {run.target}"] if run.target else run.structures[1:] or run.classes
    sites = sorted(set(table["site"]) - set(run.unseen))
    counts = pd.crosstab(table["site"], table["split"]).reindex(columns=SPLITS, fill_value=0)
    sums = [f"{int(counts[split].sum()):,} {SPLIT_NAMES[split]}" for split in SPLITS]
    inside = counts.loc[sites, "train"]
    sizes = f"{inside.min():,} to {inside.max():,}" if inside.min() < inside.max() else f"{inside.max():,}"
    made = run.partition_spec.get("sites")
    kind = "simulated sites" if isinstance(made, int) else "sites"
    column = f", as given by the column {made!r}" if isinstance(made, str) and made != "explicit" else ""
    lines = [
        f"The dataset {run.experiment.dataset} was used for {with_article(f'{run.task} task')} ({', '.join(classes)}).",
        f"Its cases were assigned to {len(sites)} {kind}{column} with {sizes} training cases each"
        f" ({', '.join(sums[:-1])} and {sums[-1]} cases of all sites).",
    ]
    if axes := doses(run):
        lines.append(f"Heterogeneity of the sites was simulated (0 none, 1 most): {axes}.")
    if run.unseen:
        lines.append(f"{', '.join(run.unseen)} took no part in training and served for external validation.")
    splits = split_how(run)
    return [*lines, f"{splits}."] if splits else lines


def split_how(run: Run) -> str:
    """How cases came to training, validation and test, and what was changed of the dataset's own splits."""
    how = SPLIT_HOW.get(str(run.partition_spec.get("splits")), "")
    changed = [str(note) for note in run.partition_spec.get("notes", []) if MOVED.search(str(note))]
    return f"{how}, but {'; '.join(changed)}" if how and changed else how


def training(runs: list[Run]) -> list[str]:
    """Sentences on model, methods, optimization and seeds."""
    one, methods = runs[0].experiment, list(dict.fromkeys(run.method for run in runs))
    budget = _each(runs, _budget)
    named = f"{plural(len(methods), 'method')} ({', '.join(methods)})"
    seeds = len({int(run.experiment.seed) for run in runs})
    lines = [
        f"A model {_each(runs, lambda e: e.model)} was trained by {named}"
        f" for {_each(runs, lambda e: plural(e.rounds, 'round'))} of {budget} with batches of"
        f" {_each(runs, lambda e: 'all cases' if e.batch_size is None else plural(e.batch_size, 'case'))}.",
        f"The local optimizer was {_each(runs, lambda e: e.optimizer)} with learning rate {_each(runs, lambda e: e.lr)}"
        f" ({_each(runs, lambda e: e.schedule)}), momentum {_each(runs, lambda e: e.momentum)} and weight decay"
        f" {_each(runs, lambda e: e.weight_decay)}.",
    ]
    if any(run.experiment.augment != "none" for run in runs):
        lines.append(f"Training images were augmented by {_each(runs, lambda e: e.augment)}.")
    if one.normalisation != "none":
        lines.append(f"Intensities were normalised by the statistics of the {one.normalisation}.")
    return [*lines, f"Each method was run with {plural(seeds, 'seed')}."]


def evaluation(federation: Federation) -> list[str]:
    """Sentences on the choice of the model, metrics, and software."""
    runs, unit = federation.runs, "image" if unknown_patients(federation) else "patient"
    label = report_metrics.metric_label(runs[0].headline)
    return [
        f"Of each run the model of the round with the best {label} on validation cases was evaluated on the test cases"
        f" of every site{_uncertainty(runs, unit)}.",
        f"Software: {versions(runs)}.",
    ]


def _uncertainty(runs: list[Run], unit: str) -> str:
    """How sure values are said to be: two seeds have no interval, and one method no differences."""
    seeds = len({int(run.experiment.seed) for run in runs})
    if 1 < seeds < SEEDS:
        return f", without intervals, which {seeds} seeds do not give"
    intervals = f", with 95 % confidence intervals that take the {unit} as the unit"
    if len({run.method for run in runs}) == 1:
        return intervals
    return f"{intervals}; differences between methods are paired, and p-values are adjusted by Holm's method"


def _budget(experiment: Experiment) -> str:
    """How long a site trains in a round."""
    if experiment.local_steps:
        return plural(experiment.local_steps, "local step")
    return plural(experiment.local_epochs, "local epoch")


def _each(runs: list[Run], value: Any) -> str:
    """What a function gives for the experiments; "or" between values that differ."""
    return " or ".join(dict.fromkeys(str(value(run.experiment)) for run in runs))
