"""Running experiments: one, or a grid of them; finished ones are returned, interrupted ones go on."""

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fedlab import algorithms
from fedlab.core.registry import nearest
from fedlab.core.warnings import warn
from fedlab.data.home import home
from fedlab.engine.devices import Load, device_name, find_device, idle_gpu
from fedlab.engine.seed_batching import LockstepRun
from fedlab.engine.threads import threads_for
from fedlab.experiments import run_folder
from fedlab.experiments.experiment import Experiment
from fedlab.experiments.multi_seed import MOST, companies, in_step, worthwhile
from fedlab.experiments.processes import PendingRun, side_by_side
from fedlab.experiments.recorder import Recorder
from fedlab.experiments.run_folder import Run
from fedlab.federation import Federation
from fedlab.partitioning.build import ARGUMENTS
from fedlab.partitioning.partitions import Partition


def run(
    experiment: Experiment,
    partition: Partition | None = None,
    *,
    folder: str | Path | None = None,
    live: bool = False,
) -> Run:
    """Train and evaluate one experiment; its folder is written whole or not at all.

    partition: an explicit one, in the place of the one that the experiment describes. folder: where run folders are
    kept, default `$FEDLAB_RUNS` or `out/runs`. A finished identical run is returned as it is; one that was interrupted
    goes on at its last finished round, bit for bit. live: one figure that follows the training.
    """
    return _run(experiment, partition, folder, _screen(live))


def grid(
    experiment: Experiment,
    *,
    partition: Partition | None = None,
    folder: str | Path | None = None,
    live: bool = False,
    workers: int = 1,
    **axes: list[Any],
) -> list[Run]:
    """One run for each combination, the last axis fastest: `grid(base, method=["local", "fedavg"], seed=[0, 1])`.

    Finished runs are not run again. All combinations are validated before the first one starts. Runs that differ only
    in their seed go on in step where sites are stacked, see `execution`, and their sites train as one model. workers:
    runs at a time, each in a process with its share of the processor's cores; runs on GPUs are placed round robin in
    their order (see `engine.devices.assign_gpus`). live: one figure that follows the training of one run after the
    other; a line of their rounds where several train at a time.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ValueError(f"workers={workers!r}: give a number of processes, from 1 up")
    experiments = _combinations(experiment, partition, axes)
    begun, screen = time.perf_counter(), _screen(live)
    if workers > 1 and (tasks := _unfinished(experiments, partition, folder)):
        side_by_side(_in_process, tasks, workers, None if screen is None else screen.tell)
    together = {id(company[0]): company for company in (companies(experiments) if workers == 1 else [])}
    finished = []
    for one in experiments:
        _in_step(together.get(id(one), []), partition, folder, screen)
        finished.append(_run(one, partition, folder, screen))
    if screen is not None:
        screen.conclude(f"{len(finished)} runs in {time.perf_counter() - begun:.0f} s")
    return finished


def _combinations(experiment: Experiment, partition: Partition | None, axes: dict[str, list[Any]]) -> list[Experiment]:
    """All of a grid, the last axis fastest."""
    for name, values in axes.items():
        if name not in Experiment.model_fields:
            raise ValueError(f"unknown parameter {name!r}: {nearest(name, Experiment.model_fields)}")
        if isinstance(values, str) or not hasattr(values, "__iter__"):
            raise ValueError(f"{name}={values!r}: a grid takes a list of values, such as [{values!r}]")
        if partition is not None and name in _FEDERATION:
            raise ValueError(f"{name!r} describes a federation, but `partition` is one: leave out one of the two")
    each = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    experiments = [experiment.with_(**changes) for changes in each]
    for device in {one.device for one in experiments}:
        find_device(device)
    return experiments


def _unfinished(
    experiments: list[Experiment], partition: Partition | None, folder: str | Path | None
) -> list[PendingRun]:
    targets = {_target(one, partition if partition is not None else _dealt(one), folder): one for one in experiments}
    missing = [(target, one) for target, one in targets.items() if not target.exists()]
    return [PendingRun(one, partition, target) for target, one in missing]


def _in_step(company: list[Experiment], partition: Partition | None, folder: str | Path | None, screen: Any) -> None:
    """Do those runs that are not finished yet together, where that is faster."""
    if len(company) > 1 and company[0].execution in ("auto", "vmap"):
        part = partition if partition is not None else _dealt(company[0])
        tasks = _unfinished(company, part, folder)
        if len(tasks) > 1 and worthwhile(company[0], part):
            in_step(partial(_in_thread, _current(company[0])), tasks, None if screen is None else screen.tell)


def _current(experiment: Experiment) -> int | None:
    """The GPU that "cuda" means here; in a new thread it would be GPU 0 again, whatever the user has set."""
    return torch.cuda.current_device() if find_device(experiment.device).type == "cuda" else None


def _in_process(experiment: Experiment, partition: Partition | None, target: Path) -> None:
    """One run of a grid; its folder's name is given, since a user's own code may have no source here."""
    _do(experiment, partition if partition is not None else _dealt(experiment), target, None)


def _in_thread(
    gpu: int | None, experiment: Experiment, partition: Partition, target: Path, member: LockstepRun
) -> None:
    """One run of several that go on in step."""
    if gpu is not None:
        torch.cuda.set_device(gpu)
    _do(experiment, partition, target, None, member)


def _run(experiment: Experiment, partition: Partition | None, folder: str | Path | None, screen: Any) -> Run:
    part = partition if partition is not None else _dealt(experiment)
    return _do(experiment, part, _target(experiment, part, folder), screen)


def _target(experiment: Experiment, part: Partition, folder: str | Path | None) -> Path:
    return run_folder.folder_of(experiment, part, Path(folder or os.environ.get("FEDLAB_RUNS", "out/runs")))


def _do(experiment: Experiment, part: Partition, target: Path, screen: Any, beside: LockstepRun | None = None) -> Run:
    if target.exists():  # also where nobody may write
        return run_folder.read(target)
    work = run_folder.unfinished(target)
    with run_folder.writing(work), run_folder.alone(target), _repeatable():
        if target.exists():
            return run_folder.read(target)
        work.mkdir(parents=True, exist_ok=True)
        fed = Federation(part, experiment.model, experiment, beside)
        if reason := idle_gpu(experiment, fed.device, _load(fed, 1 if beside is None else MOST)):
            warn(reason)
        with threads_for(fed.layout.parameters, fed.device):
            record = _train(experiment, fed, work, screen)
            return run_folder.finish(record, experiment, target)


def _load(fed: Federation, runs_in_step: int) -> Load:
    """What this run, and those that train with it as one model, give the device to do."""
    batches = [min(fed.settings.batch_size or site.cases, site.cases) for site in fed.sites]
    streamed = any(event == "images streamed" for _, _, event, _ in fed.journal.events)
    space = tuple(fed.partition.cases.shape[1:])
    return Load(fed.layout.parameters, space, max(batches), sum(batches) * runs_in_step, streamed)


def _train(experiment: Experiment, fed: Federation, work: Path, screen: Any) -> Recorder:
    record, trained = Recorder(fed, work), False
    if screen is not None:
        title = f"{experiment.method} on {experiment.dataset}"
        screen.restart(experiment.rounds, title, device_name(fed.device))
    try:
        for outcome in algorithms.start(experiment.method, fed):
            trained = True
            record.add(outcome)
            if screen is not None:
                screen.update(record.frame(), fed.round)
            if record.stale:
                fed.halt()
        record.conclude()
    finally:
        if screen is not None:
            screen.close()
    if trained and (idle := fed.without_effect()):
        warn(
            f"{' and '.join(idle)}: no effect on {experiment.method!r}, whose way of training has no place for it; its"
            " results are those without"
        )
    if trained and (reason := fed.execution.fallback()):
        warn(
            f"execution={fed.settings.execution!r} has no place in {experiment.method!r}: {reason}; it was carried out"
            " one site after another, with the same results"
        )
    return record


def _screen(live: bool) -> Any:
    """The live figure, if it is wanted; nothing is shown before a run trains."""
    if not live:
        return None
    from fedlab.notebook.live import Live

    return Live(1, "")


@contextmanager
def _repeatable() -> Iterator[None]:
    """While a run trains: deterministic kernels, and float32 that is float32 (no TF32; precision="bf16" is for speed).

    The caller's choice is put back afterwards.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = True, False, False, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


_FEDERATION = ("dataset", *(name for name in ARGUMENTS if name != "seed"), "partition_seed")
_latest: dict[str, Partition] = {}


def _dealt(experiment: Experiment) -> Partition:
    """The partition of an experiment; the latest one is kept, so that a grid deals its cases once."""
    folders = Path(experiment.dataset).expanduser(), home() / experiment.dataset
    stamps = [path.stat().st_mtime_ns for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    key = repr([stamps, experiment.own_code(), *(getattr(experiment, name) for name in _FEDERATION)])
    if key not in _latest:
        part = experiment.deal()
        _latest.clear()
        _latest[key] = part
    return _latest[key]
