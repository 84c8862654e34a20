"""Figures of segmentation: marks are at the values of the tables, contours enclose the masks, texts can be read."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_partition_plots import check_texts

from fedlab import plots
from fedlab.analysis.segmented_cases import SegmentedCases
from fedlab.core.rng import stream
from fedlab.learning.mask_metrics import KINDS, case_scores
from fedlab.plots import segmentation

METHODS = ["local", "fedavg", "centralized"]
STRUCTURES = ["background", "core", "rim"]


def masks(space, n=4):
    """n masks of two structures, the second inside the first."""
    found = np.zeros((n, *space), np.uint8)
    for k in range(n):
        found[k, 1 : 5 + k % 2, 2:6] = 1
        found[k, 2:4, 3:5] = 2
    return found


def segmented(space=(10, 12), methods=("local", "fedavg")) -> SegmentedCases:
    truth = masks(space)
    rows = [(site, which, f"case {site} {which}") for site in "AB" for which in ("worst", "median")]
    table = pd.DataFrame(rows, columns=["site", "which", "case"]).assign(**dict.fromkeys(methods, 0.5))
    table.loc[0, methods[0]] = np.nan
    images = stream(0, "images").random((4, 1, *space)).astype(np.float32)
    predicted = {method: np.roll(truth, 1, 1) for method in methods}
    return SegmentedCases(table, methods[-1], images, truth, predicted, STRUCTURES)


def run(method: str, seed: int = 0, n: int = 9) -> SimpleNamespace:
    """A run of two sites; the first case of each has no structure at all."""
    rng, own = stream(seed, method), method == "local"
    rows = []
    for site in "AB":
        numbers = rng.integers(1, 30, (n, 2, 8)).astype(float)
        numbers[0, :, :] = 0
        model = site if own else "global"
        rows += [(model, "last", site, "test", f"{site}{k}", *numbers[k].ravel()) for k in range(n)]
    names = [f"{kind}{k}" for k in (1, 2) for kind in KINDS]
    return SimpleNamespace(
        method=method,
        task="segmentation",
        headline="dice",
        structures=STRUCTURES,
        rounds=None,
        partition_fingerprint="one",
        predictions=pd.DataFrame(rows, columns=["model", "choice", "site", "split", "case", *names]),
    )


@pytest.fixture(autouse=True)
def any_runs(monkeypatch):
    monkeypatch.setattr(segmentation, "listed", list)


# -- contours --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [(10, 12), (10, 12, 3)])
def test_contours_show_each_case_with_truth_and_methods(space):
    found = segmented(space)
    figure, table = plots.contours(found)
    check_texts(figure)
    (ax,) = figure.axes
    assert len(ax.images) == 4 * 3 and table is found.table
    assert len(ax.collections) == 4 * 2 * (1 + 2 * 2)  # structures of the truth alone, then of truth and prediction
    words = [text.get_text() for text in ax.texts]
    assert words.count("true mask") == 4 and words.count("Dice undefined") == 1 and words.count("Dice 0.50") == 7


def test_a_contour_encloses_its_mask():
    found = segmented(methods=("fedavg",))
    figure, _ = plots.contours(found)
    ax = figure.axes[0]
    left, right, bottom, top = ax.images[0].get_extent()
    path = ax.collections[0].get_paths()[0].vertices  # of the rim and what is inside it
    rows, columns = np.nonzero(found.truth[0] == 1)
    expected = left + np.array([columns.min(), columns.max() + 1]) / 12 * (right - left)
    assert [path[:, 0].min(), path[:, 0].max()] == pytest.approx(list(expected))
    expected = top + np.array([rows.min(), rows.max() + 1]) / 10 * (bottom - top)
    assert [path[:, 1].min(), path[:, 1].max()] == pytest.approx(list(expected))


def test_a_volume_shows_the_slice_with_most_of_the_true_mask():
    found = segmented((10, 12, 3))
    found.truth[0, :, :, :] = 0
    found.truth[0, 3, 3, 2] = 1
    picture, cuts = segmentation._slices(found.images[0], [found.truth[0]])
    assert cuts[0].sum() == 1 and np.array_equal(picture, found.images[0][0, :, :, 2])


def test_what_is_not_drawn_is_counted():
    found = segmented(methods=tuple(f"fedprox(mu={k})" for k in range(8)))
    figure, _ = plots.contours(replace(found, table=found.table[:1]))
    check_texts(figure)
    assert "2 more methods" in figure.axes[0].get_xlabel()


# -- scores and volumes ----------------------------------------------------------------------------------------------


def test_case_scores_are_at_their_values_with_the_quartiles_of_the_table():
    runs = [run(method) for method in METHODS]
    figure, table = plots.case_scores(runs)
    check_texts(figure)
    points = [line.get_xdata() for line in figure.axes[0].lines if line.get_marker() == "o"]
    for row, drawn in zip(table.itertuples(), points, strict=True):
        predictions = runs[METHODS.index(row.method)].predictions
        stored = predictions.loc[predictions["site"] == row.site].iloc[:, 5:].to_numpy()
        values = case_scores("dice", stored)[1:]  # the first is undefined
        assert (row.cases, row.undefined, row.worst) == (8, 1, values.min())
        assert [row.lower, row.median, row.upper] == pytest.approx(list(np.quantile(values, [0.25, 0.5, 0.75])))
        assert sorted(drawn) == pytest.approx(sorted(values))
    assert "n=8, 1 undefined" in figure.axes[0].get_yticklabels()[0].get_text()


def test_a_point_is_the_mean_of_a_case_over_seeds_and_a_distance_is_worst_where_it_is_largest():
    runs = [run("fedavg", seed) for seed in (0, 1)]
    _, table = plots.case_scores(runs, "hd95")
    each = [case_scores("hd95", one.predictions.iloc[1:9, 5:].to_numpy()) for one in runs]
    assert table["worst"][0] == pytest.approx(np.mean(each, axis=0).max())
    with pytest.raises(ValueError, match="no metric of masks"):
        plots.case_scores(runs, "auroc")


def test_volume_agreement_is_the_mean_difference_and_its_limits():
    runs = [run(method) for method in METHODS]
    figure, table = plots.volume_agreement(runs, "rim", spacing=(1.0, 2.0, 5.0))
    check_texts(figure)
    for method, one in zip(METHODS, runs, strict=True):
        cases = one.predictions[one.predictions["tp2"] > 0]
        difference = 0.01 * (cases["fp2"] - cases["fn2"])  # ml
        (row,) = table[(table["method"] == method) & (table["site"] == "all sites")].itertuples()
        assert (row.cases, row.unit) == (16, "ml")
        assert row.bias == pytest.approx(difference.mean())
        assert [row.low, row.high] == pytest.approx(
            list(difference.mean() + np.array([-1.96, 1.96]) * difference.std())
        )
        assert row.true == pytest.approx(0.01 * (cases["tp2"] + cases["fn2"]).mean())
    drawn = [line.get_ydata() for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [len(values) for values in drawn] == [16] * 3
    with pytest.raises(ValueError, match="did you mean 'rim'"):
        plots.volume_agreement(runs, "rin")


def test_many_methods_and_sites_are_bounded():
    runs = [run(f"fedprox(mu={k})", n=2) for k in range(7)]
    for one in runs:
        frames = [one.predictions.assign(site=f"Site {k}", model="global") for k in range(18)]
        one.predictions = pd.concat(frames).assign(case=lambda frame: frame["site"] + frame["case"])
    figure, _ = plots.case_scores(runs)
    check_texts(figure)
    label = figure.axes[0].get_xlabel()
    assert "2 more sites" in label and "1 more method" in label
    figure, _ = plots.volume_agreement(runs)
    check_texts(figure)
