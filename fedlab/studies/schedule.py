"""Run the experiments of a study: here, in processes, or on a cluster. A failure is noted and ends no other run."""

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from fedlab.core import files
from fedlab.core.warnings import warn
from fedlab.engine.devices import duration, throughput
from fedlab.experiments.experiment import Experiment
from fedlab.experiments.processes import PendingRun, run_in_processes, run_one, user_functions
from fedlab.experiments.recorder import trained_images
from fedlab.experiments.runner import grid, run_into
from fedlab.partitioning.partitions import Partition

FAILED = ".failed"  # folder of notes on failed runs, next to the run folders
PAUSE = 0.5  # seconds between two lines on the rounds of a run
POLL = 0.2  # seconds between two looks at the runs of a cluster
Tell = Callable[[str], None] | None


class Executor(Protocol):
    """What runs functions elsewhere, such as a Dask client or the executors of submitit and concurrent.futures."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Begin a call; the result has `done()` and `result()`."""


def attempt(experiment: Experiment, partition: Partition | None, target: Path) -> None:
    """Run one experiment; an error is written next to the run folders instead of raised."""
    note = failure_note(target)
    try:
        run_into(experiment, partition, target)
    except Exception as error:
        note.parent.mkdir(parents=True, exist_ok=True)
        last = traceback.format_exception_only(error)
        files.write_text(note, "".join([*last, *traceback.format_tb(error.__traceback__)]))
    else:
        note.unlink(missing_ok=True)


def failure_note(target: Path) -> Path:
    """The file that says why a run failed."""
    return target.parent / FAILED / f"{target.name}.txt"


def failure(target: Path) -> str:
    """Why a run failed, in one line; empty where it did not."""
    note = failure_note(target)
    return files.read_text(note).splitlines()[0] if note.exists() and not target.exists() else ""


def run_all(pending: Sequence[PendingRun], workers: int, client: Executor | None, tell: Tell) -> None:
    """Run what is pending; failures are notes, see `failure`."""
    for one in pending:
        failure_note(one.target).unlink(missing_ok=True)
    progress = None if tell is None else Progress(pending, tell)
    follow = None if progress is None else progress.tell
    if follow is not None:
        follow("")
    if client is not None:
        _run_elsewhere(pending, client, follow)
    elif workers > 1:
        run_in_processes(attempt, pending, workers, follow)
    else:
        _run_here(pending, progress)


def _run_here(pending: Sequence[PendingRun], progress: "Progress | None") -> None:
    """Run one method after another; its seeds together, as in a grid, where that is faster."""
    live = False if progress is None else Rounds(progress)
    tell = None if progress is None else progress.tell
    for seeds in _of_one_method(pending):
        folder = seeds[0].target.parent
        try:
            grid(seeds[0].experiment, folder=folder, live=live, seed=[one.experiment.seed for one in seeds])
        except Exception:
            for one in seeds:
                attempt(one.experiment, one.partition, one.target)
        if tell is not None:
            tell("")


def _of_one_method(pending: Sequence[PendingRun]) -> Iterator[list[PendingRun]]:
    """Runs that follow each other and differ in their seed only."""
    for _, seeds in groupby(pending, lambda one: one.experiment.model_dump(exclude={"seed"})):
        yield list(seeds)


def _run_elsewhere(pending: Sequence[PendingRun], client: Executor, tell: Tell) -> None:
    """Run each experiment as one task of an executor, whose workers see the same folders as this process."""
    threads: dict[str, int] = getattr(client, "nthreads", dict)()
    if any(count > 1 for count in threads.values()):
        raise ValueError(
            f"the workers of {client!r} have {max(threads.values())} threads, but a process trains one run at a time:"
            " start them with threads_per_worker=1"
        )
    extra = {"pure": False} if threads else {}  # of Dask: a task that failed before is tried again
    functions = user_functions([one.experiment for one in pending])
    waiting = {
        one.target: client.submit(run_one, attempt, one, None, functions, None, None, **extra) for one in pending
    }
    emitted: set[tuple[type, str]] = set()
    try:
        while waiting:
            for target in [target for target, task in waiting.items() if task.done()]:
                warned = waiting.pop(target).result()
                if not target.exists() and not failure(target):
                    raise FileNotFoundError(
                        f"a worker has finished a run, but {target} is not there: give a folder that this process and"
                        " all workers share"
                    )
                for category, text in set(warned) - emitted:
                    warn(text, category)
                emitted |= set(warned)
            if tell is not None:
                tell("")
            time.sleep(POLL)
    finally:
        for task in waiting.values():
            task.cancel()


class Progress:
    """Lines of progress: how many runs are done and failed, and how long the others will take."""

    def __init__(self, pending: Sequence[PendingRun], tell: Callable[[str], None]) -> None:
        self._open, self._total, self._failed, self._tell = list(pending), len(pending), 0, tell
        self._begun, self._last = time.perf_counter(), ""

    def tell(self, more: str, part: float = 0.0) -> None:
        """Tell how far the runs are; more: what else is known. part: of the current run, 0 to 1."""
        failed = [one for one in self._open if failure(one.target)]
        self._failed += len(failed)
        self._open = [one for one in self._open if one not in failed and not one.target.exists()]
        done = self._total - len(self._open)
        text = f"{done} of {self._total} runs done"
        if self._failed:
            text += f", {self._failed} of them failed"
        if (amount := min(done + part, self._total)) > 0 and self._open:
            left = (time.perf_counter() - self._begun) / amount * (self._total - amount)
            text += f", about {duration(left)} left"
        rest = more.split("; ", 1)[1] if "; " in more else ""
        if (line := f"{text}; {rest}" if rest else text) != self._last:
            self._tell(line)
            self._last = line


class Rounds:
    """Observer of the runs of a study that train here: the round of the current one, and its images a second."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._rounds, self._title, self._begun, self._images, self._next = 1, "", 0.0, 0, 0.0

    def restart(self, rounds: int, title: str, device: str = "") -> None:
        """Say that a run begins."""
        self._rounds, self._title, self._images, self._next = rounds, title, 0, 0.0
        self._progress.tell(f"; {title}: starting")

    def update(self, rounds_frame: pd.DataFrame, round: int) -> None:
        """Say which round is finished, at most twice a second."""
        now = time.perf_counter()
        if now < self._next:
            return
        images = trained_images(rounds_frame) if "samples" in rounds_frame else 0
        if not self._images:
            self._begun, self._images, speed = now, images, ""
        else:
            speed = f", {throughput((images - self._images) / (now - self._begun))}"
        self._progress.tell(f"; {self._title}: round {round} of {self._rounds}{speed}", round / self._rounds)
        self._next = time.perf_counter() + PAUSE

    def tell(self, text: str) -> None:
        """Pass on what several runs in lock-step report."""
        self._progress.tell(text if "; " in text else f"; {text}")

    def close(self) -> None:
        """Nothing: the next line says it."""

    def conclude(self, text: str) -> None:
        """Nothing: a study concludes itself."""
