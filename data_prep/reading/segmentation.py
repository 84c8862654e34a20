"""DICOM segmentations as masks: each frame is put where its position says, on the grid of the image."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.reading import dicom
from data_prep.reading.scan import Scan
from data_prep.reading.stacks import LPS

MOST = 255  # number of a segment
APART = 0.05  # of a voxel, by which a frame may be off the grid


def mask(path: Path, image: Scan, name: str = "") -> NDArray[np.uint8] | None:
    """The numbers of segments on the grid of a volume, 0 where there is none; None if a file holds no segmentation.

    Raises ValueError if the image states no place, a frame is on another grid, segments overlap, or they are given as
    fractions.
    """
    name = name or str(path)
    with dicom.quiet():
        if not dicom.header(path).segments:
            return None
        dataset = dicom.opened(path, name)
        kind = str(dataset.get("SegmentationType", ""))
        if kind not in ("BINARY", "LABELMAP"):
            raise ValueError(f"{name} holds a segmentation of type {kind or 'not stated'}: save it as a binary one")
        if image.affine is None or image.dimensions != 3:
            raise ValueError(f"{name} is a DICOM segmentation, and its image is no volume with a place: save it as PNG")
        found = np.zeros(image.values.shape, np.uint8)
        frames = dicom.stored(dataset, name)
        for place, frame in enumerate(frames):
            inside = np.nonzero(frame)
            voxels = _voxels(dataset, place, inside, image, name)
            numbers = frame[inside] if kind == "LABELMAP" else np.full(len(voxels[0]), _segment(dataset, place, name))
            if numbers.size and numbers.max() > MOST:
                raise ValueError(f"{name} holds the segment {numbers.max()}: wanted numbers up to {MOST}")
            taken = found[voxels]
            if ((taken != 0) & (taken != numbers)).any():
                raise ValueError(
                    f"{name} holds segments that overlap in {int((taken != 0).sum()):,} voxels of frame {place + 1}: a"
                    " mask has one structure for each voxel, save the segments as files of their own"
                )
            found[voxels] = numbers
    return found


def _segment(dataset: Any, place: int, name: str) -> int:
    """The number of the segment that a frame belongs to."""
    group = dicom.group_of(dataset, place, "SegmentIdentificationSequence")
    number = 0 if group is None else int(group.get("ReferencedSegmentNumber") or 0)
    if not 0 < number <= MOST:
        raise ValueError(f"{name} has the segment {number} in frame {place + 1}: wanted a number from 1 to {MOST}")
    return number


def _voxels(
    dataset: Any, place: int, inside: tuple[NDArray[np.int64], ...], image: Scan, name: str
) -> tuple[NDArray[np.int64], ...]:
    """The voxels of the image at which pixels (row, column) of a frame are."""
    position, orientation, spacing = dicom.place_of(dataset, place)
    if position is None or orientation is None or spacing is None or image.affine is None:
        raise ValueError(f"{name} states no place of frame {place + 1}: save it as NIfTI on the grid of its image")
    across, down = np.array(orientation).reshape(2, 3)
    frame = np.eye(4)
    frame[:3, 0], frame[:3, 1], frame[:3, 3] = down * spacing[0], across * spacing[1], position
    to_voxels = np.linalg.inv(image.affine) @ LPS @ frame
    exact = to_voxels[:3, :2] @ np.array(inside) + to_voxels[:3, 3:]
    steps = np.abs(to_voxels[:3, :2])
    voxels = np.rint(exact).astype(np.int64)
    shape = np.array(image.values.shape)[:, None]
    aligned = np.allclose(steps.max(0), 1, atol=APART) and np.abs(exact - voxels).max(initial=0) < APART
    if not aligned or (voxels < 0).any() or (voxels >= shape).any():
        raise ValueError(f"{name} is on another grid than its image (frame {place + 1}): resample it to that grid")
    return tuple(voxels)
