"""Structures of a mask: numbers where structures exclude one another, bits where they may overlap."""

from typing import Any

MOST = 8  # structures that may overlap: the bits of uint8


def region(mask: Any, structure: int, overlap: bool) -> Any:
    """Which voxels belong to a structure.

    Parameters
    ----------
    mask : ndarray or Tensor of uint8
        The values of a mask, of any shape.
    structure : int
        Number of the structure, from 1; 0 is the background.
    overlap : bool
        Whether structures may overlap: bit ``structure - 1`` of a value then says whether the voxel belongs to it.

    Returns
    -------
    ndarray or Tensor of bool
        Of the same shape.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.data.structures import region
    >>> mask = np.array([0, 1, 2, 3], np.uint8)
    >>> region(mask, 2, overlap=False), region(mask, 2, overlap=True)
    (array([False, False,  True, False]), array([False, False,  True,  True]))
    """
    if not overlap or not structure:
        return mask == structure
    return (mask >> (structure - 1)) & 1 == 1


def highest_value(structures: int, overlap: bool) -> int:
    """The largest value of a mask with so many structures, background included."""
    return 2 ** (structures - 1) - 1 if overlap else structures - 1
