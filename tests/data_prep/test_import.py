"""Laws of importing one's own images: the right case for each row, the right pixels, nothing lost in silence."""

import hashlib
import json
import os
import signal
import tarfile
import threading
import time
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
from own_scans import dicom, nifti, segmentation, series
from PIL import Image
from tqdm.auto import tqdm

import data_prep
import fedlab
from data_prep.__main__ import main
from data_prep.importing import grid, imports, work
from data_prep.importing.settings import settings
from fedlab.data.cases import Cases

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path / "home"))
    return tmp_path / "home"


def png(path: Path, values: Any = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (12, 12), np.uint8) if values is None else np.asarray(values)
    Image.fromarray(pixels).save(path, **options)
    return path


def folders(root: Path, each: int = 4, classes: tuple[str, ...] = ("healthy", "ill")) -> Path:
    for name in classes:
        for number in range(each):
            png(root / name / f"{number}.png")
    return root


def table(path: Path, rows: list[dict[str, Any]], encoding: str = "utf-8", separator: str = ",") -> Path:
    path.write_text(pd.DataFrame(rows).to_csv(index=False, sep=separator), encoding=encoding, newline="")
    return path


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def problems(home: Path, name: str) -> dict[str, str]:
    frame = pd.read_csv(home / f"{name}-problems.csv", keep_default_na=False)
    return {file or row: reason for file, row, reason in frame.itertuples(index=False)}


# --- folders named after classes, and pairs


def test_class_folders_become_a_dataset_that_loads_by_its_name(tmp_path: Path, home: Path) -> None:
    root = folders(tmp_path / "scans", 11)
    cases = fedlab.import_images(root, name="mine", size=12, licence="CC BY 4.0")
    again = fedlab.load("mine")
    assert again.classes == ["healthy", "ill"] and again.labels.tolist() == [0] * 11 + [1] * 11
    assert again.table["case"].tolist()[9:12] == ["healthy/9", "healthy/10", "ill/0"]
    assert cases.fingerprint == again.fingerprint and again.card["licence"] == "CC BY 4.0"
    for case, image in zip(again.table["case"], again.images, strict=True):
        assert np.array_equal(image[0], np.asarray(Image.open(root / f"{case}.png")))
    assert sorted(path.name for path in home.iterdir()) == ["mine", "mine-sources.csv"]
    assert fedlab.partition(again, sites=2).cases.fingerprint == again.fingerprint


@pytest.mark.parametrize(
    ("found", "classes"),
    [
        (("nodule", "normal"), ["normal", "nodule"]),
        (("Benign", "Adenoma"), ["Benign", "Adenoma"]),
        (("normothermia", "fever"), ["fever", "normothermia"]),
        (("no tumour", "cyst"), ["no tumour", "cyst"]),
        (("10", "9"), ["9", "10"]),
    ],
)
def test_the_positive_class_is_the_finding(found: tuple, classes: list[str], tmp_path: Path) -> None:
    assert data_prep.import_images(folders(tmp_path / "scans", 2, found), name="x", size=12).classes == classes


def test_folders_of_splits_hold_folders_of_classes(tmp_path: Path) -> None:
    for split in ("Training", "test"):
        folders(tmp_path / "scans" / split, 2)
    cases = data_prep.import_images(tmp_path / "scans", name="mine", size=12)
    assert cases.table["split"].tolist() == ["test"] * 4 + ["train"] * 4
    assert cases.classes == ["healthy", "ill"]


def test_pairs_of_folders_become_images_and_masks(tmp_path: Path, home: Path) -> None:
    for number in range(3):
        png(tmp_path / "imagesTr" / f"a_{number}_0000.png")
        png(tmp_path / "labelsTr" / f"a_{number}.png", np.eye(12, dtype=np.uint8) * 255)
    png(tmp_path / "imagesTr" / "b_0000.png")
    png(tmp_path / "labelsTr" / "c.png")
    cases = data_prep.import_images(tmp_path, name="pairs", size=12)
    assert cases.task == "segmentation" and cases.structures == ["background", "structure 255"]
    assert np.array_equal(cases.masks, np.tile(np.eye(12, dtype=np.uint8), (3, 1, 1)))
    assert cases.card["mask_values"] == {"255": 1}
    assert problems(home, "pairs") == {
        "imagesTr/b_0000.png": "labelsTr holds no mask for it",
        "labelsTr/c.png": "imagesTr holds no image for it",
    }


def test_a_second_import_compares_the_files(tmp_path: Path) -> None:
    root = folders(tmp_path / "scans")
    first = data_prep.import_images(root, name="mine", size=12)
    assert data_prep.import_images(root, name="mine", size=12).fingerprint == first.fingerprint
    with pytest.raises(FileExistsError, match="wanted mine with options"):
        data_prep.import_images(root, name="mine", size=16)
    png(root / "ill" / "0.png")
    with pytest.raises(FileExistsError, match="imported from other files"):
        data_prep.import_images(root, name="mine", size=12)


# --- tables


@pytest.mark.parametrize(
    ("encoding", "separator"),
    [("utf-8", ","), ("utf-8-sig", ";"), ("utf-16", ","), ("utf-8", "\t"), ("cp1252", ";")],
)
@pytest.mark.filterwarnings("ignore:.*no UTF-8 text")
def test_tables_in_any_form_are_read(encoding: str, separator: str, tmp_path: Path) -> None:
    for name in "abcd":
        png(tmp_path / "scans" / f"{name}.png")
    rows = [{"file": f"{name}.png", "finding": "Ödem" if name < "c" else "none", "age": "61,5"} for name in "abcd"]
    found = table(tmp_path / "cases.csv", rows, encoding, separator)
    cases = data_prep.import_images(
        tmp_path / "scans", found, name="mine", image="file", label="finding", keep=["age"], size=12
    )
    assert cases.classes == ["none", "Ödem"] and cases.labels.tolist() == [1, 1, 0, 0]
    assert cases.table["age"].tolist() == [61.5] * 4


def test_several_labels_of_a_case_become_bits(tmp_path: Path, home: Path) -> None:
    for name in "abcde":
        png(tmp_path / "scans" / f"{name}.png")
    columns = [
        {"f": "a", "Mass": 1, "Edema": 0},
        {"f": "b", "Mass": "no", "Edema": "yes"},
        {"f": "c", "Mass": 1, "Edema": 1},
    ]
    columns += [{"f": "d", "Mass": 0, "Edema": ""}, {"f": "e", "Mass": -1, "Edema": 0}]
    listed = ["Mass", "Edema", "Edema|Mass", "No Finding", ""]
    chosen: dict[str, Any] = {"image": "f", "size": 12}
    path = table(tmp_path / "columns.csv", columns)
    found = fedlab.import_images(tmp_path / "scans", path, name="columns", label=["Mass", "Edema"], **chosen)
    assert found.task == "multilabel" and found.classes == ["Mass", "Edema"] and found.labels.tolist() == [1, 2, 3]
    said = problems(home, "columns")
    assert said["d.png"] == "its label 'Edema' is missing: write 0 where the finding is absent"
    assert said["e.png"] == "its label 'Mass' is '-1': wanted 1 or 0"
    path = table(tmp_path / "list.csv", [{"f": row["f"], "y": text} for row, text in zip(columns, listed, strict=True)])
    words = ["import", str(tmp_path / "scans"), "--table", str(path), "--image=f", "--label=y", "--size=12"]
    assert main([*words, "--task=multilabel", "--classes=Mass,Edema", "list"]) == 0
    again = fedlab.load("list")
    assert again.labels.tolist() == [1, 2, 3, 0] and problems(home, "list") == {"e.png": "its label is missing"}
    assert np.array_equal(again.images[:3], found.images)
    marks = table(
        tmp_path / "marks.csv", [{"f": row["f"], "Mass": "x" if row["f"] < "c" else "", "Edema": ""} for row in columns]
    )
    marked = data_prep.import_images(tmp_path / "scans", marks, name="marks", label=["Mass", "Edema"], **chosen)
    assert marked.labels.tolist() == [1, 1, 0, 0, 0]
    with pytest.raises(ValueError, match="task is 'binary' and the labels are several columns"):
        data_prep.import_images(tmp_path / "scans", marks, name="x", label=["Mass", "Edema"], task="binary", **chosen)


def test_files_about_a_scan_are_not_taken_for_it(tmp_path: Path) -> None:
    """A cell without the end of a name is the scan, not its scan.json or the second half of a pair."""
    import nibabel

    for place, name in enumerate("abc"):
        voxels = np.full((6, 6, 6), 9 * place, np.int16)
        voxels[0] = 99
        kind = nibabel.Nifti1Pair if place else nibabel.Nifti1Image
        (tmp_path / "scans").mkdir(exist_ok=True)
        nibabel.save(kind(voxels, np.eye(4)), tmp_path / "scans" / f"{name}{'.img' if place else '.nii.gz'}")
        (tmp_path / "scans" / f"{name}.json").write_text("{}", encoding="utf-8")
    path = table(tmp_path / "t.csv", [{"f": "a", "y": 0}, {"f": "b", "y": 1}, {"f": "c.img", "y": 1}])
    chosen: dict[str, Any] = {"image": "f", "label": "y", "size": 6, "window": "0:255", "strict": True}
    cases = data_prep.import_images(tmp_path / "scans", path, name="x", **chosen)
    assert cases.images[:, 0, -1, 0, 0].tolist() == [0, 9, 18]
    with (tmp_path / "scans" / "c.img").open("r+b") as file:
        file.write(b"\1")
    with pytest.raises(FileExistsError, match="imported from other files"):
        data_prep.import_images(tmp_path / "scans", path, name="x", **chosen)


NAMES = ["s1/Käse 1.png", "s1/b.png", "s2/c.png", "s2/d.png"]
FORMS = {
    "below": lambda path, root: path,
    "absolute": lambda path, root: str(root / path),
    "elsewhere": lambda path, root: f"/old/disk/scans/{path}",
    "windows": lambda path, root: "D:\\my data\\scans\\" + path.replace("/", "\\"),
    "network": lambda path, root: "\\\\server\\share\\" + path.replace("/", "\\"),
    "no end": lambda path, root: path.removesuffix(".png"),
    "name": lambda path, root: path.split("/")[1],
    "dots": lambda path, root: f"./{path}",
    "capitals": lambda path, root: path.upper(),
    "decomposed": lambda path, root: unicodedata.normalize("NFD", path),
    "quoted": lambda path, root: f"'{path}'",
    "uri": lambda path, root: f"file:///data/{path}",
}


@pytest.mark.parametrize("form", FORMS)
def test_rows_find_their_files(form: str, tmp_path: Path) -> None:
    pixels = [np.full((12, 12), 50 * number, np.uint8) for number in range(4)]
    for path, values in zip(NAMES, pixels, strict=True):
        png(tmp_path / "scans" / path, values)
    rows = [{"file": FORMS[form](path, tmp_path / "scans"), "y": number % 2} for number, path in enumerate(NAMES)]
    found = table(tmp_path / "t.csv", rows)
    cases = data_prep.import_images(tmp_path / "scans", found, name="x", image="file", label="y", size=12, strict=True)
    assert cases.images[:, 0, 0, 0].tolist() == [0, 50, 100, 150] and cases.labels.tolist() == [0, 1, 0, 1]


def test_what_cannot_be_used_is_listed_with_its_reason(tmp_path: Path, home: Path) -> None:
    root = tmp_path / "scans"
    for name in ("a/1.png", "b/1.png", "a/2.png", "a/3.png", "a/4.png", "a/5.png", "a/6.png", "a/left.png"):
        png(root / name)
    (root / "a/5.png").write_bytes(b"\x89PNG and no more")
    rows = [
        {"file": "a/1.png", "y": "yes", "s": "train"},
        {"file": "a/1.png", "y": "yes", "s": "train"},  # twice the same
        {"file": "1", "y": "no", "s": "train"},  # two files
        {"file": "a/2.png", "y": "no", "s": "train"},
        {"file": "a/3.png", "y": "no", "s": "train"},
        {"file": "a/3.png", "y": "yes", "s": "train"},  # twice, not the same
        {"file": "a/4.png", "y": "", "s": "train"},
        {"file": "a/5.png", "y": "no", "s": "train"},
        {"file": "a/6.png", "y": "no", "s": "later"},
        {"file": "c/1.png", "y": "no", "s": "train"},  # of another folder
        {"file": "2.jpg", "y": "no", "s": "train"},  # of another format
        {"file": "", "y": "no", "s": "train"},
    ]
    chosen: dict[str, Any] = {"image": "file", "label": "y", "split": "s", "size": 12}
    path = table(tmp_path / "t.csv", rows)
    cases = data_prep.import_images(root, path, name="mine", **chosen)
    assert cases.table["case"].tolist() == ["1", "2"] and cases.card["problems"] == 9
    frame = pd.read_csv(home / "mine-problems.csv", keep_default_na=False)
    said = {(file, row): reason for file, row, reason in frame.itertuples(index=False)}
    expected = {
        ("1", "row 4"): "it may mean 2 files (a/1.png, b/1.png): write the path below scans",
        ("a/3.png", "row 6"): "rows say different things of it",
        ("a/3.png", "row 7"): "rows say different things of it",
        ("a/4.png", "row 8"): "its label is missing",
        ("a/6.png", "row 10"): "its split is 'later': wanted train, val, test",
        ("c/1.png", "row 11"): "there is no such file; a/1.png has a similar name",
        ("2.jpg", "row 12"): "there is no such file; a/2.png has a similar name",
        ("", "row 13"): "it names no file",
        ("b/1.png", ""): "no row of the table names it",
        ("a/left.png", ""): "no row of the table names it",
    }
    assert expected.items() <= said.items()
    assert said["a/5.png", "row 9"].startswith("it cannot be decoded") and len(said) == len(expected) + 1
    with pytest.raises(ValueError, match="1: it may mean 2 files"):
        data_prep.import_images(root, path, name="strict", strict=True, **chosen)


def test_strict_stops_at_a_damaged_file_and_writes_nothing(tmp_path: Path, home: Path) -> None:
    root = folders(tmp_path / "scans")
    (root / "ill" / "x.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"ill/x\.png: it cannot be decoded"):
        data_prep.import_images(root, name="mine", size=12, strict=True)
    assert not (home / "mine").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "fil"}, "has no column 'fil', found .*: did you mean 'file'"),
        ({"image": None}, "image is missing"),
        ({"label": None}, "label is missing"),
        ({"keep": ["label"]}, "has no column 'label'"),
        ({"size": "6x"}, "size is '6x': write 64, 64x64x32 or keep"),
        ({"size": 2}, "whole numbers of pixels or voxels from 4 to 4096"),
        ({"size": "8x8x8"}, "none of 2 cases could be imported: 2 x it is a picture with 2 axes: wanted a size of 2"),
        ({"spacing": 1.0}, "states no spacing in mm: give a size in pixels"),
        ({"window": "lang"}, "window is 'lang': did you mean 'lung'"),
        ({"window": "5:1"}, "give a lower and a higher value"),
        ({"fit": "squeeze"}, "fit='squeeze': choose one of 'pad', 'crop', 'stretch'"),
        ({"classes": ["a"]}, "the label 'b' is none of the classes"),
        ({"task": "binry"}, "did you mean 'binary'"),
        ({"name": "../x"}, "name is '../x': use letters"),
        ({"name": "phantoms"}, "which is a known dataset"),
        ({"table": "none.csv"}, "there is no table"),
        ({"folder": "none"}, "is no folder"),
    ],
)
def test_wrong_choices_are_refused(change: dict, message: str, tmp_path: Path) -> None:
    for name in "ab":
        png(tmp_path / "scans" / f"{name}.png")
    found = table(tmp_path / "t.csv", [{"file": f"{name}.png", "y": name} for name in "ab"])
    chosen = {"folder": tmp_path / "scans", "table": found, "name": "x", "image": "file", "label": "y", **change}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        data_prep.import_images(**chosen)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["a"]}, "the label 'b' is none of the classes"),
        ({"label": "same"}, "all cases have the label 'x': wanted at least two classes"),
        ({"case": "same"}, "1 names of cases are in several rows"),
        ({"label": None, "target": "age"}, "1 of 2 cases have an empty cell in the target 'age'"),
        ({"label": None, "target": "dose"}, "1 of 2 cases have an empty cell in the target 'dose'"),
        ({"patient": "file", "keep": ["y", "file2"]}, "column 'file2' repeats the names of patients"),
    ],
)
def test_what_the_table_alone_rules_out_is_refused_before_images_are_read(
    change: dict, message: str, tmp_path: Path
) -> None:
    (tmp_path / "scans").mkdir()
    rows = [{"file": f"{name}.png", "file2": f"{name}.png", "y": name, "same": "x"} for name in "ab"]
    for row in rows:
        (tmp_path / "scans" / row["file"]).write_text("no picture", encoding="utf-8")
    found = table(tmp_path / "t.csv", [{**rows[0], "age": "old", "dose": "1"}, {**rows[1], "age": "5", "dose": ""}])
    chosen = {"table": found, "name": "x", "image": "file", "label": "y", **change}
    with pytest.raises(ValueError, match=message):
        data_prep.import_images(tmp_path / "scans", **chosen)


def test_cells_that_are_no_age_are_warned_of_once(tmp_path: Path) -> None:
    for name in "ab":
        png(tmp_path / "scans" / f"{name}.png")
    found = table(tmp_path / "t.csv", [{"file": f"{name}.png", "y": name, "age": f"1{name}"} for name in "ab"])
    chosen = {"image": "file", "label": "y", "keep": ["age"], "to": tmp_path / "x"}
    with pytest.warns(UserWarning, match="2 of 2 cells are not an age in years") as caught:
        data_prep.import_images(tmp_path / "scans", found, name="x", **chosen)
    assert len(caught) == 1


# --- pixels


def test_the_grid_is_the_identity_where_nothing_changes() -> None:
    values = RNG.random((7, 9, 5)).astype(np.float32)
    axes = grid.axes((7, 9, 5), (1, 2, 3), settings(size="7x9x5", spacing="1x2x3"), "x")
    assert np.array_equal(grid.image(values, axes), values)


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("size", [5, 8, 31])
def test_a_constant_stays_constant_and_a_middle_stays_in_the_middle(fit: str, size: int) -> None:
    axes = grid.axes((20, 12), (1.0, 1.0), settings(size=size, fit=fit), "x")
    full = grid.image(np.ones((1, 20, 12), np.float32), axes)[0]
    covered = grid.mask(np.ones((20, 12), np.uint8), axes)
    assert full.shape == (size, size) and np.allclose(full, covered)
    assert covered.all() == (fit != "pad")
    assert full.any(0).sum() == (size if fit != "pad" else max(1, round(12 * size / 20)))
    ramp = grid.image(np.add.outer(np.arange(20.0), np.arange(12.0)).astype(np.float32), axes)
    assert abs(ramp[covered > 0].mean() - 15) < 0.8


def test_shrinking_averages_and_masks_take_the_nearest() -> None:
    board = np.indices((32, 32)).sum(0) % 2
    axes = grid.axes((32, 32), None, settings(size=8), "x")
    assert np.abs(grid.image(board.astype(np.float32), axes) - 0.5).max() < 0.1
    assert set(np.unique(grid.mask((board * 7).astype(np.uint8), axes))) <= {0, 7}


def test_millimetres_decide_the_shape(tmp_path: Path) -> None:
    for name, depth in (("a", 4), ("b", 6)):
        voxels = RNG.integers(0, 99, (10, 10, depth)).astype(np.int16)
        nifti(tmp_path / "scans" / name / "x.nii.gz", voxels, np.diag([1.0, 1, 3, 1]))
    cases = data_prep.import_images(tmp_path / "scans", name="mm", spacing=1.0)
    assert cases.shape == (1, 10, 10, 18) and not cases.images[0, ..., :3].any() and cases.images[0, ..., 4].any()
    assert data_prep.import_images(tmp_path / "scans", name="both", spacing=1.0, size="8x8x8").shape == (1, 8, 8, 8)
    cube = data_prep.import_images(tmp_path / "scans", name="cube", size=9)  # the longest of 10 x 10 x 12 mm fills it
    assert cube.images[0, 0].any((1, 2)).sum() == 8 and cube.images[0, 0].any((0, 1)).sum() == 9


def test_windows_are_what_they_say(tmp_path: Path, home: Path) -> None:
    ramp = np.linspace(-1500, 1500, 144).reshape(12, 12).astype(np.int16)
    inverted = {"PhotometricInterpretation": "MONOCHROME1"}
    for name, tags in {"a": {}, "b": inverted, "c": {"Modality": "MR"}}.items():
        dicom(tmp_path / "scans" / name / "x.dcm", ramp, WindowCenter=0, WindowWidth=101, **tags)
    lung = data_prep.import_images(tmp_path / "scans", name="lung", size=12, window="lung")
    expected = np.rint(np.clip((ramp + 1350.0) / 1500, 0, 1) * 255)
    assert np.abs(lung.images[0, 0] - expected).max() <= 1
    assert np.abs(lung.images[1, 0] - (255 - expected)).max() <= 1
    assert "the window 'lung' is in Hounsfield units of CT" in problems(home, "lung")["c/x.dcm"]
    given = data_prep.import_images(tmp_path / "scans", name="given", size=12, window="-1000:1000")
    assert np.abs(given.images[2, 0] - np.rint(np.clip((ramp + 1000.0) / 2000, 0, 1) * 255)).max() <= 1
    own = data_prep.import_images(tmp_path / "scans", name="own", size=12)
    assert np.abs(own.images[0, 0] - np.rint(np.clip((ramp + 50.5) / 100, 0, 1) * 255)).max() <= 1
    tails = data_prep.import_images(tmp_path / "scans", name="tails", size=12, window="10%:90%")
    assert 0.09 < (tails.images[0] == 0).mean() < 0.12 and 0.09 < (tails.images[0] == 255).mean() < 0.12


def test_ct_without_a_window_has_one_scale_in_all_files(tmp_path: Path, home: Path) -> None:
    """Two files that differ in their header's window alone become the same image; --window header is each its own."""
    ramp = np.linspace(-1200, 1200, 144).reshape(12, 12).astype(np.int16)
    for name, centre in {"a": 40, "b": -600}.items():
        tags = {"WindowCenter": centre, "WindowWidth": 400, "RescaleSlope": 1, "RescaleIntercept": -24}
        dicom(tmp_path / "scans" / name / "x.dcm", ramp + 24, **tags)
    cases = data_prep.import_images(tmp_path / "scans", name="ct", size=12)
    expected = np.rint(np.clip((ramp + 1000.0) / 2000, 0, 1) * 255)
    assert np.abs(cases.images[:, 0] - expected).max() <= 1 and len(set(cases.pixel_hashes)) == 1
    assert any("CT shown from -1000 to 1000 HU" in note for note in cases.card["notes"])
    own = data_prep.import_images(tmp_path / "scans", name="own", size=12, window="header")
    assert len(set(own.pixel_hashes)) == 2 and any("cannot be compared" in note for note in own.card["notes"])


def test_ct_of_formats_that_do_not_say_so_is_noted_and_scaled_if_stated(tmp_path: Path) -> None:
    voxels = np.linspace(-1000, 1000, 6**3).reshape(6, 6, 6).astype(np.int16)
    for name in "ab":
        nifti(tmp_path / "scans" / name / "x.nii", voxels // (1 + (name == "b")), np.eye(4))
    plain = data_prep.import_images(tmp_path / "scans", name="plain", size=6)
    assert plain.card["notes"][next(note for note in plain.card["notes"] if "Hounsfield" in note)] == 1
    stated = data_prep.import_images(tmp_path / "scans", name="ct", size=6, modality="ct")
    assert (
        np.abs(
            stated.images[:, 0].astype(int) - [np.rint((v + 1000) / 2000 * 255) for v in (voxels, voxels // 2)]
        ).max()
        <= 1
    )


def test_padding_is_black_also_where_grey_is_inverted(tmp_path: Path) -> None:
    pixels = RNG.integers(100, 900, (12, 12)).astype(np.int16)
    pixels[0] = -2000
    for name in "ab":
        tags = {"PixelPaddingValue": -2000, "PhotometricInterpretation": "MONOCHROME1"}
        dicom(tmp_path / "scans" / name / "x.dcm", pixels, Modality="CR", **tags)
    cases = data_prep.import_images(tmp_path / "scans", name="x", size=12)
    assert not cases.images[:, :, 0].any() and cases.images[0, 0, 1:].mean() > 100


def test_grey_and_colour_together_have_three_channels_or_as_wished(tmp_path: Path) -> None:
    png(tmp_path / "scans" / "a" / "x.png", np.full((12, 12), 90, np.uint8))
    png(tmp_path / "scans" / "b" / "x.png", np.full((12, 12, 3), (90, 0, 30), np.uint8))
    both = data_prep.import_images(tmp_path / "scans", name="both", size=12)
    assert both.images[:, :, 0, 0].tolist() == [[90, 90, 90], [90, 0, 30]]
    grey = data_prep.import_images(tmp_path / "scans", name="grey", size=12, colour="grey")
    assert grey.images[:, :, 0, 0].tolist() == [[90], [30]]
    assert data_prep.import_images(tmp_path / "scans", name="rgb", size=12, colour="rgb").shape[0] == 3


def test_pictures_among_volumes_are_listed(tmp_path: Path, home: Path) -> None:
    for name in "ab":
        nifti(tmp_path / "scans" / name / "x.nii", RNG.integers(0, 99, (6, 6, 6)).astype(np.int16))
    png(tmp_path / "scans" / "b" / "y.png")
    assert data_prep.import_images(tmp_path / "scans", name="x", size=6).shape == (1, 6, 6, 6)
    assert problems(home, "x") == {"b/y.png": "it is a picture and most cases are volumes"}


def test_frames_become_cases_if_wished(tmp_path: Path, home: Path) -> None:
    for name in "ab":
        nifti(tmp_path / "scans" / name / "x.nii", RNG.integers(0, 99, (6, 6, 6, 3)).astype(np.int16))
    each = data_prep.import_images(tmp_path / "scans", name="each", size=6, frames="each")
    assert (
        each.table["case"].tolist()[2:4] == ["a/x-frame3", "b/x-frame1"] and each.labels.tolist() == [0] * 3 + [1] * 3
    )
    with pytest.raises(ValueError, match=r"none of 2 cases .* holds 3 volumes"):
        data_prep.import_images(tmp_path / "scans", name="x", size=6)


# --- masks


def test_masks_that_do_not_fit_their_image_are_refused(tmp_path: Path, home: Path) -> None:
    voxels = RNG.integers(0, 99, (6, 7, 8)).astype(np.int16)
    numbers = RNG.integers(0, 3, (6, 7, 8)).astype(np.uint8)
    plain, flipped, moved = np.eye(4), np.diag([-1.0, 1, 1, 1]), np.eye(4)
    flipped[0, 3], moved[0, 3] = 5, 2
    masks = {
        "good": nifti(tmp_path / "m" / "good.nii", numbers, plain),
        "turned": nifti(
            tmp_path / "m" / "turned.nii", numbers[::-1].copy(), flipped
        ),  # the same place, stored mirrored
        "moved": nifti(tmp_path / "m" / "moved.nii", numbers, moved),
        "small": nifti(tmp_path / "m" / "small.nii", numbers[:5], plain),
        "half": nifti(tmp_path / "m" / "half.nii", numbers / np.float32(2), plain),
        "grey": nifti(
            tmp_path / "m" / "grey.nii", (np.arange(6 * 7 * 8) % 200).reshape(6, 7, 8).astype(np.uint8), plain
        ),
        "blank": nifti(tmp_path / "m" / "blank.nii", numbers, plain, sform=0, qform=0),
    }
    rows = []
    for name in masks:
        nifti(tmp_path / "i" / f"{name}.nii", voxels, plain)
        rows.append({"image": f"i/{name}.nii", "mask": f"m/{name}.nii"})
    path = table(tmp_path / "t.csv", rows)
    cases = data_prep.import_images(
        tmp_path, path, name="x", image="image", mask="mask", spacing=1, structures=["nothing", "left", "right"]
    )
    assert cases.structures == ["nothing", "left", "right"]
    assert np.array_equal(cases.masks[0], numbers) and np.array_equal(cases.masks[1], numbers)
    said = problems(home, "x")
    for name, reason in {
        "moved": "2 mm from its image",
        "small": "the shape 5 x 7 x 8 and its image",
        "half": "a mask numbers its structures",
        "grey": "holds 200 different values",
        "blank": "states no orientation",
    }.items():
        assert reason in said[f"i/{name}.nii"]


def test_a_series_of_slices_has_one_mask(tmp_path: Path, home: Path) -> None:
    """A folder of DICOM slices with a NIfTI mask, or with a DICOM segmentation, is one case with that mask."""
    volume = RNG.integers(0, 999, (8, 6, 5)).astype(np.int16)
    numbers = np.zeros((8, 6, 5), np.uint8)
    numbers[2:5, 1:4, 1:3] = 1
    for name in ("p1", "p2"):
        series(tmp_path / "images" / name, volume, SeriesInstanceUID=f"3.{name[1]}")
    (scan,) = data_prep.reader.read(sorted((tmp_path / "images" / "p1").iterdir()))
    (tmp_path / "labels").mkdir()
    segmentation(tmp_path / "labels" / "p1.dcm", numbers)
    nifti(tmp_path / "labels" / "p2_seg.nii.gz", numbers.transpose(1, 0, 2)[::-1, ::-1].copy(), scan.affine)
    cases = data_prep.import_images(tmp_path, name="x", spacing="0.25x0.5x2", window="0:1000", strict=True)
    assert len(cases) == 2 and cases.shape == (1, 6, 8, 5) and np.array_equal(cases.masks[0], cases.masks[1])
    assert np.array_equal(cases.masks[0], numbers.transpose(1, 0, 2)[::-1, ::-1])


# --- round trips


def realised(part: fedlab.Partition) -> Cases:
    """The cases as the sites of a federation have them."""
    rows, table = part.rows, part.cases.table.iloc[part.rows].reset_index(drop=True)
    each = list(zip(rows, part.table["site"], strict=True))
    table = table.rename(columns={"site": "native_site"}).assign(site=part.table["site"], split=part.table["split"])
    table["label"] = [int(part.training_labels([row], site)[0]) for row, site in each]
    masks = None
    if part.cases.masks is not None:
        masks = np.concatenate([part.training_masks([row], site) for row, site in each])
    if "annotated" in part.table:
        table["true_label"] = part.cases.labels[rows]
    return Cases(np.concatenate([part.pixels([row], site) for row, site in each]), table, part.cases.card, masks)


def test_several_columns_of_masks_are_structures_that_overlap(tmp_path: Path) -> None:
    rng, lines = np.random.default_rng(0), []
    image = rng.integers(0, 256, (4, 12, 12)).astype(np.uint8)
    whole, core = (np.uint8(value) * (rng.random((4, 12, 12)) < 0.4) for value in (255, 7))
    for number in range(4):
        for kind, pixels in (("image", image), ("whole", whole), ("core", core)):
            Image.fromarray(pixels[number]).save(tmp_path / f"{kind}{number}.png")
        lines.append(f"image{number}.png,whole{number}.png,core{number}.png")
    (tmp_path / "cases.csv").write_text("\n".join(["file,whole tumour,core", *lines]), encoding="utf-8")
    given = ["--table", str(tmp_path / "cases.csv"), "--image", "file", "--mask", "whole tumour", "--mask", "core"]
    main(["import", str(tmp_path), "tumours", *given, "--size", "12", "--strict"])
    cases = fedlab.load("tumours")
    assert cases.overlap and cases.structures == ["background", "whole tumour", "core"]
    assert np.array_equal(cases.masks, (whole > 0) + 2 * (core > 0))
    assert "'--mask=whole tumour' --mask=core" in cases.card["command"]
    again = {"image": "file", "mask": ["whole tumour", "core"], "size": 12}
    data_prep.import_images(
        tmp_path, tmp_path / "cases.csv", name="named", structures="none,A,B", dry_run=True, **again
    )
    with pytest.raises(ValueError, match="2 structures that may overlap: wanted a name for each"):
        data_prep.import_images(tmp_path, tmp_path / "cases.csv", name="x", structures="none,A", **again)


FEDERATIONS = {  # what is exported -> shape and task
    "grey with masks": ("png", 1, (12, 10), "binary"),
    "grey as nifti": ("nifti", 1, (12, 10), "binary"),
    "colour": ("png", 3, (12, 10), "multiclass"),
    "volumes with masks": ("nifti", 1, (6, 5, 4), "segmentation"),
    "masks that overlap": ("png", 1, (12, 10), "segmentation"),
    "several labels": ("png", 1, (9, 9), "multilabel"),
}


@pytest.mark.parametrize("what", FEDERATIONS)
def test_an_exported_federation_comes_back(what: str, tmp_path: Path) -> None:
    """Pixels, masks and table have the fingerprint of what the sites see, with names that need care."""
    format_, channels, shape, task = FEDERATIONS[what]
    count, rng = 16, np.random.default_rng(3)
    label = np.arange(count) % (
        4 if task == "multilabel" else 3 if task == "multiclass" else 1 if task == "segmentation" else 2
    )
    classes = {"binary": ["no, none", "Ödem"], "multiclass": ["a", "b", "c"], "segmentation": ["case"]}.get(
        task, ["m", "n"]
    )
    table = pd.DataFrame(
        {
            "case": [f"Fall {number}/{'A' if number % 2 else 'a'}:ä" for number in range(count)],
            "label": label,
            "patient": [f"p{number // 2}" if number > 3 else None for number in range(count)],
            "age": 40.0 + np.arange(count) / 3,
            "stage": [None, *range(1, count)],
            "scans": np.arange(count) + 2**40,
            "smoker": np.arange(count) % 2 == 0,
            "note": [f'"x", {number}\nline' for number in range(count)],
            "code": [f"00{number}" for number in range(count)],
            "when": pd.Timestamp("2020-02-29 12:30") + pd.to_timedelta(np.arange(count), "D"),
        }
    )
    card = {"name": "all", "task": task, "classes": classes, "structures": ["nothing", "one", "two"]}
    card |= {"overlap": True} if "overlap" in what else {}
    masks = rng.integers(0, 4 if "overlap" in what else 3, (count, *shape), np.uint8) if "masks" in what else None
    cases = Cases(rng.integers(0, 256, (count, channels, *shape), np.uint8), table, card, masks)
    part = fedlab.partition(cases, sites=2, acquisition=0.6, annotation=0.3 if task == "binary" else 0.0, seed=1)
    folder = fedlab.export_sites(part, tmp_path / "out", format_)
    back = fedlab.import_images(folder, name="back", strict=True)
    expected = realised(part)
    assert back.fingerprint == expected.fingerprint
    assert np.array_equal(back.masks, expected.masks) if masks is not None else back.masks is None
    again = fedlab.partition(back, sites="site")
    assert again.table["split"].tolist() == part.table["split"].tolist() and again.sites == part.sites
    for site in folder.glob("*/cases.csv"):  # a site's folder can be used alone
        own = pd.read_csv(site, dtype=str)
        assert own["image"].map(lambda name, site=site: (site.parent / name).is_file()).all()


def test_float_images_come_back_as_the_nearest_of_256_values(tmp_path: Path) -> None:
    images = RNG.random((6, 1, 8, 8)).astype(np.float16)
    table = pd.DataFrame({"case": list("abcdef"), "label": [0, 1] * 3, "site": ["x", "x", "x", "y", "y", "y"]})
    cases = Cases(images, table.assign(split="train"), {"name": "f", "task": "binary", "classes": ["0", "1"]})
    part = fedlab.partition(cases, sites="site")
    for format_ in ("png", "nifti"):
        back = fedlab.import_images(fedlab.export_sites(part, tmp_path / format_, format_), name=format_)
        assert np.abs(back.images / 255 - images.astype(np.float32)).max() <= 0.5 / 255 + 1e-6
    assert np.array_equal(
        data_prep.reader.read(tmp_path / "nifti" / "x" / "images" / "a.nii.gz")[0].values, images[0, 0]
    )


def test_what_an_export_cannot_hold_is_refused(tmp_path: Path) -> None:
    card = {"name": "f", "task": "binary", "classes": ["0", "1"]}
    table = pd.DataFrame({"case": list("abcd"), "label": [0, 1] * 2, "site": list("xxyy"), "split": "train"})
    for shape, format_, column, reason in [
        ((1, 6, 6, 6), "png", {}, "volumes need format='nifti'"),
        ((3, 6, 6), "nifti", {}, "PNG holds one or three, NIfTI one"),
        ((1, 6, 6), "jpeg", {}, "format='jpeg'"),
        ((1, 6, 6), None, {"ward": ["NA", "1", "2", "3"]}, "column 'ward' holds 'NA', which would not come back"),
        ((1, 6, 6), None, {"ward": ["1.50", "1", "2", "3"]}, "holds '1.50', which would not come back"),
        ((1, 6, 6), None, {"image": list("abcd")}, "a column 'image'"),
    ]:
        part = fedlab.partition(
            Cases(np.zeros((4, *shape), np.uint8), table.assign(**column), card), sites="site", leakage="allow"
        )
        with pytest.raises(ValueError, match=reason):
            fedlab.export_sites(part, tmp_path / "out", format_)
    assert not list(tmp_path.iterdir())


def test_phantoms_come_back_from_png(tmp_path: Path) -> None:
    cases = fedlab.load("phantoms(cases=24, size=20)")
    rows = []
    for place, case in enumerate(cases.table["case"]):
        png(tmp_path / "scans" / f"{case}.png", cases.images[place, 0])
        png(tmp_path / "scans" / "masks" / f"{case}.png", cases.masks[place])
        row = cases.table.iloc[place]
        rows.append({"image": f"{case}.png", "mask": f"masks/{case}.png", "label": cases.classes[row["label"]]})
        rows[-1] |= {"split": row["split"], "age": row["age"], "patient": row["patient"]}
    path = table(tmp_path / "t.csv", rows)
    roles = {role: role for role in ("image", "mask", "label", "split", "patient")}
    back = fedlab.import_images(
        tmp_path / "scans", path, name="back", size=20, keep=["age"], classes=cases.classes, task=cases.task, **roles
    )
    assert np.array_equal(back.pixel_hashes, cases.pixel_hashes) and np.array_equal(back.labels, cases.labels)
    assert back.table["split"].tolist() == cases.table["split"].tolist()
    assert np.allclose(back.table["age"], cases.table["age"])
    assert np.array_equal(back.units, cases.units)
    assert np.array_equal(back.masks, cases.masks)


def test_volumes_come_back_from_nifti_in_any_orientation(tmp_path: Path) -> None:
    import nibabel

    pixels = RNG.integers(0, 256, (8, 6, 7, 5)).astype(np.uint8)
    pixels[:, 0, 0, :2] = 0, 255
    for place, voxels in enumerate(pixels):
        image = nibabel.Nifti1Image(voxels, np.diag([1.0, 2, 3, 1]))
        codes = "".join(pair[place >> axis & 1] for axis, pair in enumerate(("RL", "AP", "SI")))
        turned = image.as_reoriented(
            nibabel.orientations.axcodes2ornt(tuple(codes), (("L", "R"), ("P", "A"), ("I", "S")))
        )
        target = tmp_path / "scans" / "ab"[place % 2] / f"{place}.nii.gz"
        target.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(turned, target)
    cases = data_prep.import_images(tmp_path / "scans", name="x", spacing="1x2x3", window="0:255")
    order = [int(case.split("/")[1]) for case in cases.table["case"]]
    assert np.array_equal(cases.images[:, 0], pixels[order])


def test_a_dicom_series_and_a_nifti_file_of_one_volume_are_one_case(tmp_path: Path) -> None:
    volume = RNG.integers(0, 999, (8, 8, 5)).astype(np.int16)
    paths = series(tmp_path / "scans" / "a" / "s", volume, PixelSpacing=[1, 1], step=1)
    series(tmp_path / "scans" / "a" / "t", volume, PixelSpacing=[1, 1], step=1, SeriesInstanceUID="7.7")
    voxels = data_prep.reader.read(paths)[0].values
    nifti(tmp_path / "scans" / "b" / "x.nii", voxels, np.eye(4))
    cases = data_prep.import_images(tmp_path / "scans", name="x", spacing=1, window="0:1000")
    assert len(cases) == 3 and len(set(cases.pixel_hashes)) == 1


# --- persons

SECRETS = {
    "PatientName": "Mustermann^Erika",
    "PatientID": "PID-4711",
    "PatientBirthDate": "19640812",
    "OtherPatientIDs": "ALT-0815",
    "PatientAddress": "Heidestrasse 17",
    "PatientTelephoneNumbers": "02203-555",
    "PatientMotherBirthName": "Gabler",
    "AccessionNumber": "ACC99887",
    "InstitutionName": "Klinikum Musterstadt",
    "InstitutionAddress": "Klinikweg 3",
    "ReferringPhysicianName": "Brinkmann^Klaus",
    "OperatorsName": "Hilde^B",
    "StationName": "CTROOM7",
    "DeviceSerialNumber": "SN-123-XY",
    "StudyID": "ST-55-1",
    "StudyDate": "20190703",
    "StudyDescription": "Thorax von Erika",
    "ProtocolName": "Erika Protokoll",
    "PatientComments": "wohnt in Koeln",
    "StudyInstanceUID": "1.2.276.0.7230010.3.1.2.1",
    "SeriesInstanceUID": "1.2.276.0.7230010.3.1.3.2",
    "SOPInstanceUID": "1.2.276.0.7230010.3.1.4.3",
    "FrameOfReferenceUID": "1.2.276.0.7230010.3.1.5.4",
}


def identified(root: Path) -> Path:
    """Three files of two patients in two hospitals: names in fields, nested, private, in overlays and in paths."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    for place, (finding, who) in enumerate((("a", "Erika"), ("b", "Erika"), ("b", "Hans"))):
        nested = Dataset()
        nested.PatientName = "Nested^Erika"
        tags = SECRETS | {"SOPInstanceUID": f"{SECRETS['SOPInstanceUID']}.{place}"}
        tags |= (
            {} if who == "Erika" else {"PatientID": "PID-42", "PatientName": "Hans", "InstitutionName": "Praxis Ost"}
        )
        scanner = {"Manufacturer": "SIEMENS" if place else "GE", "ManufacturerModelName": "Prisma"}
        path = dicom(
            root / finding / f"{who} Mustermann" / f"{who}-{place}.dcm",
            RNG.integers(0, 999, (12, 12)).astype(np.int16),
            Modality="MR",
            MagneticFieldStrength=3,
            ReferencedPatientSequence=Sequence([nested]),
            **tags,
            **scanner,
        )
        whole = pydicom.dcmread(path)
        whole.add_new(0x00090010, "LO", "ERIKA MAKER")
        whole.add_new(0x00091001, "UN", b"Private^Erika")
        for tag, kind, value in ((0x60000010, "US", 12), (0x60000011, "US", 12), (0x60000040, "CS", "G")):
            whole.add_new(tag, kind, value)
        whole.add_new(0x60003000, "OW", b"Overlay^Erika 18 b")
        whole.save_as(path)
    return root


def test_nothing_of_a_header_that_names_a_person_is_in_the_folder(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = data_prep.import_images(identified(tmp_path / "scans"), name="x", size=12)
    said = capsys.readouterr().err
    folder = home / "x"
    content = b"".join(path.read_bytes() for path in folder.iterdir())
    content += cases.table.to_csv().encode() + json.dumps(cases.card).encode()
    words = [
        *SECRETS.values(),
        "Nested^Erika",
        "Private^Erika",
        "Overlay^Erika",
        "ERIKA MAKER",
        "scans",
        "PID-42",
        "Praxis Ost",
        "Hans",
        "Erika",
        "Mustermann",
    ]
    for word in words:
        for form in (word, word.upper(), word.lower(), word.replace("^", " ")):
            assert form.encode() not in content, form
            assert form.encode("utf-16-le") not in content
            assert form not in said
    assert "PatientName (3)" in said and "ReferencedPatientSequence" not in said and "StudyInstanceUID (3)" in said
    assert cases.table["case"].tolist() == ["case-1", "case-2", "case-3"]
    assert cases.table["patient"].tolist() == ["patient-1", "patient-1", "patient-2"]
    assert cases.table["institution"].tolist() == ["institution-1", "institution-1", "institution-2"]
    assert cases.table["field_strength"].tolist() == [3.0] * 3 and cases.card["modality"] == "mri"
    assert not list(home.glob(".*")) and not list(home.rglob(work.SALT))
    assert set(fedlab.partition(cases, sites="manufacturer").sites) == {"GE", "SIEMENS"}


def test_a_column_that_repeats_a_header_is_refused_and_a_patient_becomes_a_number(tmp_path: Path) -> None:
    root = identified(tmp_path / "scans")
    files = ["a/Erika Mustermann/Erika-0.dcm", "b/Erika Mustermann/Erika-1.dcm", "b/Hans Mustermann/Hans-2.dcm"]
    rows = [{"f": file, "y": file[0], "id": "pid-4711 " if "Erika" in file else "PID-42"} for file in files]
    path = table(tmp_path / "t.csv", rows)
    with pytest.raises(ValueError, match=r"column 'id' repeats what the headers say .*PatientID in 3 cases"):
        data_prep.import_images(root, path, name="x", image="f", label="y", keep=["id"], size=12)
    cases = data_prep.import_images(root, path, name="x", image="f", label="y", patient="id", size=12)
    assert cases.table["patient"].tolist() == ["patient-1", "patient-1", "patient-2"]


def test_names_of_files_that_tell_the_patient_are_numbered(tmp_path: Path) -> None:
    for name in ("Meier-1", "Meier-2", "Huber-1"):
        png(tmp_path / "scans" / f"{name}.png")
    rows = [{"f": f"{name}.png", "y": name[-1], "p": name.split("-")[0]} for name in ("Meier-1", "Meier-2", "Huber-1")]
    path = table(tmp_path / "t.csv", rows)
    cases = data_prep.import_images(tmp_path / "scans", path, name="x", image="f", label="y", patient="p", size=12)
    assert cases.table["case"].tolist() == ["case-1", "case-2", "case-3"]
    assert cases.table["patient"].tolist() == ["patient-1", "patient-1", "patient-2"]


def test_cases_are_named_as_wished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names of files may tell who it is: cases are numbered if wished, or if a patient is named in a path."""
    rows = [{"f": f"{name}.png", "id": f"S{name[-1]}", "y": name[-1], "p": f"X{name}"} for name in ("meier1", "huber2")]
    for row in rows:
        png(tmp_path / "scans" / row["f"])
    path = table(tmp_path / "t.csv", rows)
    chosen: dict[str, Any] = {"image": "f", "label": "y", "size": 12}

    def cases(name: str, **options: Any) -> pd.DataFrame:
        return data_prep.import_images(tmp_path / "scans", path, name=name, **chosen, **options).table

    assert cases("files")["case"].tolist() == ["meier1", "huber2"]
    assert "cases are named after their files, e.g. 'meier1': --numbered" in capsys.readouterr().err
    assert cases("numbers", numbered=True)["case"].tolist() == ["case-1", "case-2"]
    assert cases("own", case="id")["case"].tolist() == ["S1", "S2"]
    assert cases("hidden", patient="p")["patient"].tolist() == ["patient-1", "patient-2"]
    kept = cases("kept", patient="p", pseudonyms=True)
    assert kept["patient"].tolist() == ["Xmeier1", "Xhuber2"] and kept["case"].tolist() == ["meier1", "huber2"]
    with pytest.raises(ValueError, match="column 'p' repeats the names of patients"):
        cases("x", patient="p", keep=["p"])
    table(path, [{**row, "id": "S"} for row in rows])
    with pytest.raises(ValueError, match="1 names of cases are in several rows"):
        cases("x", case="id")


def test_parts_of_the_name_of_a_patient_in_a_path_are_found(tmp_path: Path) -> None:
    for name in ("mustermann_erika_01", "b"):
        png(tmp_path / "scans" / f"{name}.png")
    rows = [{"f": "mustermann_erika_01", "y": 0, "p": "Mustermann^Erika"}, {"f": "b", "y": 1, "p": "Bo"}]
    path = table(tmp_path / "t.csv", rows)
    cases = data_prep.import_images(tmp_path / "scans", path, name="x", image="f", label="y", patient="p", size=12)
    assert cases.table["case"].tolist() == ["case-1", "case-2"]


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"Modality": "US"}, "modality US"),
        ({"BurnedInAnnotation": "YES"}, "BurnedInAnnotation is YES"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "a secondary capture"),
        ({"Modality": "CR"}, ""),
        ({"Modality": "US", "BurnedInAnnotation": "NO"}, ""),
    ],
)
def test_text_in_the_pixels_is_warned_of(
    tags: dict, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        dicom(tmp_path / "scans" / name / "x.dcm", RNG.integers(0, 99, (12, 12)).astype(np.int16), **tags)
    cases = data_prep.import_images(tmp_path / "scans", name="x", size=12)
    said = capsys.readouterr().err
    assert ("burned into the pixels" in said) == bool(reason) and reason in said
    assert ("burned" in cases.card["caution"]) == bool(reason)


# --- killed, resumed, several processes, dry run


def many(root: Path) -> Path:
    folders(root, 40)
    (root / "ill" / "bad.png").write_bytes(b"no picture")
    return root


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a copy of this process")
def test_a_killed_import_resumes_to_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = many(tmp_path / "scans")
    monkeypatch.setattr(work, "PART", 5)
    whole = data_prep.import_images(root, name="whole", size=12, to=tmp_path / "one" / "x")
    target = tmp_path / "two" / "x"
    slow = work.one
    kept = []
    for _ in range(10):
        child = os.fork()
        if not child:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            tqdm.set_lock(threading.RLock())  # its usual lock is shared with this process, and would stay locked
            monkeypatch.setattr(work, "one", lambda *given: (time.sleep(0.002), slow(*given))[1])
            data_prep.import_images(root, name="whole", size=12, to=target, workers=1)
            os._exit(0)
        time.sleep(0.02 + 0.03 * RNG.random())
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kept.append(len(list(target.parent.glob(".x.import/*.json"))))
        if target.exists():
            break
    assert len(kept) > 1 and kept == sorted(kept)
    before = kept[-1]
    done = []
    part = work._part
    monkeypatch.setattr(work, "_part", lambda *given: (done.append(given), part(*given))[1])
    again = data_prep.import_images(root, name="whole", size=12, to=target)
    assert target.exists() and (len(done) == 17 - before or not done)
    assert contents(target) == contents(tmp_path / "one" / "x") and again.fingerprint == whole.fingerprint
    assert sorted(path.name for path in target.parent.iterdir()) == ["x", "x-problems.csv", "x-sources.csv"]


def test_a_part_with_another_file_is_done_again_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = many(tmp_path / "scans")
    monkeypatch.setattr(work, "PART", 5)
    with monkeypatch.context() as patch:
        patch.setattr(imports, "_write", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            data_prep.import_images(root, name="x", size=12)
    png(root / "healthy" / "7.png", np.full((12, 12), 200, np.uint8))
    done = []
    part = work._part
    monkeypatch.setattr(work, "_part", lambda *given: (done.append(given[0]), part(*given))[1])
    cases = data_prep.import_images(root, name="x", size=12)
    assert [item.files[0] for item in done[0]] == [f"healthy/{number}.png" for number in range(5, 10)] and len(
        done
    ) == 1
    assert (cases.images[7] == 200).all()


def test_several_processes_write_the_same_folder(tmp_path: Path, home: Path) -> None:
    root = many(tmp_path / "scans")
    for workers in (1, 2):
        data_prep.import_images(root, name="same", size=12, workers=workers, to=home / f"{workers}" / "x")
    assert contents(home / "1" / "x") == contents(home / "2" / "x")


def test_a_damaged_part_is_named_and_made_again(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = many(tmp_path / "scans")
    with monkeypatch.context() as patch:
        patch.setattr(imports, "_list", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr(imports, "_write", lambda *given: None)
        with pytest.raises(KeyboardInterrupt):
            data_prep.import_images(root, name="x", size=12)
    part = next((home / ".x.import").glob("*.pixels"))
    part.write_bytes(b"\xff" + part.read_bytes()[1:])
    with pytest.raises(OSError, match=r"\.pixels is damaged: run the same command again"):
        data_prep.import_images(root, name="x", size=12)
    assert len(data_prep.import_images(root, name="x", size=12)) == 80


def test_two_processes_do_not_import_to_one_folder(tmp_path: Path, home: Path) -> None:
    root = many(tmp_path / "scans")
    home.mkdir()
    with work.workplace(home / "x"), pytest.raises(FileExistsError, match="another process imports to"):
        data_prep.import_images(root, name="x", size=12)


def test_a_dry_run_writes_a_picture_and_lines_and_nothing_else(tmp_path: Path, home: Path) -> None:
    root = many(tmp_path / "scans")
    before = sorted(tmp_path.rglob("*"))
    cases = fedlab.import_images(root, name="x", size=12, dry_run=True)
    assert set(tmp_path.rglob("*")) - set(before) == {home, home / "x-dry-run.png", home / "x-dry-run.csv"}
    assert 10 <= len(cases) <= 12 and set(cases.labels) == {0, 1}
    lines = pd.read_csv(home / "x-dry-run.csv")
    assert lines["case"].tolist() == cases.table["case"].tolist()
    assert Image.open(home / "x-dry-run.png").width > 500


# --- the command


def test_the_command_imports_and_prints_the_folder(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abcd":
        dicom(tmp_path / "scans" / f"{name}.dcm", RNG.integers(-999, 999, (12, 12)).astype(np.int16))
    rows = [{"file": f"{name}.dcm", "y": name > "b", "hospital": name, "scanned": 2019} for name in "abcd"]
    path = table(tmp_path / "t.csv", rows)
    words = ["import", str(tmp_path / "scans"), "--table", str(path), "--image", "file", "--label", "y", "--site"]
    words += ["hospital", "--keep", "scanned", "--window", "-1000:400", "--size", "12x12", "--workers", "1", "mine"]
    assert main(words) == 0
    assert capsys.readouterr().out.strip() == str(home / "mine")
    cases = fedlab.load("mine")
    assert cases.table["site"].tolist() == list("abcd") and cases.table["scanned"].tolist() == [2019] * 4
    assert cases.card["command"] == (
        "python -m data_prep import FOLDER --table=TABLE --size=12x12 --window=-1000:400 --image=file --label=y"
        " --site=hospital --keep=scanned mine"
    )
    assert cases.card["checksums"]["table"] == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tabel", "x.csv"], "cannot use '--tabel': did you mean '--table'"),
        (["--fit", "squash"], "invalid choice: 'squash'"),
        ([], "no case was found"),
    ],
)
def test_a_wrong_command_says_what_is_wrong_in_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scans").mkdir()
    assert main(["import", str(tmp_path / "scans"), "mine", *words]) == 1
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said


# --- a real folder


def test_mednist_class_folders(tmp_path: Path) -> None:
    """Some hundred thumbnails of the archive, unpacked, are imported as the preparation script reads them."""
    roots = [Path(root) for root in os.environ.get("FEDLAB_MIRROR", "").split(os.pathsep) if root]
    archives = [path for root in roots for path in root.rglob("MedNIST*.tar.gz")]
    if not archives:
        pytest.skip("FEDLAB_MIRROR holds no MedNIST archive")
    wanted = 90
    with tarfile.open(archives[0]) as packed:
        for member in packed:
            if member.isfile() and member.name.endswith(".jpeg") and int(Path(member.name).stem) < wanted:
                path = tmp_path / "MedNIST" / Path(member.name).parent.name / Path(member.name).name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(packed.extractfile(member).read())  # type: ignore[union-attr]
                if len(list((tmp_path / "MedNIST").glob("*/*"))) >= 3 * wanted:
                    break
    cases = data_prep.import_images(tmp_path / "MedNIST", name="thumbnails", licence="CC BY-SA 4.0")
    assert len(cases) == 3 * wanted and cases.shape == (1, 64, 64) and len(cases.classes) >= 3
    for row in (0, len(cases) - 1):
        with Image.open(tmp_path / "MedNIST" / f"{cases.table['case'].iloc[row]}.jpeg") as image:
            assert np.array_equal(cases.images[row, 0], np.asarray(image))


def test_a_column_of_numbers_becomes_the_target_of_a_regression(tmp_path: Path) -> None:
    """It is imported without labels, exported to sites and imported again as it was; an empty cell is refused."""
    rows = [{"file": png(tmp_path / "scans" / f"{n}.png").name, "volume": f"{n + 0.5}"} for n in range(6)]
    path = table(tmp_path / "cases.csv", rows)
    chosen: dict[str, Any] = {"image": "file", "target": "volume", "size": 12}
    cases = data_prep.import_images(tmp_path / "scans", path, name="volumes", **chosen)
    assert cases.task == "regression" and cases.classes == ["case"]
    assert cases.targets.tolist() == [n + 0.5 for n in range(6)]
    with pytest.raises(ValueError, match="task is 'binary' and target is 'volume'"):
        data_prep.import_images(tmp_path / "scans", path, name="x", task="binary", **chosen)
    empty = table(tmp_path / "empty.csv", [*rows[:-1], {**rows[-1], "volume": ""}])
    with pytest.raises(ValueError, match="1 of 6 cases have an empty cell in the target 'volume'"):
        data_prep.import_images(tmp_path / "scans", empty, name="x", **chosen)
    sites = pd.DataFrame({"case": cases.table["case"], "site": "A", "split": ["train"] * 4 + ["val", "test"]})
    part = fedlab.Partition.from_sites(cases, sites)
    fedlab.export_sites(part, tmp_path / "sites")
    again = data_prep.import_images(tmp_path / "sites", name="again")
    assert again.target == "volume" and sorted(again.targets) == sorted(cases.targets[part.rows])
