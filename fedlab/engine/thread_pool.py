"""Sites side by side on one machine: one engine a processor core, each taking the next site that waits.

Threads, not processes: PyTorch lets go of the interpreter inside every operation, images and weights are shared as
they are, and what a method adds to a step need not be pickled. Each lane computes on one core, so that results do not
depend on how many there are.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any

import torch

from fedlab.engine.loop import SequentialEngine, StoppedError
from fedlab.engine.threads import keep_freed_memory

Call = Callable[[SequentialEngine, Any], Any]


def by_size(sizes: Sequence[int]) -> list[int]:
    """The places of the largest first."""
    return sorted(range(len(sizes)), key=lambda i: -sizes[i])


class WorkerPool:
    """Up to `count` engines: the first one and, once they are needed, others made like it."""

    def __init__(self, first: SequentialEngine, another: Callable[[], SequentialEngine], count: int) -> None:
        self.engines, self._another, self.count = [first], another, max(1, count)
        self._free: list[SequentialEngine] = []
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def each(
        self, call: Call, items: Sequence[Any], sizes: Sequence[int], then: Callable[..., Any] | None = None
    ) -> list[Any]:
        """call(engine, item) of every item, in their order; the largest are begun first.

        then(engine, item, result): what becomes of each result. The first failure, or an interrupt, stops the others
        at their next step.
        """

        def whole(engine: SequentialEngine, item: Any) -> Any:
            result = call(engine, item)
            return result if then is None else then(engine, item, result)

        order = by_size(sizes)
        if self.count == 1 or len(items) < 2:
            found = {i: whole(self.engines[0], items[i]) for i in order}
            return [found[i] for i in range(len(items))]
        pool = self._ready(min(self.count, len(items)))
        futures = {i: pool.submit(self._take, whole, items[i]) for i in order}
        try:
            wait(futures.values(), return_when=FIRST_EXCEPTION)
        finally:
            self._stop(list(futures.values()))
        return [futures[i].result() for i in self._failed(futures) or range(len(items))]

    @staticmethod
    def _failed(futures: dict[int, Future]) -> list[int]:
        """Which failed of themselves, the first item first."""
        ended = [i for i, future in sorted(futures.items()) if not future.cancelled()]
        return [i for i in ended if not isinstance(futures[i].exception(), StoppedError | None)]

    def _take(self, call: Callable[[SequentialEngine, Any], Any], item: Any) -> Any:
        with self._lock:
            engine = self._free.pop()
        try:
            return call(engine, item)
        finally:
            with self._lock:
                self._free.append(engine)

    def _ready(self, count: int) -> ThreadPoolExecutor:
        """The threads, and as many engines as are needed at once."""
        while len(self.engines) < count:
            self.engines.append(self._another())
        if self._pool is None:
            keep_freed_memory()
            self._pool = ThreadPoolExecutor(self.count, "fedlab lane", initializer=torch.set_num_threads, initargs=(1,))
        self._free = list(self.engines)
        return self._pool

    def _stop(self, futures: list[Future]) -> None:
        """Wait until nothing runs any more; what has not finished is given up."""
        if all(future.done() for future in futures):
            return
        for engine in self.engines:
            engine.stopped = True
        for future in futures:
            future.cancel()
        wait(futures)
        for engine in self.engines:
            engine.stopped = False
