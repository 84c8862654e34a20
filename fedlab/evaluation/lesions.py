"""Lesions of binary masks, in 2D or 3D: which of them a prediction finds, and which it makes up.

A lesion is a connected component: its voxels share a face, an edge or a corner (8 neighbours in images, 26 in volumes).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROUNDING = 1e-9  # relative: a share that equals the wanted one is enough


class Lesions(NamedTuple):
    """Numbers of true lesions, of those that are found, and of predicted ones that are false."""

    true: int
    found: int
    false: int


def count_lesions(predicted: ArrayLike, truth: ArrayLike, share: float = 0.0) -> Lesions:
    """Count the lesions of one structure.

    A true lesion is found if the predicted mask covers at least this share of its voxels, and one of them at least. A
    predicted lesion is false if it has no voxel of a true one.

    Parameters
    ----------
    predicted, truth : array-like, shape (height, width[, depth])
        Masks; every value but 0 is the structure.
    share : float, default 0
        Share of a lesion's voxels, 0 to 1; 0 is any overlap.

    Returns
    -------
    Lesions
        true, found and false; 0 where there is none.

    Raises
    ------
    ValueError
        If the shapes differ, or the share is impossible.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.evaluation.lesions import count_lesions
    >>> truth = np.array([[1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1]])  # the second row touches a corner
    >>> predicted = np.array([[1, 0, 0, 0, 1], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]])
    >>> count_lesions(predicted, truth)
    Lesions(true=2, found=1, false=2)
    >>> count_lesions(predicted, truth, share=0.5)
    Lesions(true=2, found=0, false=2)
    """
    called, true = (np.asarray(mask).astype(bool, copy=False) for mask in (predicted, truth))
    if called.shape != true.shape:
        raise ValueError(f"masks have shapes {called.shape} and {true.shape}: give two of one shape")
    if not 0 <= share <= 1:
        raise ValueError(f"share={share}: give a share of a lesion's voxels from 0 to 1")
    (place, number), (own, made) = _components(true), _components(called)
    covered = np.bincount(place[called], minlength=number + 1)[1:]
    size = np.bincount(place[true], minlength=number + 1)[1:]
    found = (covered > 0) & (covered >= share * size * (1 - ROUNDING))
    return Lesions(number, int(found.sum()), made - len(np.unique(own[called & true])))


def _components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """The component that each voxel belongs to, from 1, 0 outside; and how many there are."""
    from scipy.ndimage import label  # takes a while to import

    if not mask.any():
        return np.zeros(mask.shape, np.int32), 0
    found, number = label(mask, structure=np.ones((3,) * mask.ndim))
    return found, int(number)
