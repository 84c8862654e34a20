"""Surfaces and lesions of predicted and true masks, case by case and structure by structure."""

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import Floats
from fedlab.data.cases import Cases
from fedlab.data.structures import region
from fedlab.learning.mask_metrics import COUNTS, KINDS
from fedlab.learning.tasks import Surfaces


def surfaces_of(cases: Cases) -> Surfaces:
    """A function of masks, predicted and true (b, *space), that returns what only final predictions have (b, S, 5).

    Of each structure HD95, NSD, and the numbers of true lesions, of found and of false ones; see `mask_metrics.KINDS`.
    Distances are in mm of the card's `spacing` (one number for each axis of a mask), else in voxels. The tolerance of
    the normalised surface dice is `tolerance` of the card, by default the longest edge of a voxel. A lesion is found if
    the share `lesion_overlap` of the card is covered, by default any voxel.
    """
    space, structures = cases.shape[1:], len(cases.structures)
    spacing = _spacing(cases, len(space))
    tolerance = float(cases.card.get("tolerance", max(spacing)))
    share = _lesion_overlap(cases)

    def measure(predicted: NDArray[np.uint8], true: NDArray[np.uint8]) -> Floats:
        from fedlab.evaluation.lesions import count_lesions
        from fedlab.evaluation.surface_distances import surface_measures  # loads scipy.spatial

        found = np.empty((len(true), structures - 1, len(KINDS) - COUNTS))
        for case, (mask, truth) in enumerate(zip(predicted, true, strict=True)):
            for structure in range(1, structures):
                own, true_one = (region(each, structure, cases.overlap) for each in (mask, truth))
                surfaces = surface_measures(own, true_one, spacing, tolerance)
                found[case, structure - 1] = *surfaces, *count_lesions(own, true_one, share)
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


def _lesion_overlap(cases: Cases) -> float:
    """The share of a lesion that must be covered; ValueError if the card states something else."""
    stated = cases.card.get("lesion_overlap", 0.0)
    if isinstance(stated, bool) or not isinstance(stated, int | float) or not 0 <= stated <= 1:
        raise ValueError(
            f"the card of {cases.name} states lesion_overlap={stated!r}: give the share of a lesion's voxels that a"
            " prediction must cover to find it, 0 (any voxel) to 1"
        )
    return float(stated)
