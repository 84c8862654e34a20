"""Sites in parallel on one machine: a pool of engines, one a CPU core, each taking the next waiting site.

Threads, not processes: PyTorch releases the interpreter lock inside every operation, images and weights are shared
without a copy, and what a method adds to a step need not be pickled. Each engine computes on one core, so that results
do not depend on the number of engines.
"""

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import torch

from fedlab.engine.flat_model import SMALL_MODEL
from fedlab.engine.loop import SequentialEngine, StoppedError

Call = Callable[[SequentialEngine, Any], Any]
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names of glibc
KEPT_BYTES, LARGE_BYTES = 2**28, 2**25


def largest_first(sizes: Sequence[int]) -> list[int]:
    """Indices from the largest size to the smallest."""
    return sorted(range(len(sizes)), key=lambda i: -sizes[i])


@contextmanager
def threads_for(parameters: int, device: torch.device) -> Iterator[None]:
    """Use one thread of arithmetic for small models on the CPU, unless OMP_NUM_THREADS is set; restore it afterwards.

    A small network does not fill two threads, and where another process shares the cores, threads that wait for each
    other at every layer are slower by one to two orders of magnitude than a single one.
    """
    before = torch.get_num_threads()
    if device.type == "cpu" and parameters < SMALL_MODEL and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Let the process keep up to 256 MB of freed memory for the next step; with glibc, unless MALLOC_* is set.

    Otherwise each step of each thread returns the memory of its activations to the system and maps it again, page by
    page: 8 % of a round of small convolutional networks on two cores.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


class WorkerPool:
    """Up to `count` engines: the first one and, when they are needed, others from `make_engine`."""

    def __init__(self, first: SequentialEngine, make_engine: Callable[[], SequentialEngine], count: int) -> None:
        self.engines, self.make_engine, self.count = [first], make_engine, max(1, count)
        self.stopped = False
        self._free: list[SequentialEngine] = []
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def map(
        self, call: Call, items: Sequence[Any], sizes: Sequence[int], then: Callable[..., Any] | None = None
    ) -> list[Any]:
        """call(engine, item) of every item, in their order; the largest items start first.

        then: result = then(engine, item, result) replaces each result. The first failure, or an interrupt, stops the
        other items at their next step.
        """

        def process(engine: SequentialEngine, item: Any) -> Any:
            result = call(engine, item)
            return result if then is None else then(engine, item, result)

        order = largest_first(sizes)
        if self.count == 1 or len(items) < 2:
            found = {i: process(self.engines[0], items[i]) for i in order}
            return [found[i] for i in range(len(items))]
        pool = self._start(min(self.count, len(items)))
        futures = {i: pool.submit(self._on_free_engine, process, items[i]) for i in order}
        try:
            wait(futures.values(), return_when=FIRST_EXCEPTION)
        finally:
            self._stop(list(futures.values()))
        return [futures[i].result() for i in self._failed(futures) or range(len(items))]

    def stop(self) -> None:
        """End all training at its next step, from any thread; each training that is started later ends at once."""
        self.stopped = True
        for engine in list(self.engines):
            engine.stopped = True

    @staticmethod
    def _failed(futures: dict[int, Future[Any]]) -> list[int]:
        """Indices of the items that failed, without those that were stopped; the first one first."""
        ended = [i for i, future in sorted(futures.items()) if not future.cancelled()]
        return [i for i in ended if not isinstance(futures[i].exception(), StoppedError | None)]

    def _on_free_engine(self, call: Call, item: Any) -> Any:
        """Call with an engine that no other thread uses."""
        with self._lock:
            engine = self._free.pop()
        try:
            return call(engine, item)
        finally:
            with self._lock:
                self._free.append(engine)

    def _start(self, count: int) -> ThreadPoolExecutor:
        """The threads, with an engine for each of the first `count`."""
        while len(self.engines) < count:
            self.engines.append(self.make_engine())
            self.engines[-1].stopped = self.stopped
        if self._pool is None:
            keep_freed_memory()
            self._pool = ThreadPoolExecutor(
                self.count, "fedlab worker", initializer=torch.set_num_threads, initargs=(1,)
            )
        self._free = list(self.engines)
        return self._pool

    def _stop(self, futures: list[Future[Any]]) -> None:
        """Stop what still runs, cancel what has not started, and wait for the threads."""
        if all(future.done() for future in futures):
            return
        for engine in self.engines:
            engine.stopped = True
        for future in futures:
            future.cancel()
        wait(futures)
        for engine in self.engines:
            engine.stopped = self.stopped
