"""Sites at the same time on one GPU: engines that launch their kernels on a stream of their own each.

One step of a small network fills a few of a GPU's multiprocessors. Steps of several sites fill more of them, unless
they are queued one behind the other. One thread launches all, since it waits for none of them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from fedlab.engine.lanes import Call, Lanes, by_size
from fedlab.engine.serial import Serial


class Streams(Lanes):
    """Up to `count` engines on one GPU."""

    def __init__(self, first: Serial, another: Callable[[], Serial], count: int) -> None:
        super().__init__(first, another, count)
        self._streams: list[Any] = []

    def each(
        self, call: Call, items: Sequence[Any], sizes: Sequence[int], then: Callable[..., Any] | None = None
    ) -> list[Any]:
        """As `Lanes.each`: the next largest item goes to the engine with the least to do.

        What `then` does is queued on the caller's stream, so that it sees results in the order of their sizes.
        """
        count = min(self.count, len(items))
        if count < 2:
            return super().each(call, items, sizes, then)
        self._prepare(count)
        here, queued, found = torch.cuda.current_stream(), [0] * count, {}
        for stream in self._streams[:count]:
            stream.wait_stream(here)
        try:
            for i in by_size(sizes):
                place = min(range(count), key=queued.__getitem__)
                queued[place] += max(1, sizes[i])
                engine, stream = self.engines[place], self._streams[place]
                with torch.cuda.stream(stream):
                    found[i] = call(engine, items[i])
                if then is not None:
                    here.wait_stream(stream)
                    found[i] = then(engine, items[i], found[i])
        finally:
            for stream in self._streams[:count]:
                here.wait_stream(stream)
        return [found[i] for i in range(len(items))]

    def _prepare(self, count: int) -> None:
        while len(self.engines) < count:
            self.engines.append(self._another())
        while len(self._streams) < count:
            self._streams.append(torch.cuda.Stream())
