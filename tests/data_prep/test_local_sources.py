"""Laws of datasets from a local download: nothing without the licence, and the cases are what the files say."""

import gzip
import hashlib
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import data_prep
import fedlab
from data_prep import covid_chestxray, ham10000, isic2019, ixi, local
from data_prep.__main__ import main
from fedlab.data.cases import Cases, read

SCRIPTS = {"ham10000": ham10000, "isic2019": isic2019, "ixi": ixi, "covid_chestxray": covid_chestxray}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path / "home"))
    monkeypatch.delenv("FEDLAB_MIRROR", raising=False)
    return tmp_path / "home"


@pytest.fixture(scope="module")
def tables() -> Path:
    """The real tables, where a mirror holds them."""
    for root in filter(None, os.environ.get("FEDLAB_MIRROR", "").split(os.pathsep)):
        if (Path(root) / "site_tables").is_dir():
            return Path(root) / "site_tables"
    pytest.skip("set FEDLAB_MIRROR to a folder with site_tables/")


def picture(colour: tuple[int, ...], edges: tuple[int, int] = (60, 40), kind: str = "JPEG") -> bytes:
    """A central square of one colour between black margins, width x height."""
    width, height = edges
    pixels = np.zeros((height, width, len(colour)), np.uint8)
    side, left = min(edges), (width - min(edges)) // 2
    pixels[:, left : left + side] = colour
    file = io.BytesIO()
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    Image.fromarray(pixels.squeeze()).save(file, kind, **options)
    return file.getvalue()


def pack(path: Path, members: Mapping[str, bytes]) -> Path:
    """A .zip or a .tar of these members, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as zipped:
            for name, body in members.items():
                zipped.writestr(name, body)
        return path
    with tarfile.open(path, "w") as tar:
        for name, body in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            tar.addfile(entry, io.BytesIO(body))
    return path


def unpack(folder: Path, members: Mapping[str, bytes]) -> None:
    for name, body in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)


def scatter(source: Path, folder: Path) -> Path:
    """The same download as a user may have unpacked it."""
    for path in source.iterdir():
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as zipped:
                zipped.extractall(folder / "deep")
        elif path.suffix == ".tar":
            with tarfile.open(path) as tar:
                tar.extractall(folder / "deep", filter="data")
        else:
            unpack(folder, {path.name: path.read_bytes()})
    return folder


def digest(path: Path, algorithm: str = "md5") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, path.read_bytes()).hexdigest()}"


def publish(monkeypatch: pytest.MonkeyPatch, script: ModuleType, *paths: Path) -> None:
    """Replace the checksums of the official files by those of synthetic ones."""
    for path in paths:
        algorithm = script.PUBLISHED[path.name].split(":")[0]
        monkeypatch.setitem(script.PUBLISHED, path.name, digest(path, algorithm))


def prepare(name: str, source: Path, **options: object) -> Cases:
    return read(data_prep.prepare(name, source=str(source), accept_licence=True, **options))


def same(first: Cases, second: Cases) -> bool:
    return first.table.equals(second.table) and np.array_equal(first.images, second.images)


def central(cases: Cases) -> np.ndarray:
    """The pixel in the middle of each image, (n, channels)."""
    edge = cases.shape[-1]
    return cases.images[:, :, edge // 2, edge // 2].astype(int)


# --- made-up downloads

CODES = [*ham10000.CLASSES] * 4  # 28 images of 14 lesions, two neighbours each
SOURCES = ["vidir_molemax", "vidir_modern", "rosendahl", "vienna_dias"]


def ham_metadata() -> pd.DataFrame:
    n = np.arange(28)
    return pd.DataFrame(
        {
            "lesion_id": [f"HAM_{i // 2:07d}" for i in n],
            "image_id": [f"ISIC_{24306 + i:07d}" for i in n],
            "dx": sorted(CODES)[::-1],
            "dx_type": "histo",
            "age": [np.nan if i == 3 else 5.0 * i for i in n],
            "sex": [("male", "female", "unknown")[i % 3] for i in n],
            "localization": ["unknown" if i == 4 else "back" for i in n],
            "dataset": [SOURCES[i // 2 % 4] for i in n],
        }
    )


def ham_images() -> dict[str, bytes]:
    return {f"ISIC_{24306 + i:07d}.jpg": picture((9 * i, 255 - 9 * i, 77)) for i in range(28)}


def halves(images: Mapping[str, bytes]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    names = sorted(images, reverse=True)  # not in the order of the table
    return {name: images[name] for name in names[::2]}, {name: images[name] for name in names[1::2]}


@pytest.fixture
def ham(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A download of HAM10000 as Harvard Dataverse hands it out."""
    folder = tmp_path / "HAM10000"
    parts = [pack(folder / f"HAM10000_images_part_{i}.zip", half) for i, half in enumerate(halves(ham_images()), 1)]
    ham_metadata().to_csv(folder / "HAM10000_metadata.csv", index=False)
    publish(monkeypatch, ham10000, *parts, folder / "HAM10000_metadata.csv")
    return folder


@pytest.fixture
def isic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A download of ISIC 2019, the columns of classes in another order, two images of unknown centre among them."""
    folder = tmp_path / "isic"
    images = {f"ISIC_{i:07d}{'_downsampled' if i % 5 == 0 else ''}": picture((0, 8 * i, 99)) for i in range(26)}
    names = list(images)
    pack(folder / "ISIC_2019_Training_Input.zip", {f"ISIC_2019_Training_Input/{n}.jpg": b for n, b in images.items()})
    codes = [*isic2019.CLASSES]
    marks = np.eye(8)[np.arange(26) % 8]
    truth = pd.DataFrame(marks, columns=codes)[codes[::-1]]
    truth.insert(0, "image", names)
    truth.assign(UNK=0.0).to_csv(folder / "ISIC_2019_Training_GroundTruth.csv", index=False)
    metadata = pd.DataFrame(
        {
            "image": names,
            "age_approx": np.arange(26) * 3.0,
            "anatom_site_general": "anterior torso",
            "lesion_id": [f"BCN_{i // 2:07d}" if i < 24 else None for i in range(26)],
            "sex": [None if i == 0 else "female" for i in range(26)],
        }
    )
    metadata.to_csv(folder / "ISIC_2019_Training_Metadata.csv", index=False)
    pd.DataFrame(
        {
            "image": names[:24],
            "target": np.arange(24) % 8,
            "center": np.arange(24) // 4,
            "fold": ["train", "train", "test", "test"] * 6,
        }
    )[::-1].to_csv(folder / "train_test_split", index=False)
    publish(monkeypatch, isic2019, folder / "train_test_split")
    return folder


def volume(
    radius: float = 60.0, spacing: tuple[float, ...] = (1.5, 3, 4), order: str = "RAS", packed: bool = True
) -> bytes:
    """A ball of this radius in mm at the middle of a scan of 240 mm, its axes stored in this order."""
    grid = [(np.arange(round(240 / s)) - (round(240 / s) - 1) / 2) * s for s in spacing]
    x, y, z = np.meshgrid(*grid, indexing="ij", sparse=True)
    scan = (100 * (x**2 + y**2 + z**2 < radius**2) + 5 * (x > 0)).astype(np.float32)  # brighter on the right
    image = nibabel.Nifti1Image(scan, np.diag([*spacing, 1.0]))
    turn = nibabel.orientations.axcodes2ornt(tuple(order))
    body = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), turn))
    return gzip.compress(body.to_bytes(), 1) if packed else body.to_bytes()


PEOPLE = pd.DataFrame(
    [
        (2, 2, 35.8),
        (12, 1, 38.78),
        (13, 1, 46.71),
        (13, 0, 0),  # a second row filled with zeros
        (14, 2, np.nan),
        (15, 0, 24.0),  # sex unknown
        (16, 1, 55.1),
        (16, 2, 55.1),  # contradictory
        (17, 2, 29.0),
        (17, 2, 31.0),  # age contradictory
        (99, 1, 50.0),  # no scan
    ],
    columns=ixi.COLUMNS,
)
SCANS = ["IXI002-Guys-0828", "IXI012-HH-1211", "IXI013-HH-1212", "IXI014-IOP-1236", "IXI015-HH-1258"]
SCANS += ["IXI016-Guys-0697", "IXI017-Guys-0698", "IXI018-Guys-0699"]  # the last is not in the sheet


@pytest.fixture
def heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A download of IXI, with a scan of another kind in it."""
    folder = tmp_path / "IXI"
    scans = {f"{name}-T1.nii.gz": volume(30 + 5 * i, (8, 8, 10)) for i, name in enumerate(SCANS)}
    tar = pack(folder / "IXI-T1.tar", {**dict(reversed(scans.items())), "IXI002-Guys-0828-T2.nii.gz": b"not used"})
    PEOPLE.assign(HEIGHT=0, ETHNIC_ID=1).to_csv(folder / "IXI.csv", index=False)
    publish(monkeypatch, ixi, tar)
    return folder


def covid_metadata() -> pd.DataFrame:
    rows = [
        ("2", "M", "65", "Pneumonia/Viral/COVID-19", "PA", "X-ray", "Hannover, Germany", "CC BY-NC-SA"),
        ("2", "M", "65", "Pneumonia/Viral/COVID-19", "AP Supine", "X-ray", " Hannover, Germany ", ""),
        ("4a", "F", "", "Pneumonia/Bacterial/E.Coli", "AP", "X-ray", "Hannover, Germany", ""),
        ("5", "", "40", "Pneumonia/Viral/Herpes ", "PA", "X-ray", "", "CC BY"),
        ("6", "F", "52", "Pneumonia/Viral/COVID-19", "AP erect", "X-ray", "", ""),
        ("7", "F", "52", "Pneumonia/Viral/SARS", "PA", "X-ray", "Toronto, Canada", ""),
        ("8", "F", "52", "Pneumonia", "PA", "X-ray", "Italy", ""),  # cause unnamed
        ("9", "F", "52", "Pneumonia/Viral/COVID-19", "L", "X-ray", "Italy", ""),  # lateral
        ("9", "F", "52", "Pneumonia/Viral/COVID-19", "Axial", "CT", "Italy", ""),
        ("10", "F", "52", "No Finding", "PA", "X-ray", "Italy", ""),
        ("10", "F", "52", "", "PA", "X-ray", "Italy", ""),
    ]
    columns = ["patientid", "sex", "age", "finding", "view", "modality", "location", "license"]
    frame = pd.DataFrame(rows, columns=columns).assign(folder="images", offset=0)
    frame["filename"] = [f"case {i}.{'png' if i % 2 else 'jpeg'}" for i in range(len(rows))]
    frame["url"] = ["https://www.eurorad.org/case/1" if i in (3, 4) else "https://x.org/1" for i in range(len(rows))]
    return frame


def covid_images() -> dict[str, bytes]:
    """The first is of 16 bits, the second has colour."""
    file = io.BytesIO()
    Image.fromarray(np.linspace(300, 4000, 900).astype(np.uint16).reshape(30, 30)).save(file, "PNG")
    grey = {f"case {i}.{'png' if i % 2 else 'jpeg'}": picture((20 * i,), kind="PNG") for i in range(2, 7)}
    return {"case 0.jpeg": file.getvalue(), "case 1.png": picture((90, 90, 90), kind="PNG"), **grey}


@pytest.fixture
def chests(tmp_path: Path) -> Path:
    """A copy of the COVID-19 collection as GitHub packs it."""
    folder, top = tmp_path / "covid", "covid-chestxray-dataset-master"
    members = {f"{top}/images/{name}": body for name, body in covid_images().items()}
    table = covid_metadata().to_csv(index=False).encode()
    pack(folder / f"{top}.zip", {**members, f"{top}/metadata.csv": table, f"{top}/.hidden/metadata.csv": b""})
    return folder


# --- what every one of them does


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("said", [False, "yes", 1, None])
def test_nothing_happens_before_the_licence_is_accepted(name: str, said: object, home: Path, tmp_path: Path) -> None:
    with pytest.raises(PermissionError) as caught:
        data_prep.prepare(name, source=str(tmp_path), accept_licence=said)
    terms = SCRIPTS[name].TERMS
    for expected in (terms.licence, terms.duty, terms.url, "accept_licence=True", "--accept-licence", repr(said)):
        assert expected in str(caught.value)
    assert not home.exists()


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize(
    ("source", "expected"), [(None, "source is missing"), ("nowhere", "not a folder"), (".", "has no ")]
)
def test_without_its_files_a_dataset_says_what_it_needs(
    name: str, source: str | None, expected: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        data_prep.prepare(name, source=source, accept_licence=True)
    for part in (expected, SCRIPTS[name].TERMS.needed, SCRIPTS[name].TERMS.url, "source='~/Downloads/"):
        assert part in str(caught.value)
    assert not home.exists()


@pytest.mark.parametrize("name", SCRIPTS)
def test_licence_and_place_are_no_part_of_a_dataset(name: str) -> None:
    assert {"source", "accept_licence", "limit", "size"} <= set(data_prep.options(name))
    with pytest.raises(ValueError, match="size is 'big'"):
        data_prep.prepare(name, size="big")
    with pytest.raises(ValueError, match="size is 4"):
        data_prep.prepare(name, size=4)


DOWNLOADS = {"ham10000": "ham", "isic2019": "isic", "ixi": "heads", "covid_chestxray": "chests"}


@pytest.fixture(params=SCRIPTS)
def any_download(request: pytest.FixtureRequest) -> tuple[str, Path]:
    return request.param, request.getfixturevalue(DOWNLOADS[request.param])


def test_what_is_prepared_is_found_again_without_the_download(any_download: tuple[str, Path], home: Path) -> None:
    name, source = any_download
    first = data_prep.prepare(name, size=16, source=str(source), accept_licence=True)
    assert first == home / f"{name}_16"
    before = {path.name: path.stat().st_mtime_ns for path in first.iterdir()}
    assert data_prep.prepare(name, size=16) == first == data_prep.prepare(name, size=16, source=str(source))
    assert {path.name: path.stat().st_mtime_ns for path in first.iterdir()} == before
    card = read(first).card
    assert set(card["unchecked"]) <= set(card["checksums"]) and card["modality"] and card["licence"]
    assert str(source) not in json.dumps(card) and "source" not in card["options"]
    with pytest.raises(FileExistsError, match="choose another folder"):
        data_prep.prepare(name, first, size=17, source=str(source), accept_licence=True)
    assert sorted(path.name for path in home.iterdir()) == [f"{name}_16"]


def test_packed_and_loose_files_give_the_same_bytes(any_download: tuple[str, Path], tmp_path: Path) -> None:
    name, source = any_download
    packed = data_prep.prepare(name, tmp_path / "a", size=16, source=str(source), accept_licence=True)
    elsewhere = scatter(source, tmp_path / "elsewhere")
    loose = data_prep.prepare(name, tmp_path / "b", size=16, source=str(elsewhere), accept_licence=True)
    for file in ("cases.parquet", "images.npy"):
        assert (packed / file).read_bytes() == (loose / file).read_bytes()
    assert "loose images" in read(loose).card["unchecked"] and "loose images" not in read(packed).card["checksums"]


@pytest.mark.filterwarnings("ignore::fedlab.core.warnings.HeterogeneityWarning")  # so few cases lack classes
def test_real_sites_become_the_institutions(any_download: tuple[str, Path]) -> None:
    name, source = any_download
    cases = prepare(name, source, size=16, **({"smallest_site": 1} if name == "covid_chestxray" else {}))
    federation = fedlab.Partition.from_sites(cases, "site")
    assert set(federation.sites) == set(cases.table["site"]) and len(federation.sites) > 1
    assigned = federation.table.merge(cases.table, on="case", suffixes=("", "_real"))
    assert len(assigned) == len(cases) and (assigned["site"] == assigned["site_real"]).all()


def test_a_broken_image_is_named_and_nothing_is_left(
    any_download: tuple[str, Path], home: Path, tmp_path: Path
) -> None:
    name, source = any_download
    cases = prepare(name, source, size=16)
    victim = cases.table["case"].iloc[1]
    loose = scatter(source, tmp_path / "loose")
    (broken,) = [path for path in loose.rglob(f"{victim}*") if "-T2" not in path.name]
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    with pytest.raises(ValueError, match="cannot be decoded") as caught:
        prepare(name, loose, size=17)
    assert str(broken) in str(caught.value)
    assert sorted(path.name for path in home.iterdir()) == [f"{name}_16"]


# --- HAM10000


def test_lesions_sources_and_diagnoses_are_those_of_the_table(ham: Path) -> None:
    cases, rows = prepare("ham10000", ham), ham_metadata()
    table = cases.table
    assert table["case"].tolist() == rows["image_id"].tolist() and cases.shape == (3, 64, 64)
    assert [[*ham10000.CLASSES][label] for label in cases.labels] == rows["dx"].tolist()
    assert cases.classes[4] == "melanoma" and cases.task == "multiclass" and cases.card["modality"] == "dermatoscopy"
    assert (
        table["patient"].tolist() == rows["lesion_id"].tolist() and table["site"].tolist() == rows["dataset"].tolist()
    )
    assert np.array_equal(table["age"], rows["age"], equal_nan=True)
    assert table["sex"].dropna().tolist() == [sex for sex in rows["sex"] if sex != "unknown"]
    assert table["localization"].isna().sum() == 1
    assert len(np.unique(cases.units)) == 14
    wanted = [(9 * i, 255 - 9 * i, 77) for i in range(28)]
    assert abs(central(cases) - wanted).max() <= 3
    assert cases.images[:, 2].min() > 60  # of the black margins nothing is left
    assert (
        cases.card["checksums"] == {path.name: digest(path) for path in ham.iterdir()} and not cases.card["unchecked"]
    )


def test_dermamnist_has_the_same_classes() -> None:
    from data_prep import medmnist

    assert medmnist.MEMBERS["dermamnist"]["classes"] == [*ham10000.CLASSES.values()]


@pytest.mark.parametrize("name", ["HAM10000_metadata", "HAM10000_metadata.tab"])
def test_other_forms_of_the_table_say_the_same(
    name: str, ham: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare("ham10000", ham, size=16)
    (ham / "HAM10000_metadata.csv").unlink()
    separator, quoting = ("\t", 2) if name.endswith(".tab") else (",", 0)
    ham_metadata().to_csv(ham / name, index=False, sep=separator, quoting=quoting)
    if name in ham10000.PUBLISHED:
        publish(monkeypatch, ham10000, ham / name)
    second = read(data_prep.prepare("ham10000", tmp_path / "b", size=16, source=ham, accept_licence=True))
    assert same(first, second)
    assert second.card["unchecked"] == ([name] if name.endswith(".tab") else [])
    assert (name in second.card["checksums"]) and second.card["checksums"][name].startswith(
        "sha256:" if name.endswith(".tab") else "md5:"
    )


def test_another_file_under_an_official_name_is_refused(ham: Path, home: Path) -> None:
    part = ham / "HAM10000_images_part_2.zip"
    found = pack(part, halves(ham_images())[1] | {"ISIC_0024306.jpg": picture((1, 2, 3))})
    with pytest.raises(OSError, match="truncated or not the original") as caught:
        prepare("ham10000", ham)
    assert digest(found) in str(caught.value) and ham10000.PUBLISHED[part.name] in str(caught.value)
    part.write_bytes(part.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"part_2\.zip is damaged"):
        prepare("ham10000", ham)
    assert not home.exists()


def test_a_member_that_rotted_in_the_archive_is_named(ham: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = ham / "HAM10000_images_part_1.zip"
    body = bytearray(part.read_bytes())
    body[body.index(b"ISIC_0024307.jpg") + 200] ^= 255
    part.write_bytes(body)
    publish(monkeypatch, ham10000, part)
    with pytest.raises(ValueError, match=r"part_1\.zip is damaged .*ISIC_0024307\.jpg"):
        prepare("ham10000", ham)


def test_missing_part_is_told_by_its_images(ham: Path) -> None:
    (ham / "HAM10000_images_part_2.zip").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 14 of 28 images \(first: ISIC_\d+\.jpg\)"):
        prepare("ham10000", ham)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda rows: rows.drop(columns="dataset"), "has no column 'dataset'"),
        (lambda rows: rows.rename(columns={"dx": "dxx"}), "has no column 'dx'.*did you mean 'dxx'"),
        (lambda rows: rows.assign(dx="naevus"), "column 'dx' holds.*naevus"),
        (lambda rows: pd.concat([rows, rows[:1]]), "lists 'ISIC_0024306.jpg' twice"),
        (lambda rows: rows[:0], "no images|lacks all images"),
    ],
)
def test_another_table_is_refused(change: Callable[[pd.DataFrame], pd.DataFrame], expected: str, ham: Path) -> None:
    change(ham_metadata()).to_csv(ham / "HAM10000_metadata.csv", index=False)
    with pytest.raises((ValueError, FileNotFoundError), match=expected):
        prepare("ham10000", ham)


def test_limited_set_holds_rows_of_the_whole(ham: Path, home: Path) -> None:
    whole, part = prepare("ham10000", ham, size=16), prepare("ham10000", ham, size=16, limit=9)
    rows = whole.table["case"].isin(part.table["case"]).to_numpy()
    assert len(part) == 9 and set(part.labels) == set(range(7)) and (home / "ham10000_16_limit9").is_dir()
    assert np.array_equal(part.images, whole.images[rows]) and np.array_equal(part.labels, whole.labels[rows])


def test_loaded_by_name_with_the_licence_and_later_without(ham: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ham.parent)
    first = fedlab.load("ham10000(source='HAM10000', accept_licence=True, size=16)")
    second = fedlab.load("ham10000(size=16)")
    assert same(first, second) and len(second) == 28
    with pytest.raises(PermissionError, match="CC BY-NC"):
        fedlab.load("ham10000(source='HAM10000')")


def test_command_takes_the_folder_and_the_consent(
    ham: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["ham10000", "--source", str(ham), "--folder", str(tmp_path / "mine"), "--size", "16"]
    assert main(arguments) == 1
    refused = capsys.readouterr()
    assert "CC BY-NC 4.0" in refused.err and refused.err.count("\n") == 1 and not refused.out
    assert main(["--accept-licence", *arguments]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "mine")]
    assert main([*arguments, "--accept-license"]) == 1
    assert "did you mean '--accept-licence'" in capsys.readouterr().err


def test_real_metadata_of_ham10000(tables: Path) -> None:
    path = tables / "HAM10000" / "HAM10000_metadata"
    assert digest(path) == ham10000.PUBLISHED["HAM10000_metadata"]
    _, metadata = local.Files(ham10000.TERMS, path.parent).table(ham10000.COLUMNS, *ham10000.TABLES)
    table = ham10000.cases(metadata)
    assert len(table) == 10_015 == table["case"].nunique() and table["patient"].nunique() == 7_470
    sizes = {"vidir_molemax": 3_954, "vidir_modern": 3_363, "rosendahl": 2_259, "vienna_dias": 439}
    assert table["site"].value_counts().to_dict() == sizes
    assert np.bincount(table["label"]).tolist() == [327, 514, 1_099, 115, 1_113, 6_705, 142]
    assert table["age"].isna().sum() == 57 and table["sex"].value_counts().to_dict() == {"male": 5_406, "female": 4_552}


# --- ISIC 2019


def test_classes_are_read_by_name_and_unknown_centres_left_out(isic: Path) -> None:
    cases = prepare("isic2019", isic)
    assert len(cases) == 24 and cases.labels.tolist() == [i % 8 for i in range(24)]
    assert cases.classes[:4] == ["melanoma", "melanocytic nevus", "basal cell carcinoma", "actinic keratosis"]
    assert cases.table["site"].tolist() == [isic2019.CENTRES[i // 4] for i in range(24)]
    assert cases.table["split"].tolist() == ["train", "train", "test", "test"] * 6
    assert cases.table["patient"].tolist() == [f"BCN_{i // 2:07d}" for i in range(24)]
    assert cases.table["age"].tolist() == [3.0 * i for i in range(24)] and cases.table["sex"].isna().sum() == 1
    assert abs(central(cases)[:, 1] - 8 * np.arange(24)).max() <= 3
    assert set(cases.card["checksums"]) - set(cases.card["unchecked"]) == {"train_test_split"}


def test_folds_come_from_a_mirror_where_the_download_lacks_them(
    isic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare("isic2019", isic, size=16)
    (tmp_path / "mirror").mkdir()
    (isic / "train_test_split").rename(tmp_path / "mirror" / "train_test_split")
    monkeypatch.setenv("FEDLAB_MIRROR", str(tmp_path / "mirror"))
    second = read(data_prep.prepare("isic2019", tmp_path / "b", size=16, source=isic, accept_licence=True))
    assert same(first, second) and first.card["checksums"] == second.card["checksums"]


@pytest.mark.parametrize(
    ("file", "change", "expected"),
    [
        ("train_test_split", lambda rows: rows.assign(target=(rows["target"] + 1) % 8), "differ in the class of ISIC"),
        ("ISIC_2019_Training_GroundTruth.csv", lambda rows: rows[3:], "lacks 3 images"),
        ("ISIC_2019_Training_Metadata.csv", lambda rows: rows[:5], "lacks 19 images"),
        ("ISIC_2019_Training_GroundTruth.csv", lambda rows: rows.assign(NV=1.0), "no class, or several"),
        ("ISIC_2019_Training_GroundTruth.csv", lambda rows: rows.drop(columns="SCC"), "has no column 'SCC'"),
    ],
)
def test_tables_that_disagree_are_refused(
    file: str,
    change: Callable[[pd.DataFrame], pd.DataFrame],
    expected: str,
    isic: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change(pd.read_csv(isic / file)).to_csv(isic / file, index=False)
    publish(monkeypatch, isic2019, isic / "train_test_split")
    with pytest.raises(ValueError, match=expected):
        prepare("isic2019", isic)


def test_real_centres_and_folds_of_isic2019(tables: Path) -> None:
    path = tables / "fed_isic2019" / "train_test_split"
    assert digest(path, "sha256") == isic2019.PUBLISHED["train_test_split"]
    folds = pd.read_csv(path, dtype="string")
    ham = pd.read_csv(tables / "HAM10000" / "HAM10000_metadata", dtype="string")
    rows = folds.merge(ham, left_on="image", right_on="image_id", how="left")
    metadata = rows.rename(columns={"age": "age_approx", "localization": "anatom_site_general"})
    table = isic2019.cases(folds.sort_values("image"), metadata, folds)
    sizes = [12_413, 3_954, 3_363, 2_259, 819, 439]
    assert table["site"].value_counts().reindex(isic2019.CENTRES).tolist() == sizes
    assert table["split"].value_counts().to_dict() == {"train": 18_597, "test": 4_650}
    shared = table.merge(ham10000.cases(ham), on="case", suffixes=("", "_ham"))
    assert len(shared) == 10_015 and (shared["site"] == shared["site_ham"]).all()
    ours, theirs = [*isic2019.CLASSES], [*ham10000.CLASSES]
    same = {"MEL": "mel", "NV": "nv", "BCC": "bcc", "AK": "akiec", "BKL": "bkl", "DF": "df", "VASC": "vasc"}
    same["SCC"] = "akiec"  # HAM10000 counts Bowen's disease among the actinic keratoses
    assert (shared["label"].map(lambda i: same[ours[i]]) == shared["label_ham"].map(lambda i: theirs[i])).all()


# --- IXI


def test_sex_hospital_and_age_of_everybody_whose_sex_is_known(heads: Path) -> None:
    cases = prepare("ixi", heads, size=16)
    assert cases.table["case"].tolist() == [SCANS[i] for i in (0, 1, 2, 3, 6)]
    assert [cases.classes[label] for label in cases.labels] == ["female", "male", "male", "female", "female"]
    assert cases.table["sex"].tolist() == [cases.classes[label] for label in cases.labels]
    hospitals = ["Guy's Hospital", "Hammersmith Hospital", "Hammersmith Hospital", "Institute of Psychiatry"]
    assert cases.table["site"].tolist() == [*hospitals, "Guy's Hospital"]
    assert cases.table["age"].round(2).tolist()[:3] == [35.8, 38.78, 46.71]
    assert cases.table["age"].isna().tolist() == [False] * 3 + [True] * 2
    assert cases.shape == (1, 16, 16, 16) and cases.task == "binary" and cases.card["modality"] == "mri"
    bright = (cases.images > 128).reshape(5, -1).sum(1)
    assert (np.diff(bright) > 0).all()  # larger balls in later scans: pixels are in the rows of their names
    assert cases.card["unchecked"] == ["IXI.csv"]


def test_spreadsheet_without_its_reader_tells_the_way_out(heads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("Missing optional dependency 'xlrd'")

    (heads / "IXI.csv").rename(heads / "IXI.xls")
    monkeypatch.setattr(pd, "read_excel", missing)
    with pytest.raises(ValueError, match=r"xlrd.*save the sheet as IXI\.csv"):
        prepare("ixi", heads)


def test_spreadsheet_and_text_say_the_same(heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare("ixi", heads, size=16)
    (heads / "IXI.csv").rename(heads / "IXI.xls")
    monkeypatch.setattr(pd, "read_excel", lambda _: PEOPLE.rename(columns=lambda name: f"{name} "))  # as xlrd reads it
    second = read(data_prep.prepare("ixi", tmp_path / "b", size=16, source=heads, accept_licence=True))
    assert same(first, second)


@pytest.mark.parametrize("order", ["RAS", "LPS", "PSR", "AIL", "SRA"])
def test_a_head_looks_the_same_however_its_axes_are_stored(order: str) -> None:
    assert np.array_equal(ixi.cube(volume(order=order), 24), ixi.cube(volume(), 24))


@pytest.mark.parametrize("spacing", [(1.5, 3, 4), (4, 1.5, 3), (3, 3, 3), (1.5, 1.5, 1.5), (8, 8, 8)])
@pytest.mark.parametrize("size", [24, 40])
def test_millimetres_survive_whatever_the_voxels(spacing: tuple[float, ...], size: int) -> None:
    ball = ixi.cube(volume(60, spacing, packed=False), size)[0] / 255
    step = 240 / size
    inside = np.argwhere(ball > 0.5)
    assert abs(inside.mean(0) - (size - 1) / 2).max() < 0.25
    assert len(inside) * step**3 == pytest.approx(4 / 3 * np.pi * 60**3, rel=0.08)
    assert abs(np.ptp(inside, axis=0) + 1 - 120 / step).max() <= 2


def test_left_and_right_stay_where_they_are() -> None:
    scan = ixi.cube(volume(order="PSR"), 24)[0].astype(int)
    assert scan[18, 1, 1] > scan[5, 1, 1]  # x grows to the right


def test_intensities_are_those_of_the_scan_itself() -> None:
    grey = nibabel.Nifti1Image(np.arange(24**3, dtype=np.float32).reshape(24, 24, 24), np.diag([10, 10, 10, 1]))
    louder = nibabel.Nifti1Image(np.asarray(grey.dataobj) * 7 + 100, grey.affine)
    assert np.array_equal(ixi.cube(grey.to_bytes(), 16), ixi.cube(louder.to_bytes(), 16))
    flat = nibabel.Nifti1Image(np.full((24, 24, 24), 3, np.float32), grey.affine)
    assert ixi.cube(flat.to_bytes(), 16).max() == 0


def test_a_series_of_volumes_is_refused() -> None:
    series = nibabel.Nifti1Image(np.zeros((4, 4, 4, 2), np.float32), np.eye(4))
    with pytest.raises(ValueError, match="wanted one volume"):
        ixi.cube(series.to_bytes(), 16)


# --- the COVID-19 collection


def test_frontal_views_of_named_pneumonia_are_kept(chests: Path) -> None:
    cases = prepare("covid_chestxray", chests, size=16, smallest_site=2)
    table = cases.table
    assert table["case"].tolist() == [f"case {i}.{'png' if i % 2 else 'jpeg'}" for i in range(6)]
    assert cases.labels.tolist() == [1, 1, 0, 0, 1, 0] and cases.classes == ["other pneumonia", "COVID-19 pneumonia"]
    assert table["patient"].tolist() == ["2", "2", "4a", "5", "6", "7"]
    assert table["site"].tolist() == ["Hannover, Germany"] * 3 + ["eurorad.org"] * 2 + ["other"]
    assert table["finding"].tolist()[2:4] == ["Pneumonia/Bacterial/E.Coli", "Pneumonia/Viral/Herpes"]
    assert table["sex"].dropna().tolist() == ["male", "male", "female", "female", "female"]
    assert table["age"].isna().tolist() == [False, False, True, False, False, False]
    assert table["license"].dropna().tolist() == ["CC BY-NC-SA", "CC BY"] and "view" in table
    assert cases.shape == (1, 16, 16) and cases.card["modality"] == "xray"
    assert central(cases)[1:, 0].tolist() == [90, 40, 60, 80, 100]


def test_sixteen_bits_are_spread_and_not_cut_off(chests: Path) -> None:
    first = prepare("covid_chestxray", chests, size=16).images[0, 0].astype(int)
    assert (np.diff(first[:, 8]) > 0).all() and first.max() > 240 and first.min() < 15


def test_small_places_are_pooled(chests: Path, home: Path) -> None:
    assert set(prepare("covid_chestxray", chests, size=16).table["site"]) == {"other"}
    alone = prepare("covid_chestxray", chests, size=16, smallest_site=1)
    assert set(alone.table["site"]) == {"Hannover, Germany", "eurorad.org", "Toronto, Canada"}
    assert sorted(path.name for path in home.iterdir()) == ["covid_chestxray_16", "covid_chestxray_smallest_site1_16"]
    with pytest.raises(ValueError, match="smallest_site is 0"):
        data_prep.prepare("covid_chestxray", smallest_site=0)


def test_a_path_in_the_table_leads_nowhere(tmp_path: Path, home: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture((1,), kind="PNG"))
    source = tmp_path / "covid"
    unpack(source / "images", covid_images())
    covid_metadata().replace({"filename": {"case 3.png": "../secret.png"}}).to_csv(source / "metadata.csv", index=False)
    with pytest.raises(FileNotFoundError, match=r"lacks 1 of 6 images \(first: \.\./secret\.png\)"):
        prepare("covid_chestxray", source)
    assert not home.exists()


def test_an_old_copy_is_told_apart(tmp_path: Path) -> None:
    unpack(tmp_path, covid_images())
    covid_metadata().assign(finding="COVID-19").to_csv(tmp_path / "metadata.csv", index=False)
    with pytest.raises(ValueError, match="update the copy"):
        prepare("covid_chestxray", tmp_path)


# --- pictures


def test_the_central_square_is_kept_exactly() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 32, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    assert np.array_equal(local.picture(file.getvalue(), 20), np.moveaxis(pixels[:, 6:26], 2, 0))


@pytest.mark.parametrize("edges", [(600, 450), (450, 600), (30, 30)])
@pytest.mark.parametrize("size", [8, 64])
def test_a_plain_colour_stays_itself_at_every_size(edges: tuple[int, int], size: int) -> None:
    body = picture((200, 100, 50), (min(edges), min(edges)))
    found = local.picture(body, size)
    assert (
        found.shape == (3, size, size) and abs(found.astype(int) - np.array([200, 100, 50])[:, None, None]).max() <= 3
    )
