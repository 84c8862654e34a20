"""The device dataset: all cases in use as their sites' scanners show them, gathered by row and normalised."""

import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlab.core.files import reserve, scratch_folder
from fedlab.core.memory import to_device
from fedlab.core.typing import Ints
from fedlab.engine.pixel_normalisation import Affine, SiteRows, affine
from fedlab.learning import patches
from fedlab.learning.settings import Training
from fedlab.partitioning.partitions import Partition

MEMORY_SHARE = 0.6  # of the free memory that images may take
CHUNK = 8192  # cases read at a time, at most
CHUNK_BYTES = 2**26  # of these cases

SiteCases = tuple[str, Ints]  # (site, positions in the dataset's table)


class ResidentImages:
    """Images (n, height, width[, depth], channels) in the device's memory."""

    streamed = False

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self.all = torch.empty(shape, dtype=dtype, device=device)

    def write(self, rows: Ints, images: Tensor) -> None:
        """Set these images."""
        self.all[torch.from_numpy(rows).to(self.all.device)] = images.to(self.all.device)

    def gather(self, rows: Tensor, cut: "Cut | None" = None) -> Tensor:
        """The images in these rows, or crops of them, on the device."""
        return _gathered(self.all, rows, cut)


class StreamedImages:
    """The same in a scratch file in the system's temporary folder (TMPDIR), mapped page by page as they are used.

    The next batch is read while this one trains, into pinned memory if the device is a GPU.
    """

    streamed = True
    reason = "they do not fit into memory: read from a scratch file as needed"

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self._start(device)
        size = int(np.prod(shape))
        try:
            with scratch_folder(Path(tempfile.gettempdir())) as scratch:  # the mapping keeps it until it is freed
                reserve(scratch / "images", size * dtype.itemsize)
                self.all = torch.from_file(str(scratch / "images"), shared=True, size=size, dtype=dtype).view(shape)
        except OSError as error:  # without its number, by which it would be taken for one of the run folder's disk
            raise OSError(
                f"the images do not fit into free memory, nor into a scratch file (TMPDIR): {error.strerror or error}"
            ) from None

    def _start(self, device: torch.device) -> None:
        """Prepare to read for a device."""
        self.device, self._prefetched = device, threading.local()  # each worker prefetches its own batches
        self._reader = ThreadPoolExecutor(1, "fedlab images")

    def write(self, rows: Ints, images: Tensor) -> None:
        """Set these images."""
        self.all[torch.from_numpy(rows)] = images

    def gather(self, rows: Tensor, cut: "Cut | None" = None) -> Tensor:
        """The images in these rows, or crops of them, on the device."""
        on_host, cut = rows.cpu(), None if cut is None else Cut(cut.starts.cpu(), cut.edges)
        prefetched, self._prefetched.batch = getattr(self._prefetched, "batch", None), None
        expected = prefetched is not None and np.array_equal(prefetched[0], on_host.numpy())
        expected = expected and prefetched is not None and _same_cut(prefetched[1], cut)
        batch = prefetched[2].result() if prefetched is not None and expected else self._read(on_host, cut)
        return batch.to(self.device, non_blocking=True)

    def prefetch(self, rows: Ints, cut: "Cut | None" = None) -> None:
        """Start to read the rows that are gathered next. cut: its starts are on the host."""
        future: Future[Tensor] = self._reader.submit(self._read, torch.from_numpy(rows), cut)
        self._prefetched.batch = rows, cut, future

    def _read(self, rows: Tensor, cut: "Cut | None") -> Tensor:
        batch = self._gathered(rows, cut)
        if self.device.type != "cuda":
            return batch
        with torch.cuda.device(self.device):  # the current GPU of a new thread is the first one
            return batch.pin_memory()

    def _gathered(self, rows: Tensor, cut: "Cut | None") -> Tensor:
        return _gathered(self.all, rows, cut)


class MappedImages(StreamedImages):
    """Images, or masks, that are read from the dataset's own file as they are used, since no scanner changes them.

    Of crops their voxels alone are read.
    """

    reason = "read from the files of the dataset as needed"

    def __init__(self, array: NDArray[Any], kept: Ints, space: tuple[int, ...], device: torch.device) -> None:
        """array: a memory map (n, channels, *space), or (n, *space). kept: positions in it of this dataset's rows."""
        self._start(device)
        self.array, self.kept, self.channels = array, kept, array.ndim - len(space) == 2
        self.shape = (len(kept), *space, *(array.shape[1:2] if self.channels else ()))
        self.all: Any = self

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, rows: slice) -> Tensor:
        return self._gathered(torch.arange(len(self))[rows], None)

    def _gathered(self, rows: Tensor, cut: "Cut | None") -> Tensor:
        places = self.kept[rows.numpy()]
        if cut is None:
            found = np.asarray(self.array[places])
        else:
            boxes = [tuple(map(slice, start, start + cut.edges)) for start in cut.starts.numpy()]
            found = np.stack([self.array[(place, ..., *box)] for place, box in zip(places, boxes, strict=True)])
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(found, 1, -1) if self.channels else found))


@dataclass(frozen=True)
class Cut:
    """Crops of the images of a batch: where each begins (b, d), and their edges."""

    starts: Tensor
    edges: tuple[int, ...]


def _gathered(images: Tensor, rows: Tensor, cut: Cut | None) -> Tensor:
    """Images (n, *space, ...) in these rows, or crops of them; only the voxels of crops are read."""
    if cut is None:
        return images.index_select(0, rows)
    if len(rows) == 1 and rows.device.type == "cpu":  # one box, which is copied at once
        box = tuple(slice(start, start + edge) for start, edge in zip(cut.starts[0].tolist(), cut.edges, strict=True))
        return images[int(rows)][box].clone(memory_format=torch.contiguous_format)[None]
    index = [rows.view(-1, *[1] * len(cut.edges))]
    for axis, edge in enumerate(cut.edges):
        along = [edge if other == axis else 1 for other in range(len(cut.edges))]
        within = torch.arange(edge, device=rows.device).view(1, *along)
        index.append(cut.starts[:, axis].view(-1, *[1] * len(cut.edges)) + within)
    return images[tuple(index)]


def _same_cut(first: Cut | None, second: Cut | None) -> bool:
    """Whether two crops of the same rows are the same."""
    if first is None or second is None:
        return first is second
    return torch.equal(first.starts, second.starts)


def allocate(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> ResidentImages | StreamedImages:
    """Memory for images on the device, or a scratch file if they take too much of it."""
    size = int(np.prod(shape)) * dtype.itemsize
    return (ResidentImages if size <= MEMORY_SHARE * free_memory(device) else StreamedImages)(shape, dtype, device)


def free_memory(device: torch.device) -> float:
    """Bytes of free memory of a device; infinite if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return float("inf")


class MaskRows:
    """Masks that are read from a scratch file, gathered by rows like those in memory."""

    def __init__(self, masks: StreamedImages) -> None:
        self.masks = masks

    def __len__(self) -> int:
        return len(self.masks.all)

    @property
    def ndim(self) -> int:
        """How many axes the masks of all rows have together."""
        return len(self.masks.all.shape)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self.gather(rows)

    def gather(self, rows: Tensor, cut: Cut | None = None) -> Tensor:
        """The masks in these rows, or crops of them, on the device."""
        return self.masks.gather(rows, cut)


class DeviceDataset:
    """Pixels (n, height, width[, depth], channels) in the type they have on disk, and targets (n,), on the device.

    Targets of a segmentation task are masks (n, height, width[, depth]) of uint8: those that the site's readers drew,
    and the true ones of test cases.

    Rows are addressed by `rows(index)`, where index are positions in the dataset's table. Images become floats,
    channels first in channels-last memory, only when a batch is gathered: in [0, 1], or normalised as the settings say.
    Of a held-out site there are test cases alone, and with normalisation="site" the training images too.

    crop: the crops that models train on; None for whole images. window: edges of what a model gets, of a crop or of the
    image. extents: of images of unequal size, how much of its row each fills (n, d), see `Cases`; None if all have one
    size. Crops are drawn within the extent; a case that is shorter than a crop is followed by 0.
    """

    def __init__(
        self, partition: Partition, targets: NDArray[Any] | None, device: torch.device, settings: Training
    ) -> None:
        """targets: those of all cases of the dataset; None takes masks."""
        cases = partition.cases
        self.dtype = settings.dtype
        self.full = 255.0 if cases.images.dtype == np.uint8 else 1.0
        used = _used_cases(partition, settings.normalisation)
        kept = np.sort(np.concatenate([index for _, index in used]))
        self._row = np.full(len(cases), -1)
        self._row[kept] = np.arange(len(kept))
        channels, *space = cases.shape
        stored = torch.uint8 if cases.images.dtype == np.uint8 else torch.float16
        self.space = tuple(space)
        self.extents = None if cases.extents is None else cases.extents[kept]
        self.crop = patches.crop_of(settings.crop, space, self.extents is not None)
        self.window = self.space if self.crop is None else self.crop.edges
        self.device = device
        short = self.extents is not None and bool((self.extents < np.array(self.window)).any())
        self._ends = torch.from_numpy(self.extents).to(device) if short and self.extents is not None else None
        unchanged = not partition.scanners and (partition.covariate is None or not partition.covariate.visible)
        self.pixels = self._memory(cases.images, kept, (len(kept), *space, channels), stored, unchanged)
        masks = None
        if targets is None and cases.masks is not None:
            masks = self._memory(cases.masks, kept, (len(kept), *space), torch.uint8, not partition.annotators)
        for site, index in used:
            self._fill(partition, site, index, masks)
        self.targets: Tensor | MaskRows
        if targets is not None:
            self.targets = torch.from_numpy(np.ascontiguousarray(targets[kept])).to(device)
        elif masks is not None:
            self.targets = MaskRows(masks) if isinstance(masks, StreamedImages) else masks.all
        self.affine = self._normalisation(partition, used, settings.normalisation)
        centred = targets is None and self.crop is not None and self.crop.foreground > 0
        self._voxels = self._structure_voxels(partition) if centred else {}

    @property
    def streamed(self) -> bool:
        """Whether images are read from a file as they are used, instead of from the device's memory."""
        return self.pixels.streamed

    def _memory(
        self, array: NDArray[Any], kept: Ints, shape: tuple[int, ...], dtype: torch.dtype, unchanged: bool
    ) -> ResidentImages | StreamedImages:
        """Memory for images or masks; the dataset's own file if nothing changes them and that is better.

        It is where they do not fit into memory, and where a CPU reads no more than crops of them.
        """
        found = None
        if unchanged and isinstance(array, np.memmap):
            crops = self.crop is not None and self.device.type == "cpu"
            if crops or int(np.prod(shape)) * dtype.itemsize > MEMORY_SHARE * free_memory(self.device):
                found = MappedImages(array, kept, self.space, self.device)
        return found or allocate(shape, dtype, self.device)

    def _fill(
        self, partition: Partition, site: str, index: Ints, masks: ResidentImages | StreamedImages | None
    ) -> None:
        mapped = isinstance(self.pixels, MappedImages), masks is None or isinstance(masks, MappedImages)
        case = partition.cases.images.dtype.itemsize * int(np.prod(partition.cases.shape))
        step = max(1, min(CHUNK, CHUNK_BYTES // case))
        for start in range(0, 0 if all(mapped) else len(index), step):
            part = index[start : start + step]
            if not mapped[0]:
                images = partition.pixels(part, site) if site else np.asarray(partition.cases.images[part])
                channels_last = torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, 1, -1)))
                self.pixels.write(self._row[part], channels_last)
            if not mapped[1] and masks is not None and partition.cases.masks is not None:
                drawn = partition.training_masks(part, site) if site else np.array(partition.cases.masks[part])
                masks.write(self._row[part], torch.from_numpy(drawn))

    def _normalisation(self, partition: Partition, used: list[SiteCases], policy: str) -> Affine | None:
        if policy == "none":
            return None
        sites = []
        for site in partition.sites:
            rows = torch.cat([self.rows(index) for name, index in used if name == site])
            train = self.rows(partition.index(site, "train"))
            own = train[train >= 0]
            own = rows if site in partition.unseen and not len(own) else own  # all of its cases are test cases
            sites.append(SiteRows(rows, own, site not in partition.unseen))
        return affine(policy, self.pixels.all, sites, self.full, self.dtype, self.extents)

    def rows(self, index: Ints) -> Tensor:
        """Rows of this dataset, on the device, of positions in the dataset's table; -1 for cases that it lacks."""
        return to_device(self._row[index], self.device)

    def prefetch(self, index: Ints, starts: Ints | None = None) -> None:
        """Start to read the images of the cases that are gathered next, if images are streamed."""
        cut = None if starts is None else Cut(torch.from_numpy(starts), self.window)
        if isinstance(self.pixels, StreamedImages):
            self.pixels.prefetch(self._row[index], cut)
        if isinstance(self.targets, MaskRows):
            self.targets.masks.prefetch(self._row[index], cut)

    def crop_starts(self, index: Ints, key: tuple[int, str, int]) -> Ints:
        """Where the crops of these training cases begin (b, d), drawn by (seed, site, step) and case."""
        assert self.crop is not None
        voxels = [self._voxels.get(int(case), []) for case in index]
        space: Any = self.space if self.extents is None else self.extents[self._row[index]]
        return patches.starts_of(voxels, space, self.window, key, index, self.crop.foreground)

    def _structure_voxels(self, partition: Partition) -> dict[int, list[Ints]]:
        """Voxels of the structures that each training case has in the mask of its site's readers."""
        found = {}
        for site in partition.sites:
            for case in partition.index(site, "train") if site not in partition.unseen else ():
                mask = self.whole_targets(self.rows(np.array([case])))[0].cpu().numpy()
                found[int(case)] = patches.structure_voxels(mask, int(case))
        return found

    def masks(self, rows: Tensor, starts: Tensor) -> Tensor:
        """Crops of the masks in these rows, (b, *window)."""
        cut = Cut(starts, self.window)
        found = self._masks(rows, cut)
        return found if self._ends is None else found.masked_fill(self._beyond(rows, cut), 0)

    def whole_targets(self, rows: Tensor) -> Tensor:
        """Labels or whole masks in these rows; of images of unequal size the mask of one row, on its extent."""
        cut = self._extent_of(rows)
        return self.targets[rows] if cut is None or self.targets.ndim == 1 else self._masks(rows, cut)

    def images(self, rows: Tensor, starts: Tensor | None = None) -> Tensor:
        """A batch (b, channels, height, width[, depth]) of floats, channels-last in memory; of crops if they start.

        Whole images of unequal size are read one at a time, on their extent. Crops are 0 beyond it.
        """
        cut = self._extent_of(rows) if starts is None else Cut(starts, self.window)
        batch = self.pixels.gather(rows, cut).movedim(-1, 1).to(self.dtype)
        if self.affine is not None:
            batch = self.affine.apply(batch, rows)
        elif self.full != 1:
            batch = batch.div_(self.full)
        if starts is None or cut is None or self._ends is None:
            return batch
        return batch.masked_fill_(self._beyond(rows, cut).unsqueeze(1), 0)

    def _masks(self, rows: Tensor, cut: "Cut") -> Tensor:
        return (
            self.targets.gather(rows, cut) if isinstance(self.targets, MaskRows) else _gathered(self.targets, rows, cut)
        )

    def _extent_of(self, rows: Tensor) -> "Cut | None":
        """The extent of the image in this row, as a crop; None if all images have one size."""
        if self.extents is None:
            return None
        (extent,) = self.extents[rows.cpu().numpy()]  # one image, since images of several sizes are no batch
        return Cut(torch.zeros(1, len(extent), dtype=torch.int64, device=rows.device), tuple(extent.tolist()))

    def _beyond(self, rows: Tensor, cut: "Cut") -> Tensor:
        """Which voxels of crops are beyond the extents of their images, (b, *window)."""
        assert self._ends is not None
        room = self._ends[rows] - cut.starts
        found = torch.zeros((len(rows), *cut.edges), dtype=torch.bool, device=rows.device)
        for axis, edge in enumerate(cut.edges):
            along = [edge if other == axis else 1 for other in range(len(cut.edges))]
            place = torch.arange(edge, device=rows.device).view(1, *along)
            found |= place >= room[:, axis].view(-1, *[1] * len(along))
        return found


def _used_cases(partition: Partition, policy: str) -> list[SiteCases]:
    """The cases that are used by any split, per site; cases of no site under ""."""
    used = []
    for site in partition.sites:
        splits = ("test",) if site in partition.unseen else ("train", "val", "test")
        used += [(site, partition.index(site, split)) for split in splits]
        if site in partition.unseen and policy == "site":
            used.append((site, partition.index(site, "train")))
    return [*used, ("", partition.unassigned("test"))]
