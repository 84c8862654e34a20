"""Laws of public datasets of images with masks: cases are what the files say, or the wrong file is named."""

import gzip
import hashlib
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import data_prep
import fedlab
from data_prep import acdc, decathlon, fets2022, fundus_disc_cup, mnms, prostate_six_sites
from data_prep.__main__ import main
from fedlab.data.cases import Cases, read

TERMS = {
    name: described.terms
    for script in (acdc, decathlon, fets2022, fundus_disc_cup, mnms, prostate_six_sites)
    for name, described in script.SETS.items()
}
SPLITS = ["train", "test"]
CODES = ["A0S9V9", "B1C2D3", "E4F5G6", "H7J8K9"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path / "home"))
    monkeypatch.delenv("FEDLAB_MIRROR", raising=False)
    return tmp_path / "home"


# --- made-up downloads in the official layout


def grey(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 900, shape).astype(np.int16)


def outlined(shape: tuple[int, ...], values: tuple[int, ...]) -> np.ndarray:
    """Slabs of these values along the first axis, in the middle of the others."""
    mask = np.zeros(shape, np.uint8)
    for place, value in enumerate(values, start=1):
        mask[place : place + 1, 2:-2, 1:-1] = value
    return mask


def save(path: Path, voxels: np.ndarray, axes: str = "RAS", spacing: tuple[float, ...] = (1, 1, 1)) -> None:
    """Write a volume whose axes are stored in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(voxels, np.diag([*spacing, 1.0]))
    turn = nibabel.orientations.axcodes2ornt(tuple(axes))
    turned = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), turn))
    path.write_bytes(gzip.compress(turned.to_bytes(), 1, mtime=0))


def make_brain(folder: Path) -> None:
    """Task 1: four sequences in one file, stored right to left."""
    top, names = folder / "Task01_BrainTumour", ["BRATS_010", "BRATS_002"]
    for seed, name in enumerate(names):
        save(top / f"imagesTr/{name}.nii.gz", grey((8, 7, 6, 4), seed), "LAS")
        save(top / f"labelsTr/{name}.nii.gz", outlined((8, 7, 6), (1, 2, 3)), "LAS")
    stated = {
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
        "test": ["./imagesTs/BRATS_999.nii.gz"],
    }
    (top / "dataset.json").write_text(json.dumps(stated), encoding="utf-8")


def make_fets(folder: Path) -> None:
    """FeTS 2022: a folder for each subject, and the table of institutions next to them."""
    top, names = folder / "MICCAI_FeTS2022_TrainingData", ["FeTS2022_00000", "FeTS2022_00002", "FeTS2022_01341"]
    for seed, name in enumerate(names):
        for number, channel in enumerate(fets2022.CHANNELS):
            save(top / name / f"{name}_{channel}.nii.gz", grey((8, 7, 6), 4 * seed + number), "LPS")
        save(top / name / f"{name}_seg.nii.gz", outlined((8, 7, 6), (1, 2, 4)), "LPS")
    table = pd.DataFrame({"Partition_ID": [1, 1, 18], "Subject_ID": names})
    table.to_csv(top / "partitioning_1.csv", index=False)


def make_prostate(folder: Path) -> None:
    """Six sites; one of them writes its masks with a capital letter, and numbers two zones."""
    for seed, site in enumerate(prostate_six_sites.VENDORS):
        end = "Segmentation" if site == "BMC" else "segmentation"
        save(folder / f"{site}/Case00.nii.gz", grey((8, 7, 6), seed))
        save(folder / f"{site}/Case00_{end}.nii.gz", outlined((8, 7, 6), (1, 2) if site == "BMC" else (1, 1)))


def make_acdc(folder: Path) -> None:
    """ACDC: frames of two phases, in two folders."""
    for patient, split in (("patient001", "training"), ("patient101", "testing")):
        top = folder / "database" / split / patient
        for seed, frame in enumerate((1, 12)):
            save(top / f"{patient}_frame{frame:02d}.nii.gz", grey((8, 7, 3), seed), spacing=(2, 2, 10))
            mask = outlined((8, 7, 3), (1, 2, 3))
            save(top / f"{patient}_frame{frame:02d}_gt.nii.gz", mask, spacing=(2, 2, 10))
        (top / "Info.cfg").write_text(
            "ED: 1\nES: 12\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n", encoding="utf-8"
        )


def make_mnms(folder: Path) -> None:
    """M&Ms: one file of three frames for each patient; the last one has no mask."""
    for code, split in zip(CODES, ("Training/Labeled", "Validation", "Testing", "Training/Unlabeled"), strict=True):
        top = folder / "OpenDataset" / split / code
        save(top / f"{code}_sa.nii.gz", np.stack([grey((8, 7, 3), seed) for seed in range(3)], -1))
        mask = np.zeros((8, 7, 3, 3), np.uint8)
        mask[..., 0], mask[..., 2] = outlined((8, 7, 3), (1, 2, 3)), outlined((8, 7, 3), (3, 2, 1))
        if code != CODES[-1]:
            save(top / f"{code}_sa_gt.nii.gz", mask)
    table = pd.DataFrame({"External code": CODES, "VendorName": ["Siemens", "Philips", "GE", "Canon"]})
    table = table.assign(Vendor=list("ABCD"), Centre=[1, 2, 4, 5], ED=0, ES=2, Age=[40, 50, 60, None], Sex=list("MFFM"))
    table.to_csv(folder / "OpenDataset/211230_M&Ms_Dataset_information_diagnosis_opendataset.csv")


def make_fundus(folder: Path) -> None:
    """Four sites of two splits; a mask of the first has blurred edges."""
    mask = np.full((20, 20), 255, np.uint8)
    mask[4:16, 4:16], mask[8:12, 8:12] = 128, 0
    for domain in (1, 2, 3, 4):
        for split in SPLITS:
            top = folder / f"Domain{domain}/{split}/ROIs"
            for kind, values in (("image", grey((20, 20, 3), domain) % 256), ("mask", mask)):
                (top / kind).mkdir(parents=True)
                picture = Image.fromarray(values.astype(np.uint8))
                picture.save(top / kind / f"{split}{domain}.png")
    mask[4, 4:16] = 190
    Image.fromarray(mask).save(folder / "Domain1/train/ROIs/mask/train1.png")


MADE: dict[str, Callable[[Path], None]] = {
    "decathlon_brain": make_brain,
    "fets2022": make_fets,
    "prostate_six_sites": make_prostate,
    "acdc": make_acdc,
    "mnms": make_mnms,
    "fundus_disc_cup": make_fundus,
}
MASKS = {  # one of each
    "decathlon_brain": "labelsTr/BRATS_002.nii.gz",
    "fets2022": "FeTS2022_00002_seg.nii.gz",
    "prostate_six_sites": "UCL/Case00_segmentation.nii.gz",
    "acdc": "patient101_frame12_gt.nii.gz",
    "mnms": f"{CODES[1]}_sa_gt.nii.gz",
    "fundus_disc_cup": "Domain3/test/ROIs/mask/test3.png",
}
SIZES = {"acdc": "8x8x4", "mnms": "8x8x4", "fundus_disc_cup": 10}  # of the results; others are cubes of 8


def prepared(name: str, download: Path, to: Path | None = None, **options: object) -> Cases:
    """A made-up download, prepared without resampling but for the pictures."""
    spacing = {} if name == "fundus_disc_cup" else {"spacing": "2x2x10" if name == "acdc" else 1}
    options = {"size": SIZES.get(name, 8), **spacing, **options}
    return read(data_prep.prepare(name, to, source=str(download), accept_licence=True, **options))


@pytest.fixture(params=MADE)
def download(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    MADE[request.param](tmp_path / "download")
    return request.param, tmp_path / "download"


# --- what every one of them does


@pytest.mark.parametrize("name", TERMS)
def test_without_licence_or_files_a_dataset_says_what_it_needs(name: str, tmp_path: Path, home: Path) -> None:
    terms = TERMS[name]
    with pytest.raises(PermissionError) as refused:
        data_prep.prepare(name, source=str(tmp_path))
    assert all(part in str(refused.value) for part in (terms.licence, terms.duty, terms.url, "--accept-licence"))
    with pytest.raises(FileNotFoundError) as lacking:
        data_prep.prepare(name, source=str(tmp_path), accept_licence=True)
    assert terms.needed in str(lacking.value) and terms.url in str(lacking.value)
    assert not home.exists()


def test_an_archive_and_a_folder_give_the_same_cases(download: tuple[str, Path], tmp_path: Path) -> None:
    name, folder = download
    first = prepared(name, folder)
    with tarfile.open(tmp_path / "Task_FeTS2022.tar.gz", "w:gz") as tar:
        tar.add(folder, ".")
    again = prepared(name, tmp_path / "Task_FeTS2022.tar.gz", to=tmp_path / "again")
    assert first.table.equals(again.table) and np.array_equal(first.images, again.images)
    assert first.masks is not None and again.masks is not None and np.array_equal(first.masks, again.masks)
    assert set(np.unique(first.masks)) == set(range(len(first.structures)))
    assert "loose images" in first.card["unchecked"] and "Task_FeTS2022.tar.gz" in again.card["unchecked"]
    assert set(first.card["unchecked"]) <= set(first.card["checksums"])
    assert {"patient", "site"} <= set(first.table) or name in ("decathlon_brain", "fundus_disc_cup")


def test_a_missing_mask_and_another_value_are_named(download: tuple[str, Path], home: Path) -> None:
    name, folder = download
    mask = next(folder.rglob(MASKS[name]))
    if mask.suffix == ".png":
        Image.fromarray(np.full((20, 20), 2, np.uint8)).save(mask)
    else:
        image = nibabel.Nifti1Image.from_bytes(gzip.decompress(mask.read_bytes()))
        values = np.asarray(image.dataobj)
        mask.write_bytes(gzip.compress(nibabel.Nifti1Image(values * np.uint8(7), image.affine).to_bytes(), 1))
    with pytest.raises(ValueError, match=rf"{mask.name} holds .*(structures are|wanted) 0 .*use the original file"):
        prepared(name, folder)
    mask.unlink()
    with pytest.raises(FileNotFoundError, match=rf"lacks 1 of \d+ masks \(first: .*{mask.name}\)"):
        prepared(name, folder)
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_another_file_of_the_download_is_noticed(tmp_path: Path) -> None:
    make_acdc(tmp_path / "a")
    folder = read(data_prep.prepare("acdc", source=str(tmp_path / "a"), accept_licence=True)).card
    assert folder["options"]["spacing"] == [1.5, 1.5, 10] and data_prep.prepare("acdc").name == "acdc"
    save(next((tmp_path / "a").rglob("patient101_frame12.nii.gz")), grey((8, 7, 3), 9))
    with pytest.raises(FileExistsError, match="other files"):
        data_prep.prepare("acdc", source=str(tmp_path / "a"), accept_licence=True)


# --- each of them


def test_channels_and_structures_of_the_decathlon_are_those_of_its_file(tmp_path: Path) -> None:
    make_brain(tmp_path)
    cases = prepared("decathlon_brain", tmp_path)
    assert cases.table["case"].tolist() == ["BRATS_002", "BRATS_010"] and cases.card["orientation"] == "RAS"
    assert cases.structures == ["background", "edema", "non-enhancing tumor", "enhancing tumour"]
    assert cases.card["channels"] == ["FLAIR", "T1w", "t1gd", "T2w"] and cases.shape == (4, 8, 8, 8)
    assert cases.masks is not None and np.array_equal(cases.masks[0][:, :7, 1:7], outlined((8, 7, 6), (1, 2, 3)))
    low, high = np.percentile(grey((8, 7, 6, 4), 1)[..., 2], (0.5, 99.5))
    wanted = np.clip((grey((8, 7, 6, 4), 1)[..., 2] - low) / (high - low), 0, 1) * 255
    assert np.abs(cases.images[0, 2][:, :7, 1:7] - wanted).max() <= 0.51  # stored right to left, turned to RAS
    half = prepared("decathlon_brain", tmp_path, size=4, spacing=None)
    assert half.card["spacing"] == [2, 2, 2] and half.shape == (4, 4, 4, 4)


def test_the_official_archive_of_the_decathlon_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, archive = "decathlon_brain", tmp_path / "home/downloads/Task01_BrainTumour.tar"
    make_brain(tmp_path / "x")
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w") as tar:
        tar.add(tmp_path / "x/Task01_BrainTumour", "Task01_BrainTumour")
    with pytest.raises(OSError, match="the published one is md5:240a19d752f0d9e9101544901065d872"):
        prepared(name, archive)
    own = replace(decathlon.TASKS[name], md5=hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setitem(decathlon.SETS, name, decathlon._described(name, own))
    cases = read(data_prep.prepare(name, size=8, accept_licence=True))  # from the cache, without a source
    assert len(cases) == 2 and cases.card["unchecked"] == [] and list(cases.card["checksums"]) == [archive.name]


@pytest.mark.parametrize(
    ("content", "expected"),
    [("{", "is no JSON"), ('{"labels": {"0": "background"}}', "lacks labels, modality or training"), (None, "has no")],
)
def test_a_task_without_its_description_is_named(content: str | None, expected: str, tmp_path: Path) -> None:
    make_brain(tmp_path)
    (stated,) = tmp_path.rglob("dataset.json")
    stated.unlink() if content is None else stated.write_text(content, encoding="utf-8")
    with pytest.raises((ValueError, FileNotFoundError), match=expected):
        prepared("decathlon_brain", tmp_path)


def test_institutions_of_fets_are_sites_and_their_structures_exclude_each_other(tmp_path: Path) -> None:
    make_fets(tmp_path)
    cases = prepared("fets2022", tmp_path)
    assert cases.table["site"].tolist() == ["institution-01"] * 2 + ["institution-18"]
    assert cases.structures == ["background", "necrotic core", "oedema", "enhancing tumour"]
    assert cases.masks is not None and np.array_equal(cases.masks[2][:, :7, 1:7], outlined((8, 7, 6), (1, 2, 3)))
    assert fedlab.partition(cases, sites="site", splits="site").sites == ["institution-01", "institution-18"]
    (table,) = tmp_path.rglob("partitioning_1.csv")
    pd.concat([pd.read_csv(table), pd.DataFrame({"Partition_ID": [2], "Subject_ID": "FeTS2022_00000"})]).to_csv(table)
    with pytest.raises(ValueError, match=r"first: FeTS2022_00000 in institution-01 and institution-02.*one site"):
        prepared("fets2022", tmp_path, to=tmp_path / "other")
    table.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no partitioning_1\.csv: fets2022 needs"):
        prepared("fets2022", tmp_path, to=tmp_path / "other")


def test_six_sites_of_the_prostate_and_none_may_lack(tmp_path: Path) -> None:
    make_prostate(tmp_path)
    cases = prepared("prostate_six_sites", tmp_path)
    assert set(cases.table["site"]) == set(prostate_six_sites.VENDORS) and cases.structures[1:] == ["prostate"]
    assert len({int((mask == 1).sum()) for mask in cases.masks}) == 1  # two zones are one gland
    (tmp_path / "HK").rename(tmp_path / "Hongkong")
    with pytest.raises(FileNotFoundError, match="has no images in HK: prostate_six_sites needs"):
        prepared("prostate_six_sites", tmp_path, to=tmp_path / "other")


def test_two_phases_of_acdc_are_one_patient(tmp_path: Path) -> None:
    make_acdc(tmp_path)
    cases = prepared("acdc", tmp_path)
    assert cases.table["case"].tolist() == [f"patient{n}-{phase}" for n in ("001", "101") for phase in ("ED", "ES")]
    assert cases.table["split"].tolist() == ["train"] * 2 + ["test"] * 2 and set(cases.table["weight"]) == {95.0}
    assert set(cases.table["group"]) == {"dilated cardiomyopathy"} and cases.card["spacing"] == [2, 2, 10]
    assert cases.table["patient"].tolist() == ["patient001"] * 2 + ["patient101"] * 2
    info = next(tmp_path.rglob("Info.cfg"))
    info.write_text("ED: 1\nGroup: DCM\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"Info.cfg names no frame of ES, found None: wanted a line such as 'ES: 12'"):
        prepared("acdc", tmp_path, to=tmp_path / "other")


def test_frames_sites_and_split_of_mnms_are_those_of_its_table(tmp_path: Path) -> None:
    make_mnms(tmp_path)
    cases = prepared("mnms", tmp_path)
    assert cases.table["patient"].tolist() == [code for code in CODES[:3] for _ in "ab"]
    assert cases.table["split"].tolist() == ["train"] * 2 + ["val"] * 2 + ["test"] * 2
    assert cases.table["site"].iloc[::2].tolist() == ["centre-1", "centre-2", "centre-4"]
    assert cases.table["vendor"].iloc[::2].tolist() == ["Siemens", "Philips", "GE"]
    assert cases.table["age"].iloc[-1] == 60 and cases.table["sex"].iloc[0] == "male"
    assert cases.masks is not None and cases.masks[0][1:4].max((1, 2)).tolist() == [1, 2, 3]
    assert cases.masks[1][1:4].max((1, 2)).tolist() == [3, 2, 1]  # end-systole is another frame of the same file
    (table,) = tmp_path.rglob("*.csv")
    pd.read_csv(table, index_col=0).assign(ES=3).to_csv(table)
    with pytest.raises(ValueError, match="holds 3 frames, and the table names frame 3, from 0"):
        prepared("mnms", tmp_path, to=tmp_path / "other")
    table.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no 211230_M&Ms_Dataset.*csv: mnms needs"):
        prepared("mnms", tmp_path, to=tmp_path / "other")


def test_disc_and_cup_of_four_sites(tmp_path: Path) -> None:
    make_fundus(tmp_path)
    cases = prepared("fundus_disc_cup", tmp_path)
    assert cases.table["site"].unique().tolist() == ["Drishti-GS", "RIM-ONE", "REFUGE-train", "REFUGE-val"]
    assert sorted(cases.table["split"]) == ["test"] * 4 + ["train"] * 4 and cases.shape == (3, 10, 10)
    assert cases.masks is not None and all(np.bincount(mask.ravel()).tolist() == [64, 32, 4] for mask in cases.masks)


# --- the grid


def test_structures_that_the_grid_loses_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_acdc(tmp_path)
    prepared("acdc", tmp_path, size="4x4x4")
    said = capsys.readouterr().err
    assert "right ventricle is lost in 4 of 4 cases" in said and "outside in 4 cases: choose a larger size" in said


def test_a_mask_on_another_grid_is_refused(tmp_path: Path) -> None:
    make_fets(tmp_path)
    save(next(tmp_path.rglob("FeTS2022_00002_t1ce.nii.gz")), grey((8, 7, 5)))
    save(next(tmp_path.rglob("FeTS2022_01341_seg.nii.gz")), outlined((8, 7, 6), (1, 2, 4)), spacing=(1, 1, 2))
    with pytest.raises(ValueError, match=r"00002_t1ce.*8 x 7 x 5 and .*8 x 7 x 6.*; .*01341_seg.* mm from its image"):
        prepared("fets2022", tmp_path)


@pytest.mark.parametrize(("options", "expected"), [({"size": True}, "size is True"), ({"size": 2}, "from 4 to 4096")])
def test_sizes_that_are_none_are_refused(options: dict, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        data_prep.prepare("acdc", **options)


def test_the_command_teaches_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["acdc", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert TERMS["acdc"].url in shown and "--spacing" in shown and "--source" in shown
    assert "1.5x1.5x10" in shown and "--classes" not in shown
