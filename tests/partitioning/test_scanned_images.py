"""Images kept while a slider moves are those that the scanner renders."""

import numpy as np

import fedlab
from fedlab.partitioning.scanned_images import ScannedImages


def test_each_image_is_rendered_once_for_a_scanner_and_rows_may_come_in_any_order():
    kept, rendered = ScannedImages(), []

    def render(rows):
        rendered.extend(rows)
        return np.stack([np.full((1, 2, 2), row, np.uint8) for row in rows])

    for rows in ([3, 1], [1, 2, 3], [2], [1, 1]):
        shown = kept.show(np.array(rows), "a scanner", render)
        assert shown[:, 0, 0, 0].tolist() == rows
    assert sorted(rendered) == [1, 2, 3]
    kept.show(np.array([3]), "another scanner", render)
    assert rendered[3:] == [3]


def test_images_that_were_not_shown_for_longest_are_forgotten():
    kept, rendered = ScannedImages(most=8), []
    for row in (0, 1, 0, 2, 0, 1):  # two images of four bytes fit
        kept.show(np.array([row]), "a scanner", lambda rows: rendered.extend(rows) or np.zeros((1, 1, 2, 2), np.uint8))
    assert rendered == [0, 1, 2, 1]


def test_the_shift_of_a_partition_does_not_depend_on_what_was_measured_before():
    def found(cases, dose):
        return fedlab.partition(cases, sites=2, prevalence=dose, acquisition=0.6).shift(brief=True)

    cases = fedlab.load("phantoms(cases=120, size=16)")
    moved = [found(cases, dose) for dose in (0.2, 0.9, 0.2)]
    for dose, table in zip((0.2, 0.9, 0.2), moved, strict=True):
        assert table.equals(found(fedlab.load("phantoms(cases=120, size=16)"), dose))
