"""What a method costs, beside what it reaches."""

from collections.abc import Sequence

import pandas as pd

from fedlab.comparison import compare
from fedlab.runs import Run


def costs(runs: Run | Sequence[Run], over: str = "method", choice: str = "last") -> pd.DataFrame:
    """One row a run: what it reached, and the rounds, steps, cases, megabytes and seconds it took.

    over: the field of the experiment that tells the runs apart. The headline metric is the mean over the sites that
    have it, on test cases; steps and samples are those of all sites together; seconds are of local training.
    """
    each = [runs] if isinstance(runs, Run) else list(runs)
    return pd.DataFrame([_row(run, over, choice) for run in each])


def _row(run: Run, over: str, choice: str) -> dict[str, object]:
    trained = run.rounds[run.rounds["split"] == "train"]
    scores = compare([run], choice=choice, draws=1)
    return {
        over: getattr(run.experiment, over),
        "seed": run.experiment.seed,
        f"{run.headline}, mean of sites": float(scores.loc[scores["site"] == "mean of sites", "value"].iloc[0]),
        "rounds": int(run.rounds["round"].max()),
        "steps": int(trained["steps"].sum()),
        "samples": int(trained["samples"].sum()),
        "megabytes": run.ledger["bytes"].sum() / 1e6,
        "seconds": trained["seconds"].sum(),
    }
