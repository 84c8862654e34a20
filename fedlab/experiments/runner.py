"""Run one experiment or a grid. Finished runs are loaded, interrupted runs resume."""

import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from fedlab import algorithms
from fedlab.core.files import resolve
from fedlab.core.registry import nearest
from fedlab.core.warnings import ProtocolWarning, each_once, warn
from fedlab.data import catalogue
from fedlab.data.cases import Cases
from fedlab.data.home import home
from fedlab.engine.devices import Load, device_name, find_device, idle_gpu
from fedlab.engine.seed_batching import LockstepRun
from fedlab.engine.thread_pool import threads_for
from fedlab.experiments import run_folder
from fedlab.experiments.experiment import DESCRIBED, Experiment
from fedlab.experiments.interruption import explained
from fedlab.experiments.multi_seed import MAX_RUNS, run_in_lockstep, seed_groups, worthwhile
from fedlab.experiments.no_effect import never_changed, unused_settings
from fedlab.experiments.observer import Observer, announce, find_observer, finished, plan
from fedlab.experiments.processes import PendingRun, run_in_processes
from fedlab.experiments.recorder import Recorder
from fedlab.experiments.run_folder import Run
from fedlab.experiments.time_estimate import foresee
from fedlab.federation import Federation
from fedlab.learning import pretrained
from fedlab.learning.networks import network
from fedlab.learning.patches import check_sizes, input_shape
from fedlab.learning.tasks import task_of
from fedlab.partitioning.partitions import Partition

Folder = str | Path | None
ALONE = ("local", "centralized")  # methods that make sense with one site


def run(
    experiment: Experiment,
    partition: Partition | None = None,
    *,
    folder: str | Path | None = None,
    live: bool | Observer = False,
) -> Run:
    """Train and evaluate one experiment.

    The run folder is written as a whole or not at all. A finished identical run is loaded; an interrupted one resumes
    after its last finished round, bit for bit.

    Parameters
    ----------
    experiment : Experiment
        The description of the run.
    partition : Partition, optional
        An explicit partition; by default the one that the experiment describes. The run's experiment then has the
        dataset and the settings of this partition; other values of these fields are refused.
    folder : str or Path, optional
        Where run folders are kept, by default `$FEDLAB_RUNS` or `out/runs`.
    live : bool or Observer, default False
        True shows one figure that follows the training; an observer is called after every round.

    Returns
    -------
    Run
        The finished run, read from its folder.

    Raises
    ------
    ProtocolError
        If the data of a site do not fit the task.
    DivergedError
        If training diverges at a site.
    OSError
        If the disk is full. The rounds so far are kept.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=2)
    >>> folder = tempfile.TemporaryDirectory()
    >>> run = fedlab.run(base, folder=folder.name)
    >>> int(run.rounds["round"].max())
    2
    >>> fedlab.run(base, folder=folder.name).folder == run.folder  # loaded, not trained again
    True
    >>> folder.cleanup()
    """
    if partition is not None:
        experiment = experiment.describing(partition)
    observer = find_observer(live)
    with explained(lambda: f"the finished rounds are kept in {root_of(folder)}"):
        _announce_partition(observer, experiment, partition)
        return _run(experiment, partition, folder, observer)


def grid(
    experiment: Experiment,
    *,
    partition: Partition | None = None,
    folder: str | Path | None = None,
    live: bool | Observer = False,
    workers: int = 1,
    **axes: list[Any],
) -> list[Run]:
    """Run one experiment for each combination of values.

    All combinations are validated before the first run starts. Finished runs are loaded, not run again. Where sites
    are batched (see the field `execution`), runs that differ only in their seed train in lock-step as one model.

    Parameters
    ----------
    experiment : Experiment
        The settings that all runs share.
    partition : Partition, optional
        An explicit partition for all runs.
    folder : str or Path, optional
        Where run folders are kept, by default `$FEDLAB_RUNS` or `out/runs`.
    live : bool or Observer, default False
        True shows one figure that follows one run after the other, or one line of progress where several train at a
        time.
    workers : int, default 1
        Runs at a time, each in its own process with its share of the processor's cores. Runs on GPUs are placed round
        robin in their order.
    **axes : list
        Values of fields of the experiment, such as `method=["local", "fedavg"], seed=[0, 1]`.

    Returns
    -------
    list of Run
        One for each combination, the last axis fastest.

    Raises
    ------
    ValueError
        If a field is unknown, a combination is invalid, or `workers` is below 1.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     runs = fedlab.grid(base, folder=folder, method=["local", "fedavg"], seed=[0, 1])
    ...     print([(run.method, run.experiment.seed) for run in runs])
    [('local', 0), ('local', 1), ('fedavg', 0), ('fedavg', 1)]
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ValueError(f"workers={workers!r}: give a number of processes, from 1 up")
    begun, observer, runs, total = time.perf_counter(), find_observer(live), list[Run](), 0
    kept = f"all finished rounds are kept in {root_of(folder)}"
    with explained(lambda: f"{len(runs)} of {total or 'the'} runs are finished, and {kept}"), each_once():
        _announce_partition(observer, experiment, partition)
        total = len(experiments := _combinations(experiment, partition, axes))
        for one in _trained(experiments, partition, folder, observer, workers):
            runs.append(one)
    if observer is not None:
        observer.conclude(f"{len(runs)} runs in {time.perf_counter() - begun:.0f} s")
    return runs


def _trained(
    experiments: list[Experiment], partition: Partition | None, folder: Folder, observer: Observer | None, workers: int
) -> Iterator[Run]:
    """Load or train each experiment of a grid, in their order."""
    if workers > 1 and (pending := _unfinished(experiments, partition, folder)):
        run_in_processes(run_into, pending, workers, None if observer is None else observer.tell)
    elif observer is not None:
        plan(observer, [one.experiment.rounds for one in _unfinished(experiments, partition, folder)])
    groups = {id(group[0]): group for group in (seed_groups(experiments) if workers == 1 else [])}
    for one in experiments:
        _run_seeds(groups.get(id(one), []), partition, folder, observer)
        yield _run(one, partition, folder, observer)


def _announce_partition(observer: Observer | None, experiment: Experiment, partition: Partition | None) -> None:
    """Say what is done before the first round of a large federation, which may take a while."""
    if partition is None:
        announce(observer, f"loading {experiment.dataset} and partitioning it: sites={experiment.sites!r}")


def _combinations(experiment: Experiment, partition: Partition | None, axes: dict[str, list[Any]]) -> list[Experiment]:
    """All experiments of a grid, the last axis fastest; ValueError before any of them runs."""
    for name, values in axes.items():
        if name not in Experiment.model_fields:
            raise ValueError(f"unknown parameter {name!r}: {nearest(name, Experiment.model_fields)}")
        if isinstance(values, str) or not hasattr(values, "__iter__"):
            raise ValueError(f"{name}={values!r}: a grid takes a list of values, such as [{values!r}]")
        if hasattr(values, "__len__") and not len(values):
            raise ValueError(f"{name}={values!r} has no value, so that nothing would run: give at least one")
        if partition is not None and name in DESCRIBED:
            raise ValueError(f"{name!r} describes a federation, but `partition` is one: leave out one of the two")
    each = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    experiments = [experiment.with_(**changes) for changes in each]
    if partition is not None:
        experiments = [one.describing(partition) for one in experiments]
    for device in {one.device for one in experiments}:
        find_device(device)
    for one in experiments:
        one.check_sites(partition)
    if len(experiments) > 1:
        _check_federations(experiments, partition)
    return experiments


def _check_federations(experiments: list[Experiment], partition: Partition | None) -> None:
    """Make each partition and each model of a grid once; ValueError where one of them is impossible."""
    decisive = {
        *DESCRIBED,
        "model",
        "batchnorm",
        "loss",
        "target_scale",
        "class_weights",
        "weights",
        "trainable",
        "crop",
        "precision",
    }
    distinct = {json.dumps(one.model_dump(include=decisive)): one for one in experiments}
    for one in distinct.values():
        _check_model(one, (partition or _partition_of(one)).cases)


def _check_model(experiment: Experiment, cases: Cases) -> None:
    """Build the model once; ValueError where model, weights, loss, crops or class weights do not fit the dataset."""
    check_sizes(cases, experiment.crop)
    task = task_of(cases, experiment.loss, experiment.class_weights)
    file = None if experiment.weights is None else pretrained.read(experiment.weights)
    about = experiment.model, experiment, input_shape(cases.shape, experiment.crop), task.outputs
    network(*about, seed=experiment.seed, dense=task.dense, file=file)


def _unfinished(experiments: list[Experiment], partition: Partition | None, folder: Folder) -> list[PendingRun]:
    """The runs that have no finished folder yet."""
    targets = {_target(one, partition or _partition_of(one), folder): one for one in experiments}
    return [PendingRun(one, partition, target) for target, one in targets.items() if not target.exists()]


def _run_seeds(group: list[Experiment], partition: Partition | None, folder: Folder, observer: Observer | None) -> None:
    """Run those experiments of a group that are not finished in lock-step, where that is faster."""
    if len(group) > 1 and group[0].execution in ("auto", "vmap"):
        part = partition or _partition_of(group[0])
        pending = _unfinished(group, part, folder)
        if len(pending) > 1 and worthwhile(group[0], part):
            in_thread = partial(_run_in_thread, _current_gpu(group[0]))
            run_in_lockstep(in_thread, pending, None if observer is None else observer.tell)


def _current_gpu(experiment: Experiment) -> int | None:
    """The GPU that "cuda" means in this thread; a new thread would start with GPU 0."""
    return torch.cuda.current_device() if find_device(experiment.device).type == "cuda" else None


def _run_in_thread(
    gpu: int | None, experiment: Experiment, partition: Partition, target: Path, lockstep: LockstepRun
) -> None:
    """Run one of several experiments in lock-step."""
    if gpu is not None:
        torch.cuda.set_device(gpu)
    _execute(experiment, partition, target, None, lockstep)


def _run(experiment: Experiment, partition: Partition | None, folder: Folder, observer: Observer | None) -> Run:
    part = partition or _partition_of(experiment)
    done = _execute(experiment, part, _target(experiment, part, folder), observer)
    finished(observer, done)
    return done


def planned_folders(experiments: Sequence[Experiment], folder: Folder) -> list[Path]:
    """The folders in which `run` keeps experiments of one federation and model; ValueError if these are impossible."""
    first, part = experiments[0], _partition_of(experiments[0])
    _check_model(first, part.cases)
    return [_target(one, part, folder) for one in experiments]


def run_into(experiment: Experiment, partition: Partition | None, target: Path) -> None:
    """Run one experiment in the folder that was planned; the source of the user's own code may be missing here."""
    _execute(experiment, partition or _partition_of(experiment), target, None)


def _target(experiment: Experiment, part: Partition, folder: Folder) -> Path:
    return run_folder.folder_of(experiment, part, root_of(folder))


def root_of(folder: Folder) -> Path:
    """The folder of run folders, in its one form."""
    if folder is None:
        folder = os.environ.get("FEDLAB_RUNS") or "out/runs"
    if not isinstance(folder, str | Path):
        raise ValueError(f"folder is {folder!r}: give the path of a folder for run folders, or leave it out")
    root = resolve(folder)
    try:
        root.exists()
    except OSError as error:  # a name that is too long
        raise run_folder.no_place(root, error) from None
    return root


def _execute(
    experiment: Experiment,
    part: Partition,
    target: Path,
    observer: Observer | None,
    lockstep: LockstepRun | None = None,
) -> Run:
    """Load the finished run of a folder, or train it in the unfinished folder and publish that as a whole."""
    if target.exists():  # before the lock, for folders without write access
        return run_folder.finished(target, experiment, part)
    work = run_folder.unfinished(target)
    with run_folder.keep_on_full_disk(work), run_folder.lock(target), _repeatable():
        if run_folder.is_whole(work) and not target.exists():  # killed before it was renamed
            run_folder.publish(target)
        if target.exists():
            return run_folder.finished(target, experiment, part)
        work.mkdir(parents=True, exist_ok=True)
        fed = Federation(part, experiment.model, experiment, lockstep)
        _check_weights(experiment, fed)
        if len(part.sites) == 1 and (method := experiment.method.split("(")[0].strip()) not in ALONE:
            warn(
                f"{method!r} has one site, {part.sites[0]!r}, so that it trains alone and nothing is merged: give two"
                " or more sites (sites=4, or a column of the table), or method='local'",
                ProtocolWarning,
            )
        if reason := idle_gpu(experiment, fed.device, _load(fed, 1 if lockstep is None else MAX_RUNS)):
            warn(reason)
        with threads_for(fed.execution.parameters, fed.device):
            record = _train(experiment, fed, work, observer)
            return run_folder.finish(record, experiment, target)


def _check_weights(experiment: Experiment, fed: Federation) -> None:
    """Refuse a file of weights that has changed since the folder of the run was named after its content."""
    if experiment.weights_version not in ("", fed.weights_version):
        raise ValueError(
            f"weights={experiment.weights!r} has changed since the run was planned: run the experiment again, and the"
            " file's present content identifies it"
        )


def _load(fed: Federation, runs: int) -> Load:
    """How much work the device gets from this run, and from the runs that train with it as one model."""
    batches = [min(fed.settings.batch_size or site.cases, site.cases) for site in fed.sites]
    streamed = any(event == "images streamed" for _, _, event, _ in fed.round_log.events)
    space = fed.execution.dataset.window
    return Load(fed.execution.parameters, space, max(batches), sum(batches) * runs, streamed)


def _train(experiment: Experiment, fed: Federation, work: Path, observer: Observer | None) -> Recorder:
    """Train all rounds that are missing, record each, and warn of settings that had no effect."""
    record, trained = Recorder(fed, work), False
    if observer is not None:
        title = f"{experiment.method} on {experiment.dataset}"
        observer.restart(experiment.rounds, title, device_name(fed.device))
        if expected := foresee(experiment, fed):
            observer.tell(f"{title}: starting, {expected}")
    try:
        for outcome in algorithms.start(experiment.method, fed):
            trained = True
            record.add(outcome)
            if observer is not None:
                observer.update(record.frame(), fed.round)
            if record.stale:
                fed.schedule.stop()
        record.conclude()
    finally:
        if observer is not None:
            observer.close()
    if trained:
        _warn_of_unused_settings(experiment, fed)
        if reason := never_changed(fed, record.last.values()):
            warn(reason)
    return record


def _warn_of_unused_settings(experiment: Experiment, fed: Federation) -> None:
    if unused := unused_settings(fed):
        warn(f"{' and '.join(unused)}: no effect on {experiment.method!r}; its results are those without")
    if reason := fed.execution.fallback():
        warn(
            f"execution={fed.settings.execution!r} cannot be used by {experiment.method!r}: {reason}; sites were"
            " trained one after another, with the same results"
        )


@contextmanager
def _repeatable() -> Iterator[None]:
    """Use deterministic kernels and full float32 (no TF32; precision="bf16" is for speed) while a run trains.

    The caller's settings are restored afterwards.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = True, False, False, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


def _partition_of(experiment: Experiment) -> Partition:
    """The partition that an experiment describes, made once for all experiments of a grid that share it."""
    described = json.dumps({name: getattr(experiment, name) for name in DESCRIBED})
    return _make_partition(described, tuple(_stamps(experiment.dataset)), tuple(experiment.user_code()))


def _stamps(dataset: str) -> Iterator[tuple[Any, ...]]:
    """Which files hold a dataset, and when they last changed; of a known dataset all that it has prepared."""
    folder = catalogue.folder_of(dataset)
    folders = [folder] if folder else sorted(home().glob(f"{dataset.split('(')[0].strip()}*"))
    for path in sorted(path for each in folders if each.is_dir() for path in each.iterdir()):
        with suppress(FileNotFoundError):  # removed since
            about = path.stat()
            yield str(path), about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


@lru_cache(maxsize=1)
def _make_partition(described: str, stamps: tuple[tuple[Any, ...], ...], code: tuple[str, ...]) -> Partition:
    """Make a partition; stamps and code: what the dataset's files and the user's functions are now."""
    return Experiment(**json.loads(described)).make_partition()
