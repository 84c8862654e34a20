"""The lock-step schedule: which sites take a step together when unequal sites train as one batched model."""

from collections.abc import Iterator, Sequence

from fedlab.core.typing import Ints
from fedlab.engine.local_task import LocalTask


def lockstep(tasks: Sequence[LocalTask]) -> Iterator[tuple[list[int], list[Ints]]]:
    """(indices of tasks, the batch of each): batches of equal size; each task's batches come in their order."""
    step = [task.first for task in tasks]
    for members in groups(tasks):
        yield members, [tasks[i].batches.at(step[i]) for i in members]
        for i in members:
            step[i] += 1


def groups(tasks: Sequence[LocalTask]) -> Iterator[list[int]]:
    """The indices of the tasks that take each step together.

    Of the next batches, those of the most frequent size; of equally frequent sizes the smallest, since its sites then
    catch up with others. So a site's last, partial batch waits until few are left, or for another of its size.
    """
    remaining = {i: _lengths(task) for i, task in enumerate(tasks) if task.steps}
    following = {i: next(lengths) for i, lengths in remaining.items()}
    while following:
        by_length: dict[int, list[int]] = {}
        for i, length in following.items():
            by_length.setdefault(length, []).append(i)
        _, members = max(by_length.items(), key=lambda group: (len(group[1]), -group[0]))
        yield members
        for i in members:
            after = next(remaining[i], None)
            if after is None:
                del following[i]
            else:
                following[i] = after


def mean_group_size(tasks: Sequence[LocalTask]) -> float:
    """How many sites take a step together on average."""
    return sum(task.steps for task in tasks) / max(1, sum(1 for _ in groups(tasks)))


def _lengths(task: LocalTask) -> Iterator[int]:
    """The sizes of a task's batches."""
    return (task.batches.length(step) for step in range(task.first, task.first + task.steps))
