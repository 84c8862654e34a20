"""Slices of a series sorted by their position along the normal; gaps, repeats, mixtures and tilt are refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIRECTION = 1e-3  # difference of direction cosines that is rounding
UNEVEN = 0.05  # of the distance between slices, by which distances may differ
TILT = 0.5  # degrees between the stack and its slices, above which the gantry was tilted
CLOSE = 1e-3  # mm between two slices that are at the same place
EXAMPLES = 3
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM and ITK count to the left and to the back


@dataclass(frozen=True)
class Slice:
    """Values (rows, columns) with position (3,), directions of a row and a column (6,), and spacing (row, column).

    Positions and directions go to the left, to the back and upwards, in mm, as in DICOM.
    """

    values: NDArray[Any]
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    label: str = ""  # of the file, for messages


def stack(slices: Sequence[Slice], name: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Voxels (column, row, slice) and their place (4, 4) to the right, to the front and upwards.

    Raises ValueError with the reason why the slices are no volume.
    """
    _check_alike(slices, name)
    first = slices[0]
    across, down = np.array(first.orientation).reshape(2, 3)
    normal = np.cross(across, down)
    positions = np.array([each.position for each in slices], np.float64)
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    along, positions = along[order], positions[order]
    steps = np.diff(along)
    _check_steps(steps, along, [slices[place].label for place in order], name)
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    tilt = np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1, 1)))
    if tilt > TILT:
        raise ValueError(
            f"{name} was made with a tilted gantry: its slices are shifted against each other by {tilt:.1f} degrees;"
            " convert it with a program that corrects the tilt, such as dcm2niix, and import the NIfTI file"
        )
    affine = np.eye(4)
    height, width = first.spacing or (1.0, 1.0)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = across * width, down * height, step
    affine[:3, 3] = positions[0]
    voxels = np.stack([slices[place].values for place in order]).transpose(2, 1, 0)
    return voxels, LPS @ affine


def _check_alike(slices: Sequence[Slice], name: str) -> None:
    """Refuse slices that differ in size, spacing or direction, or lack a place."""
    lacking = [each for each in slices if each.position is None or each.orientation is None]
    if lacking:
        raise ValueError(
            f"{name} holds {len(lacking)} of {len(slices)} slices without position or orientation: they cannot be"
            " sorted to a volume, import each file as a picture"
        )
    if any(each.spacing is None for each in slices):
        raise ValueError(f"{name} states no pixel spacing: its voxels have no size in mm, so it is no volume")
    shapes = sorted({each.values.shape for each in slices})
    if len(shapes) > 1:
        raise ValueError(f"{name} holds slices of different size, {_listed(shapes)}: keep one series in a folder")
    directions = np.array([each.orientation for each in slices], np.float64)
    if not np.isfinite(directions).all() or np.abs(np.linalg.norm(directions.reshape(-1, 3), axis=1) - 1).max() > 0.01:
        raise ValueError(f"{name} states directions that have not the length 1: correct its header")
    other = np.abs(directions - directions[0]).max(1) > DIRECTION
    if other.any():
        raise ValueError(
            f"{name} holds slices of different orientation ({other.sum()} of {len(slices)} differ from the first, a"
            " localizer perhaps): keep one series in a folder"
        )
    spacings = np.array([each.spacing for each in slices], np.float64)
    if not (spacings > 0).all() or np.abs(spacings - spacings[0]).max() > DIRECTION * spacings[0].max():
        found = sorted({tuple(map(float, row)) for row in spacings})
        raise ValueError(f"{name} holds slices of different or impossible pixel spacing, {_listed(found)}")


def _check_steps(steps: NDArray[np.float64], along: NDArray[np.float64], names: list[str], name: str) -> None:
    """Refuse slices at the same place, and distances that differ."""
    if (twice := np.flatnonzero(steps < CLOSE)).size:
        place = int(twice[0])
        raise ValueError(
            f"{name} holds {twice.size + 1} or more slices at a place where there is one already (first:"
            f" {names[place]} and {names[place + 1]} at {along[place]:.2f} mm): several times, echoes or contrasts;"
            " keep one of them in a folder"
        )
    usual = float(np.median(steps))
    if (uneven := np.flatnonzero(np.abs(steps - usual) > UNEVEN * usual)).size:
        place = int(uneven[0])
        raise ValueError(
            f"{name} lacks slices: they are {usual:.4g} mm apart, but {steps[place]:.4g} mm between"
            f" {names[place]} and {names[place + 1]} ({uneven.size} such gaps): add the missing files"
        )


def _listed(values: Sequence[tuple[float, ...]]) -> str:
    """`512 x 512, 256 x 256, ...`"""
    shown = [" x ".join(f"{edge:g}" for edge in each) for each in values[:EXAMPLES]]
    return ", ".join(shown) + (", ..." if len(values) > EXAMPLES else "")
