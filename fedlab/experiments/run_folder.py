"""The run folder: everything a finished run leaves behind, readable without the code that made it."""

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
from fedlab.experiments.recorder import Recorder
from fedlab.experiments.report_card import card, environment
from fedlab.federation import Ensemble, Localised
from fedlab.partitioning.partitions import Partition

FORMAT = 4  # of the run folder; a folder of another format is refused, not misread
UNFINISHED = ".unfinished"
CHOICES = ("last", "best")


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run, read from its folder when looked at."""

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
        """Name of the metric that models are chosen by and figures show first."""
        return str(self._about["headline"])

    @property
    def unseen(self) -> tuple[str, ...]:
        """Sites held out of training."""
        return tuple(self._about["unseen"])

    @cached_property
    def partition_table(self) -> pd.DataFrame:
        """Which case was whose: case, site, split; unseen sites' among them."""
        return pd.read_parquet(self.folder / "partition.parquet")

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """Tidy: round, model, site, split, metric, value, bytes, steps, samples, seconds.

        split: train (loss, influence; at site "all sites" the measures of `engine.update_statistics` and the critical
        path), val, test, and unseen for the test cases of sites held out of training.
        """
        return pd.read_parquet(self.folder / "rounds.parquet")

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """Case by case: model, choice, site, split, case, unit, label, p0, p1, ...; split is val, test or unseen.

        label: the true one; where sites differ in annotation `marked` beside it, as the site's readers wrote it.
        """
        return pd.read_parquet(self.folder / "predictions.parquet")

    @cached_property
    def ledger(self) -> pd.DataFrame:
        """What crossed: round, site, direction (down, up, peer), other (server or a site), what, bytes, messages."""
        return pd.read_parquet(self.folder / "ledger.parquet")

    @cached_property
    def events(self) -> pd.DataFrame:
        """Who was absent, late, failed, elected or left out: round, site, event, detail."""
        return pd.read_parquet(self.folder / "events.parquet")

    @cached_property
    def visits(self) -> pd.DataFrame:
        """A travelling model between its visits: round, visit, at, site, metric, value on validation cases.

        Empty unless the experiment says watch_visits=True.
        """
        return pd.read_parquet(self.folder / "visits.parquet")

    @property
    def models(self) -> list[str]:
        """Whose weights are kept: "global", or the names of sites."""
        with safe_open(self.folder / "weights.safetensors", "pt") as file:
            return _owners(file)

    def trainable(self, model: str = "global", choice: str = "last") -> Tensor:
        """All trainable parameters of a model as one vector (P,), in float64; normalisation statistics are none."""
        state = self.weights(model, choice)
        with safe_open(self.folder / "weights.safetensors", "pt") as file:
            names = json.loads(file.metadata()["trainable"])
        return torch.cat([state[name].double().flatten() for name in names])

    def weights(self, model: str = "global", choice: str = "last") -> dict[str, Tensor]:
        """Name -> tensor, as a state dict, of the global model or of a site's own, of the last or the best round."""
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
    """A finished run; ValueError where the folder is none, or of another format."""
    path = Path(folder)
    if path.name.endswith(UNFINISHED):
        raise ValueError(f"{path} is an unfinished run: run its experiment again, and it goes on where it stopped")
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
    """All finished runs in a folder, in order of name; what cannot be read is passed over with a warning."""
    found = []
    for folder in sorted(path.parent for path in Path(root).glob("*/experiment.json")):
        if not folder.name.endswith(UNFINISHED):
            try:
                found.append(read(folder))
            except ValueError as error:
                warn(f"passed over: {error}")
    return found


def like(experiment: Experiment, root: str | Path) -> list[Run]:
    """The finished runs that differ from this experiment in method and seed alone: what may be compared."""
    wanted = experiment.with_(method="local", seed=0)
    return [run for run in find(root) if _known(run) and run.experiment.with_(method="local", seed=0) == wanted]


def _known(run: Run) -> bool:
    """Whether this process has what the run names: the functions of a notebook's own cell are known only there."""
    about = run._about["experiment"]
    for field in ("method", "model", "schedule", "participation", "aggregate", "attack"):
        registry = CODE[field]
        if field in about and (name := split_call(about[field], registry.kind)[0]) not in registry:
            told = f"left out: {run.folder} was run with {registry.kind} {name!r}, which nothing here defines"
            warn(told)
            return False
    return True


def folder_of(experiment: Experiment, part: Partition, root: Path) -> Path:
    """Where this experiment's run is, or will be."""
    words = re.sub(r"[^\w.=-]+", "_", f"{Path(experiment.dataset).name}-{experiment.method}").strip("_")
    return root / f"{words}-{experiment.identity(part, FORMAT)}"


def unfinished(target: Path) -> Path:
    """The folder that a run works in until it is finished."""
    return target.with_name(target.name + UNFINISHED)


def finish(record: Recorder, experiment: Experiment, target: Path) -> Run:
    """Write all files into the unfinished folder, then give it its final name in one step."""
    work, part = unfinished(target), record.fed.partition
    part.table.to_parquet(work / "partition.parquet", index=False)
    record.frame().to_parquet(work / "rounds.parquet", index=False)
    record.predictions().to_parquet(work / "predictions.parquet", index=False)
    record.fed.ledger.frame().to_parquet(work / "ledger.parquet", index=False)
    record.fed.journal.event_frame().to_parquet(work / "events.parquet", index=False)
    record.fed.journal.visit_frame().to_parquet(work / "visits.parquet", index=False)
    _save_weights(record, work / "weights.safetensors")
    _write_json(work / "environment.json", environment(record))
    (work / "card.md").write_text(card(record, experiment))
    _write_json(work / "experiment.json", _about(record, experiment))
    for scratch in [work / "checkpoint.safetensors", *work.glob("*.jsonl")]:
        scratch.unlink(missing_ok=True)
    work.replace(target)
    return Run(target)


def alone(target: Path) -> BaseFileLock:
    """A lock on one run: a second process that is asked for it waits, and then finds it finished."""
    locks = target.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / target.name)


@contextlib.contextmanager
def writing(work: Path) -> Iterator[None]:
    """Say what to do when the disk is full; what is written so far stays."""
    try:
        yield
    except Exception as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        if not full:
            raise
        raise OSError(
            errno.ENOSPC,
            f"no space left on the disk of {work}: the rounds so far are kept there; free some space and run the same"
            " experiment again, and it goes on where it stopped",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            work.rmdir()  # only where nothing was begun


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
    """`choice/owner/name` -> tensor; a best model that is the last one is stored once and named in the metadata."""
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
                if "local" in models:  # sites have models of their own, beside their view of the shared one
                    continue
            members = model.models if isinstance(model, Ensemble) else model.sites
            yield from ((site, members[k]) for k, site in enumerate(sites))


def _named(record: Recorder, prefix: str, weights: Weights) -> dict[str, Tensor]:
    state = record.fed.layout.state(weights.to("cpu"))
    return {f"{prefix}/{name}": tensor for name, tensor in state.items()}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
