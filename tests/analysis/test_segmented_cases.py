"""Laws of the masks of single cases: predicted again they are those that the run counted, for the cases it names."""

import numpy as np
import pytest

import fedlab
from fedlab.analysis.alignment import of_used_models
from fedlab.analysis.comparison import FOUND, MEAN
from fedlab.core.warnings import ProtocolWarning
from fedlab.learning.mask_metrics import case_scores

DATA = "phantoms(cases=60, size=16, task='segmentation')"
METHODS = ["local", "fedavg", "fedbn"]


pytestmark = pytest.mark.xdist_group("segmented cases")  # the same runs serve all tests


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    base = fedlab.Experiment(
        dataset=DATA, sites=2, acquisition=0.8, model="unet(width=2, residual_units=0)", rounds=1, local_steps=2
    )
    return fedlab.grid(base, folder=tmp_path_factory.mktemp("runs"), method=[*METHODS, "ensemble"])


def test_masks_predicted_again_have_the_counts_that_were_stored(runs):
    found = fedlab.predicted_masks(runs[:3])
    assert list(found.predicted) == METHODS and found.by == "fedavg"
    for run in runs[:3]:
        stored = run.predictions[(run.predictions["split"] == "test") & (run.predictions["choice"] == "last")]
        stored = of_used_models(stored).set_index("case")
        for k, row in found.table.iterrows():
            mask, truth = found.predicted[run.method][k] == 1, found.truth[k] == 1
            counts = [(mask & truth).sum(), (mask & ~truth).sum(), (~mask & truth).sum()]
            assert counts == list(stored.loc[row["case"], ["tp1", "fp1", "fn1"]])
            dice = case_scores("dice", [stored.loc[row["case"], ["tp1", "fp1", "fn1", "hd1", "nsd1"]]])[0]
            assert row[run.method] == pytest.approx(dice, nan_ok=True)


def test_the_worst_and_the_median_case_are_those_of_the_method_among_cases_with_the_structure(runs):
    found = fedlab.predicted_masks(runs[:2], by="local")
    stored = of_used_models(runs[0].predictions.query("split == 'test' and choice == 'last'"))
    for site, rows in stored[stored["tp1"] + stored["fn1"] > 0].groupby("site"):
        dice = np.sort(2 * rows["tp1"] / (2 * rows["tp1"] + rows["fp1"] + rows["fn1"]))
        shown = found.table[found.table["site"] == site].set_index("which")["local"]
        assert shown.to_dict() == {"worst": dice[0], "median": dice[(len(dice) - 1) // 2]}
    assert all(mask.any() for mask in found.truth)


def test_images_are_those_that_the_scanner_of_the_site_acquires(runs):
    found = fedlab.predicted_masks(runs[:1])
    part = runs[0].experiment.make_partition()
    row = int(np.flatnonzero(part.cases.table["case"] == found.table["case"][0])[0])
    expected = part.pixels(np.array([row]), found.table["site"][0])[0] / np.float32(255)
    assert np.array_equal(found.images[0], expected)
    assert not np.array_equal(found.images[0], part.cases.images[row] / np.float32(255))


def test_methods_that_find_next_to_nothing_are_named(runs):
    with pytest.warns(ProtocolWarning, match="hardly any overlap") as caught:
        table = fedlab.compare(runs[:3])
    means = table[table["site"] == MEAN].set_index("method")["value"]
    (message,) = [str(each.message) for each in caught if "overlap" in str(each.message)]
    assert [method for method in METHODS if repr(method) in message] == list(means.index[means < FOUND])
    assert means.min() < FOUND


def test_what_has_no_mask_is_refused(runs, tmp_path):
    with pytest.raises(ValueError, match="'ensemble' predicts with several models"):
        fedlab.predicted_masks(runs)
    with pytest.raises(ValueError, match="did you mean 'fedavg'"):
        fedlab.predicted_masks(runs[:3], by="fedavgg")
    other = fedlab.Experiment(dataset="phantoms(cases=60, size=16)", sites=2, model="logistic", rounds=1)
    with pytest.raises(ValueError, match="binary task"):
        fedlab.predicted_masks([fedlab.run(other, folder=tmp_path)])
