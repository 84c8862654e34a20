"""Costs of a method next to its performance: steps, traffic, and the time on a network of given speed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fedlab.analysis.alignment import MEAN, align
from fedlab.analysis.comparison import score_methods
from fedlab.analysis.grouping import FEDERATION_FIELDS, check_one_federation, check_one_setting
from fedlab.analysis.usage import training_rows
from fedlab.core.registry import nearest
from fedlab.experiments.experiment import Experiment
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
    """Tabulate what runs cost next to what they reach.

    Parameters
    ----------
    runs : Run or sequence of Run
        Finished runs of one federation, or of several if `over` names a field that describes them.
    over : str, default "method"
        The field of the experiment in which the runs differ, besides method and seed.
    choice : {"last", "best"}, default "last"
        Model of the last round, or of the round that is best on validation cases.
    bandwidth : float, default 100.0
        Speed of each site's link in megabits a second, above 0. A server's link is as fast as all of them together, the
        link of a leader in a swarm is one of them.
    latency : float, default 0.05
        Seconds a message, 0 or more.
    step : float, optional
        Seconds of an optimizer step in the estimated federation, by default as fast as here.

    Returns
    -------
    pandas.DataFrame
        A row for each run, with columns `over`, seed, the headline metric (macro-average over sites, test cases),
        rounds, steps and samples (of all sites together), megabytes, hand-overs (messages from one site to another),
        sequential steps (on the critical path, which sites that work in parallel do not shorten), seconds (of local
        training, one site after the other), and estimated minutes (of a real federation along the critical path).

    Raises
    ------
    ValueError
        If `bandwidth`, `latency` or `step` is negative or not finite, or runs differ in anything but method, seed and
        `over`.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = fedlab.costs(fedlab.grid(base, folder=folder, method=["fedavg", "cyclic"]))
    >>> table[["method", "rounds", "hand-overs"]].to_dict("list")
    {'method': ['fedavg', 'cyclic'], 'rounds': [2, 2], 'hand-overs': [0, 3]}
    """
    each = [runs] if isinstance(runs, Run) else list(runs)
    for name, value, least in (("bandwidth", bandwidth, 1e-9), ("latency", latency, 0.0), ("step", step or 0.0, 0.0)):
        if not (np.isfinite(value) and value >= least):
            raise ValueError(f"{name} is {value!r}: give megabits a second above 0, or seconds of at least 0")
    if over not in Experiment.model_fields:
        raise ValueError(f"over is {over!r}, no field of an experiment: {nearest(over, Experiment.model_fields)}")
    if each and over not in FEDERATION_FIELDS:
        check_one_federation(each)
    first: dict[tuple[str, str], Run] = {}
    for run in each:
        label = run.method, repr(getattr(run.experiment, over))
        check_one_setting(first.setdefault(label, run), run, None if over == "method" else over, argument="over")
    return pd.DataFrame([_row(run, over, choice, bandwidth, latency, step) for run in each])


def _row(run: Run, over: str, choice: str, bandwidth: float, latency: float, step: float | None) -> dict[str, object]:
    trained, ledger = training_rows(run), run.ledger
    inside, outside = align([run], None, choice, "test", "true")
    score = score_methods({run.method: [run]}, inside, outside)[run.method][MEAN].value
    path = critical_path(run)
    training = path["seconds"] if step is None else step * path["steps"]
    transfer = 8e-6 * path["bytes"] / bandwidth + latency * path["messages"]
    return {
        over: getattr(run.experiment, over),
        "seed": run.experiment.seed,
        f"{run.headline}, mean of sites": score,
        "rounds": int(run.rounds["round"].max()),
        "steps": int(trained["steps"].sum()),
        "samples": int(trained["samples"].sum()),
        "megabytes": ledger["bytes"].sum() / 1e6,
        "hand-overs": int(ledger.loc[ledger["direction"] == "peer", "messages"].sum()),
        "sequential steps": int(path["steps"]),
        "seconds": trained["seconds"].sum(),
        "estimated minutes": (training + transfer) / 60,
    }


def critical_path(run: Run) -> dict[str, float]:
    """Sum the steps, messages, bytes and seconds of training along the critical path of all rounds."""
    rows = run.rounds[run.rounds["split"].eq("train") & run.rounds["metric"].str.startswith("critical ")]
    total = rows.groupby("metric")["value"].sum()
    return {name: float(total.get(f"critical {name}", 0.0)) for name in PATH} | {
        "seconds": float(rows["seconds"].sum())
    }
