"""Where all images are: on the device as long as they fit, else in a scratch file from which batches are read ahead.

Either way they have the type that they have on disk, and a batch is the same to the last bit.
"""

import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SHARE = 0.6  # of the free memory that images may take


class Resident:
    """Images (n, height, width[, depth], channels) on the device."""

    streamed = False

    def __init__(self, shape: tuple[int, ...], kind: torch.dtype, device: torch.device) -> None:
        self.all = torch.empty(shape, dtype=kind, device=device)

    def put(self, rows: NDArray[np.int64], images: Tensor) -> None:
        """Set these images."""
        self.all[torch.from_numpy(rows).to(self.all.device)] = images.to(self.all.device)

    def gather(self, rows: Tensor) -> Tensor:
        """The images in these rows, on the device."""
        return self.all.index_select(0, rows)


class Streamed:
    """The same in a file in the system's folder for temporary files (TMPDIR), mapped page by page as they are used.

    The next batch is read while this one is trained on, into pinned memory where the device is a GPU.
    """

    streamed = True

    def __init__(self, shape: tuple[int, ...], kind: torch.dtype, device: torch.device) -> None:
        self.device, self._ahead = device, threading.local()  # each lane reads ahead for itself
        with tempfile.NamedTemporaryFile(prefix="fedlab-images-", delete=False) as file:
            path = Path(file.name)
        self.all = torch.from_file(str(path), shared=True, size=int(np.prod(shape)), dtype=kind).view(shape)
        path.unlink()  # what is mapped stays until nobody holds it
        self._reader = ThreadPoolExecutor(1, "fedlab images")

    def put(self, rows: NDArray[np.int64], images: Tensor) -> None:
        """Set these images."""
        self.all[torch.from_numpy(rows)] = images

    def gather(self, rows: Tensor) -> Tensor:
        """The images in these rows, on the device."""
        here = rows.cpu()
        ahead, self._ahead.batch = getattr(self._ahead, "batch", None), None
        expected = ahead is not None and np.array_equal(ahead[0], here.numpy())
        read = ahead[1].result() if ahead is not None and expected else self._read(here)
        return read.to(self.device, non_blocking=True)

    def announce(self, rows: NDArray[np.int64]) -> None:
        """These will be asked for next."""
        future: Future[Tensor] = self._reader.submit(self._read, torch.from_numpy(rows))
        self._ahead.batch = rows, future

    def _read(self, rows: Tensor) -> Tensor:
        batch = self.all.index_select(0, rows)
        if self.device.type != "cuda":
            return batch
        with torch.cuda.device(self.device):  # a new thread begins on the first card
            return batch.pin_memory()


def pixels(shape: tuple[int, ...], kind: torch.dtype, device: torch.device) -> Resident | Streamed:
    """Room for images, where there is enough."""
    size = int(np.prod(shape)) * kind.itemsize
    return (Resident if size <= SHARE * free(device) else Streamed)(shape, kind, device)


def free(device: torch.device) -> float:
    """Bytes of memory that are free on a device; infinite where it does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return float("inf")
