"""The table of shifts and the scanners on images of any shape, on few cases and on images that are all alike."""

import warnings

import numpy as np
import pandas as pd
import pytest
from worlds import cases as world

import fedlab
from fedlab.data.cases import Cases
from fedlab.heterogeneity.acquisition.scanner import MODALITIES

SHAPES = [(1, 1, 1), (1, 1, 9), (3, 9, 1), (1, 9, 9, 1), (1, 1, 1, 1), (3, 2, 2), (1, 1, 1, 8)]
COLOUR = ("fundus", "dermatoscopy", "histology", "blood_smear")


@pytest.fixture(autouse=True)
def without_foreign_warnings():
    """No warning of numpy or scikit-learn reaches a user."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module="fedlab.core.warnings")
        warnings.simplefilter("ignore", fedlab.core.warnings.HeterogeneityWarning)
        yield


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 9, 1), (1, 9, 9, 1), (1, 1, 1, 1)])
def test_images_of_any_shape_are_compared_and_clustered(shape):
    cases = world(48, shape=shape)
    found = fedlab.partition(cases, 2, acquisition=0.5).shift()
    assert found["value"].notna().all()
    assert len(fedlab.partition(cases, 2, presentation=0.8).levels["presentation"].values) > 2


@pytest.mark.parametrize("shape", SHAPES)
def test_every_scanner_renders_images_of_any_shape(shape):
    cases = world(6, shape=shape)
    for name in MODALITIES:
        if shape[0] == 3 or name not in COLOUR:
            part = fedlab.partition(cases, 1, acquisition=f"{name}(1.0, jitter=0.5)")
            shown = part.pixels(range(6), "Site A")
            assert shown.shape == cases.images.shape and shown.dtype == np.uint8


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("brief", [True, False])
def test_a_site_of_one_case_has_a_table(n, brief):
    cases = world(n)
    table = pd.DataFrame({"case": cases.table["case"], "site": [f"s{i}" for i in range(n)], "split": "train"})
    for part in (fedlab.Partition.from_sites(cases, table), fedlab.Partition.from_sites(cases, table.assign(site="s"))):
        found = part.shift(brief=brief)
        assert {"quantity", "prevalence", "acquisition"} <= set(found["axis"])
        assert found.loc[found["measure"] == "Frechet", "value"].isna().all()


def flat(shades) -> Cases:
    """Each image of one shade."""
    images = np.repeat(np.asarray(shades, np.uint8), 64).reshape(-1, 1, 8, 8)
    table = pd.DataFrame({"case": [f"c{i}" for i in range(len(images))], "label": np.arange(len(images)) % 2})
    return Cases(images, table, {"name": "flat", "task": "binary", "classes": ["a", "b"]})


def test_constant_images_have_a_table_and_equal_ones_a_plain_error():
    found = fedlab.partition(flat(range(60)), 2, acquisition=0.5, presentation=0.5).shift()
    assert found["value"].notna().all()
    same = flat([7] * 60)
    with pytest.raises(ValueError, match="1 of 2 sites would have no case to train on, with 1 patients or distinct"):
        fedlab.partition(same, 2)
    split = pd.DataFrame({"case": same.table["case"], "site": ["a", "b"] * 30, "split": "train"})
    found = fedlab.Partition.from_sites(same, split).shift().set_index("measure")
    assert found.loc["MMD^2", "value"] == pytest.approx(0)
    with pytest.raises(ValueError, match="images of each class make one cluster"):
        fedlab.partition(same, 1, presentation="clusters(0.5)")


def test_a_split_without_a_case_is_named():
    cases = world(40, split="train")
    with pytest.raises(ValueError, match=r"there is no test case to measure: choose one of \['train'\]"):
        fedlab.partition(cases, 2).shift("test")
