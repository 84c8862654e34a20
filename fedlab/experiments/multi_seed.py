"""Runs of a grid that differ only in their seed, in lock-step: the sites of all of them train as one batched model."""

import json
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from fedlab.core.warnings import warn
from fedlab.engine.devices import find_device
from fedlab.engine.dispatch import is_dense, is_small
from fedlab.engine.seed_batching import LockstepRun, LockstepScheduler
from fedlab.experiments.experiment import Experiment
from fedlab.experiments.processes import PendingRun, followed
from fedlab.learning import models
from fedlab.learning.patches import input_shape
from fedlab.learning.tasks import task_of
from fedlab.partitioning.partitions import Partition

MAX_RUNS = 32  # in lock-step, since each of them holds memory


def seed_groups(experiments: Sequence[Experiment]) -> list[list[Experiment]]:
    """Group experiments that differ only in their seed, at most MAX_RUNS in a group."""
    groups: dict[str, list[Experiment]] = {}
    for one in experiments:
        groups.setdefault(json.dumps(one.model_dump(exclude={"seed"})), []).append(one)
    return [group[first : first + MAX_RUNS] for group in groups.values() for first in range(0, len(group), MAX_RUNS)]


def worthwhile(experiment: Experiment, partition: Partition) -> bool:
    """Whether lock-step is faster: where sites are batched anyway, or the model is too small to fill the device."""
    if experiment.execution == "vmap":
        return True
    task = task_of(partition.cases)
    model = models.build(
        experiment.model, input_shape(partition.cases.shape, experiment.crop), task.outputs, 0, dense=task.dense
    )
    fits = is_small if find_device(experiment.device).type == "cuda" else is_dense
    return experiment.execution == "auto" and fits(model)


def run_in_lockstep(run: Callable[..., Any], pending: Sequence[PendingRun], tell: Callable[[str], None] | None) -> None:
    """Call run(experiment, partition, target, lockstep) for all pending runs together, see `LockstepScheduler`.

    tell: receives a line of progress now and then. The first failure ends all runs; each of them resumes after its last
    finished round when the grid is run again.
    """

    def call(one: PendingRun, lockstep: LockstepRun) -> Any:
        try:
            return run(one.experiment, one.partition, one.target, lockstep)
        except Exception as error:
            error.add_note(one.note)
            raise

    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught, followed(pending, tell) if tell else nullcontext():
            warnings.simplefilter("always")
            LockstepScheduler().run([partial(call, one) for one in pending])
    finally:  # each distinct warning once
        for category, text in dict.fromkeys((each.category, str(each.message)) for each in caught):
            warn(text, category)
