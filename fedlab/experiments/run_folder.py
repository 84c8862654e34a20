"""The run folder: all files of a finished run, readable without the code that made it."""

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet
import torch
from filelock import BaseFileLock, FileLock, Timeout
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedlab.core import files
from fedlab.core.files import DamagedError
from fedlab.core.registry import nearest
from fedlab.core.warnings import warn
from fedlab.core.weights import Weights
from fedlab.data import catalogue
from fedlab.evaluation.evaluate import owners
from fedlab.experiments import overview
from fedlab.experiments.experiment import DESCRIBED, Experiment
from fedlab.experiments.recorder import CHECKPOINT, Recorder
from fedlab.experiments.report_card import card, environment
from fedlab.federation import Ensemble, Localised
from fedlab.partitioning.partitions import Partition

FORMAT = 4  # of the run folder; a folder of another format is refused
UNFINISHED, LOCKS = ".unfinished", ".locks"
CHOICES = ("last", "best")
ABOUT, WEIGHTS = "experiment.json", "weights.safetensors"
TABLES = ("partition", "rounds", "predictions", "ledger", "events", "visits")
FILES = (ABOUT, WEIGHTS, "environment.json", "card.md", *(f"{name}.parquet" for name in TABLES))
SCRATCH = (CHECKPOINT, "*.jsonl", "*.writing")  # of the training; removed once the run is finished
KEYS: dict[str, type] = {"experiment": dict, "task": str, "classes": list, "headline": str, "unseen": list}
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run; its tables and weights are read from its folder when they are first used.

    A file whose bytes are not those that were stored is refused with a `DamagedError` that names it.

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
        path = self.folder / ABOUT
        with _reading(path):
            about = files.read_json(path)
            if "format" not in about:
                raise DamagedError(f"{path} is damaged: it names no format")
        if about["format"] != FORMAT:
            raise (ValueError if is_intact(path) else DamagedError)(
                f"{self.folder} was written in format {about['format']} of the run folder, says {ABOUT}, this fedlab"
                f" {version('fedlab-workbench')} reads format {FORMAT}: install the fedlab that wrote it, or move"
                " the folder away and run the experiment again"
            )
        with _reading(path):
            files.verify(path)
            for key, kind in KEYS.items():
                if not isinstance(about.get(key), kind):
                    raise DamagedError(f"{path} is damaged: its {key!r} is {about.get(key)!r}")
        return about

    @cached_property
    def experiment(self) -> Experiment:
        try:
            return Experiment(**self._about["experiment"])
        except ValueError as error:
            raise ValueError(
                f"{self.folder} describes an experiment that is not known here ({error}): define functions of your own"
                " that it names, or install the fedlab that wrote it, see its environment.json"
            ) from error

    @property
    def method(self) -> str:
        return str(self._about["experiment"].get("method") or self.experiment.method)

    @property
    def classes(self) -> list[str]:
        return list(self._about["classes"])

    @property
    def structures(self) -> list[str]:
        """Names of the mask values of a segmentation task, background first; empty for other tasks."""
        return list(self._about.get("structures", []))

    @property
    def target(self) -> str | None:
        """The column that a regression predicts; None for other tasks."""
        return self._about.get("target")

    @property
    def target_scale(self) -> tuple[float, float]:
        """Mean and standard deviation by which targets were standardised: what stored weights predict times the second,
        plus the first, is in the unit of the target; (0, 1) for other tasks."""
        return tuple(self._about.get("target_scale", (0.0, 1.0)))

    @property
    def task(self) -> str:
        return str(self._about["task"])

    @property
    def headline(self) -> str:
        """The metric by which models are chosen and which figures show first."""
        return str(self._about["headline"])

    @property
    def partition_spec(self) -> dict[str, Any]:
        """The arguments that made the partition, and its notes; `sites` is "explicit" if they were given by case."""
        return dict(self._about.get("partition", {}))

    @property
    def unseen(self) -> tuple[str, ...]:
        """Sites held out of training."""
        return tuple(self._about["unseen"])

    @property
    def partition_fingerprint(self) -> str:
        """Identifies cases, pixels, masks, sites, splits, scanners and readers; empty in runs of early versions."""
        return str(self._about.get("partition_fingerprint", ""))

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of parts of the partition (dataset, pixels, scanners, readers), see `Partition`."""
        return dict(self._about.get("fingerprints", {}))

    @property
    def code(self) -> dict[str, str]:
        """Name -> version of each function of the user's own that the experiment names."""
        return dict(self._about.get("code", {}))

    @cached_property
    def environment(self) -> dict[str, Any]:
        """What computed the run: versions, commit, hardware, folder of the dataset, and text of the user's own code."""
        path = self.folder / "environment.json"
        with _reading(path):
            return dict(files.read_json(files.verify(path)))

    @property
    def weights_version(self) -> str:
        """Hash of the file of weights from which the run started; empty if there was none."""
        return str(self._about.get("weights", ""))

    @cached_property
    def partition_table(self) -> pd.DataFrame:
        """The site and split of each case: columns case, site, split; held-out sites included."""
        return self._table("partition")

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """Metrics of each round in tidy form: round, model, site, split, metric, value, bytes, steps, samples, seconds.

        split: train (loss, influence; at site "all sites" the measures of `engine.update_statistics` and the critical
        path), val, test, and unseen for the test cases of held-out sites.
        """
        return self._table("rounds")

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """Class probabilities case by case: model, choice, site, split, case, unit, label, p0, p1, ...

        Of a segmentation task, for each structure k but the background, voxels that are rightly (tp1) and wrongly (fp1)
        called the structure, voxels of it that are missed (fn1), the 95 % Hausdorff distance (hd1, in mm if the card
        states a spacing), the normalised surface dice (nsd1), the true lesions (lesions1), those of them that are found
        (hits1) and predicted ones that are false (false1), see `fedlab.learning.mask_metrics`. Of a regression the
        target and the prediction, in the unit of the target.

        split: val, test, or unseen for held-out sites. label: the true one; `annotated`, where sites differ in
        annotation, is the one that the site's readers wrote.
        """
        return self._table("predictions").rename(columns={"marked": "annotated"})  # as earlier versions called it

    @cached_property
    def ledger(self) -> pd.DataFrame:
        """Messages between sites and server: round, site, direction (down, up, peer), other, what, bytes, messages.

        other: the server or the other site.
        """
        return self._table("ledger")

    @cached_property
    def events(self) -> pd.DataFrame:
        """Absent, late, failed, elected and excluded sites: columns round, site, event, detail."""
        return self._table("events")

    @cached_property
    def visits(self) -> pd.DataFrame:
        """A travelling model after each visit: round, visit, at, site, metric, value on validation cases.

        Empty unless the experiment has watch_visits=True.
        """
        return self._table("visits")

    @property
    def models(self) -> list[str]:
        """Models whose weights are stored: "global", or the names of sites."""
        with _reading(self._weights), safe_open(self._weights, "pt") as file:
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
        with _reading(self._weights), safe_open(self._weights, "pt") as file:
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
        with _reading(self._weights), safe_open(self._weights, "pt") as file:
            about = {key: json.loads(text) for key, text in file.metadata().items()}
            stored = about["same"].get(f"{choice}/{model}", f"{choice}/{model}")
            known = _owners(file)
            if model in known and choice in CHOICES:
                return {name: file.get_tensor(f"{stored}/{name}") for name in about["names"]}
        raise ValueError(
            f"this run has no {choice!r} model {model!r}: {nearest(model, known)} Choices: {', '.join(CHOICES)}"
        )

    @cached_property
    def _weights(self) -> Path:
        """The file of weights, verified once."""
        path = self.folder / WEIGHTS
        with _reading(path):
            return files.verify(path)

    def _table(self, name: str) -> pd.DataFrame:
        path = self.folder / f"{name}.parquet"
        with _reading(path):
            return pd.read_parquet(files.verify(path))

    def check(self) -> None:
        """Refuse a folder with a damaged file; of weights only the header is read, the rest when they are used.

        Raises
        ------
        DamagedError
            With the name of the file, the damage, and what to do.
        """
        for name in FILES:
            path = self.folder / name
            with _reading(path):
                if name == WEIGHTS:
                    with safe_open(path, "pt") as file:
                        file.metadata()
                elif files.verify(path).suffix == ".parquet":
                    pyarrow.parquet.read_metadata(path)

    def __repr__(self) -> str:
        described = self._about["experiment"]
        return f"Run({described.get('dataset')}, {self.method}, seed {described.get('seed')}: {self.folder})"

    def _repr_html_(self) -> str | None:
        try:
            described = {**self._about["experiment"], "method": self.method}
            return overview.run(described, self.rounds, self.headline, self.unseen, self.folder).html()
        except DamagedError:  # named where the run is used
            return None


def is_intact(path: Path) -> bool:
    """Whether the bytes of a file are those that were stored."""
    try:
        return bool(files.verify(path))
    except DamagedError:
        return False


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Name file, damage and remedy, whatever a library raises that reads the file."""
    remedy = f"remove the folder {path.parent} and run the experiment again"
    try:
        yield
    except DamagedError as error:
        text = str(error)
        raise DamagedError(text if remedy in text else f"{text}: {remedy}") from None
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing: {remedy}") from None
    except (PermissionError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DamagedError(f"{path} is damaged ({reason}): {remedy}") from error


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
    path = files.resolve(folder)
    if path.name.endswith(UNFINISHED):
        raise ValueError(f"{path} is an unfinished run: run its experiment again, and it resumes")
    if not is_run_folder(path):
        raise ValueError(f"{folder} is no run folder: it has no {ABOUT}")
    run = Run(path)
    _ = run._about  # read and checked now
    return run


def find(root: str | Path) -> list[Run]:
    """Find all finished runs in a folder.

    Parameters
    ----------
    root : str or Path
        The folder that holds run folders.

    Returns
    -------
    list of Run
        In order of name. Damaged folders and those of another format are left out with a warning.

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
    for folder in sorted(files.resolve(root).glob("*")):
        try:
            if not folder.name.endswith(UNFINISHED) and is_run_folder(folder):
                run = read(folder)
                run.check()
                found.append(run)
        except (ValueError, OSError) as error:
            warn(f"left out: {error}")
    return found


def is_run_folder(folder: Path) -> bool:
    """Whether a folder holds a finished run, or what is left of one."""
    return any((folder / name).is_file() for name in (ABOUT, WEIGHTS, "rounds.parquet"))


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
        In order of name. Runs of functions that are not defined here are left out with a warning.
    """
    wanted = _setting(experiment)
    return [run for run in known(find(root)) if _setting(run.experiment) == wanted]


def known(found: Iterable[Run]) -> list[Run]:
    """Leave out, with a warning, runs of functions that are not defined here, such as those of a notebook's cell."""
    kept = []
    for run in found:
        try:
            _ = run.experiment
        except ValueError as error:
            warn(f"left out: {error}")
        else:
            kept.append(run)
    return kept


def _setting(experiment: Experiment) -> dict[str, Any]:
    """All that runs share which differ in method and seed only; `execution` changes no result."""
    fields = experiment.model_dump(exclude={"method", "seed", "execution"})
    return fields | {"dataset": str(catalogue.folder_of(experiment.dataset) or experiment.dataset)}


def folder_of(experiment: Experiment, part: Partition, root: Path) -> Path:
    """The folder of an experiment's run, finished or not; that of an earlier version if there is one."""
    own, method = catalogue.folder_of(experiment.dataset), experiment.method
    name, former_name = (Path(text).name for text in (experiment.dataset, experiment.asked.dataset))
    now = root / _named_after(part.cases.name if own else name, method, experiment.identity(part, FORMAT))
    former = root / _named_after(former_name, method, experiment.former_identity(part, FORMAT))
    there = not now.exists() and (former.exists() or unfinished(former).exists())
    return former if there else now


def _named_after(dataset: str, method: str, identity: str) -> str:
    """The name of a run folder: words that may be cut, and the hash that tells runs apart."""
    words = files.file_name(f"{dataset}-{method}", files.LONGEST - len(f"-{identity}{UNFINISHED}"))
    return f"{words}-{identity}"


def unfinished(target: Path) -> Path:
    """The folder in which a run is kept until it is finished."""
    return target.with_name(target.name + UNFINISHED)


def finished(target: Path, experiment: Experiment, part: Partition) -> Run:
    """Read the finished run of an experiment; DamagedError if its folder holds anything else."""
    remedy = f"remove the folder {target} and run the experiment again"
    if not (target / ABOUT).is_file():
        raise DamagedError(f"{target} is damaged: it has no {ABOUT}: {remedy}")
    run = read(target)
    wanted, stored = (
        one.model_dump(exclude={*DESCRIBED, "execution", "weights"}) for one in (experiment, run.experiment)
    )
    if stored != wanted or run._about.get("partition_fingerprint", part.fingerprint) != part.fingerprint:
        raise DamagedError(f"{target} is damaged: it holds the files of another run: {remedy}")
    _remove_scratch(target)  # of a process that was killed before it came to it
    return run


def finish(record: Recorder, experiment: Experiment, target: Path) -> Run:
    """Write all files into the unfinished folder, their checksums last, then publish it."""
    work, part = unfinished(target), record.fed.partition
    tables = {
        "partition": part.table,
        "rounds": record.frame(),
        "predictions": record.predictions(),
        "ledger": record.fed.ledger.frame(),
        "events": record.fed.round_log.event_frame(),
        "visits": record.fed.round_log.visit_frame(),
    }
    for name in TABLES:
        _write_table(work / f"{name}.parquet", tables[name])
    _save_weights(record, work / WEIGHTS)
    files.write_json(work / "environment.json", environment(record, experiment))
    files.write_text(work / "card.md", card(record, experiment))
    files.write_json(work / ABOUT, _about(record, experiment))
    files.write_checksums(work, FILES)
    return publish(target)


def _write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write the file that `frame.to_parquet(path, index=False)` writes, in two thirds of the time for a small table."""
    table = pyarrow.Table.from_pandas(frame, preserve_index=False)
    with path.open("wb") as file:
        pyarrow.parquet.write_table(table, file)


def is_whole(work: Path) -> bool:
    """Whether an unfinished folder holds all files of its run as they were stored, and only lacks its name."""
    try:
        stored = files.read_json(work / files.CHECKSUMS)
        return stored.keys() == set(FILES) and all(is_intact(work / name) for name in FILES)
    except (OSError, ValueError):
        return False


def publish(target: Path) -> Run:
    """Rename a whole folder in one step, then remove what only the training needed."""
    unfinished(target).replace(target)
    _remove_scratch(target)
    return Run(target)


def _remove_scratch(folder: Path) -> None:
    """Remove checkpoint and rows; they stay where nobody may write."""
    for path in (path for name in SCRATCH for path in folder.glob(name)):
        with contextlib.suppress(OSError):
            path.unlink()


def check_place(target: Path) -> None:
    """Refuse a folder where no run can be kept, before anything is trained.

    Raises
    ------
    OSError
        If the folder that is to hold run folders cannot be made or written to.
    """
    root = target.parent
    try:
        os.fsencode(target)
        for place in (root, root / LOCKS):
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                pass
    except UnicodeError:
        raise ValueError(f"{str(target)!a} {files.NO_UTF8}") from None
    except OSError as error:
        if error.errno in FULL:
            raise
        raise no_place(root, error) from None


def no_place(root: Path, error: OSError) -> OSError:
    """The error that says where no run can be kept, and why."""
    text = f"no run can be kept in {root} ({error.strerror}): choose a folder that can be written to"
    return OSError(error.errno, text)


def lock(target: Path) -> BaseFileLock:
    """Lock one run: a second process that starts it waits, and then finds it finished.

    Raises what `check_place` raises where nothing can be written.
    """
    check_place(target)
    return FileLock(target.parent / LOCKS / target.name)


def state(work: Path) -> str:
    """Whether an unfinished folder is "running", in any process, or "interrupted"."""
    held = work.parent / LOCKS / work.name.removesuffix(UNFINISHED)
    if not held.is_file():
        return "interrupted"
    try:
        with FileLock(held, timeout=0):
            return "interrupted"
    except Timeout:
        return "running"
    except OSError:  # nobody may write there
        return "interrupted"


@contextlib.contextmanager
def keep_on_full_disk(work: Path) -> Iterator[None]:
    """Raise an error with advice when the disk is full, or the folder vanishes; the files written so far stay."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and str(work) in str(error) and not work.exists():
            raise FileNotFoundError(
                errno.ENOENT, f"{work} was removed while its run trained: run the experiment again, from round 1"
            ) from error
        if getattr(error, "errno", None) not in FULL and "No space left" not in str(error):
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
        **({"structures": cases.structures} if cases.task == "segmentation" else {}),
        **({"target": cases.target, "target_scale": list(astuple(record.fed.task.scale))} if cases.target else {}),
        "headline": record.fed.task.metrics[0],
        "partition": record.fed.partition.spec,
        "unseen": list(record.fed.partition.unseen),
        "partition_fingerprint": record.fed.partition.fingerprint,
        "fingerprints": record.fed.partition.fingerprints,
        "code": experiment.code_versions(),
        **({"weights": record.fed.weights_version} if record.fed.weights_version else {}),
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
        "names": list(record.fed.execution.engine.flat.state_dict(record.fed.start)),
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
    state = record.fed.execution.engine.flat.state_dict(weights)
    return {f"{prefix}/{name}": tensor for name, tensor in state.items()}
