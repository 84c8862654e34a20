"""Which sites take their next step together when sites of unequal size are trained as one batched model."""

from collections.abc import Iterator, Sequence

from fedlab.core.typing import Ints
from fedlab.engine.local_task import LocalTask


def lockstep(works: Sequence[LocalTask]) -> Iterator[tuple[list[int], list[Ints]]]:
    """(which of the works, the batch of each): batches of one size, every work's own in their order."""
    step = [work.first for work in works]
    for who in groups(works):
        yield who, [works[i].batches.at(step[i]) for i in who]
        for i in who:
            step[i] += 1


def groups(works: Sequence[LocalTask]) -> Iterator[list[int]]:
    """Which of the works take a step together.

    Of the batches that are next, those of the most frequent size; where sizes are equally frequent the smallest, since
    its sites then catch up with others. So a site's last, partial batch waits until few are left, or for one as large.
    """
    waiting = {i: _lengths(work) for i, work in enumerate(works) if work.steps}
    ahead = {i: next(lengths) for i, lengths in waiting.items()}
    while ahead:
        alike: dict[int, list[int]] = {}
        for i, length in ahead.items():
            alike.setdefault(length, []).append(i)
        _, who = max(alike.items(), key=lambda group: (len(group[1]), -group[0]))
        yield who
        for i in who:
            following = next(waiting[i], None)
            if following is None:
                del ahead[i]
            else:
                ahead[i] = following


def together(works: Sequence[LocalTask]) -> float:
    """How many sites take a step together on average."""
    return sum(work.steps for work in works) / max(1, sum(1 for _ in groups(works)))


def _lengths(work: LocalTask) -> Iterator[int]:
    return (work.batches.length(step) for step in range(work.first, work.first + work.steps))
