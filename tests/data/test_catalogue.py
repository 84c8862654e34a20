"""Laws of `load`: a name, a name with options or a path gives cases; leakage is reported; nothing is guessed."""

import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import data_prep
from fedlab.core.warnings import LeakageWarning
from fedlab.data.cases import Cases
from fedlab.data.catalogue import DATASETS, load
from fedlab.data.home import home
from fedlab.data.phantoms import phantoms

mirror_needed = pytest.mark.skipif(
    not os.environ.get("FEDLAB_MIRROR"), reason="set FEDLAB_MIRROR to a folder with the official files"
)


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path / "home"))
    return tmp_path / "home"


def some_cases(n: int = 6) -> Cases:
    images = np.random.default_rng(0).integers(0, 256, (n, 1, 8, 8), np.uint8)
    table = pd.DataFrame({"case": [f"c{i}" for i in range(n)], "label": np.arange(n) % 2, "split": "train"})
    return Cases(images, table, {"name": "mine", "task": "binary", "classes": ["no", "yes"]})


def test_every_dataset_has_a_one_line_meaning() -> None:
    assert {"phantoms", *data_prep.sources()} == set(DATASETS)
    assert all(meaning and "\n" not in meaning for meaning in DATASETS.values())
    assert "pneumoniamnist" in repr(DATASETS) and "fundus" in DATASETS["retinamnist"]


def test_phantoms_are_those_of_the_function() -> None:
    assert load("phantoms(cases=40, seed=3)").fingerprint == phantoms(cases=40, seed=3).fingerprint


@pytest.mark.parametrize("written", [str, Path])
def test_a_path_is_a_dataset(written: type, tmp_path: Path) -> None:
    cases = some_cases()
    assert load(written(cases.save(tmp_path / "my data"))).fingerprint == cases.fingerprint


def test_a_folder_is_found_at_home_and_here(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert home() == data
    some_cases(6).save(data / "my-hospital")
    some_cases(8).save(tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    assert len(load("my-hospital")) == 6 and len(load("here")) == 8


def test_a_known_name_is_never_a_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some_cases().save(tmp_path / "phantoms")
    monkeypatch.chdir(tmp_path)
    assert load("phantoms(cases=10)").name == "phantoms" and load("./phantoms").name == "mine"


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("pneumonia-mnist", "did you mean 'pneumoniamnist'.*path of a folder"),
        ("phantom(cases=30)", "did you mean 'phantoms'"),
        ("phantoms(case=30)", "did you mean 'cases'"),
        ("pneumoniamnist(sizes=64)", "did you mean 'size'"),
        ("pneumoniamnist(64)", r"pneumoniamnist\(limit=None, size=28\)"),
        ("pneumoniamnist(size=63)", "28, 64, 128, 224"),
        ("pneumoniamnist(size=", "write it as name or name"),
    ],
)
def test_mistakes_are_answered_with_the_nearest_name(dataset: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        load(dataset)


def test_a_path_to_nothing_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no cases\.parquet"):
        load(tmp_path / "nothing")


def test_leakage_is_told_once_a_finding(tmp_path: Path) -> None:
    cases = some_cases()
    images = cases.images.copy()
    images[4] = images[2]
    table = cases.table.assign(split=["train"] * 3 + ["test"] * 3, patient=["a", "b", "b", "b", "c", "d"])
    Cases(images, table, cases.card).save(tmp_path / "leaky")
    with pytest.warns(LeakageWarning) as caught:
        load(tmp_path / "leaky")
    assert [str(warning.message) for warning in caught] == [
        "mine: exact duplicates: 1 case in 1 group (surplus copies of byte-identical images)",
        "mine: duplicates across splits: 2 cases in 1 group (identical images on both sides)",
        "mine: patients across splits: 3 cases in 1 group (patients on both sides)",
    ]
    assert all(Path(warning.filename) == Path(__file__) for warning in caught)


def test_clean_cases_are_loaded_in_silence(tmp_path: Path) -> None:
    some_cases().save(tmp_path / "clean")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(tmp_path / "clean")


@mirror_needed
def test_published_repeats_are_found() -> None:
    """PneumoniaMNIST holds 29 copies in 27 groups; 8 groups are in train and val, with 10 + 8 images."""
    with pytest.warns(LeakageWarning) as caught:
        cases = load("pneumoniamnist")
    audit = cases.audit().set_index("kind")[["groups", "cases"]]
    assert audit.loc["exact duplicates"].tolist() == [27, 29]
    assert audit.loc["duplicates across splits"].tolist() == [8, 18] and len(audit) == len(caught) == 2
    repeated = cases.table[cases.table.groupby(cases.units)["split"].transform("nunique") > 1]
    assert repeated["split"].value_counts().to_dict() == {"train": 10, "val": 8}


@mirror_needed
def test_a_set_without_repeats_is_loaded_in_silence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load("retinamnist").audit().empty


@mirror_needed
def test_options_reach_the_preparation(data: Path) -> None:
    cases = load("pneumoniamnist(limit=120)")
    assert len(cases) == 120 and cases.card["options"]["limit"] == 120 and (data / "pneumoniamnist_limit120").is_dir()
