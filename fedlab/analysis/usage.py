"""Resource use of runs, site by site: megabytes and messages sent and received, optimizer steps, training samples."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fedlab.experiments.run_folder import Run
from fedlab.federation import ALL

BUDGET = ("rounds", "local_epochs", "local_steps", "batch_size")  # what determines how long a method trains
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
    between = run.ledger[run.ledger["other"] != run.ledger["site"]].assign(site=lambda rows: rows["other"])
    crossed = pd.concat([run.ledger, between]).groupby("site")[["bytes", "messages"]].sum()
    sites = sorted({*steps.index, *run.ledger["site"]} - {ALL})
    each = crossed.reindex(sites, fill_value=0).join(steps.reindex(sites, fill_value=0))
    each = each.assign(megabytes=each["bytes"] / 1e6)[list(NO_USE)].astype(float)
    return {ALL: _row(run.ledger, trained)} | each.to_dict("index")


def training_rows(run: Run) -> pd.DataFrame:
    """Select the rows of a run's rounds that hold the cost of training."""
    rounds = run.rounds
    return rounds[(rounds["split"] == "train") & (rounds["metric"] == "loss")]


def _row(ledger: pd.DataFrame, trained: pd.DataFrame) -> dict[str, float]:
    crossed = {"megabytes": ledger["bytes"].sum() / 1e6, "messages": float(ledger["messages"].sum())}
    return crossed | {"steps": float(trained["steps"].sum()), "samples": float(trained["samples"].sum())}


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def rounds_trained(run: Run) -> float:
    """How many rounds a run was trained for, fewer than planned if `patience` ended it; NaN if it stores no rounds."""
    rounds = getattr(run, "rounds", None)
    return np.nan if rounds is None or rounds.empty else float(rounds["round"].max())


def unequal_budgets(groups: Mapping[str, Sequence[Run]], by: str | None = None) -> dict[str, dict[str, str]]:
    """By method those parts of its budget in which methods differ, as text; empty if all have the same budget.

    by: a part that the methods' names show.
    """
    each = {method: _budget(runs) for method, runs in groups.items()}
    parts = [part for part in BUDGET if part != by and len({budget[part] for budget in each.values()}) > 1]
    return {method: {part: budget[part] for part in parts} for method, budget in each.items() if parts}


def _budget(runs: Sequence[Run]) -> dict[str, str]:
    """The parts of the budget of a method's runs; local steps replace local epochs."""
    one = runs[0].experiment
    rounds = sorted({int(n) for run in runs if np.isfinite(n := rounds_trained(run))})
    steps, epochs = getattr(one, "local_steps", None), getattr(one, "local_epochs", "")
    return {
        "rounds": " to ".join(str(n) for n in dict.fromkeys((*rounds[:1], *rounds[-1:]))),
        "local_epochs": "" if steps else str(epochs),
        "local_steps": str(steps) if steps else "",
        "batch_size": str(getattr(one, "batch_size", "")),
    }
