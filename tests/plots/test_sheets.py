"""Figures of a partition show its cases, the measured shift and its null."""

import threading

import matplotlib
import numpy as np
import pandas as pd
import pytest
from test_partition_plots import CHEST, FakePartition, check_texts, measured

from fedlab import plots
from fedlab.heterogeneity.shift.null_intervals import HEADLINES
from fedlab.plots import titles
from fedlab.plots.images import chosen_images
from fedlab.plots.picture import png
from fedlab.plots.site_overview import begin, complete


def response(*axes: str, seeds: int = 3) -> pd.DataFrame:
    """A frame as `fedlab.dose_response` makes it: every axis's measure is its dose, all others are null."""
    columns = ["axis", "dose", "seed", "measured", "measure", "value", "null_low", "null", "null_high"]
    rows = [
        (axis, dose, seed, other, HEADLINES[other], dose * (axis == other) + 0.001 * seed, 0.0, 0.005, 0.01)
        for axis in axes
        for dose in (0.0, 0.5, 1.0)
        for seed in range(seeds)
        for other in axes
    ]
    return pd.DataFrame(rows, columns=columns)


DRAWINGS = {
    **{f"sites, {k} sites": lambda k=k: plots.sites(FakePartition(k, age="age")) for k in (1, 4, 20)},
    "sites, sex": lambda: plots.sites(FakePartition(4, sex="sex")),
    "sites, regions": lambda: plots.sites(FakePartition(6, regions=2, unseen=1, age="age")),
    "sites, as narrow as in the panel": lambda: plots.sites(
        FakePartition(4, age="age"), measured=measured(geography=(0.511, 0.0, 0.4, 0.814)), width=6.6
    ),
    "sites, many classes": lambda: plots.sites(FakePartition(6, CHEST, n=3000, age="age")),
    "sites, volumes": lambda: plots.sites(FakePartition(3, ("a", "b", "c"), (3, 8, 6, 4))),
    "sites, much": lambda: plots.sites(FakePartition(4, n=40_000, shape=(1, 2, 2), age="age")),
    **{f"population, {k} sites": lambda k=k: plots.population(FakePartition(k, age="age")) for k in (1, 20)},
    "population, shares": lambda: plots.population(FakePartition(4, sex="sex", unseen=1)),
    "population, many levels": lambda: plots.population(FakePartition(4, finding="kind"), "finding"),
    "shift, partition": lambda: plots.shift(FakePartition()),
    "shift, every axis": lambda: plots.shift(measured(**dict.fromkeys(HEADLINES, (0.5, -0.1, 0.0, 0.1)))),
    "shift, every measure": lambda: plots.shift(measured(annotation=(0.1, 0.0, 0.0, 0.0)), every=True),
    **{f"doses, {k} axes": lambda k=k: plots.doses(response(*list(HEADLINES)[:k])) for k in (1, 7)},
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_texts_can_be_read_and_touch_neither_each_other_nor_the_edge(name):
    check_texts(DRAWINGS[name]().figure)


def test_distances_are_in_units_of_the_null_interval_and_beyond_means_outside_it():
    one = (0.1, 0.0, 0.0, 0.0)  # the null has one value only
    frame = measured(presentation=(0.02, 0.0, 0.01, 0.03), population=(-0.1, 0.0, 0.1, 0.2), annotation=one)
    table = plots.shift(frame.sample(frac=1, random_state=0)).table.set_index("axis")
    assert list(table.index) == [axis for axis in HEADLINES if axis in set(frame["axis"])]
    np.testing.assert_allclose(table.loc["presentation", "distance"], (0.02 - 0.01) / (0.03 - 0.01))
    np.testing.assert_allclose(table.loc["prevalence", "distance"], (0.31 - 0.004) / (0.009 - 0.004))
    assert list(table.index[table["beyond"]]) == ["prevalence", "population", "annotation"]
    assert table.loc["annotation", "distance"] == np.inf
    still = plots.shift(measured(annotation=(0.0, 0.0, 0.0, 0.0))).table.set_index("axis")
    assert still.loc["annotation", "distance"] == 0 and not still.loc["annotation", "beyond"]


def test_points_beyond_the_null_are_filled_and_in_the_order_of_their_distance():
    values = {"presentation": (0.05, 0.0, 0.01, 0.03), "population": (0.9, 0.0, 0.1, 0.2)}
    figure, table = plots.shift(measured(**values))
    points = figure.axes[0].collections[-1]
    filled = [tuple(face) != (1, 1, 1, 1) for face in points.get_facecolors()]
    assert filled == list(table["beyond"])
    assert (np.argsort(points.get_offsets()[:, 0]) == np.argsort(table["distance"])).all()


@pytest.mark.parametrize(
    ("beyond", "title"),
    [
        ([], "No axis to measure"),
        ([("prevalence", False)], "No shift beyond chance in prevalence"),
        ([("quantity", True), ("prevalence", True)], "Sites differ beyond chance in quantity and prevalence"),
        ([("a", True), ("b", False), ("c", False)], "Sites differ beyond chance in a; no shift detected in b and c"),
    ],
)
def test_shift_titles_name_the_axes_beyond_their_null(beyond, title):
    assert titles.shift(pd.DataFrame(beyond, columns=["axis", "beyond"])) == title


def test_population_tables_hold_the_quantiles_and_shares_of_each_site():
    part = FakePartition(3, age="age", sex="sex")
    ages, shares = plots.population(part, "age").table, plots.population(part, "sex").table
    assert list(ages["n"]) == sorted(ages["n"], reverse=True)
    for site in part.sites:
        rows = part.index(site, "train")
        expected = np.quantile(part.cases.table["age"].iloc[rows], [0.05, 0.25, 0.5, 0.75, 0.95])
        np.testing.assert_allclose(ages.loc[site].to_numpy()[1:], expected)
        assert shares.loc[site, "F"] == pytest.approx((part.cases.table["sex"].iloc[rows] == "F").mean())
    np.testing.assert_allclose(shares[["F", "M"]].sum(axis=1), 1)
    with pytest.raises(ValueError, match="no column 'agee': did you mean 'age'"):
        plots.population(part, "agee")
    with pytest.raises(ValueError, match="neither age nor sex"):
        plots.population(FakePartition(2))


def test_doses_draw_medians_over_seeds_and_the_null_interval():
    frame = response("prevalence", "acquisition")
    _, table = plots.doses(frame)
    own = frame[frame["axis"] == frame["measured"]]
    for row in table.itertuples():
        same = own[(own["axis"] == row.axis) & (own["dose"] == row.dose)]
        assert row.value == same["value"].median() and row.seeds == 3
        assert row.beyond == (same["value"] > 0.01).mean()
    title = plots.doses(frame).figure.axes[0].get_title(loc="left").replace("\n", " ")
    zero = "dose 0 lies within the null interval; no other axis leaves its own"
    assert title == f"The measured shift rises with the dose on both axes; {zero}"
    flat = frame.assign(value=np.where(frame["axis"] == "acquisition", 0.5 - frame["dose"], frame["value"]))
    assert "on 1 of 2 axes" in plots.doses(flat).figure.axes[0].get_title(loc="left").replace("\n", " ")
    with pytest.raises(ValueError, match=r"lacks the columns \['seed'\]"):
        plots.doses(frame.drop(columns="seed"))


def test_the_sheet_shows_each_sites_images_as_its_scanner_does():
    part = FakePartition(3, age="age")
    figure, _ = plots.sites(part)
    (picture,) = figure.axes[0].images
    pixels = np.asarray(picture.get_array())[..., 0]
    looks, names_of_columns = chosen_images(part, list(plots.partition(part).table.index), 18)
    assert names_of_columns[0] == "normal" and names_of_columns[-1] == "pneumonia"
    np.testing.assert_allclose(pixels[:8, :8], looks[0][0] * 255, atol=1)


def test_two_threads_may_draw_at_a_time():
    before, failed = dict(matplotlib.rcParams), []

    def work() -> None:
        try:
            for _ in range(3):
                plots.shift(measured()).figure._repr_png_()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("before, kept", [({}, True), ({"population": (0.1, 0.0, 0.01, 0.02)}, False)])
def test_a_figure_that_was_begun_before_the_shift_was_measured_ends_as_one_drawn_at_once(before, kept):
    """Pixel for pixel; in another figure where the rows of the one before are not those that were measured."""
    part = FakePartition(4, age="age")
    like, once = plots.sites(part, measured=measured(**before), width=6.6), plots.sites(part, width=6.6)
    begun = begin(part, like, width=6.6)
    early = png(begun.axes.figure)[0]
    done = complete(begun, part)
    pd.testing.assert_frame_equal(done.table, once.table)
    assert (done.figure is begun.axes.figure) == kept
    assert png(done.figure)[0] == png(once.figure)[0] != early
