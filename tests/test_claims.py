"""The rules by which `benchmarks/claims.py` decides: on intervals and adjusted p values, never on an order of means."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import claims
from claims import NO, UNKNOWN, YES, Part, above, decided, together

from fedlab.evaluation.intervals.interval import Interval


def part(low: float, high: float, p: float, finding: str, either: bool = False) -> Part:
    return Part("a less b", (low + high) / 2, low, high, p, finding, either)


CLEAR, AGAINST = part(0.01, 0.05, 0.003, "gains"), part(-0.05, -0.01, 0.003, "loses")
SAME, OPEN = part(-0.01, 0.01, 0.8, "no different"), part(-0.02, 0.08, 0.2, "cannot tell")


def test_a_larger_mean_alone_decides_nothing():
    assert OPEN.value > 0 and decided([OPEN]) == [UNKNOWN]
    assert decided([CLEAR, AGAINST, SAME, OPEN]) == [YES, NO, NO, UNKNOWN]


def test_a_difference_must_stand_among_all_differences_of_its_claim():
    alone = part(0.001, 0.05, 0.03, "gains")
    assert decided([alone]) == [YES]
    assert decided([alone, OPEN]) == [UNKNOWN, UNKNOWN]  # Holm: 0.06
    assert decided([alone._replace(p=0.02), OPEN]) == [YES, UNKNOWN]


def test_a_claim_of_any_difference_holds_on_either_side_and_too_few_patients_decide_nothing():
    assert decided([AGAINST._replace(either=True)]) == [YES]
    assert decided([CLEAR._replace(finding="cannot tell")]) == [UNKNOWN]  # as `compare` says with few of a class


@pytest.mark.parametrize(
    ("words", "claim"), [((YES, YES), YES), ((YES, UNKNOWN), UNKNOWN), ((UNKNOWN, NO), NO), ((YES, NO), NO)]
)
def test_a_claim_holds_only_if_all_of_it_does(words, claim):
    assert together(*words) == claim


def test_an_estimate_is_above_a_bound_below_it_or_neither():
    limits = [Interval(-0.01, 0.02), Interval(-0.04, -0.03), Interval(-0.03, 0.0), Interval(np.nan, np.nan)]
    assert [above(each, -claims.MARGIN) for each in limits] == [YES, NO, UNKNOWN, UNKNOWN]
