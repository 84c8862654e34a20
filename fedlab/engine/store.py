"""All dealt cases on the device, in one tensor, as their sites' scanners show them."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlab.partition import Partition

CHUNK = 8192


class Store:
    """Pixels (n, height, width[, depth], channels) in the type they have on disk, and labels (n,).

    Rows are addressed by `rows(index)`, where index are positions in the dataset's table. Images become floats in
    [0, 1], channels first in channels-last memory, only when a batch is gathered.
    """

    def __init__(
        self, partition: Partition, targets: NDArray[np.int64], device: torch.device, dtype: torch.dtype
    ) -> None:
        cases = partition.cases
        self.dtype = dtype
        self.scale = 255.0 if cases.images.dtype == np.uint8 else 1.0
        used = [(site, partition.index(site, split)) for site in partition.sites for split in ("train", "val", "test")]
        used.append(("", partition.unassigned("test")))
        kept = np.sort(np.concatenate([index for _, index in used]))
        self._row = np.full(len(cases), -1)
        self._row[kept] = np.arange(len(kept))
        channels, *space = cases.shape
        kind = torch.uint8 if cases.images.dtype == np.uint8 else torch.float16
        self.pixels = torch.empty(len(kept), *space, channels, dtype=kind, device=device)
        for site, index in used:
            self._fill(partition, site, index)
        self.targets = torch.from_numpy(np.ascontiguousarray(targets[kept])).to(device)

    def _fill(self, partition: Partition, site: str, index: NDArray[np.int64]) -> None:
        for start in range(0, len(index), CHUNK):
            part = index[start : start + CHUNK]
            images = partition.pixels(part, site) if site else np.asarray(partition.cases.images[part])
            moved = torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, 1, -1)))
            self.pixels[self.rows(part)] = moved.to(self.pixels.device)

    def rows(self, index: NDArray[np.int64]) -> Tensor:
        """Positions in the dataset's table -> rows of this store, on the device."""
        return torch.from_numpy(self._row[index]).to(self.pixels.device)

    def images(self, rows: Tensor) -> Tensor:
        """A batch (b, channels, height, width[, depth]) of floats in [0, 1], channels-last in memory."""
        batch = self.pixels.index_select(0, rows).movedim(-1, 1).to(self.dtype)
        return batch.div_(self.scale) if self.scale != 1 else batch
