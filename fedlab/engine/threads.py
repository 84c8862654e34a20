"""How many processor threads a run uses, and how they come by memory.

A small network does not fill two threads, and where another process shares the cores, threads that wait for each other
at every layer are slower by one to two orders of magnitude than one that waits for nobody.
"""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL = 1_000_000  # parameters
TRIM, MAP = -1, -3  # glibc's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD
KEPT, LARGE = 2**28, 2**25  # bytes


@contextmanager
def threads_for(parameters: int, device: torch.device) -> Iterator[None]:
    """One thread for small models on the CPU, unless OMP_NUM_THREADS says otherwise; put back afterwards."""
    before = torch.get_num_threads()
    if device.type == "cpu" and parameters < SMALL and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """From now on the process keeps up to 256 MB that were freed, for the next step; with glibc, unless told otherwise.

    It would give a step's activations back to the system and take them anew, page by page, in each step of each thread,
    which was measured to be a tenth of a round of small models on two cores.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(MAP, LARGE)
        library.mallopt(TRIM, KEPT)
