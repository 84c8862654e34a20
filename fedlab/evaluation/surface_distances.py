"""Distances between the surfaces of two binary masks, in 2D or 3D: the Hausdorff distance and the surface Dice.

The surface of a mask is its voxels with a neighbour outside (a voxel that shares a face, or the border of the image),
as in MONAI. Its results are the same, but for masks that are empty: if one of the two is, the Hausdorff distance is the
diagonal of the image and the surface Dice is 0; if both are, they are undefined (NaN).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.core.typing import Floats

Spacing = Sequence[float] | float
PERCENTILE = 95
ROUNDING = 1e-9  # relative: a distance that equals the tolerance lies within it


def surface_measures(
    predicted: ArrayLike, truth: ArrayLike, spacing: Spacing = 1.0, tolerance: float = 1.0
) -> tuple[float, float]:
    """Hausdorff distance (95th percentile) and surface Dice of one structure, faster than one after the other.

    Parameters
    ----------
    predicted, truth : array-like, shape (height, width[, depth])
        Masks; every value but 0 is the structure.
    spacing : float or sequence of float
        Edges of a voxel in mm.
    tolerance : float
        Distance in mm up to which surfaces agree.

    Returns
    -------
    tuple of float
        See `hd95` and `surface_dice`.

    Raises
    ------
    ValueError
        If shapes, spacing or tolerance do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.evaluation.surface_distances import surface_measures
    >>> truth = np.zeros((20, 20), bool)
    >>> truth[5:10, 5:10] = True
    >>> surface_measures(np.roll(truth, 2, 0), truth, spacing=(0.5, 1.0), tolerance=0.5)
    (1.0, 0.5)
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance}: give a distance in mm of at least 0")
    masks, edges = _checked(predicted, truth, spacing)
    some = [bool(mask.any()) for mask in masks]
    if not any(some):
        return math.nan, math.nan
    if not all(some):
        return math.hypot(*(count * edge for count, edge in zip(masks[0].shape, edges, strict=True))), 0.0
    directed = _distances(*masks, edges)
    near = sum(int((distances <= tolerance * (1 + ROUNDING)).sum()) for distances in directed)
    far = max(float(np.percentile(distances, PERCENTILE)) for distances in directed)
    return far, near / sum(map(len, directed))


def hd95(predicted: ArrayLike, truth: ArrayLike, spacing: Spacing = 1.0) -> float:
    """95th percentile of the Hausdorff distance: the larger of the two directed ones, interpolated linearly.

    Parameters
    ----------
    predicted, truth, spacing
        See `surface_measures`.

    Returns
    -------
    float
        In mm; the diagonal of the image if one mask is empty, NaN if both are.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.evaluation.surface_distances import hd95
    >>> rows = np.arange(16)[:, None] + np.zeros(16)
    >>> hd95(rows < 8, rows < 11), hd95(np.zeros((3, 4)), np.ones((3, 4)))
    (3.0, 5.0)
    """
    return surface_measures(predicted, truth, spacing)[0]


def surface_dice(predicted: ArrayLike, truth: ArrayLike, spacing: Spacing = 1.0, tolerance: float = 1.0) -> float:
    """Normalised surface Dice: share of both surfaces' voxels that are within a tolerance of the other (Nikolov 2021).

    Parameters
    ----------
    predicted, truth, spacing, tolerance
        See `surface_measures`.

    Returns
    -------
    float
        0 to 1; 0 if one mask is empty, NaN if both are.

    References
    ----------
    Nikolov et al. 2021, doi:10.2196/26151. Voxels of the surface are counted, its area is not measured.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.evaluation.surface_distances import surface_dice
    >>> rows = np.arange(16)[:, None] + np.zeros(16)
    >>> surface_dice(rows < 8, rows < 9), surface_dice(np.zeros((3, 4)), np.ones((3, 4)))
    (1.0, 0.0)
    """
    return surface_measures(predicted, truth, spacing, tolerance)[1]


def _checked(
    predicted: ArrayLike, truth: ArrayLike, spacing: Spacing
) -> tuple[tuple[NDArray[np.bool_], NDArray[np.bool_]], tuple[float, ...]]:
    """Masks as booleans and the edges of a voxel; ValueError if they do not fit together."""
    first, second = (np.asarray(mask).astype(bool, copy=False) for mask in (predicted, truth))
    if first.shape != second.shape or first.ndim not in (2, 3):
        raise ValueError(
            f"masks have shapes {first.shape} and {second.shape}: give two of (height, width) or (height, width, depth)"
        )
    edges = tuple(float(edge) for edge in np.broadcast_to(np.ravel(spacing), _length(spacing, first.ndim)))
    if len(edges) != first.ndim or not all(0 < edge < math.inf for edge in edges):
        raise ValueError(f"spacing={spacing}: give {first.ndim} lengths in mm above 0, the edges of a voxel")
    return (first, second), edges


def _length(spacing: Spacing, dimensions: int) -> int:
    """How many edges a spacing has; a single number is for all."""
    return max(np.size(spacing), 1) if np.ndim(spacing) else dimensions


def _distances(first: NDArray[np.bool_], second: NDArray[np.bool_], edges: tuple[float, ...]) -> tuple[Floats, Floats]:
    """Distances of each mask's surface voxels to the other surface, in mm."""
    from scipy.spatial import KDTree  # takes a while to import

    box = _bounding_box(first | second)
    points = [np.argwhere(_surface(mask[box])) * np.asarray(edges) for mask in (first, second)]
    trees = [KDTree(each) for each in points]
    return trees[1].query(points[0])[0], trees[0].query(points[1])[0]


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box around a mask that is not empty."""
    box = []
    for axis in range(mask.ndim):
        hit = np.flatnonzero(mask.any(tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return tuple(box)


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of a mask with a neighbour outside; what is beyond the array is outside."""
    inside = np.pad(mask, 1)
    inner = mask.copy()
    centre = (slice(1, -1),) * mask.ndim
    for axis in range(mask.ndim):
        for side in (slice(None, -2), slice(2, None)):
            inner &= inside[(*centre[:axis], side, *centre[axis + 1 :])]
    return mask & ~inner
