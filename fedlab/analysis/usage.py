"""What runs spent, site by site: bytes and messages across borders, optimizer steps, cases that gradients came from."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from fedlab.federation import ALL

if TYPE_CHECKING:
    from fedlab.experiments.run_folder import Run

NOTHING = {"megabytes": 0.0, "messages": 0.0, "steps": 0.0, "samples": 0.0}


def spending(group: "Sequence[Run]") -> dict[str, dict[str, float]]:
    """Site, or "all sites" -> megabytes, messages, steps, samples; the mean over runs.

    Bytes of a site are those that crossed its border, in or out; those of all sites count what passed between two of
    them once.
    """
    each = [_of(run) for run in group]
    sites = {site for found in each for site in found}
    return {site: _mean([found.get(site, NOTHING) for found in each]) for site in sites}


def _of(run: "Run") -> dict[str, dict[str, float]]:
    if getattr(run, "ledger", None) is None:
        return {ALL: NOTHING}
    trained = training(run)
    work = trained.groupby("site")[["steps", "samples"]].sum()
    found = {ALL: _row(run.ledger, trained)}
    for site in {*work.index, *run.ledger["site"]} - {ALL}:
        crossed = run.ledger[(run.ledger["site"] == site) | (run.ledger["other"] == site)]
        found[str(site)] = _row(crossed, trained[trained["site"] == site])
    return found


def training(run: "Run") -> pd.DataFrame:
    """The rows of a run's rounds that tell what training took."""
    rounds = run.rounds
    return rounds[(rounds["split"] == "train") & (rounds["metric"] == "loss")]


def _row(ledger: pd.DataFrame, trained: pd.DataFrame) -> dict[str, float]:
    crossed = {"megabytes": ledger["bytes"].sum() / 1e6, "messages": float(ledger["messages"].sum())}
    return crossed | {"steps": float(trained["steps"].sum()), "samples": float(trained["samples"].sum())}


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
