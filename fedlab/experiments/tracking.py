"""Mirror runs into MLflow or TensorBoard while they train: `fedlab.run(..., live=tracking.mlflow())`.

A mirror is opened for each run by a function of its title, and has two methods: `log(values, step)` after a round, and
`keep(run)` at the end. Another tracker needs no more than that.
"""

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from fedlab.core.warnings import warn
from fedlab.experiments.observer import Observer, find_observer
from fedlab.experiments.run_folder import Run

__all__ = ["Mirror", "Tracking", "mlflow", "tensorboard"]

MOST = 1000  # metrics that MLflow takes in one call
LONGEST = 500  # characters of a parameter that all versions of MLflow take
MEAN = "mean of sites"  # in the place of the site
TAG = "fedlab.run"  # tag of MLflow with the name of the run folder
HELP = "is not installed: pip install 'fedlab-workbench[tracking]'"


class Mirror(Protocol):
    """One run in another program."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Note the values of a finished round."""

    def keep(self, run: Run) -> None:
        """Note settings and files of a finished run; nothing follows."""


class Tracking:
    """Observer that mirrors rounds and finished runs; an error of the other program is warned of and ends no training.

    Parameters
    ----------
    open : callable
        Opens the mirror of a run, from its title.
    known : callable, optional
        Whether a finished run, by the name of its folder, is there already; such a run is not mirrored twice.
    live : bool or Observer, default True
        Also show the live figure, or call another observer.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> class Lines:
    ...     def log(self, values, step):
    ...         print(step, "val/auroc/global/mean of sites" in values)
    ...     def keep(self, run):
    ...         print(run.method)
    >>> base = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = fedlab.run(base, folder=folder, live=Tracking(lambda title: Lines(), live=False))
    1 True
    2 True
    fedavg
    """

    def __init__(
        self,
        open: Callable[[str], Mirror],
        known: Callable[[str], bool] = lambda name: False,
        live: bool | Observer = True,
    ) -> None:
        self._open, self._known, self._also = open, known, find_observer(live)
        self._mirror: Mirror | None = None
        self._title, self._logged, self._broken = "", 0, False

    def plan(self, rounds: list[int]) -> None:
        """Pass on how many rounds each run of a grid has."""
        if callable(method := getattr(self._also, "plan", None)):
            method(rounds)

    def restart(self, rounds: int, title: str, device: str = "") -> None:
        """Follow a run that begins now."""
        self._mirror, self._title, self._logged = None, title, 0
        if self._also is not None:
            self._also.restart(rounds, title, device)

    def update(self, rounds_frame: pd.DataFrame, round: int) -> None:
        """Mirror the rounds that are not mirrored yet; after a resumption also those before it."""
        self._safely(lambda: self._log(rounds_frame))
        if self._also is not None:
            self._also.update(rounds_frame, round)

    def finished(self, run: Run) -> None:
        """Mirror settings and files of a run; of a run that was loaded, or trained elsewhere, also its rounds."""
        self._safely(lambda: self._keep(run))
        self._mirror, self._logged = None, 0

    def close(self) -> None:
        """Pass on that a run has ended."""
        if self._also is not None:
            self._also.close()

    def tell(self, text: str) -> None:
        """Pass on a line."""
        if self._also is not None:
            self._also.tell(text)

    def conclude(self, text: str) -> None:
        """Pass on the last line."""
        if self._also is not None:
            self._also.conclude(text)

    def _log(self, frame: pd.DataFrame) -> None:
        if self._mirror is None:
            self._mirror = self._open(self._title)
        for step, values in round_values(frame[frame["round"] > self._logged]):
            self._mirror.log(values, step)
            self._logged = step

    def _keep(self, run: Run) -> None:
        if self._mirror is None:
            if self._known(run.folder.name):
                return
            self._title = f"{run.method} on {run.experiment.dataset}"
            self._log(run.rounds)
        assert self._mirror is not None
        self._mirror.keep(run)

    def _safely(self, call: Callable[[], None]) -> None:
        """Call unless it failed before; a failure is warned of."""
        if self._broken:
            return
        try:
            call()
        except Exception as error:  # of another program, a network or a disk
            self._broken = True
            warn(f"tracking stopped ({type(error).__name__}: {error}); training continues")


def round_values(frame: pd.DataFrame) -> Iterator[tuple[int, dict[str, float]]]:
    """Each round with its values, such as "val/auroc/global/Site A"; no name is the beginning of another's path."""
    for step, rows in frame.groupby("round"):
        whole = rows.assign(site=MEAN).groupby(["split", "metric", "model", "site"])["value"].mean()
        sites = rows.groupby(["split", "metric", "model", "site"])["value"].mean()
        named = {"/".join(map(str, key)): float(value) for part in (whole, sites) for key, value in part.items()}
        yield int(str(step)), {_plain(name): value for name, value in named.items() if math.isfinite(value)}


def _plain(name: str) -> str:
    """A name of letters, digits and signs that every tracker takes."""
    return re.sub(r"[^\w\-./ ]", "_", name)


def _settings(run: Run) -> dict[str, str]:
    """Fields of the experiment as text."""
    return {name: str(value)[:LONGEST] for name, value in run.experiment.model_dump().items()}


def mlflow(experiment: str = "fedlab", uri: str | None = None, *, live: bool | Observer = True) -> Tracking:
    """Observer that mirrors each run into MLflow: values of rounds, fields as parameters, the run folder as artefacts.

    Parameters
    ----------
    experiment : str, default "fedlab"
        Name of the experiment of MLflow; made if it is missing.
    uri : str, optional
        Address of the tracking server, or of a folder; by default `$MLFLOW_TRACKING_URI` or that of MLflow.
    live : bool or Observer, default True
        Also show the live figure.

    Returns
    -------
    Tracking
        To be passed as `fedlab.run(..., live=...)`, and likewise to `fedlab.grid`.

    Raises
    ------
    ModuleNotFoundError
        If MLflow is not installed.
    """
    try:
        from mlflow import MlflowClient
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"MLflow {HELP}") from None
    client = MlflowClient(tracking_uri=uri)
    there = client.get_experiment_by_name(experiment)
    number = client.create_experiment(experiment) if there is None else there.experiment_id

    def known(name: str) -> bool:
        return bool(client.search_runs([number], f"tags.`{TAG}` = '{name}'", max_results=1))

    return Tracking(lambda title: _MLflow(client, number, title), known, live)


class _MLflow:
    """A run of MLflow."""

    def __init__(self, client: Any, experiment: str, title: str) -> None:
        self._client = client
        self._run = client.create_run(experiment, run_name=title).info.run_id

    def log(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        for first in range(0, len(metrics), MOST):
            self._client.log_batch(self._run, metrics=metrics[first : first + MOST])

    def keep(self, run: Run) -> None:
        for name, value in _settings(run).items():
            self._client.log_param(self._run, name, value)
        self._client.log_artifacts(self._run, str(run.folder))
        self._client.set_tag(self._run, TAG, run.folder.name)
        self._client.set_terminated(self._run)


def tensorboard(folder: str | Path = "out/tensorboard", *, live: bool | Observer = True) -> Tracking:
    """Observer that mirrors each run into TensorBoard: values of rounds, and the card of the run as text.

    Parameters
    ----------
    folder : str or Path, default "out/tensorboard"
        The folder for `tensorboard --logdir`, in which each run gets a folder.
    live : bool or Observer, default True
        Also show the live figure.

    Returns
    -------
    Tracking
        To be passed as `fedlab.run(..., live=...)`, and likewise to `fedlab.grid`.

    Raises
    ------
    ModuleNotFoundError
        If TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"TensorBoard {HELP}") from None
    root = Path(folder)

    def known(name: str) -> bool:
        return any(path.read_text(encoding="utf-8") == name for path in root.glob(f"*/{TAG}"))

    return Tracking(lambda title: _TensorBoard(SummaryWriter, root, title), known, live)


class _TensorBoard:
    """A folder of TensorBoard."""

    def __init__(self, writer: Any, root: Path, title: str) -> None:
        stem = re.sub(r"\W+", "-", title).strip("-")
        self._folder = root / f"{stem}-{time.time_ns() // 1000}"
        self._writer = writer(str(self._folder))

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def keep(self, run: Run) -> None:
        card = run.folder / "card.md"
        self._writer.add_text("card", card.read_text(encoding="utf-8") if card.exists() else run.folder.name)
        self._writer.add_text("settings", "\n".join(f"    {name}: {text}" for name, text in _settings(run).items()))
        self._writer.close()
        (self._folder / TAG).write_text(run.folder.name, encoding="utf-8")
