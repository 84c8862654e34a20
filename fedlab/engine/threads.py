"""How many processor threads a run uses.

A small network does not fill two threads, and where another process shares the cores, threads that wait for each other
at every layer are slower by one to two orders of magnitude than one that waits for nobody.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL = 1_000_000  # parameters


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
