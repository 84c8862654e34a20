"""Which sites take their next step together when sites of unequal size are trained as one batched model."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fedlab.engine.work import Work

Index = NDArray[np.int64]


def lockstep(works: Sequence[Work]) -> Iterator[tuple[list[int], list[Index]]]:
    """(which of the works, the batch of each): batches of one size, every work's own in their order.

    Of the batches that are next, those of the most frequent size; where sizes are equally frequent the smallest, since
    its sites then catch up with others. So a site's last, partial batch waits until few are left, or for one as large.
    """
    waiting = {i: _batches(work) for i, work in enumerate(works) if work.steps}
    ahead = {i: next(batches) for i, batches in waiting.items()}
    while ahead:
        groups: dict[int, list[int]] = {}
        for i, index in ahead.items():
            groups.setdefault(len(index), []).append(i)
        _, who = max(groups.items(), key=lambda group: (len(group[1]), -group[0]))
        yield who, [ahead[i] for i in who]
        for i in who:
            following = next(waiting[i], None)
            if following is None:
                del ahead[i]
            else:
                ahead[i] = following


def _batches(work: Work) -> Iterator[Index]:
    return (work.batches.at(step) for step in range(work.first, work.first + work.steps))
