"""Aligned memory, transfers to a device, and deferred transfers back to the host.

A GPU works through a queue of kernels. Reading one number makes the host wait until the queue is empty, and then the
GPU waits for its next kernel. So the numbers of a round that the host needs (losses, norms of updates) stay on the
device until the first of them is used; then all of them are read in one transfer.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

ALIGNMENT_BYTES = 256
ALIGNMENT = 64  # coordinates: 256 bytes in float32, 512 in float64
CPU_CHUNK = 2**16  # coordinates of a vector processed at a time on a CPU, to stay in its cache
GPU_CHUNK = 2**26  # numbers processed at a time on a GPU


def aligned_zeros(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros whose memory begins at a multiple of 256 bytes, as that of a GPU always does."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    count = int(np.prod(shape))
    whole = torch.zeros(count + ALIGNMENT_BYTES // dtype.itemsize, dtype=dtype)
    first = -whole.data_ptr() % ALIGNMENT_BYTES // dtype.itemsize
    return whole[first : first + count].view(shape)


def aligned_counters(*shape: int, device: torch.device) -> Tensor:
    """Integer zeros, each at a multiple of 256 bytes."""
    return aligned_zeros(*shape, ALIGNMENT_BYTES // 8, dtype=torch.int64, device=device)[..., 0]


def chunks(vector: Tensor, rows: int = 1) -> Iterator[slice]:
    """Split a vector so that work on `rows` such vectors stays in the CPU's cache or fits in the GPU's memory."""
    step = CPU_CHUNK if vector.device.type == "cpu" else max(ALIGNMENT, GPU_CHUNK // rows)
    return (slice(first, first + step) for first in range(0, len(vector), step))


def to_device(values: ArrayLike | Tensor, device: torch.device) -> Tensor:
    """Copy numbers of the host to a device, without waiting for the copy."""
    return torch.as_tensor(values).to(device, non_blocking=True)


def to_host(tensors: Sequence[Tensor]) -> list[list[float]]:
    """Read the numbers of several vectors in one transfer."""
    ends = np.cumsum([len(tensor) for tensor in tensors])
    device = next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), torch.device("cpu"))
    whole = torch.cat([to_device(tensor, device) for tensor in tensors]).cpu().numpy().astype(np.float64)
    return [part.tolist() for part in np.split(whole, ends[:-1])]


def record_stream(*tensors: Tensor) -> None:
    """Keep the memory of tensors from another CUDA stream until the current stream has used them, even if freed."""
    for tensor in tensors:
        if tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream())


class DeferredValue:
    """A number that is computed when `float(...)` first needs it."""

    def __init__(self, compute: Callable[[], float]) -> None:
        self._compute: Callable[[], float] | None = compute
        self._value = float("nan")

    def __float__(self) -> float:
        if self._compute is not None:
            self._value, self._compute = float(self._compute()), None
        return self._value


class DeferredReads:
    """Numbers on a device that the host will need: the first use of one reads all pending ones in one transfer."""

    def __init__(self) -> None:
        self._pending: list[Tensor] = []
        self._found: list[list[float]] = []

    def scalar(self, value: Tensor) -> DeferredValue:
        """The single number of a tensor, which must not change until it is read."""
        numbers = self.numbers(value)
        return DeferredValue(lambda: numbers()[0])

    def numbers(self, values: Tensor) -> Callable[[], list[float]]:
        """A function that returns all numbers of a tensor, which must not change until then."""
        self._pending.append(values.detach().reshape(-1))
        pending, found, place = self._pending, self._found, len(self._pending) - 1

        def read() -> list[float]:
            if pending:
                found.extend(to_host(pending))
                pending.clear()
                self._pending, self._found = [], []
            return found[place]

        return read


class DeviceTimer:
    """Seconds from construction to `stop()`; for work on a GPU they are known once that work is done."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._begun = device, self._now(device)

    def stop(self) -> Callable[[], float]:
        """Stop the timer and return a function that gives the seconds."""
        ended, begun = self._now(self._device), self._begun
        if isinstance(ended, float):
            return lambda: ended - begun

        def seconds() -> float:
            ended.synchronize()
            return begun.elapsed_time(ended) / 1000

        return seconds

    @staticmethod
    def _now(device: torch.device) -> Any:
        if device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
