"""The optimisation family of heterogeneity, as runs recorded it: how far sites pull the model apart, round by round."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from fedlab.engine.update_statistics import MEASURES
from fedlab.experiments.run_folder import Run
from fedlab.federation import ALL


def drift(runs: Run | Sequence[Run]) -> pd.DataFrame:
    """One row per run and round: method, seed, round, then one column per name in `update_statistics.MEASURES`.

    There are rows for rounds in which all sites trained from one start, over the parameters that they share: every
    round of federated averaging and its family, the first of local training, none of centralized or cyclic training.
    """
    each = [runs] if isinstance(runs, Run) else list(runs)
    empty = pd.DataFrame(columns=["method", "seed", "round", *MEASURES])
    return pd.concat([_wide(run) for run in each], ignore_index=True) if each else empty


def _wide(run: Run) -> pd.DataFrame:
    rows = run.rounds[run.rounds["site"].eq(ALL) & run.rounds["metric"].isin(list(MEASURES))]
    wide = rows.pivot(index="round", columns="metric", values="value").reindex(columns=list(MEASURES))
    wide = wide.rename_axis(columns=None).reset_index()
    wide.insert(0, "method", run.method)
    wide.insert(1, "seed", run.experiment.seed)
    return wide


def weight_divergence(run: Run, reference: Run, choice: str = "last") -> pd.DataFrame:
    """|w - w_ref| / |w_ref| of each model of a run, over trainable parameters (Zhao 2018, arXiv:1806.00582).

    Columns: model, divergence. reference: a run with a global model, such as the centralized one of the same seed.
    ValueError where the two did not start from the same weights.
    """
    if (found := _start(run)) != (wanted := _start(reference)):
        raise ValueError(
            f"{run.method!r} started from {found} and {reference.method!r} from {wanted}: compare the weights of runs"
            " of one dataset, model and seed"
        )
    goal = reference.trainable("global", choice)
    apart = {model: run.trainable(model, choice) - goal for model in run.models}
    divergence = [float(difference.norm() / goal.norm()) for difference in apart.values()]
    return pd.DataFrame({"model": list(apart), "divergence": divergence})


def _start(run: Run) -> dict[str, Any]:
    """What decides the initial weights."""
    start = {name: getattr(run.experiment, name) for name in ("dataset", "model", "seed")}
    return start | {"group normalisation": run.experiment.batchnorm == "group"}
