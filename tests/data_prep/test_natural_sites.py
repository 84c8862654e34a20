"""Laws of the datasets with real sites and of segmentation: official files wherever they are, cropped as described."""

import gzip
import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import data_prep
import fedlab
from data_prep import blood_cells, hippocampus, retinal_vessels
from data_prep.collection import Collection
from data_prep.fetch import downloads
from fedlab.data.cases import Cases, read
from fedlab.learning.tasks import task_of

NOWHERE = "http://127.0.0.1:9/official.zip"  # a port that nobody listens on
Files = dict[str, bytes]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path / "home"))
    monkeypatch.delenv("FEDLAB_MIRROR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("pooch.core.time.sleep", lambda _: None)
    return tmp_path / "home"


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("FEDLAB_MIRROR", str(folder))
    return folder


def facts(title: str, files: Files, archive: str = "official.zip") -> dict[str, Any]:
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    return {"title": title, "url": NOWHERE, "archive": archive, "checksum": "", "files": digests}


def unpack(folder: Path, files: Files) -> Path:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def zipped(file: Path, files: Files) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return file


def tarred(file: Path, files: Files) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


def written(pixels: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


# --- files wherever they are

SMALL: Files = {f"kind {i % 2}/{i}.bin": bytes([i]) * (10 + i) for i in range(6)}


def small(archive: str = "official.zip") -> Collection:
    return Collection(**facts("small", SMALL, archive))


def below(folder: str, files: Files) -> Files:
    return {f"{folder}/{path}": content for path, content in files.items()}


@pytest.mark.filterwarnings("ignore:.*members lead out of its folder")
@pytest.mark.parametrize("kind", ["loose", "zip", "tar", "both", "cache"])
def test_the_same_files_come_from_wherever_they_lie(kind: str, mirror: Path) -> None:
    noise = {"__MACOSX/kind 0/._0.bin": b"x", "../../kind 0/outside.bin": b"x", "other/0.bin": b"not that one"}
    if kind in ("loose", "both"):
        unpack(mirror / "any" / "where", SMALL if kind == "loose" else dict(list(SMALL.items())[:2]))
    if kind in ("zip", "both"):
        zipped(mirror / "official.zip", noise | below("top", SMALL))
    if kind == "tar":
        tarred(mirror / "official.tar", noise | SMALL)
    if kind == "cache":
        zipped(downloads() / "official.zip", SMALL)
    collection = small("official.tar" if kind == "tar" else "official.zip")
    for order in (list(SMALL), list(SMALL)[::-1], ["kind 1/3.bin"]):
        assert list(collection.read(order)) == [SMALL[path] for path in order]
    assert not list(mirror.parent.rglob("outside.bin"))


def test_checksum_of_a_collection_is_that_of_its_listing(tmp_path: Path) -> None:
    lines = "".join(f"{hashlib.sha256(SMALL[path]).hexdigest()}  {path}\n" for path in sorted(SMALL))
    assert small().checksums == {"small, 6 files": f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"}


def test_a_changed_file_is_passed_over_and_the_archive_serves(mirror: Path) -> None:
    unpack(mirror, SMALL | {"kind 0/0.bin": b"cut"})
    zipped(mirror / "official.zip", SMALL)
    with pytest.warns(UserWarning, match="small: 1 files are skipped.*0.bin"):
        assert list(small().read(list(SMALL))) == list(SMALL.values())


def test_missing_files_are_counted_and_the_remedies_named(mirror: Path) -> None:
    unpack(mirror, {path: SMALL[path] for path in list(SMALL)[:4]})
    with pytest.raises(ConnectionError) as caught:
        list(small().read(list(SMALL)))
    for expected in ("2 of the 6 official files of small", "kind 0/4.bin", NOWHERE, "FEDLAB_MIRROR", "by hand"):
        assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ({}, r"kind 0/0.bin cannot be read from .*official.zip \(it has no such file\)"),
        (SMALL | {"kind 0/0.bin": b"changed"}, "0.bin in .* has the sha256 [0-9a-f]{64}, wanted [0-9a-f]{64}"),
        (b"<html>not found</html>", r"neither a zip nor a tar archive \(22 bytes\)"),
    ],
)
def test_an_archive_that_is_not_the_official_one_is_refused(held: Files | bytes, expected: str, mirror: Path) -> None:
    if isinstance(held, bytes):
        (mirror / "official.zip").write_bytes(held)
    else:
        zipped(mirror / "official.zip", held)
    with pytest.raises(OSError, match=expected) as caught:
        list(small().read(list(SMALL)))
    assert "remove it and try again" in str(caught.value)


def test_a_cut_archive_is_refused(mirror: Path) -> None:
    body = zipped(mirror / "whole.zip", {path: bytes(5000) for path in SMALL}).read_bytes()
    (mirror / "official.zip").write_bytes(body[: len(body) // 2])
    with pytest.raises(OSError, match=r"official\.zip .*remove it and try again"):
        list(small().read(list(SMALL)))


# --- blood cells

PER_CLASS = {"Barcelona": (3, 3, 3, 3, 3), "Jiangxi": (5, 4, 3, 2, 1)}


def smears() -> dict[str, Files]:
    """Barcelona: grey 40 + class; Jiangxi: uniform noise; both of the published sizes and names."""
    rng = np.random.default_rng(0)
    barcelona = {
        f"{kind}/{kind[:2].upper()}_{number}.jpg": written(np.full((363, 360, 3), 40 + 20 * label, np.uint8), "JPEG")
        for label, kind in enumerate(blood_cells.CLASSES)
        for number in range(PER_CLASS["Barcelona"][label])
    }
    labels = np.repeat(np.arange(1, 6), PER_CLASS["Jiangxi"])
    jiangxi = {
        f"Dataset 1/{number:03d}.bmp": written(rng.integers(0, 256, (120, 120 - 4 * (number % 2), 3), np.uint8), "BMP")
        for number in range(1, len(labels) + 1)
    }
    lines = "".join(f"{number},{label}\r\n" for number, label in enumerate(labels, 1))
    return {
        "Barcelona": barcelona,
        "Jiangxi": {**jiangxi, blood_cells.LABELS: f"image ID,class label\r\n{lines}".encode()},
    }


@pytest.fixture
def laboratories(monkeypatch: pytest.MonkeyPatch, mirror: Path) -> dict[str, Files]:
    made = smears()
    monkeypatch.setattr(blood_cells, "FACTS", {site: facts(site, files, f"{site}.zip") for site, files in made.items()})
    for site, files in made.items():
        unpack(mirror / site, files)
    return made


def test_cells_carry_class_site_scanner_and_stain(laboratories: dict[str, Files]) -> None:
    cases = read(data_prep.prepare("blood_cells"))
    counts = pd.crosstab(cases.table["site"], cases.table["label"])
    assert {site: tuple(counts.loc[site]) for site in counts.index} == PER_CLASS
    assert cases.shape == (3, 64, 64) and cases.images.dtype == np.uint8 and cases.table["case"].is_unique
    assert cases.table.groupby("site")[["scanner", "stain"]].nunique().eq(1).all(axis=None)
    assert cases.card["modality"] == "blood_smear" and "GPL-3.0" in cases.card["licence"]
    barcelona = (cases.table["site"] == "Barcelona").to_numpy()
    grey = cases.images[barcelona].reshape(barcelona.sum(), -1).mean(1)
    assert np.abs(grey - (40 + 20 * cases.labels[barcelona])).max() < 2  # every image got its own label


def test_an_image_is_the_mean_over_areas_of_its_central_square(laboratories: dict[str, Files]) -> None:
    cases = read(data_prep.prepare("blood_cells", size=60))
    for number in (2, 4):  # odd numbers are not square
        content = laboratories["Jiangxi"][f"Dataset 1/{number:03d}.bmp"]
        pixels = np.asarray(Image.open(io.BytesIO(content)), float)[:, : 120 - 4 * (number % 2)]
        row = cases.table.index[cases.table["case"] == f"Jiangxi-{number:03d}"][0]
        blocks = pixels.reshape(60, 2, 60, 2, 3).mean((1, 3)).transpose(2, 0, 1)
        assert np.abs(cases.images[row] - blocks).max() <= 1  # Pillow rounds once across and once down
    wide = np.zeros((363, 360, 3), np.uint8)
    wide[71:291, 70:290] = 200  # what Barcelona's square of 220 shows
    square = blood_cells._central(Image.fromarray(wide), 220, 110)
    assert (square[:, 1:-1, 1:-1] == 200).all() and square.shape == (3, 110, 110)


def test_archives_and_folders_give_the_same_dataset(
    laboratories: dict[str, Files], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loose = data_prep.prepare("blood_cells", tmp_path / "loose")
    packed = tmp_path / "packed"
    for site, files in laboratories.items():
        zipped(packed / f"{site}.zip", below(f"{site}-main", files))
    monkeypatch.setenv("FEDLAB_MIRROR", str(packed))
    other = data_prep.prepare("blood_cells", tmp_path / "other")
    for file in ("cases.parquet", "images.npy", "card.json"):
        assert (loose / file).read_bytes() == (other / file).read_bytes()
    monkeypatch.delenv("FEDLAB_MIRROR")
    assert data_prep.prepare("blood_cells", tmp_path / "loose") == loose  # needs neither mirror nor network


def test_a_limit_keeps_every_class_of_both_laboratories(laboratories: dict[str, Files]) -> None:
    few = read(data_prep.prepare("blood_cells", limit=12, size=16))
    assert len(few) == 12 and len(few.table[["site", "label"]].drop_duplicates()) == 10
    with pytest.raises(ValueError, match="wanted at least 10, one case of each class in each site"):
        data_prep.prepare("blood_cells", limit=9)


def test_basophils_can_be_left_out(laboratories: dict[str, Files]) -> None:
    cases = read(data_prep.prepare("blood_cells", classes=4))
    assert cases.classes == list(blood_cells.CLASSES[:4]) and len(cases) == 30 - 4
    assert cases.card["options"] == {"size": 64, "classes": 4, "limit": None}


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("blood_cells", {"size": 121}, "from 16 to 120"),
        ("blood_cells", {"size": 28.0}, "whole number of pixels"),
        ("blood_cells", {"classes": 3}, "give 5, or 4 to leave out the basophils"),
        ("blood_cells", {"source": "here"}, "has no option 'source'"),
        ("retinal_vessels", {"size": True}, "from 64 to 512"),
        ("hippocampus", {"size": 16}, "voxels from 32 to 64"),
    ],
)
def test_options_out_of_range_are_reported(name: str, options: dict[str, Any], expected: str, home: Path) -> None:
    with pytest.raises(ValueError, match=expected):
        data_prep.prepare(name, **options)
    assert not home.exists()


@pytest.mark.parametrize("name", ["blood_cells", "retinal_vessels", "hippocampus"])
def test_a_folder_with_anything_else_is_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "images.npy").write_bytes(b"half")
    with pytest.raises(FileExistsError, match=r"holds no dataset.*choose another folder or remove it"):
        data_prep.prepare(name, tmp_path / "mine")
    assert (tmp_path / "mine" / "images.npy").read_bytes() == b"half"


@pytest.mark.parametrize("name", ["blood_cells", "retinal_vessels", "hippocampus"])
def test_without_files_and_network_nothing_is_left(name: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.collection.fetch", _unreachable)
    with pytest.raises(ConnectionError, match=r"official files of .* are in no folder of FEDLAB_MIRROR"):
        data_prep.prepare(name)
    assert not home.exists() or not list(home.iterdir())


def _unreachable(*_: str) -> Path:
    raise ConnectionError("cannot download")


# --- retinal vessels


def disc(height: int, width: int, diameter: int) -> np.ndarray:
    """Where a field of view around the centre is seen, shape (height, width)."""
    y, x = np.mgrid[:height, :width]
    return np.hypot(y + 0.5 - height / 2, x + 0.5 - width / 2) <= diameter / 2


def eyes(levels: tuple[int, int] = (150, 200)) -> dict[str, Files]:
    """Two children (both eyes) and one patient a group; a vertical vessel of 40 pixels in the middle."""
    seen = {"CHASE_DB1": disc(480, 500, 460), "HRF": disc(584, 876, 816)}
    files: dict[str, Files] = {"CHASE_DB1": {}, "HRF": {}}
    drawn = {}
    for site, level in zip(seen, levels, strict=True):
        photograph = written((seen[site][..., None] * np.array([level, 80, 60])).astype(np.uint8), "PNG")
        middle = seen[site].shape[1] // 2
        vessel = np.zeros(seen[site].shape, bool)
        vessel[:, middle - 20 : middle + 20] = True
        drawn[site] = photograph, vessel & seen[site]
    for stem in ("Image_01L", "Image_01R", "Image_02L", "Image_02R"):
        files["CHASE_DB1"] |= {
            f"{stem}.jpg": drawn["CHASE_DB1"][0],
            f"{stem}_1stHO.png": _drawing(drawn["CHASE_DB1"][1]),
        }
    for group, ending in (("h", "jpg"), ("dr", "JPG"), ("g", "jpg")):
        files["HRF"] |= {
            f"images/01_{group}.{ending}": drawn["HRF"][0],
            f"manual1/01_{group}.tif": written(drawn["HRF"][1] * np.uint8(255), "TIFF"),
            f"mask/01_{group}_mask.tif": written(np.repeat(seen["HRF"][..., None] * np.uint8(255), 3, 2), "TIFF"),
        }
    return files


def _drawing(vessel: np.ndarray) -> bytes:
    """One bit a pixel, as CHASE_DB1 stores it."""
    file = io.BytesIO()
    Image.fromarray(vessel * np.uint8(255)).convert("1").save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def clinics(monkeypatch: pytest.MonkeyPatch, mirror: Path) -> Callable[[dict[str, Files]], None]:
    def publish(made: dict[str, Files]) -> None:
        published = {site: facts(site, files, f"{site}.zip") for site, files in made.items()}
        monkeypatch.setattr(retinal_vessels, "FACTS", published)
        for site, files in made.items():
            unpack(mirror / site, files)

    return publish


def test_only_retina_is_kept_and_vessels_keep_their_place(clinics: Callable[[dict[str, Files]], None]) -> None:
    clinics(eyes())
    cases = read(data_prep.prepare("retinal_vessels", size=64))
    assert cases.shape == (3, 64, 64) and cases.masks is not None and cases.masks.shape == (7, 64, 64)
    assert (cases.images == cases.images[:, :, 32:33, 32:33]).all()  # one colour: no black frame, no rim
    for site, diameter in (("CHASE_DB1", 460), ("HRF", 816)):
        mask = cases.masks[(cases.table["site"] == site).to_numpy()]
        width = 40 / (diameter / np.sqrt(2)) * 64
        assert np.abs(mask.sum(2) - width).max() <= 1 and (mask == mask[:, :, ::-1]).all()
    assert cases.structures == ["background", "vessel"] and set(cases.labels) == {0}


def test_both_eyes_of_a_child_are_one_patient(clinics: Callable[[dict[str, Files]], None]) -> None:
    clinics(eyes())
    cases = read(data_prep.prepare("retinal_vessels", size=64))
    children = cases.table[cases.table["site"] == "CHASE_DB1"]
    assert children["patient"].tolist() == ["CHASE-01", "CHASE-01", "CHASE-02", "CHASE-02"]
    assert children["eye"].tolist() == ["left", "right"] * 2 and set(children["group"]) == {"not stated"}
    patients = cases.table[cases.table["site"] == "HRF"]
    assert patients["patient"].isna().all() and patients["eye"].isna().all()
    assert set(patients["group"]) == {"healthy", "diabetic retinopathy", "glaucoma"}


def test_a_black_photograph_is_named(clinics: Callable[[dict[str, Files]], None], home: Path) -> None:
    made = eyes()
    made["CHASE_DB1"]["Image_02L.jpg"] = written(np.zeros((480, 500, 3), np.uint8), "PNG")
    clinics(made)
    with pytest.raises(ValueError, match=r"Image_02L.jpg shows no field of view"):
        data_prep.prepare("retinal_vessels", size=64)
    assert not list(home.iterdir())


# --- hippocampus


def nifti(voxels: np.ndarray) -> bytes:
    return gzip.compress(nibabel.Nifti1Image(voxels, np.eye(4)).to_bytes(), mtime=0)


def publish_volumes(monkeypatch: pytest.MonkeyPatch, mirror: Path, volumes: dict[str, tuple[Any, Any]]) -> None:
    files = {}
    for name, (volume, mask) in volumes.items():
        files |= {f"imagesTr/{name}.nii.gz": nifti(volume), f"labelsTr/{name}.nii.gz": nifti(mask)}
    monkeypatch.setattr(hippocampus, "FACTS", facts("Task04", files, "Task04.tar"))
    extra = {"Task04/imagesTr/._a.nii.gz": b"mac", "Task04/dataset.json": b"{}"}
    tarred(mirror / "Task04.tar", extra | below("Task04", files))


def volume(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(500, 100, shape).astype(np.float32), rng.integers(0, 3, shape, np.uint8)


def test_volumes_are_centred_scaled_and_told_apart_by_storage(monkeypatch: pytest.MonkeyPatch, mirror: Path) -> None:
    (first, mask), (second, other) = volume((30, 40, 28)), volume((34, 26, 30), 1)
    grey = np.clip(second / 4, 0, 255).astype(np.uint8)
    publish_volumes(monkeypatch, mirror, {"a": (first, mask.astype(np.float32)), "b": (grey, other)})
    cases = read(data_prep.prepare("hippocampus", size=40))
    assert cases.table["case"].tolist() == ["a", "b"] and cases.table["storage"].tolist() == ["float32", "uint8"]
    assert cases.shape == (1, 40, 40, 40) and cases.masks is not None
    assert np.array_equal(cases.masks[0], np.pad(mask, [(5, 5), (0, 0), (6, 6)]))  # axes keep their order
    assert np.array_equal(cases.masks[1], np.pad(other, [(3, 3), (7, 7), (5, 5)]))
    low, high = np.percentile(first, [1, 99])
    inside = cases.images[0, 0, 5:35, :, 6:34]
    assert np.abs(inside - np.clip((first - low) / (high - low), 0, 1) * 255).max() <= 0.5001
    cut = read(data_prep.prepare("hippocampus", size=32))
    assert cut.masks is not None and np.array_equal(cut.masks[0], np.pad(mask[:, 4:36], [(1, 1), (0, 0), (2, 2)]))


@given(gain=st.floats(0.01, 1000), offset=st.floats(-1000, 1000))
@settings(max_examples=12, deadline=None)
def test_scaling_undoes_gain_and_offset(gain: float, offset: float) -> None:
    voxels = volume((6, 7, 8))[0].astype(np.float64)
    plain, other = (hippocampus._scaled(v, "v").astype(int) for v in (voxels, voxels * gain + offset))
    assert np.abs(plain - other).max() <= 1 and plain.min() == 0 and plain.max() == 255


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ((np.full((30, 30, 30), 7, np.uint8), np.zeros((30, 30, 30), np.uint8)), "no contrast"),
        (
            (volume((30, 30, 30))[0], np.zeros((30, 30, 31), np.uint8)),
            "has the shape 30 x 30 x 31 and its image imagesTr/z.nii.gz 30 x 30 x 30",
        ),
        ((volume((30, 30, 30))[0], np.full((30, 30, 30), 3, np.uint8)), "holds the value 3.*2 \\(posterior\\)"),
    ],
)
def test_a_volume_that_does_not_fit_is_named(
    made: tuple[Any, Any], expected: str, monkeypatch: pytest.MonkeyPatch, mirror: Path, home: Path
) -> None:
    publish_volumes(monkeypatch, mirror, {"good": volume((30, 30, 30)), "z": made})
    with pytest.raises(ValueError, match=expected) as caught:
        data_prep.prepare("hippocampus")
    assert "z" in str(caught.value) and not list(home.iterdir())


# --- segmentation as a task


def outlined(masks: np.ndarray | None = None, **card: Any) -> Cases:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 1, 8, 8), np.uint8)
    table = pd.DataFrame(
        {"case": [f"c{i}" for i in range(40)], "label": 0, "patient": [f"p{i // 2}" for i in range(40)]}
    )
    facts = {"name": "mine", "task": "segmentation", "classes": ["eye"], "structures": ["background", "vessel"]}
    return Cases(images, table, facts | card, rng.integers(0, 2, (40, 8, 8), np.uint8) if masks is None else masks)


def test_segmentation_names_the_values_of_its_masks() -> None:
    assert outlined().structures == ["background", "vessel"] and outlined().classes == ["eye"]
    plain = {"name": "mine", "task": "segmentation", "classes": ["background", "tumour"]}
    same = Cases(outlined().images, outlined().table, plain, outlined().masks)
    assert same.structures == same.classes == ["background", "tumour"]


@pytest.mark.parametrize(
    ("masks", "card", "expected"),
    [
        (np.full((40, 8, 8), 2, np.uint8), {}, "'c0' holds the value 2.*number them 0..1"),
        (np.zeros((40, 8, 8), np.int64), {}, "masks are int64"),
        (np.zeros((39, 8, 8), np.uint8), {}, r"masks have shape \(39, 8, 8\)"),
        (None, {"structures": ["vessel"]}, "a different name for each value of the masks"),
        (None, {"structures": ["vessel", "vessel"]}, "a different name for each value of the masks"),
        (None, {"classes": []}, "classes are"),
    ],
)
def test_masks_that_do_not_fit_are_reported(masks: np.ndarray | None, card: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        outlined(masks, **card)


def test_segmentation_without_masks_is_refused(tmp_path: Path) -> None:
    folder = outlined().save(tmp_path / "set")
    (folder / "masks.npy").unlink()
    with pytest.raises(ValueError, match=r"masks\.npy is missing"):
        read(folder)
    (folder / "checksums.json").unlink()
    with pytest.raises(ValueError, match="set: a segmentation dataset has no masks"):
        read(folder)


def test_masks_belong_to_the_identity_of_the_data(tmp_path: Path) -> None:
    cases = outlined()
    assert cases.masks is not None
    assert read(cases.save(tmp_path / "set")).fingerprint == cases.fingerprint == outlined().fingerprint
    changed = cases.masks.copy()
    changed[7, 3, 3] ^= 1
    assert outlined(changed).fingerprint != cases.fingerprint
    few = cases.take([5, 2])
    assert few.masks is not None and np.array_equal(few.masks, cases.masks[[5, 2]])


def test_segmentation_is_partitioned_and_its_task_are_the_structures() -> None:
    cases = outlined()
    part = fedlab.partition(cases, sites=3, quantity=0.5, acquisition=0.5)
    joined = part.table.merge(cases.table, on="case")
    assert len(joined) == 40 and joined.groupby("patient")["site"].nunique().max() == 1
    assert part.counts().to_numpy().sum() == 40 and list(part.counts().columns) == ["eye"]
    task = task_of(cases)
    assert task.dense and task.outputs == len(cases.structures) and task.metrics[0] == "dice"


# --- the official files


def held(name: str, folder: str) -> pytest.MarkDecorator:
    """Skips where no mirror holds this folder."""
    roots = [Path(root) for root in os.environ.get("FEDLAB_MIRROR", "").split(os.pathsep) if root]
    there = any(next(root.rglob(folder), None) for root in roots)
    return pytest.mark.skipif(not there, reason=f"let FEDLAB_MIRROR name a folder with {folder} to test {name}")


MIRROR = os.environ.get("FEDLAB_MIRROR", "")


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Cases]:
    home, ready = tmp_path_factory.mktemp("official"), {}

    def load(name: str) -> Cases:
        if name not in ready:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("FEDLAB_DATA", str(home))
                patch.setenv("FEDLAB_MIRROR", MIRROR)
                ready[name] = fedlab.load(name)
        return ready[name]

    return load


@held("blood_cells", "PBC_dataset_normal_DIB")
@pytest.mark.filterwarnings("ignore::fedlab.core.warnings.LeakageWarning")
def test_two_laboratories_as_published(official: Callable[[str], Cases]) -> None:
    cases = official("blood_cells")
    counts = pd.crosstab(cases.table["site"], cases.table["label"])
    assert counts.loc["Barcelona"].tolist() == [80] * 5 and counts.loc["Jiangxi"].tolist() == [176, 53, 48, 22, 1]
    assert cases.shape == (3, 64, 64) and cases.audit()["kind"].tolist() == ["exact duplicates"]
    for expected in ("CC BY 4.0", "GPL-3.0", "Jiangxi Tecom Science Corporation"):
        assert expected in cases.card["licence"]


@held("blood_cells", "PBC_dataset_normal_DIB")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_two_laboratories_differ_far_beyond_chance(official: Callable[[str], Cases]) -> None:
    part = fedlab.partition(official("blood_cells"), sites="site")
    assert part.sites == ["Barcelona", "Jiangxi"] and len(part.table) == 700
    rows = part.shift().set_index("measure")
    seen = rows.loc["MMD^2 within class"]
    assert seen["low"] > 10 * max(seen["null_high"], 0.001)


@held("retinal_vessels", "CHASE_DB1")
def test_two_sites_of_retinal_vessels_as_published(official: Callable[[str], Cases]) -> None:
    cases = official("retinal_vessels")
    assert cases.table["site"].value_counts().to_dict() == {"CHASE_DB1": 28, "HRF": 15}
    assert cases.table["patient"].nunique() == 14 and cases.table["patient"].value_counts().eq(2).all()
    assert cases.table["group"].value_counts().to_dict() == {
        "not stated": 28,
        "healthy": 5,
        "diabetic retinopathy": 5,
        "glaucoma": 5,
    }
    assert cases.shape == (3, 256, 256) and cases.masks is not None
    share = cases.masks.reshape(43, -1).mean(1)
    assert share.min() > 0.05 and share.max() < 0.16 and "CC BY 4.0" in cases.card["licence"]
    assert (cases.images.max(1) > 20).mean() > 0.9999  # retina everywhere: no black frame
    part = fedlab.partition(cases, sites="site")
    assert part.table.merge(cases.table, on="case").groupby("patient")["split"].nunique().max() == 1


@held("hippocampus", "Task04_Hippocampus")
def test_hippocampus_as_published(official: Callable[[str], Cases]) -> None:
    cases = official("hippocampus")
    assert len(cases) == 260 and cases.shape == (1, 48, 48, 48) and cases.images.dtype == np.uint8
    assert cases.table["storage"].value_counts().to_dict() == {"float32": 205, "uint8": 55}
    assert cases.structures == ["background", "anterior", "posterior"] and cases.card["modality"] == "mri"
    assert cases.masks is not None and "CC BY-SA 4.0" in cases.card["licence"]
    counts = np.bincount(cases.masks.ravel())
    assert counts[1:].sum() == 856_754 - 14  # of all outlined voxels, one volume loses 14 at its edge
    assert np.round(counts[1:] / 260).tolist() == [1715, 1580]
