"""Where numbers are: aligned memory, the way to a device, and the way back without waiting for it.

A GPU works through a queue of kernels. To read one number, the host waits until the queue is empty, and then the GPU
waits for the next kernel. So numbers of a round that the host wants (losses, lengths of updates) stay on the device
until the first of them is used; then all of them are read in one transfer.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

ALIGNED = 64  # coordinates: 256 bytes in float32, 512 in float64
BYTES = 256
PIECE = 2**16  # coordinates of a vector in work at a time on a processor, to stay in its cache
LARGE = 2**26  # numbers in work at a time on a GPU


def aligned(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros whose memory begins at a multiple of 256 bytes, as that of a GPU always does."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    count = int(np.prod(shape))
    whole = torch.zeros(count + BYTES // dtype.itemsize, dtype=dtype)
    first = -whole.data_ptr() % BYTES // dtype.itemsize
    return whole[first : first + count].view(shape)


def counters(*shape: int, device: torch.device) -> Tensor:
    """Integer zeros, each at a multiple of 256 bytes."""
    return aligned(*shape, BYTES // 8, dtype=torch.int64, device=device)[..., 0]


def pieces(vector: Tensor, rows: int = 1) -> Iterator[slice]:
    """A vector in pieces in which work on `rows` such vectors stays in a processor's cache, or in a GPU's memory."""
    step = PIECE if vector.device.type == "cpu" else max(ALIGNED, LARGE // rows)
    return (slice(first, first + step) for first in range(0, len(vector), step))


def to_device(values: ArrayLike | Tensor, device: torch.device) -> Tensor:
    """Numbers of the host on a device; the host does not wait until they are there."""
    return torch.as_tensor(values).to(device, non_blocking=True)


def on_this_stream(*tensors: Tensor) -> None:
    """Keep the memory of tensors from another stream until this one has used them, even if they are freed before."""
    for tensor in tensors:
        if tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream())


class Later:
    """A number that is computed when it is first used, by `float(...)`."""

    def __init__(self, compute: Callable[[], float]) -> None:
        self._compute: Callable[[], float] | None = compute
        self._value = float("nan")

    def __float__(self) -> float:
        if self._compute is not None:
            self._value, self._compute = float(self._compute()), None
        return self._value


class Reads:
    """Numbers on a device that the host will want: the first use of one reads all that wait, in one transfer."""

    def __init__(self) -> None:
        self._waiting: list[Tensor] = []
        self._found: list[list[float]] = []

    def later(self, value: Tensor) -> Later:
        """The one number that a tensor holds now and until it is read."""
        numbers = self.all(value)
        return Later(lambda: numbers()[0])

    def all(self, values: Tensor) -> Callable[[], list[float]]:
        """A call that gives all numbers of a tensor, which nobody changes until then."""
        self._waiting.append(values.detach().reshape(-1))
        waiting, found, place = self._waiting, self._found, len(self._waiting) - 1

        def numbers() -> list[float]:
            if waiting:
                found.extend(read(waiting))
                waiting.clear()
                self._waiting, self._found = [], []
            return found[place]

        return numbers


def read(tensors: Sequence[Tensor]) -> list[list[float]]:
    """The numbers of several vectors, in one transfer to the host."""
    ends = np.cumsum([len(tensor) for tensor in tensors])
    device = next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), torch.device("cpu"))
    whole = torch.cat([to_device(tensor, device) for tensor in tensors]).cpu().numpy().astype(np.float64)
    return [part.tolist() for part in np.split(whole, ends[:-1])]


class Stopwatch:
    """Seconds from its start to `stop()`; of work on a GPU, known once that is done."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._begun = device, self._now(device)

    def stop(self) -> Callable[[], float]:
        """A call that gives the seconds."""
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
