"""Runs side by side, in processes of their own: started, followed by their rounds, and their failures told.

Every run writes its folder as it does alone, so that whatever ends a grid loses nothing: finished runs are finished,
and the others go on from their last round when the grid is asked for again.
"""

import json
import os
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from fedlab.core.warnings import warn
from fedlab.engine.devices import assign_gpus, device_name, find_device, on_gpu, throughput
from fedlab.experiments import run_folder
from fedlab.experiments.experiment import CODE, Experiment
from fedlab.experiments.recorder import ROUND_COLUMNS, trained_images
from fedlab.partitioning.partitions import Partition

PAUSE = 1.0  # seconds at least between two looks at the rounds
SHARE = 0.05  # of the time, at most, that looking may take
Own = list[tuple[str, str, Any, str]]  # field, name, function, meaning


@dataclass(frozen=True)
class PendingRun:
    """One run: what, of which cases (partitioned in its process unless given), and into which folder."""

    experiment: Experiment
    partition: Partition | None
    target: Path

    @property
    def note(self) -> str:
        """What is added to an error."""
        return f"in the run of {self.experiment.method!r} with seed {self.experiment.seed}: {self.target}"


def side_by_side(
    run: Callable[..., Any], tasks: Sequence[PendingRun], workers: int, tell: Callable[[str], None] | None
) -> None:
    """run(experiment, partition, target) of each task, at most `workers` at a time, sharing the processor's cores.

    Tasks get GPUs in their order (see `fedlab.engine.devices.assign_gpus`), whichever process runs them. tell: called
    with a line of progress now and then. Warnings of the runs are emitted here. The first failure ends all.
    """
    from joblib import Parallel, delayed, parallel_config

    threads = max(1, torch.get_num_threads() // workers), os.environ.get("OMP_NUM_THREADS")
    own = _own([task.experiment for task in tasks])
    gpus = assign_gpus([task.experiment.device for task in tasks], _gpu_count())
    with parallel_config("loky"), followed(tasks, tell, _place(gpus)) if tell else nullcontext():
        pool = Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1)
        said: set[tuple[type, str]] = set()
        for warned in pool(
            delayed(_work)(run, task, gpu, own, *threads) for task, gpu in zip(tasks, gpus, strict=True)
        ):
            for category, text in set(warned) - said:
                warn(text, category)
            said |= set(warned)


def _gpu_count() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _place(gpus: Sequence[int | None]) -> str:
    """The devices that tasks run on, in words. (Asking for the name of a GPU would take memory on it.)"""
    count = len(set(gpus) - {None})
    places = {"cpu": None in gpus, "1 GPU": count == 1, f"{count} GPUs": count > 1}
    return " and ".join(place for place, used in places.items() if used)


def _work(
    run: Callable[..., Any], task: PendingRun, gpu: int | None, own: Own, threads: int, asked: str | None
) -> list[tuple[type, str]]:
    """In a process of its own, which may have run other tasks before: one run; the warnings that it gave.

    threads: its share of the cores. asked: what the user set as OMP_NUM_THREADS, which joblib sets for every process.
    """
    if asked is None:
        os.environ.pop("OMP_NUM_THREADS", None)
    torch.set_num_threads(threads)
    for field, name, function, meaning in own:
        CODE[field].add(function, name, meaning)
    with warnings.catch_warnings(record=True) as warned, on_gpu(gpu):
        warnings.simplefilter("always")
        try:
            run(task.experiment, task.partition, task.target)
        except Exception as error:
            error.add_note(task.note)
            raise
    return [(each.category, str(each.message)) for each in warned]


def _own(experiments: Sequence[Experiment]) -> Own:
    """Functions of the user's own that the experiments name, such as a method in a notebook cell."""
    found = {}
    for experiment in experiments:
        for field, name in experiment.own_names():
            registry = CODE[field]
            found[field, name] = (field, name, registry.function(name), registry[name])
    return list(found.values())


@contextmanager
def followed(tasks: Sequence[PendingRun], tell: Callable[[str], None], place: str | None = None) -> Iterator[None]:
    """Tell of the runs' rounds while they are at work.

    place: where, in words; None: they share the device of this process.
    """
    over, speed = threading.Event(), Speed(tasks)
    where = device_name(find_device(tasks[0].experiment.device)) if place is None else place

    def follow() -> None:
        pause = PAUSE
        while not over.wait(pause):
            begun = time.perf_counter()
            rate = speed.look(begun)
            tell(progress(tasks, f"{'' if rate is None else throughput(rate) + ' '}on {where}"))
            pause = max(PAUSE, (time.perf_counter() - begun) / SHARE)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def progress(tasks: Sequence[PendingRun], speed: str = "") -> str:
    """The line: how many runs are done, how fast they train, and the round that each of the others is in."""
    done = [task for task in tasks if task.target.exists()]
    rounds = {task: _round(task) for task in tasks if task not in done}
    each = (f"{task.experiment.method} {number}/{task.experiment.rounds}" for task, number in rounds.items() if number)
    going = [text if count == 1 else f"{text} in {count} runs" for text, count in Counter(each).items()]
    parts = [f"{len(done)} of {len(tasks)} runs done", speed, f"rounds: {', '.join(going)}" if going else ""]
    return "; ".join(part for part in parts if part)


def _round(task: PendingRun) -> int:
    """The last round that was stored."""
    try:
        return int(json.loads(_lines(task)[-1])[0])
    except (OSError, ValueError, IndexError):
        return 0


def _lines(task: PendingRun) -> list[str]:
    """The rows that an unfinished run has stored so far."""
    return (run_folder.unfinished(task.target) / "rounds.jsonl").read_text().splitlines()


class Speed:
    """Images a second of runs at work, from the rounds that they store."""

    def __init__(self, tasks: Sequence[PendingRun]) -> None:
        self.tasks, self._finished = tasks, set[Path]()
        self._images = {task.target: 0 for task in tasks}
        self._first: tuple[float, int] | None = None

    def look(self, now: float) -> float | None:
        """Images a second since the first look at which a round was stored; None as long as no other was.

        now: the time of this look in seconds.
        """
        for task in self.tasks:
            self._count(task)
        images = sum(self._images.values())
        if self._first is None and images:
            self._first = now, images
        begun, before = self._first or (now, images)
        return (images - before) / (now - begun) if images > before and now > begun else None

    def _count(self, task: PendingRun) -> None:
        """The images that a run has trained on; what cannot be read now keeps its last count."""
        if task.target in self._finished:
            return
        try:
            if task.target.exists():
                self._images[task.target] = trained_images(run_folder.read(task.target).rounds)
                self._finished.add(task.target)
            else:
                rows = [json.loads(line) for line in _lines(task) if '"train", "loss"' in line]
                self._images[task.target] = trained_images(pd.DataFrame(rows, columns=ROUND_COLUMNS))
        except (OSError, ValueError):
            return
