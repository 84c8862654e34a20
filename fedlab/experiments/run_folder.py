"""The run folder: all files of a finished run, readable without the code that made it."""

import contextlib
import errno
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import BaseFileLock, FileLock
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedlab.core.registry import nearest, split_call
from fedlab.core.warnings import warn
from fedlab.core.weights import Weights
from fedlab.evaluation.evaluate import owners
from fedlab.experiments.experiment import CODE, Experiment
from fedlab.experiments.recorder import CHECKPOINT, Recorder
from fedlab.experiments.report_card import card, environment
from fedlab.federation import Ensemble, Localised
from fedlab.partitioning.partitions import Partition

FORMAT = 4  # of the run folder; a folder of another format is refused
UNFINISHED = ".unfinished"
CHOICES = ("last", "best")


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run; its tables and weights are read from its folder when they are first used.

    Attributes
    ----------
    folder : Path
        The run folder.
    experiment : Experiment
        The description of the run.
    method, task, headline : str
        The method; the task of the dataset; the metric by which models are chosen and which figures show first.
    classes : list of str
        Names of the classes.
    unseen : tuple of str
        Sites held out of training.
    partition_table : pandas.DataFrame
        Columns case, site, split; held-out sites included.
    rounds : pandas.DataFrame
        Columns round, model, site, split, metric, value, bytes, steps, samples, seconds.
    predictions : pandas.DataFrame
        Columns model, choice, site, split, case, unit, label, p0, p1, ...
    ledger : pandas.DataFrame
        Columns round, site, direction, other, what, bytes, messages.
    events : pandas.DataFrame
        Columns round, site, event, detail.
    visits : pandas.DataFrame
        Columns round, visit, at, site, metric, value.
    models : list of str
        Models whose weights are stored: "global", or names of sites.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=1)
    >>> folder = tempfile.TemporaryDirectory()
    >>> run = fedlab.run(base, folder=folder.name)
    >>> run.models, run.headline
    (['global'], 'auroc')
    >>> sorted(run.predictions["split"].unique())
    ['test', 'val']
    >>> {name: tuple(tensor.shape) for name, tensor in run.weights("global").items()}
    {'1.weight': (1, 256), '1.bias': (1,)}
    >>> folder.cleanup()
    """

    folder: Path

    @cached_property
    def _about(self) -> dict[str, Any]:
        return json.loads((self.folder / "experiment.json").read_text())

    @cached_property
    def experiment(self) -> Experiment:
        try:
            return Experiment(**self._about["experiment"])
        except ValueError as error:
            raise ValueError(
                f"{self.folder} describes an experiment that this fedlab does not know ({error}): install the"
                " fedlab that wrote it, see its environment.json"
            ) from error

    @property
    def method(self) -> str:
        return self.experiment.method

    @property
    def classes(self) -> list[str]:
        return list(self._about["classes"])

    @property
    def task(self) -> str:
        return str(self._about["task"])

    @property
    def headline(self) -> str:
        """The metric by which models are chosen and which figures show first."""
        return str(self._about["headline"])

    @property
    def unseen(self) -> tuple[str, ...]:
        """Sites held out of training."""
        return tuple(self._about["unseen"])

    @cached_property
    def partition_table(self) -> pd.DataFrame:
        """The site and split of each case: columns case, site, split; held-out sites included."""
        return pd.read_parquet(self.folder / "partition.parquet")

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """Metrics of each round in tidy form: round, model, site, split, metric, value, bytes, steps, samples, seconds.

        split: train (loss, influence; at site "all sites" the measures of `engine.update_statistics` and the critical
        path), val, test, and unseen for the test cases of held-out sites.
        """
        return pd.read_parquet(self.folder / "rounds.parquet")

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """Class probabilities case by case: model, choice, site, split, case, unit, label, p0, p1, ...

        split: val, test, or unseen for held-out sites. label: the true one; `annotated`, where sites differ in
        annotation, is the one that the site's readers wrote.
        """
        found = pd.read_parquet(self.folder / "predictions.parquet")
        return found.rename(columns={"marked": "annotated"})  # as earlier versions called it

    @cached_property
    def ledger(self) -> pd.DataFrame:
        """Messages between sites and server: round, site, direction (down, up, peer), other, what, bytes, messages.

        other: the server or the other site.
        """
        return pd.read_parquet(self.folder / "ledger.parquet")

    @cached_property
    def events(self) -> pd.DataFrame:
        """Absent, late, failed, elected and excluded sites: columns round, site, event, detail."""
        return pd.read_parquet(self.folder / "events.parquet")

    @cached_property
    def visits(self) -> pd.DataFrame:
        """A travelling model after each visit: round, visit, at, site, metric, value on validation cases.

        Empty unless the experiment has watch_visits=True.
        """
        return pd.read_parquet(self.folder / "visits.parquet")

    @property
    def models(self) -> list[str]:
        """Models whose weights are stored: "global", or the names of sites."""
        with safe_open(self.folder / "weights.safetensors", "pt") as file:
            return _owners(file)

    def trainable(self, model: str = "global", choice: str = "last") -> Tensor:
        """All trainable parameters of a model as one vector, without normalisation statistics.

        Parameters
        ----------
        model : str, default "global"
            A name in `models`.
        choice : {"last", "best"}, default "last"
            The model of the last round, or of the round that is best on validation cases.

        Returns
        -------
        torch.Tensor
            Shape (P,), float64.
        """
        state = self.weights(model, choice)
        with safe_open(self.folder / "weights.safetensors", "pt") as file:
            names = json.loads(file.metadata()["trainable"])
        return torch.cat([state[name].double().flatten() for name in names])

    def weights(self, model: str = "global", choice: str = "last") -> dict[str, Tensor]:
        """State dict of the global model or of the model of a site.

        Parameters
        ----------
        model : str, default "global"
            A name in `models`.
        choice : {"last", "best"}, default "last"
            The model of the last round, or of the round that is best on validation cases.

        Returns
        -------
        dict
            Name -> tensor, as `torch.nn.Module.load_state_dict` takes it.

        Raises
        ------
        ValueError
            If there is no such model or choice.
        """
        with safe_open(self.folder / "weights.safetensors", "pt") as file:
            about = {key: json.loads(text) for key, text in file.metadata().items()}
            stored = about["same"].get(f"{choice}/{model}", f"{choice}/{model}")
            known = _owners(file)
            if model not in known or choice not in CHOICES:
                raise ValueError(
                    f"this run has no {choice!r} model {model!r}: {nearest(model, known)} Choices: {', '.join(CHOICES)}"
                )
            return {name: file.get_tensor(f"{stored}/{name}") for name in about["names"]}

    def __repr__(self) -> str:
        return f"Run({self.experiment.dataset}, {self.method}, seed {self.experiment.seed}: {self.folder})"


def _owners(file: Any) -> list[str]:
    """The owners of the weights in a file of `choice/owner/name` tensors."""
    return sorted({key.split("/", 1)[1].rsplit("/", 1)[0] for key in file.keys()})  # noqa: SIM118


def read(folder: str | Path) -> Run:
    """Read a finished run.

    Parameters
    ----------
    folder : str or Path
        A run folder.

    Returns
    -------
    Run

    Raises
    ------
    ValueError
        If the folder is no run folder, unfinished, damaged or of another format.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.runs.read("no/such/folder")
    Traceback (most recent call last):
    ...
    ValueError: no/such/folder is no run folder: it has no experiment.json
    """
    path = Path(folder)
    if path.name.endswith(UNFINISHED):
        raise ValueError(f"{path} is an unfinished run: run its experiment again, and it resumes")
    if not (path / "experiment.json").is_file():
        raise ValueError(f"{path} is no run folder: it has no experiment.json")
    try:
        found = json.loads((path / "experiment.json").read_text()).get("format")
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is damaged (experiment.json: {error}): remove it and run the experiment again"
        ) from None
    if found != FORMAT:
        raise ValueError(
            f"{path} was written in format {found} of the run folder, this fedlab {version('fedlab-workbench')} reads"
            f" format {FORMAT}: run the experiment again (the old folder stays), or install the fedlab that wrote it"
        )
    return Run(path)


def find(root: str | Path) -> list[Run]:
    """Find all finished runs in a folder.

    Parameters
    ----------
    root : str or Path
        The folder that holds run folders.

    Returns
    -------
    list of Run
        In order of name. Folders that cannot be read are left out with a warning.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     runs = fedlab.grid(base, folder=folder, method=["local", "fedavg"])
    ...     print([run.method for run in fedlab.runs.find(folder)])
    ...     print([run.method for run in fedlab.runs.like(base, folder)])
    ['fedavg', 'local']
    ['fedavg', 'local']
    """
    found = []
    for folder in sorted(path.parent for path in Path(root).glob("*/experiment.json")):
        if not folder.name.endswith(UNFINISHED):
            try:
                found.append(read(folder))
            except ValueError as error:
                warn(f"left out: {error}")
    return found


def like(experiment: Experiment, root: str | Path) -> list[Run]:
    """Find the finished runs that differ from an experiment only in method and seed, so that they can be compared.

    Parameters
    ----------
    experiment : Experiment
    root : str or Path
        The folder that holds run folders.

    Returns
    -------
    list of Run
        In order of name. Runs of methods that are not defined here are left out with a warning.
    """
    wanted = experiment.with_(method="local", seed=0)
    return [run for run in find(root) if _known(run) and run.experiment.with_(method="local", seed=0) == wanted]


def _known(run: Run) -> bool:
    """Whether all functions that the run names are defined here; those of a notebook's cell are known only there."""
    about = run._about["experiment"]
    for field in ("method", "model", "schedule", "participation", "aggregate", "attack"):
        registry = CODE[field]
        if field in about and (name := split_call(about[field], registry.kind)[0]) not in registry:
            warn(f"left out: {run.folder} was run with {registry.kind} {name!r}, which is not defined here")
            return False
    return True


def folder_of(experiment: Experiment, part: Partition, root: Path) -> Path:
    """The folder of an experiment's run, finished or not."""
    words = re.sub(r"[^\w.=-]+", "_", f"{Path(experiment.dataset).name}-{experiment.method}").strip("_")
    return root / f"{words}-{experiment.identity(part, FORMAT)}"


def unfinished(target: Path) -> Path:
    """The folder in which a run is kept until it is finished."""
    return target.with_name(target.name + UNFINISHED)


def finish(record: Recorder, experiment: Experiment, target: Path) -> Run:
    """Write all files into the unfinished folder, then rename it in one step."""
    work, part = unfinished(target), record.fed.partition
    part.table.to_parquet(work / "partition.parquet", index=False)
    record.frame().to_parquet(work / "rounds.parquet", index=False)
    record.predictions().to_parquet(work / "predictions.parquet", index=False)
    record.fed.ledger.frame().to_parquet(work / "ledger.parquet", index=False)
    record.fed.round_log.event_frame().to_parquet(work / "events.parquet", index=False)
    record.fed.round_log.visit_frame().to_parquet(work / "visits.parquet", index=False)
    _save_weights(record, work / "weights.safetensors")
    _write_json(work / "environment.json", environment(record))
    (work / "card.md").write_text(card(record, experiment))
    _write_json(work / "experiment.json", _about(record, experiment))
    for scratch in [work / CHECKPOINT, *work.glob("*.jsonl")]:
        scratch.unlink(missing_ok=True)
    work.replace(target)
    return Run(target)


def lock(target: Path) -> BaseFileLock:
    """Lock one run: a second process that starts it waits, and then finds it finished."""
    locks = target.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / target.name)


@contextlib.contextmanager
def keep_on_full_disk(work: Path) -> Iterator[None]:
    """Raise an error with advice when the disk is full; the files written so far stay."""
    try:
        yield
    except Exception as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        if not full:
            raise
        raise OSError(
            errno.ENOSPC,
            f"no space left on the disk of {work}: the rounds so far are kept there; free some space and run the same"
            " experiment again, and it resumes",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            work.rmdir()  # only if it is empty


def _about(record: Recorder, experiment: Experiment) -> dict[str, Any]:
    cases = record.fed.partition.cases
    return {
        "format": FORMAT,
        "experiment": experiment.model_dump(),
        "task": cases.task,
        "classes": cases.classes,
        "headline": record.fed.task.metrics[0],
        "partition": record.fed.partition.spec,
        "unseen": list(record.fed.partition.unseen),
        "partition_fingerprint": record.fed.partition.fingerprint,
    }


def _save_weights(record: Recorder, path: Path) -> None:
    """Write tensors under choice/owner/name; a best model that equals the last one is only named in the metadata."""
    tensors: dict[str, Tensor] = {}
    same: dict[str, str] = {}
    last = dict(_each_model(record, "last"))
    for owner, weights in last.items():
        tensors |= _named(record, f"last/{owner}", weights)
    for owner, weights in _each_model(record, "best"):
        if torch.equal(weights.vector, last[owner].vector):
            same[f"best/{owner}"] = f"last/{owner}"
        else:
            tensors |= _named(record, f"best/{owner}", weights)
    layout = record.fed.layout
    about = {
        "same": same,
        "rounds": record.selection.round,
        "names": [e.name for e in layout.entries] + [*layout.counters],
        "trainable": [e.name for e in layout.entries if e.stop <= layout.trained],
    }
    save_file(tensors, path, metadata={key: json.dumps(value) for key, value in about.items()})


def _each_model(record: Recorder, choice: str) -> Iterator[tuple[str, Weights]]:
    models = record.last if choice == "last" else record.selection.models
    sites = record.selection.sites
    for owner, model in owners(models, sites).items():
        if isinstance(model, Weights):
            yield owner, model
        else:
            if isinstance(model, Localised):
                yield owner, model.shared
                if "local" in models:  # sites have their own models besides
                    continue
            members = model.models if isinstance(model, Ensemble) else model.sites
            yield from ((site, members[k]) for k, site in enumerate(sites))


def _named(record: Recorder, prefix: str, weights: Weights) -> dict[str, Tensor]:
    state = weights.to("cpu").state_dict()
    return {f"{prefix}/{name}": tensor for name, tensor in state.items()}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
