"""Lesions are counted as by hand: connected components grown voxel by voxel."""

import itertools

import numpy as np
import pytest

from fedlab.data.cases import Cases
from fedlab.evaluation.lesions import count_lesions
from fedlab.evaluation.surfaces import surfaces_of


def grown(mask):
    """The voxels of each lesion, by growing from one voxel to its neighbours."""
    left, found = set(map(tuple, np.argwhere(mask).tolist())), []
    while left:
        edge, own = [left.pop()], set()
        while edge:
            at = edge.pop()
            own.add(at)
            for step in itertools.product((-1, 0, 1), repeat=mask.ndim):
                near = tuple(np.add(at, step).tolist())
                if near in left:
                    left.remove(near)
                    edge.append(near)
        found.append(own)
    return found


@pytest.mark.parametrize("space", [(9, 11), (5, 6, 4)])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_counts_are_those_of_an_independent_search(space, share):
    rng, some = np.random.default_rng(0), set()
    for density in (0, 0.08, 0.2, 0.2):
        truth, predicted = rng.random(space) < density, rng.random(space) < 0.15
        predicted |= truth & (rng.random(space) < 0.6)
        true, made = grown(truth), grown(predicted)
        voxels = [{tuple(at) for at in np.argwhere(mask).tolist()} for mask in (predicted, truth)]
        hits = sum(bool(one & voxels[0]) and len(one & voxels[0]) >= share * len(one) for one in true)
        false = sum(not one & voxels[1] for one in made)
        assert count_lesions(predicted, truth, share) == (len(true), hits, false)
        some.add((len(true), hits, false))
    assert len(some) == 4


def test_empty_masks_have_no_lesions_and_equal_ones_all():
    empty, full = np.zeros((4, 4)), np.ones((4, 4))
    assert count_lesions(empty, empty) == (0, 0, 0) and count_lesions(full, full, 1.0) == (1, 1, 0)
    assert count_lesions(full, empty) == (0, 0, 1) and count_lesions(empty, full) == (1, 0, 0)
    for arguments, message in (((empty, full[:2]), "give two of one shape"), ((empty, full, 2), "from 0 to 1")):
        with pytest.raises(ValueError, match=message):
            count_lesions(*arguments)


def test_the_card_states_how_much_of_a_lesion_must_be_covered():
    import pandas as pd

    mask = np.zeros((1, 6, 6), np.uint8)
    mask[0, :2, :2] = mask[0, 4:, 4:] = 1
    half = mask.copy()
    half[0, 0], half[0, 5, 5] = 0, 0  # two of four voxels, and three of four
    card = {"name": "x", "task": "segmentation", "classes": ["any"], "structures": ["none", "lesion"]}
    for share, hits in ((None, 2), (0.5, 2), (0.6, 1), (1, 0)):
        stated = card if share is None else card | {"lesion_overlap": share}
        cases = Cases(np.zeros((1, 1, 6, 6), np.uint8), pd.DataFrame({"case": ["a"], "label": 0}), stated, mask)
        assert surfaces_of(cases)(half, mask)[0, 0, 2:].tolist() == [2, hits, 0]
    with pytest.raises(ValueError, match="lesion_overlap='all'"):
        surfaces_of(Cases(cases.images, cases.table, card | {"lesion_overlap": "all"}, mask))
