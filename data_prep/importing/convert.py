"""One case: read, check, window and resample its image and its mask."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep import reader
from data_prep.importing import grid
from data_prep.importing.settings import WIDE, WINDOWS, Settings
from data_prep.reader import Person, Scan

MOST = 64  # different values of a mask; more are grey values
PLACE = 0.05  # of a voxel, by which the places of an image and its mask may differ
LUMA = (0.299, 0.587, 0.114)  # shares of red, green and blue in grey (ITU-R BT.601)
FULL = 255
AIR = (-3100, -900)  # least values of images in Hounsfield units
SHOWN = "CT shown from {:g} to {:g} HU: give a window (lung, brain, bone, soft-tissue) for the contrast of one organ"
OWN = "CT shown by the window of its header: grey values of different files cannot be compared"
LIKE_CT = "values look like Hounsfield units, shown between percentiles of each file: give the modality ct, or a window"


@dataclass(frozen=True)
class Converted:
    """An image (channels, height, width[, depth]) with its mask, and what its header says.

    spacing: mm of its voxels.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    person: Person = field(default_factory=Person)
    notes: tuple[str, ...] = ()
    oriented: bool = True
    spacing: tuple[float, ...] | None = None


def convert(files: Sequence[Path], masks: Sequence[Path], chosen: Settings) -> list[Converted]:
    """Convert the files of one case: one result, or one for each frame. Raises ValueError with the reason.

    masks: the mask, or one for each structure that may overlap others, which then has one bit.
    """
    scans = reader.read(files, chosen.frames)
    if masks and len(scans) > 1:
        raise ValueError(f"{files[0]} holds {len(scans)} frames and has one mask: save the frames as files")
    return [_converted(scan, masks, chosen, str(files[0])) for scan in scans]


def digest(files: Sequence[Path]) -> str:
    """The sha256 of the files, and of those with their voxels, one after the other."""
    found = hashlib.sha256()
    for path in whole(files):
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def whole(files: Sequence[Path]) -> list[Path]:
    """Files, each followed by the one with its voxels if it is a header."""
    return [each for path in files for each in (path, reader.companion(path)) if each is not None]


def _converted(scan: Scan, masks: Sequence[Path], chosen: Settings, name: str) -> Converted:
    """Window and resample one scan with its masks."""
    shape = scan.values.shape[: scan.dimensions]
    axes = grid.axes(shape, scan.spacing, chosen, name)
    image, notes = pixels(scan, axes, chosen, name)
    each = [grid.mask(_checked(mask, scan, name), axes) for mask in masks]
    found = each[0] if each else None
    if len(each) > 1:
        found = np.bitwise_or.reduce([(mask > 0).astype(np.uint8) << np.uint8(bit) for bit, mask in enumerate(each)])
    oriented = scan.dimensions == 2 or scan.affine is not None
    spacing = scan.spacing and tuple(each * axis.step for each, axis in zip(scan.spacing, axes, strict=True))
    return Converted(image, found, scan.facts, scan.person, (*scan.notes, *notes), oriented, spacing)


def pixels(scan: Scan, axes: list[grid.Axis], chosen: Settings, name: str) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Window and resample the values of a scan to (channels, axes of the grid); and notes on how."""
    levels, notes = _levels(scan, chosen, name)
    levels = np.moveaxis(levels, -1, 0) if scan.colour else levels[None]
    if chosen.colour == "grey" and len(levels) == 3:
        levels = np.tensordot(np.array(LUMA, np.float32), levels, axes=(0, 0))[None]
    image = np.rint(np.clip(grid.image(levels, axes), 0, 1) * FULL).astype(np.uint8)
    if chosen.colour == "rgb" and len(image) == 1:
        image = np.repeat(image, 3, axis=0)
    if image.min() == image.max():
        notes = (*notes, "has no contrast: all pixels are equal")
    return image, notes


def _levels(scan: Scan, chosen: Settings, name: str) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Grey values or colours as 0 (black) to 1 (white), NaN black."""
    notes: tuple[str, ...] = ()
    if chosen.preset and scan.facts.get("modality", "CT") != "CT":
        raise ValueError(
            f"{name} has the modality {scan.facts['modality']}: the window {chosen.preset!r} is in Hounsfield units of"
            " CT; give low and high values, or percentiles"
        )
    window = WINDOWS[WIDE] if _is_plain_ct(scan, chosen) else chosen.window
    fixed = window is not None or chosen.percentiles is not None
    if chosen.header and scan.window is None and scan.display is None:
        raise ValueError(f"{name} states no window: give low and high values, or percentiles")
    if not fixed and scan.display is not None:
        levels = scan.display
    else:
        low, high = map(float, window or _own(scan, chosen, name))
        levels = reader.share(scan.values.astype(np.float32, copy=False), low, high)
        if window is not None and chosen.window is None:
            notes = (SHOWN.format(low, high),)
        elif not fixed and scan.window is not None and scan.facts.get("modality") == "CT":
            notes = (OWN,)
        elif not fixed and scan.window is None and "modality" not in scan.facts and not scan.colour:
            least = np.nanmin(scan.values)
            notes = (LIKE_CT,) if AIR[0] <= least <= AIR[1] else ()
    levels = levels.astype(np.float32, copy=False)
    levels = 1 - levels if scan.inverted else levels
    if scan.values.dtype.kind == "f":
        levels = np.where(np.isnan(scan.values), np.float32(0), levels)
    return levels, notes


def _is_plain_ct(scan: Scan, chosen: Settings) -> bool:
    """Whether an image is in Hounsfield units, and nothing is said of its window."""
    if chosen.header or chosen.window is not None or chosen.percentiles is not None:
        return False
    return scan.hounsfield or (chosen.ct and "modality" not in scan.facts and scan.window is None and not scan.colour)


def _own(scan: Scan, chosen: Settings, name: str) -> tuple[float, float]:
    """The window of the header, or two percentiles."""
    if chosen.percentiles is None and scan.window is not None:
        return scan.window
    return reader.window(scan.values, name, chosen.percentiles or reader.TAILS)


def _checked(path: Path, scan: Scan, name: str) -> NDArray[np.uint8]:
    """The numbers of a mask that is on the grid of its image; ValueError if it is not."""
    values, found = reader.mask(path, scan)
    return numbers(values, found, scan, str(path), name)


def numbers(values: NDArray[Any], found: Scan, scan: Scan, path: str, name: str) -> NDArray[np.uint8]:
    """The numbers of a mask, from its values and the file as it was read; ValueError if it does not fit its image."""
    on_grid(values.shape, found, scan, path, name)
    labels = reader.labels(values, path)
    if (count := len(held(labels))) > MOST:
        raise ValueError(
            f"{path} holds {count} different values: a mask numbers its structures 0, 1, ...; this may be a grey"
            " image, or a mask that was saved as JPEG"
        )
    return labels


def held(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The values in a mask, sorted; in the order of memory, since to reorder a large volume takes longer."""
    return np.unique(labels.ravel(order="K"))


def on_grid(edges: tuple[int, ...], found: Scan, scan: Scan, path: str, name: str) -> None:
    """Raise ValueError unless a mask, or another channel, has the shape and the place of an image."""
    shape = scan.values.shape[: scan.dimensions]
    if edges != shape:
        raise ValueError(f"{path} has the shape {_edges(edges)} and its image {name} {_edges(shape)}: wanted one")
    if (found.affine is None) != (scan.affine is None) and scan.dimensions == 3:
        without = path if found.affine is None else name
        raise ValueError(f"{without} states no orientation, its image or mask does: left and right may be exchanged")
    if found.affine is not None and scan.affine is not None and scan.spacing is not None:
        apart = np.abs(found.affine - scan.affine)
        far = PLACE * np.array(scan.spacing).min()
        corner = apart[:3, :3] @ np.array(shape) + apart[:3, 3]
        if corner.max() > far:
            raise ValueError(
                f"{path} is {corner.max():.3g} mm from its image {name}: the mask was made on another grid, resample it"
            )


def _edges(shape: Sequence[int]) -> str:
    """`512 x 512`"""
    return " x ".join(map(str, shape))
