"""Runs of a grid that differ only in their seed, in step: the sites of all of them train as one batched model."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from fedlab.core.warnings import warn
from fedlab.engine.devices import find_device
from fedlab.engine.dispatch import dense, small
from fedlab.engine.seed_batching import LockstepRun, LockstepScheduler
from fedlab.experiments.experiment import Experiment
from fedlab.experiments.processes import PendingRun, followed
from fedlab.learning import models
from fedlab.learning.tasks import task_of
from fedlab.partitioning.partitions import Partition

MOST = 32  # runs that hold memory at a time


def worthwhile(experiment: Experiment, partition: Partition) -> bool:
    """Whether runs of this kind are faster together: where sites are stacked, or fill a GPU together."""
    if experiment.execution == "vmap":
        return True
    model = models.build(experiment.model, partition.cases.shape, task_of(partition.cases).outputs, 0)
    fits = small if find_device(experiment.device).type == "cuda" else dense
    return experiment.execution == "auto" and fits(model)


def companies(experiments: Sequence[Experiment]) -> list[list[Experiment]]:
    """Those that differ only in their seed, as many as may go together."""
    alike: dict[str, list[Experiment]] = {}
    for one in experiments:
        alike.setdefault(one.model_dump_json(exclude={"seed"}), []).append(one)
    return [group[first : first + MOST] for group in alike.values() for first in range(0, len(group), MOST)]


def in_step(run: Callable[..., Any], tasks: Sequence[PendingRun], tell: Callable[[str], None] | None) -> None:
    """run(experiment, partition, target, member) of each task, all together; see `LockstepScheduler`.

    tell: is given a line of progress now and then, if anybody looks. The first failure ends all; each run goes on from
    its last round when it is asked for again.
    """

    def call(task: PendingRun, member: LockstepRun) -> Any:
        try:
            return run(task.experiment, task.partition, task.target, member)
        except Exception as error:
            error.add_note(task.note)
            raise

    with _warned_once(), followed(tasks, tell) if tell else nullcontext():
        LockstepScheduler().hold([partial(call, task) for task in tasks])


@contextmanager
def _warned_once() -> Iterator[None]:
    """What several runs warn of is warned of once, to whoever asked for them."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            yield
        finally:
            said = dict.fromkeys((each.category, str(each.message)) for each in warned)
    for category, text in said:
        warn(text, category)
