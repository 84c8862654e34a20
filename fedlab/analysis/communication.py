"""What a method costs, beside what it reaches: work, traffic, and the time that a network of given speed would take."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fedlab.analysis.comparison import compare
from fedlab.analysis.usage import training
from fedlab.experiments.run_folder import Run

PATH = ("steps", "messages", "bytes")


def costs(
    runs: Run | Sequence[Run],
    over: str = "method",
    choice: str = "last",
    *,
    bandwidth: float = 100.0,
    latency: float = 0.05,
    step: float | None = None,
) -> pd.DataFrame:
    """One row a run: what it reached, and the rounds, steps, cases, megabytes, hand-overs and seconds it took.

    over: the field of the experiment that tells the runs apart. The headline metric is the mean over the sites that
    have it, on test cases; steps and samples are those of all sites together; seconds are of local training, one site
    after the other. hand-overs: messages from one site to another. sequential steps: those on the critical path, which
    no number of sites working at a time makes shorter.

    estimated minutes: of a real federation along that path, with links of `bandwidth` megabits a second and `latency`
    seconds a message, and steps as fast as they were here, or of `step` seconds each. Every site has a link of its own;
    a server's is as fast as all of them together, a leader's in a swarm is one of them.
    """
    each = [runs] if isinstance(runs, Run) else list(runs)
    for name, value, least in (("bandwidth", bandwidth, 1e-9), ("latency", latency, 0.0), ("step", step or 0.0, 0.0)):
        if not (np.isfinite(value) and value >= least):
            raise ValueError(f"{name} is {value!r}: give megabits a second above 0, or seconds of at least 0")
    return pd.DataFrame([_row(run, over, choice, bandwidth, latency, step) for run in each])


def _row(run: Run, over: str, choice: str, bandwidth: float, latency: float, step: float | None) -> dict[str, object]:
    trained, ledger = training(run), run.ledger
    scores = compare([run], choice=choice, draws=1)
    path = critical_path(run)
    working = path["seconds"] if step is None else step * path["steps"]
    travelling = 8e-6 * path["bytes"] / bandwidth + latency * path["messages"]
    return {
        over: getattr(run.experiment, over),
        "seed": run.experiment.seed,
        f"{run.headline}, mean of sites": float(scores.loc[scores["site"] == "mean of sites", "value"].iloc[0]),
        "rounds": int(run.rounds["round"].max()),
        "steps": int(trained["steps"].sum()),
        "samples": int(trained["samples"].sum()),
        "megabytes": ledger["bytes"].sum() / 1e6,
        "hand-overs": int(ledger.loc[ledger["direction"] == "peer", "messages"].sum()),
        "sequential steps": int(path["steps"]),
        "seconds": trained["seconds"].sum(),
        "estimated minutes": (working + travelling) / 60,
    }


def critical_path(run: Run) -> dict[str, float]:
    """Steps, messages, bytes and seconds of training along the critical path of all rounds."""
    rows = run.rounds[run.rounds["split"].eq("train") & run.rounds["metric"].str.startswith("critical ")]
    total = rows.groupby("metric")["value"].sum()
    return {name: float(total.get(f"critical {name}", 0.0)) for name in PATH} | {
        "seconds": float(rows["seconds"].sum())
    }
