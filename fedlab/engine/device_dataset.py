"""All cases in use, as their sites' scanners show them: gathered by row, normalised on the device."""

import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlab.core.memory import to_device
from fedlab.engine.pixel_normalisation import Affine, Group, affine
from fedlab.learning.settings import Training
from fedlab.partitioning.partitions import Partition

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


CHUNK = 8192
Used = tuple[str, NDArray[np.int64]]


class DeviceDataset:
    """Pixels (n, height, width[, depth], channels) in the type they have on disk, and targets (n,) on the device.

    Rows are addressed by `rows(index)`, where index are positions in the dataset's table. Images become floats,
    channels first in channels-last memory, only when a batch is gathered: in [0, 1], or standardised as the settings
    say. Of an unseen site there are test cases alone, and with normalisation="site" the training images too.
    """

    def __init__(
        self, partition: Partition, targets: NDArray[np.int64], device: torch.device, settings: Training
    ) -> None:
        cases = partition.cases
        self.dtype = settings.dtype
        self.full = 255.0 if cases.images.dtype == np.uint8 else 1.0
        used = _used(partition, settings.normalisation)
        kept = np.sort(np.concatenate([index for _, index in used]))
        self._row = np.full(len(cases), -1)
        self._row[kept] = np.arange(len(kept))
        channels, *space = cases.shape
        kind = torch.uint8 if cases.images.dtype == np.uint8 else torch.float16
        self.space = tuple(space)
        self.device, self.pixels = device, pixels((len(kept), *space, channels), kind, device)
        for site, index in used:
            self._fill(partition, site, index)
        self.targets = torch.from_numpy(np.ascontiguousarray(targets[kept])).to(device)
        self.affine = self._standardised(partition, used, settings.normalisation)

    def _fill(self, partition: Partition, site: str, index: NDArray[np.int64]) -> None:
        for start in range(0, len(index), CHUNK):
            part = index[start : start + CHUNK]
            images = partition.pixels(part, site) if site else np.asarray(partition.cases.images[part])
            moved = torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, 1, -1)))
            self.pixels.put(self._row[part], moved)

    def _standardised(self, partition: Partition, used: list[Used], policy: str) -> Affine | None:
        if policy == "none":
            return None
        groups = []
        for site in partition.sites:
            rows = torch.cat([self.rows(index) for name, index in used if name == site])
            train = self.rows(partition.index(site, "train"))
            groups.append(Group(rows, train[train >= 0], site not in partition.unseen))
        return affine(policy, self.pixels.all, groups, self.full, self.dtype)

    def rows(self, index: NDArray[np.int64]) -> Tensor:
        """Positions in the dataset's table -> rows of this store, on the device; -1 for cases that are not in it."""
        return to_device(self._row[index], self.device)

    def announce(self, index: NDArray[np.int64]) -> None:
        """The images of these cases will be asked for next; it matters where they are streamed."""
        if isinstance(self.pixels, Streamed):
            self.pixels.announce(self._row[index])

    def images(self, rows: Tensor) -> Tensor:
        """A batch (b, channels, height, width[, depth]) of floats, channels-last in memory."""
        batch = self.pixels.gather(rows).movedim(-1, 1).to(self.dtype)
        if self.affine is not None:
            return self.affine.apply(batch, rows)
        return batch.div_(self.full) if self.full != 1 else batch


def _used(partition: Partition, policy: str) -> list[Used]:
    """(site, positions in the dataset's table) of all cases that are looked at; cases of no site under ""."""
    used = []
    for site in partition.sites:
        splits = ("test",) if site in partition.unseen else ("train", "val", "test")
        used += [(site, partition.index(site, split)) for split in splits]
        if site in partition.unseen and policy == "site":
            used.append((site, partition.index(site, "train")))
    return [*used, ("", partition.unassigned("test"))]
