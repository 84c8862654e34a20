"""Doses against realised shift: the frame says what it should, and axes do what their doses say."""

import numpy as np
import pandas as pd
import pytest

from fedlab.data.phantoms import phantoms
from fedlab.heterogeneity.axes import AXES
from fedlab.heterogeneity.shift.null_intervals import HEADLINES
from fedlab.partitioning.dose_curve import BASE, COLUMNS, SITES, dose_response, headlines, summary


@pytest.fixture(scope="module")
def cases():
    return phantoms(cases=900, seed=4)


def made(values, *, axis="prevalence", measured="prevalence", high=0.5):
    """A frame of values (doses, seeds) with the band 0 to `high`."""
    doses = np.linspace(0, 1, len(values))
    rows = [
        (axis, dose, seed, measured, HEADLINES[measured], value, 0.0, 0.1, high)
        for dose, line in zip(doses, values, strict=True)
        for seed, value in enumerate(line)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_a_summary_says_how_measures_rise_and_stay():
    rising = made([[0.1, 0.4, 0.6], [0.2, 0.5, 0.7], [0.9, 0.8, 0.8], [1.0, 0.9, 0.6]])
    row = summary(rising).iloc[0]
    assert (row["axis"], row["measured"], row["measure"]) == ("prevalence", "prevalence", "I(S;Y)")
    assert row["rise"] == pytest.approx(1)  # of three seeds two rise all the way
    assert row["rise of median"] == pytest.approx(1)
    assert row["inside at 0"] == pytest.approx(2 / 3)
    assert row["inside"] == pytest.approx(4 / 12)
    falling = summary(made([[3.0], [2.0], [1.0]])).iloc[0]
    assert falling["rise"] == falling["rise of median"] == pytest.approx(-1) and falling["inside"] == 0
    still = summary(made([[0.0], [1e-17], [0.0]])).iloc[0]
    assert np.isnan(still["rise"]) and still["inside"] == 1  # rounding is no rise
    assert summary(made([[np.nan, 0.1], [np.nan, 0.2]])).iloc[0]["rise"] == pytest.approx(1)
    assert summary(made([[np.nan], [np.nan]])).empty


def test_each_dose_and_seed_is_measured_on_every_axis(cases):
    frame = dose_response(cases, ["prevalence", "annotation"], doses=(0, 1), seeds=(3, 5))
    known = frame[frame["measured"] != "geography"]  # of which nothing is known where no axis deals by anything
    assert list(frame) == COLUMNS and not known.isna().any(axis=None)
    assert (known.groupby(["axis", "dose", "seed"])["measured"].apply(set) == set(AXES) - {"geography"}).all()
    start = [known[(known["axis"] == axis) & (known["dose"] == 0)] for axis in ("prevalence", "annotation")]
    pd.testing.assert_frame_equal(*(part.drop(columns="axis").reset_index(drop=True) for part in start))
    own = summary(known).set_index(["axis", "measured"])
    for axis, other in (("prevalence", "annotation"), ("annotation", "prevalence")):
        assert own["rise"][axis, axis] == pytest.approx(1) and own["inside at 0"][axis, axis] == 1
        assert own["inside"][axis, axis] == 0.5 and own["inside"][axis, other] == 1


def test_an_axis_that_stays_at_a_dose_is_not_measured(cases):
    frame = dose_response(cases, ["quantity"], doses=(0, 0.5), seeds=[0], prevalence=0.4)
    assert "prevalence" not in set(frame["measured"]) and "quantity" in set(frame["measured"])


def test_geography_correlates_what_others_move(cases):
    frame = dose_response(cases, ["geography"], doses=(0, 1), seeds=range(2))
    assert not set(frame["measured"]) & set(BASE["geography"])
    own = frame[frame["measured"] == "geography"].pivot(index="dose", columns="seed", values="value")
    assert (own.loc[0] < own.loc[1]).all() and (own > 0).all(axis=None)
    few = dose_response(cases, ["geography"], doses=(0.5,), seeds=[0], sites=4, prevalence=0.4)
    assert SITES["geography"] > 4 and {"presentation", "population"} <= set(few["measured"])


def test_all_measures_can_be_requested(cases):
    frame = dose_response(cases, ["acquisition"], doses=(1,), seeds=[0], brief=False)
    assert {"Frechet", "site AUC within class", "W1 of age", "TV"} <= set(frame["measure"])
    assert set(headlines(frame)["measure"]) == set(HEADLINES.values())


def test_an_unknown_axis_is_refused_with_the_nearest(cases):
    with pytest.raises(ValueError, match="prevalence"):
        dose_response(cases, ["prevalance"])
