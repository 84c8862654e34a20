"""What a model gets: in training a batch that is cropped and augmented, in evaluation whole images or their windows."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedlab.core.memory import to_device
from fedlab.core.typing import Ints
from fedlab.engine.device_dataset import DeviceDataset
from fedlab.learning import augmentation, patches
from fedlab.learning.settings import Training

EVALUATION_VOXELS = 2**20  # of the images, or windows, that are predicted at a time

Keys = Sequence[augmentation.RngKey]


class ModelInputs:
    """The images and targets of a device dataset, as a model trains on them and as it predicts them.

    augmentation: the changes of training images.
    """

    def __init__(self, dataset: DeviceDataset, settings: Training, dense: bool) -> None:
        """dense: targets are masks, which are cropped and moved as their images."""
        self.dataset, self.dense = dataset, dense
        self.augmentation = augmentation.Augmentation(settings.augment, dense)

    @property
    def crops(self) -> bool:
        """Whether steps train on crops, which differ from step to step."""
        return self.dataset.crop is not None

    @property
    def by_case(self) -> bool:
        """Whether what a step trains on is drawn for each of its cases."""
        return self.crops or self.augmentation.by_case

    def gather(self, rows: Tensor, index: Sequence[Ints], keys: Keys) -> tuple[Tensor, Tensor]:
        """Images and targets of several batches, on the device; crops if there are any.

        rows: of the device dataset, of all batches. index, keys: the cases of each batch, and the random key of its
        step; not used without crops.
        """
        starts = self.starts(index, keys)
        return self.cut(rows, None if starts is None else to_device(starts, rows.device))

    def starts(self, index: Sequence[Ints], keys: Keys) -> Ints | None:
        """Where the crops of several batches begin, (b, d); None without crops."""
        if not self.crops:
            return None
        each = zip(index, keys, strict=True)
        return np.concatenate([self.dataset.crop_starts(cases, key) for cases, key in each])

    def cut(self, rows: Tensor, starts: Tensor | None) -> tuple[Tensor, Tensor]:
        """Images and targets in these rows, from these starts on."""
        dataset = self.dataset
        masks = self.dense and starts is not None
        return dataset.images(rows, starts), dataset.masks(rows, starts) if masks else dataset.targets[rows]  # type: ignore[arg-type]

    def prefetch(self, index: Ints, key: augmentation.RngKey) -> None:
        """Start to read the batch that is gathered next, if images are streamed."""
        if self.dataset.streamed:
            self.dataset.prefetch(index, self.starts([index], [key]))

    def augment(self, images: Tensor, targets: Tensor, index: Sequence[Ints], keys: Keys) -> tuple[Tensor, Tensor]:
        """Augmented images and masks of the steps with these cases and random keys, equally many for each."""
        if not self.augmentation.active:
            return images, targets
        if self.augmentation.by_case:
            images, masks = self.augmentation.of_cases(images, targets if self.dense else None, index, keys)
            return images, targets if masks is None else masks
        count, shape = len(images) // len(keys), tuple(images.shape[2:])
        changes = [self.augmentation.draw(key, count, shape) for key in keys]
        return self.change(images, targets, augmentation.to_tensors(changes, images))

    def change(self, images: Tensor, targets: Tensor, drawn: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Images and masks with these changes."""
        masks = augmentation.apply_to_masks(targets, drawn) if self.dense else targets
        return augmentation.apply(images, drawn), masks

    def over_windows(self, predict: Callable[[Tensor], Tensor], images: Tensor, dense: bool) -> Tensor:
        """What is predicted of whole images: of all their windows together if the model trains on crops.

        dense: predictions of voxels, averaged with Gaussian weights; others are means over windows.
        """
        crop = self.dataset.crop
        if crop is None:
            return predict(images)
        batch = max(1, EVALUATION_VOXELS // math.prod(crop.edges))
        space = images.shape[2:]
        lacking = [max(0, edge - whole) for edge, whole in zip(crop.edges, space, strict=True)]
        if any(lacking):  # an image of unequal size that is smaller than a crop is followed by 0, as in training
            images = F.pad(images, [size for each in reversed(lacking) for size in (0, each)])
        if not dense:
            return patches.window_mean(predict, images, crop.edges, crop.overlap, batch)
        found = patches.sliding_window(predict, images, crop.edges, crop.overlap, batch)
        inner: patches.Box = (..., *map(slice, space))
        return found[inner] if any(lacking) else found

    def example(self, count: int, device: torch.device) -> Tensor:
        """Some images of the size that models get, to try a model on."""
        rows = torch.zeros(count, dtype=torch.int64, device=device)
        starts = torch.zeros(count, len(self.dataset.window), dtype=torch.int64, device=device)
        return self.dataset.images(rows, starts if self.crops else None)
