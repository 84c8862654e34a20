"""Runs side by side, in processes of their own: started, followed by their rounds, and their failures told.

Every run writes its folder as it does alone, so that whatever ends a grid loses nothing: finished runs are finished,
and the others go on from their last round when the grid is asked for again.
"""

import json
import os
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedlab import runs
from fedlab.experiment import CODE, Experiment
from fedlab.partition import Partition

PAUSE = 1.0  # seconds between two looks at the rounds
Own = list[tuple[str, str, Any, str]]  # field, name, function, meaning


@dataclass(frozen=True)
class Task:
    """One run: what, of which cases (dealt anew unless given), into which folder, and on which GPU if there are any."""

    experiment: Experiment
    partition: Partition | None
    target: Path
    place: int

    @property
    def note(self) -> str:
        """What is added to an error."""
        return f"in the run of {self.experiment.method!r} with seed {self.experiment.seed}: {self.target}"


def side_by_side(
    run: Callable[..., Any], tasks: Sequence[Task], workers: int, tell: Callable[[str], None] | None
) -> None:
    """run(experiment, partition, target) of each task, at most `workers` at a time, sharing the processor's cores.

    tell: is given a line of progress now and then, if anybody looks. What the runs warn of is warned of here. The first
    failure ends all.
    """
    from joblib import Parallel, delayed, parallel_config

    threads = max(1, torch.get_num_threads() // workers), os.environ.get("OMP_NUM_THREADS")
    own = _own([task.experiment for task in tasks])
    with parallel_config("loky"), followed(tasks, tell) if tell else nullcontext():
        pool = Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1)
        said: set[tuple[type, str]] = set()
        for warned in pool(delayed(_work)(run, task, own, *threads) for task in tasks):
            for category, text in set(warned) - said:
                warnings.warn(text, category, stacklevel=4)
            said |= set(warned)


def _work(run: Callable[..., Any], task: Task, own: Own, threads: int, asked: str | None) -> list[tuple[type, str]]:
    """In a process of its own: one run; the warnings that it gave.

    threads: its share of the cores. asked: what the user set as OMP_NUM_THREADS, which joblib sets for every process.
    """
    if asked is None:
        os.environ.pop("OMP_NUM_THREADS", None)
    torch.set_num_threads(threads)
    for field, name, function, meaning in own:
        CODE[field].add(function, name, meaning)
    if torch.cuda.is_available():
        torch.cuda.set_device(task.place % torch.cuda.device_count())
    with warnings.catch_warnings(record=True) as warned:
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
def followed(tasks: Sequence[Task], tell: Callable[[str], None]) -> Iterator[None]:
    """Tell of the runs' rounds while they are at work."""
    over = threading.Event()

    def follow() -> None:
        while not over.wait(PAUSE):
            tell(progress(tasks))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def progress(tasks: Sequence[Task]) -> str:
    """The line: how many runs are done, and the round that each of the others is in."""
    done = [task for task in tasks if task.target.exists()]
    rounds = {task: _round(runs.unfinished(task.target) / "rounds.jsonl") for task in tasks if task not in done}
    each = (f"{task.experiment.method} {number}/{task.experiment.rounds}" for task, number in rounds.items() if number)
    going = [text if count == 1 else f"{text} in {count} runs" for text, count in Counter(each).items()]
    return f"{len(done)} of {len(tasks)} runs done" + (f"; rounds: {', '.join(going)}" if going else "")


def _round(rows: Path) -> int:
    """The last round that was stored."""
    try:
        return int(json.loads(rows.read_text().splitlines()[-1])[0])
    except (OSError, ValueError, IndexError):
        return 0
