"""What has become of the runs in a folder: finished or interrupted, when, and how good."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from fedlab.experiments import run_folder
from fedlab.experiments.runner import Folder, root_of

__all__ = ["root", "status"]

COLUMNS = ["run", "state", "round", "when", "metric", "value", "folder"]


def root(folder: Folder = None) -> Path:
    """The folder of run folders that a command means, in its one form."""
    return root_of(folder)


def status(folder: Folder = None) -> pd.DataFrame:
    """The runs in a folder, the latest last.

    Parameters
    ----------
    folder : str or Path, optional
        The folder that holds run folders, by default `$FEDLAB_RUNS` or `out/runs`.

    Returns
    -------
    pandas.DataFrame
        Columns run (name of its folder), state ("finished", "running", "interrupted" or "damaged"), round (the last
        that is stored), when (it last wrote, local time), metric and value (the headline metric on validation cases,
        mean over sites, of the first model after the last round), folder.

    Raises
    ------
    ValueError
        If there is no such folder.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> from fedlab.experiments.progress import status
    >>> base = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = fedlab.run(base, folder=folder)
    ...     status(folder)[["state", "round", "metric"]].values.tolist()
    [['finished', 2, 'auroc']]
    """
    place = root(folder)
    if not place.is_dir():
        raise ValueError(f"{place} is no folder: give the folder that holds run folders, or run an experiment first")
    rows = sorted(_rows(place), key=lambda row: (row["when"], row["run"]))
    return pd.DataFrame(rows, columns=COLUMNS)


def _rows(place: Path) -> Iterator[dict[str, Any]]:
    inside = run_folder.is_run_folder(place) or place.name.endswith(run_folder.UNFINISHED)
    for folder in [place] if inside else sorted(path for path in place.glob("*") if path.is_dir()):
        row = {"run": folder.name.removesuffix(run_folder.UNFINISHED), "folder": folder}
        if folder.name.endswith(run_folder.UNFINISHED):
            yield row | {"state": run_folder.state(folder), "round": _last_round(folder), "when": _written(folder)}
        elif run_folder.is_run_folder(folder):
            yield row | _finished(folder)


def _finished(folder: Path) -> dict[str, Any]:
    """State, last round, time and headline of a run folder."""
    try:
        run = run_folder.read(folder)
        rounds, metric = run.rounds, run.headline
    except (ValueError, OSError):
        return {"state": "damaged", "round": 0, "when": _written(folder)}
    scores = rounds[rounds["metric"].eq(metric) & rounds["split"].eq("val")]
    last = scores[scores["round"].eq(scores["round"].max())].drop_duplicates("site")
    value = round(float(last["value"].mean()), 3) if len(last) else float("nan")
    number = int(rounds["round"].max()) if len(rounds) else 0
    return {"state": "finished", "round": number, "when": _written(folder), "metric": metric, "value": value}


def _written(folder: Path) -> str:
    """When a file of a folder was last written."""
    times = [path.stat().st_mtime for path in folder.iterdir() if path.is_file()] or [folder.stat().st_mtime]
    return datetime.fromtimestamp(max(times)).isoformat(" ", "minutes")


def _last_round(folder: Path) -> int:
    """The last round of which an unfinished run has stored rows, 0 before the first."""
    try:
        return int(json.loads((folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()[-1])[0])
    except (OSError, ValueError, IndexError):
        return 0
