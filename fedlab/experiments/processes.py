"""Run several experiments at a time, each in its own process, and follow their rounds.

Every run writes its own folder, so that an interrupted grid loses nothing: finished runs are kept, and the others
resume after their last finished round when the grid is run again.
"""

import json
import os
import sys
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

PAUSE = 1.0  # seconds at least between two reads of the rounds
WATCH = 0.5  # seconds between two looks at the parent process
SHARE = 0.05  # of the time, at most, that reading may take
UserFunctions = list[tuple[str, str, Any, str, str]]  # field, name, function, meaning, source


@dataclass(frozen=True)
class PendingRun:
    """A run to be done: its experiment, its partition (made in its process unless given) and its folder."""

    experiment: Experiment
    partition: Partition | None
    target: Path

    @property
    def lines(self) -> list[str]:
        """The rows that the unfinished run has stored so far."""
        return (run_folder.unfinished(self.target) / "rounds.jsonl").read_text(encoding="utf-8").splitlines()

    @property
    def round(self) -> int:
        """The last round that the unfinished run has stored, 0 before the first."""
        try:
            return int(json.loads(self.lines[-1])[0])
        except (OSError, ValueError, IndexError):
            return 0

    @property
    def note(self) -> str:
        """The note that is added to an error, so that it names its run."""
        return f"in the run of {self.experiment.method!r} with seed {self.experiment.seed}: {self.target}"


def run_in_processes(
    run: Callable[..., Any], pending: Sequence[PendingRun], workers: int, tell: Callable[[str], None] | None
) -> None:
    """Call run(experiment, partition, target) for each pending run, at most `workers` at a time.

    They share the processor's cores, and get GPUs in their order (see `fedlab.engine.devices.assign_gpus`), in any
    process. tell: receives a line of progress now and then. Each distinct warning is emitted once, in this process. The
    first failure ends all runs.
    """
    from joblib import Parallel, delayed, parallel_config
    from joblib._parallel_backends import LokyBackend

    class Watched(LokyBackend):
        """Worker processes that end with this one."""

        def configure(self, *args: Any, **kwargs: Any) -> int:
            return super().configure(*args, **kwargs, initializer=end_with, initargs=(os.getpid(),))

    threads = max(1, torch.get_num_threads() // workers), os.environ.get("OMP_NUM_THREADS")
    functions = user_functions([one.experiment for one in pending])
    gpus = assign_gpus([one.experiment.device for one in pending], _gpu_count())
    with parallel_config(Watched()), followed(pending, tell, _places(gpus)) if tell else nullcontext():
        pool = Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1)
        emitted: set[tuple[type, str]] = set()
        for warned in pool(
            delayed(run_one)(run, one, gpu, functions, *threads) for one, gpu in zip(pending, gpus, strict=True)
        ):
            for category, text in set(warned) - emitted:
                warn(text, category)
            emitted |= set(warned)


def end_with(parent: int) -> None:
    """End this process as soon as its parent has ended, also if that was killed and could not say so."""

    def watch() -> None:
        if sys.platform == "win32":
            import _winapi

            _winapi.WaitForSingleObject(_winapi.OpenProcess(_winapi.SYNCHRONIZE, False, parent), _winapi.INFINITE)
        else:
            while os.getppid() == parent:
                time.sleep(WATCH)
        os._exit(1)  # like a kill: what the run has stored stays

    threading.Thread(target=watch, daemon=True).start()


def _gpu_count() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _places(gpus: Sequence[int | None]) -> str:
    """The devices that runs use, in words. (Reading the name of a GPU would take memory on it.)"""
    count = len(set(gpus) - {None})
    places = {"cpu": None in gpus, "1 GPU": count == 1, f"{count} GPUs": count > 1}
    return " and ".join(place for place, used in places.items() if used)


def run_one(
    run: Callable[..., Any],
    one: PendingRun,
    gpu: int | None,
    functions: UserFunctions,
    threads: int | None,
    omp_threads: str | None,
) -> list[tuple[type, str]]:
    """Do one run in a worker process, which may have done others before; returns the warnings that it emitted.

    threads: its share of the cores, None for as many as the process has. omp_threads: the user's OMP_NUM_THREADS, which
    joblib overwrites in every process.
    """
    if omp_threads is None:
        os.environ.pop("OMP_NUM_THREADS", None)
    if threads is not None:
        torch.set_num_threads(threads)
    for field, name, function, meaning, source in functions:
        CODE[field].add(function, name, meaning, source)
    with warnings.catch_warnings(record=True) as warned, on_gpu(gpu):
        warnings.simplefilter("always")
        try:
            run(one.experiment, one.partition, one.target)
        except Exception as error:
            error.add_note(one.note)
            raise
    return [(each.category, str(each.message)) for each in warned]


def user_functions(experiments: Sequence[Experiment]) -> UserFunctions:
    """The user's functions that the experiments name, such as a method in a notebook cell."""
    found = {}
    for experiment in experiments:
        for field, name in experiment.user_names():
            registry = CODE[field]
            found[field, name] = (field, name, registry.function(name), registry[name], registry.fingerprint(name))
    return list(found.values())


@contextmanager
def followed(pending: Sequence[PendingRun], tell: Callable[[str], None], place: str | None = None) -> Iterator[None]:
    """Report the progress of runs while they train.

    place: the devices, in words; None: they share the device of this process.
    """
    over, speed = threading.Event(), Speed(pending)
    where = device_name(find_device(pending[0].experiment.device)) if place is None else place

    def follow() -> None:
        pause = PAUSE
        while not over.wait(pause):
            begun = time.perf_counter()
            rate = speed.measure(begun)
            tell(progress(pending, f"{'' if rate is None else throughput(rate) + ' '}on {where}"))
            pause = max(PAUSE, (time.perf_counter() - begun) / SHARE)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def progress(pending: Sequence[PendingRun], speed: str = "") -> str:
    """One line: how many runs are done, how fast they train, and the round that each of the others is in."""
    done = [one for one in pending if one.target.exists()]
    rounds = {one: one.round for one in pending if one not in done}
    each = (f"{one.experiment.method} {number}/{one.experiment.rounds}" for one, number in rounds.items() if number)
    current = [text if count == 1 else f"{text} in {count} runs" for text, count in Counter(each).items()]
    parts = [f"{len(done)} of {len(pending)} runs done", speed, f"rounds: {', '.join(current)}" if current else ""]
    return "; ".join(part for part in parts if part)


class Speed:
    """Training images a second of several runs, from the rounds that they store."""

    def __init__(self, pending: Sequence[PendingRun]) -> None:
        self.pending, self._finished = pending, set[Path]()
        self._images = {one.target: 0 for one in pending}
        self._first: tuple[float, int] | None = None

    def measure(self, now: float) -> float | None:
        """Images a second since the first call that found a round; None until another round is found.

        now: the time of this call in seconds.
        """
        for one in self.pending:
            self._count(one)
        images = sum(self._images.values())
        if self._first is None and images:
            self._first = now, images
        begun, before = self._first or (now, images)
        return (images - before) / (now - begun) if images > before and now > begun else None

    def _count(self, one: PendingRun) -> None:
        """Update the images that a run has trained on; a run that cannot be read now keeps its last count."""
        if one.target in self._finished:
            return
        try:
            if one.target.exists():
                self._images[one.target] = trained_images(run_folder.read(one.target).rounds)
                self._finished.add(one.target)
            else:
                rows = [json.loads(line) for line in one.lines if '"train", "loss"' in line]
                self._images[one.target] = trained_images(pd.DataFrame(rows, columns=ROUND_COLUMNS))
        except (OSError, ValueError):
            return
