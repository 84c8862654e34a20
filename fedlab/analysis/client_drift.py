"""Client drift: how far local training moves the models of sites apart, round by round."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from fedlab.analysis.grouping import check_one_federation, check_only_seeds_differ
from fedlab.engine.update_statistics import MEASURES
from fedlab.experiments.run_folder import Run
from fedlab.federation import ALL


def drift(runs: Run | Sequence[Run]) -> pd.DataFrame:
    """Tabulate client drift, round by round, as the runs recorded it.

    Drift is defined where all sites train from one start, over the parameters that they share: in every round of
    federated averaging and its family, in the first round of local training, never in centralized or cyclic training.

    Parameters
    ----------
    runs : Run or sequence of Run
        Finished runs of one federation; those of a method differ in nothing but their seed.

    Returns
    -------
    pandas.DataFrame
        A row for each run and round, with columns method, seed, round, and one for each name in
        `fedlab.engine.update_statistics.MEASURES`.

    Raises
    ------
    ValueError
        If the runs have different federations, or those of one method different settings.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = fedlab.drift(fedlab.run(base, folder=folder))
    >>> table["round"].tolist()
    [1, 2]
    """
    each = [runs] if isinstance(runs, Run) else list(runs)
    empty = pd.DataFrame(columns=["method", "seed", "round", *MEASURES])
    if not each:
        return empty
    check_one_federation(each)
    check_only_seeds_differ(each)
    return pd.concat([_wide(run) for run in each], ignore_index=True)


def _wide(run: Run) -> pd.DataFrame:
    rows = run.rounds[run.rounds["site"].eq(ALL) & run.rounds["metric"].isin(list(MEASURES))]
    wide = rows.pivot(index="round", columns="metric", values="value").reindex(columns=list(MEASURES))
    wide = wide.rename_axis(columns=None).reset_index()
    wide.insert(0, "method", run.method)
    wide.insert(1, "seed", run.experiment.seed)
    return wide


def weight_divergence(run: Run, reference: Run, choice: str = "last") -> pd.DataFrame:
    """Weight divergence |w - w_ref| / |w_ref| of each model of a run, over its trainable parameters.

    Parameters
    ----------
    run : Run
        The run whose models are measured.
    reference : Run
        A run with a global model, such as the centralized one of the same seed.
    choice : {"last", "best"}, default "last"
        Models of the last round, or of the round that is best on validation cases.

    Returns
    -------
    pandas.DataFrame
        A row for each model, with columns model and divergence (0 for equal weights).

    Raises
    ------
    ValueError
        If the runs did not start from the same weights, or have different federations.

    References
    ----------
    .. [1] Y. Zhao et al., "Federated learning with non-IID data", 2018, arXiv:1806.00582, equation 5.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fedavg, centralized = fedlab.grid(base, folder=folder, method=["fedavg", "centralized"])
    ...     table = fedlab.weight_divergence(fedavg, centralized)
    >>> table["model"].tolist(), bool(table["divergence"][0] > 0)
    (['global'], True)
    """
    check_one_federation([run, reference])
    if (found := _start(run)) != (wanted := _start(reference)):
        raise ValueError(
            f"{run.method!r} started from {found} and {reference.method!r} from {wanted}: compare the weights of runs"
            " of one dataset, model and seed"
        )
    target = reference.trainable("global", choice)
    differences = {model: run.trainable(model, choice) - target for model in run.models}
    divergence = [float(difference.norm() / target.norm()) for difference in differences.values()]
    return pd.DataFrame({"model": list(differences), "divergence": divergence})


def _start(run: Run) -> dict[str, Any]:
    """The settings that determine the initial weights."""
    start = {name: getattr(run.experiment, name) for name in ("dataset", "model", "seed")}
    return start | {"group normalisation": run.experiment.batchnorm == "group"}
