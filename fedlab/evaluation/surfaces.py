"""Distances between predicted and true surfaces of a dataset's masks, case by case and structure by structure."""

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import Floats
from fedlab.data.cases import Cases
from fedlab.data.structures import region
from fedlab.learning.tasks import Surfaces


def surfaces_of(cases: Cases) -> Surfaces:
    """A function of masks, predicted and true (b, *space), that returns HD95 and NSD of each structure (b, S, 2).

    In mm of the card's `spacing` (one number for each axis of a mask), else in voxels. The tolerance of the normalised
    surface dice is `tolerance` of the card, by default the longest edge of a voxel.
    """
    space, structures = cases.shape[1:], len(cases.structures)
    spacing = _spacing(cases, len(space))
    tolerance = float(cases.card.get("tolerance", max(spacing)))

    def measure(predicted: NDArray[np.uint8], true: NDArray[np.uint8]) -> Floats:
        from fedlab.evaluation.surface_distances import surface_measures  # loads scipy.spatial

        found = np.empty((len(true), structures - 1, 2))
        for case, (mask, truth) in enumerate(zip(predicted, true, strict=True)):
            for structure in range(1, structures):
                own, true_one = (region(each, structure, cases.overlap) for each in (mask, truth))
                found[case, structure - 1] = surface_measures(own, true_one, spacing, tolerance)
        return found

    return measure


def _spacing(cases: Cases, dimensions: int) -> tuple[float, ...]:
    """Edges of a voxel; ValueError if the card states something else."""
    stated = cases.card.get("spacing")
    if stated is None:
        return (1.0,) * dimensions
    listed = isinstance(stated, list | tuple) and len(stated) == dimensions
    if not listed or not all(isinstance(edge, int | float) and edge > 0 for edge in stated):
        raise ValueError(
            f"the card of {cases.name} states spacing={stated!r}: list the edges of a voxel in mm, one for each of"
            f" {dimensions} axes"
        )
    return tuple(float(edge) for edge in stated)
