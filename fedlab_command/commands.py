"""What each command does. This module loads fedlab."""

import argparse
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pandas as pd

import fedlab
from fedlab.core.registry import nearest
from fedlab.data import catalogue
from fedlab.experiments import experiment_file, progress
from fedlab.experiments.run_folder import Run

Arguments = argparse.Namespace


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show each warning as one line without the place in the code."""

    def show(message: Warning | str, *place: Any, **more: Any) -> None:
        print(f"fedlab: warning: {' '.join(str(message).split())}", file=sys.stderr)

    before = warnings.showwarning
    warnings.showwarning = show  # not restored by catch_warnings, which would forget which ones were shown
    try:
        yield
    finally:
        warnings.showwarning = before


def datasets(given: Arguments) -> None:
    """List datasets, or explain one."""
    print(repr(fedlab.DATASETS) if given.name is None else catalogue.explain(given.name))


def methods(given: Arguments) -> None:
    """List methods, or explain one."""
    print(repr(fedlab.METHODS) if given.name is None else fedlab.METHODS.explain(given.name))


def axes(given: Arguments) -> None:
    """List axes, or explain one."""
    print(repr(fedlab.AXES) if given.name is None else fedlab.AXES.explain(given.name))


def models(given: Arguments) -> None:
    """List models, or explain one."""
    print(repr(fedlab.MODELS) if given.name is None else fedlab.MODELS.explain(given.name))


def fields(given: Arguments) -> None:
    """List the fields of an experiment, or explain one."""
    described = _described_fields()
    if given.name is None:
        width = max(map(len, described))
        print("\n".join(f"{name:{width}}  {kind}" for name, (kind, _) in described.items()))
    elif given.name in described:
        kind, meaning = described[given.name]
        print(f"{given.name} : {kind}\n{meaning}")
    else:
        raise ValueError(f"unknown parameter {given.name!r}: {nearest(given.name, described)}")


def _described_fields() -> dict[str, tuple[str, str]]:
    """Name -> type with default, and meaning, of each field, from the docstring of the experiment."""
    text = (inspect.getdoc(fedlab.Experiment) or "").split("\nRaises\n")[0]
    found = re.findall(r"^(\w+) : (.+)\n((?: {4}.*\n?)+)", text, re.M)
    return {name: (kind, inspect.cleandoc(meaning).strip()) for name, kind, meaning in found}


def run(given: Arguments) -> None:
    """Train one experiment."""
    experiment_file.load_code(given.code)
    experiment = experiment_file.load_experiment(given.experiment, experiment_file.read_fields(given.fields))
    print(fedlab.run(experiment, folder=given.folder, live=_live(given)).folder)


def grid(given: Arguments) -> None:
    """Train all combinations of some fields."""
    experiment_file.load_code(given.code)
    varied: dict[str, Any] = experiment_file.read_axes(given.fields)
    shared = experiment_file.load_experiment(given.experiment)
    runs = fedlab.grid(shared, folder=given.folder, live=_live(given), workers=given.workers, **varied)
    print("\n".join(str(one.folder) for one in runs))


def _live(given: Arguments) -> bool:
    """Whether a line of progress is shown: on a terminal, unless it is not wanted."""
    return sys.stderr.isatty() and not given.quiet


def status(given: Arguments) -> None:
    """List the runs of a folder."""
    table = progress.status(given.folder)
    counts = table["state"].value_counts()
    print(_printed(table.drop(columns="folder")) if len(table) else "no run")
    if len(table):
        print(", ".join(f"{count} {state}" for state, count in counts.items()))


def _printed(table: pd.DataFrame) -> str:
    """All rows of a table, text to the left."""
    texts = table.astype(object).map(lambda value: "" if value is None or value != value else str(value))
    widths = {name: max(len(str(name)), *texts[name].map(len)) for name in texts}
    rows = [list(texts.columns), *texts.itertuples(index=False)]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths.values(), strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def compare(given: Arguments) -> None:
    """Compare methods at every site."""
    experiment_file.load_code(given.code)
    runs = [run for folder in given.folders for run in _runs_in(folder)]
    metric = given.metric[0] if given.metric and len(given.metric) == 1 else given.metric
    table = fedlab.compare(runs, metric, reference=given.reference)
    if given.csv:
        print(pd.DataFrame(table).to_csv(index=False), end="")
    else:
        with pd.option_context("display.max_rows", None, "display.max_colwidth", None):
            print(table)


def report(given: Arguments) -> None:
    """Write the report on runs."""
    experiment_file.load_code(given.code)
    runs = [run for folder in given.folders for run in _runs_in(folder)]
    print(fedlab.report(runs, given.file, metric=given.metric, margin=given.margin))


def reproduce(given: Arguments) -> int:
    """Train a finished run again; 1 if anything differs."""
    experiment_file.load_code(given.code)
    how = {"into": given.into, "dataset": given.dataset, "tolerance": given.tolerance}
    found = fedlab.reproduce(given.run, **how, live=_live(given))
    print(found)
    return 0 if found.agrees else 1


def _runs_in(folder: str) -> list[Run]:
    """The run of a run folder, or the runs that a folder holds."""
    if found := fedlab.runs.find(folder):
        return found
    try:
        return [fedlab.runs.read(folder)]
    except ValueError as error:
        if "is no run folder" not in str(error):
            raise
        raise ValueError(
            f"{folder} is no run folder and holds none: give the folder that `fedlab run` printed"
        ) from None


def kept(given: Arguments) -> str:
    """What a command that was interrupted leaves, and how it goes on."""
    if given.command in ("run", "grid"):
        return (
            f"finished runs and rounds are kept in {progress.root(given.folder)}: give the same command again, and it"
            " resumes after the last finished round"
        )
    if given.command == "reproduce":
        return "the rounds so far are kept: give the same command again, and it resumes"
    return "nothing was changed: give the same command again"


COMMANDS: Mapping[str, Callable[[Arguments], int | None]] = {
    command.__name__: command
    for command in (datasets, methods, axes, models, fields, run, grid, status, compare, report, reproduce)
}
