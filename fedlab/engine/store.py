"""All cases in use, as their sites' scanners show them: gathered by row, normalised on the device."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlab.engine.normalisation import Affine, Group, affine
from fedlab.engine.pixels import Streamed, pixels
from fedlab.memory import to_device
from fedlab.partition import Partition
from fedlab.training import Training

CHUNK = 8192
Used = tuple[str, NDArray[np.int64]]


class Store:
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
