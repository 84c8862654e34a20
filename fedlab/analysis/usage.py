"""Resource use of runs, site by site: megabytes and messages sent and received, optimizer steps, training samples."""

from collections.abc import Sequence

import pandas as pd

from fedlab.experiments.run_folder import Run
from fedlab.federation import ALL

NO_USE = {"megabytes": 0.0, "messages": 0.0, "steps": 0.0, "samples": 0.0}


def resource_use(group: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Megabytes, messages, steps and samples of each site and of "all sites", mean over runs.

    A site's bytes are those that it sent or received; in "all sites" a message between two sites counts once.
    """
    each = [_of(run) for run in group]
    sites = {site for found in each for site in found}
    return {site: _mean([found.get(site, NO_USE) for found in each]) for site in sites}


def _of(run: Run) -> dict[str, dict[str, float]]:
    if getattr(run, "ledger", None) is None:
        return {ALL: NO_USE}
    trained = training_rows(run)
    steps = trained.groupby("site")[["steps", "samples"]].sum()
    found = {ALL: _row(run.ledger, trained)}
    for site in {*steps.index, *run.ledger["site"]} - {ALL}:
        crossed = run.ledger[(run.ledger["site"] == site) | (run.ledger["other"] == site)]
        found[str(site)] = _row(crossed, trained[trained["site"] == site])
    return found


def training_rows(run: Run) -> pd.DataFrame:
    """Select the rows of a run's rounds that hold the cost of training."""
    rounds = run.rounds
    return rounds[(rounds["split"] == "train") & (rounds["metric"] == "loss")]


def _row(ledger: pd.DataFrame, trained: pd.DataFrame) -> dict[str, float]:
    crossed = {"megabytes": ledger["bytes"].sum() / 1e6, "messages": float(ledger["messages"].sum())}
    return crossed | {"steps": float(trained["steps"].sum()), "samples": float(trained["samples"].sum())}


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
