"""Laws of a second preparation: damage is repaired, what is given takes effect, and no file stands in for another."""

import errno
import hashlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import data_prep
import fedlab
from data_prep import isic2019, ixi, local, medmnist, writer
from data_prep.fetch import show
from fedlab.core.files import LOCK, scratch_folder
from fedlab.data.cases import Cases, read

SMALL = "pneumoniamnist"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path / "home"))
    monkeypatch.delenv("FEDLAB_MIRROR", raising=False)
    return tmp_path / "home"


def publish(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """A mirror with a made-up official file."""
    folder.mkdir()
    monkeypatch.setenv("FEDLAB_MIRROR", str(folder))
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", 12), ("val", 4), ("test", 6)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 28, 28), np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n) % 2)[:, None].astype(np.uint8)
    np.savez_compressed(folder / f"{SMALL}.npz", **arrays)
    md5 = {"28": hashlib.md5((folder / f"{SMALL}.npz").read_bytes()).hexdigest()}
    monkeypatch.setitem(medmnist.MEMBERS, SMALL, medmnist.MEMBERS[SMALL] | {"md5": md5})


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A prepared folder."""
    publish(monkeypatch, tmp_path / "mirror")
    return data_prep.prepare(SMALL)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)


# --- damage


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
@pytest.mark.parametrize("file", ["images.npy", "cases.parquet", "card.json", "checksums.json"])
def test_a_damaged_folder_is_prepared_again(damage: Any, file: str, whole: Path) -> None:
    before = contents(whole)
    damage(whole / file)
    if (damage, file) == (Path.unlink, "checksums.json"):  # as in folders of earlier versions: nothing to compare
        assert data_prep.prepare(SMALL) == whole
        return
    with pytest.warns(UserWarning, match=rf"{SMALL} is prepared again: .*{file}"):
        cases = fedlab.load(SMALL)
    assert contents(whole) == before and len(cases) == 22
    assert data_prep.prepare(SMALL) == whole  # without a warning
    assert sorted(path.name for path in whole.parent.iterdir()) == [SMALL, f"{SMALL}.damaged-1"]


def test_the_remedy_of_the_error_works_word_by_word(whole: Path) -> None:
    cut(whole / "images.npy")
    with pytest.raises(ValueError, match="prepare"):
        read(whole)
    with pytest.warns(UserWarning, match="is prepared again"):
        assert data_prep.prepare(SMALL) == whole
    assert len(read(whole)) == 22


@given(file=st.integers(0, 3), place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore:.*is prepared again")
def test_any_changed_byte_is_repaired(file: int, place: float, change: int, whole: Path) -> None:
    before = contents(whole)
    path = whole / sorted(before)[file]
    body = bytearray(before[path.name])
    body[int(place * len(body))] ^= change
    path.write_bytes(body)
    cases = fedlab.load(SMALL)
    assert np.array_equal(cases.images, np.load(io.BytesIO(before["images.npy"])))
    shutil.rmtree(whole)
    data_prep.prepare(SMALL)


def test_work_in_a_damaged_folder_is_kept(whole: Path) -> None:
    table = pd.read_parquet(whole / "cases.parquet").assign(note="mine")
    table.to_parquet(whole / "cases.parquet")
    with pytest.warns(UserWarning, match=r"cases\.parquet"):
        data_prep.prepare(SMALL)
    assert "note" in pd.read_parquet(whole.with_name(f"{SMALL}.damaged-1") / "cases.parquet")
    cut(whole / "images.npy")
    with pytest.warns(UserWarning, match=r"images\.npy"):
        data_prep.prepare(SMALL)
    assert whole.with_name(f"{SMALL}.damaged-2").is_dir()


def test_a_folder_that_was_changed_on_purpose_is_used(whole: Path) -> None:
    pd.read_parquet(whole / "cases.parquet").assign(note="mine").to_parquet(whole / "cases.parquet")
    (whole / "checksums.json").unlink()
    assert "note" in fedlab.load(SMALL).table


def test_large_arrays_are_compared_too(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedlab.data.cases.LARGE", 100)
    flip(whole / "images.npy")
    with pytest.warns(UserWarning, match=r"is prepared again.*images\.npy"):
        data_prep.prepare(SMALL)


def test_the_old_folder_stays_until_the_new_one_is_whole(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(whole / "images.npy")
    before = contents(whole)
    monkeypatch.setattr(Cases, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.warns(UserWarning, match="is prepared again"), pytest.raises(KeyboardInterrupt):
        data_prep.prepare(SMALL)
    assert contents(whole) == before and [path.name for path in whole.parent.iterdir()] == [SMALL]


# --- names choose options only


@pytest.mark.parametrize("option", ["folder='/tmp/x'", "name='mednist'", "sise=28", "folder=None"])
def test_a_name_does_not_choose_where_is_written(option: str, home: Path) -> None:
    expected = f"dataset '{SMALL}' has no option '{option.split('=')[0]}'"
    with pytest.raises(ValueError, match=expected):
        fedlab.load(f"{SMALL}({option})")
    with pytest.raises(ValueError, match="has no"):
        fedlab.Experiment(dataset=f"{SMALL}({option})")
    assert not home.exists()


@pytest.mark.parametrize("limit", [True, 2.0, "5", 0])
def test_a_limit_is_a_number(limit: Any) -> None:
    with pytest.raises(ValueError, match="give the largest number of cases"):
        data_prep.prepare(SMALL, limit=limit)


# --- a download of one's own


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((20, 20), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def chests(folder: Path, files: dict[str, int], names: list[str] | None = None, **columns: Any) -> Path:
    """A copy of the COVID-19 collection; files: path -> grey value."""
    for path, value in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(png(value))
    table = pd.DataFrame({"filename": names or [f"i{k}.png" for k in range(4)]}).assign(
        **{"patientid": "p", "sex": "M", "age": 50, "view": "PA", "modality": "X-ray", "location": "Milan", "url": ""},
        license="CC BY",
    )
    findings = ["Pneumonia/Viral/COVID-19", "Pneumonia/Bacterial"] * len(table)
    table["finding"] = findings[: len(table)]
    table.assign(**columns).to_csv(folder / "metadata.csv", index=False)
    return folder


IMAGES = {f"images/i{k}.png": 40 + k for k in range(4)}


def loaded(source: Path, **options: Any) -> Cases:
    given = {"size": 16, "smallest_site": 1, "source": str(source), "accept_licence": True}
    return read(data_prep.prepare("covid_chestxray", **{**given, **options}))


def test_another_source_takes_effect_or_is_refused(tmp_path: Path) -> None:
    first = chests(tmp_path / "first", IMAGES)
    cases = loaded(first)
    assert loaded(first).fingerprint == cases.fingerprint == loaded(first, accept_licence=False).fingerprint
    copy = shutil.copytree(first, tmp_path / "copy")
    assert loaded(copy).fingerprint == cases.fingerprint  # other paths and times, same content
    other = chests(tmp_path / "other", {**IMAGES, "images/i2.png": 99})
    for path in other.rglob("*.*"):
        os.utime(path, ns=(0, 0))
    for path in first.rglob("*.*"):
        os.utime(path, ns=(0, 0))
    with pytest.raises(FileExistsError, match=r"was prepared from other files than .*/other holds \(loose images\)"):
        loaded(other)
    (first / "images" / "i2.png").write_bytes(png(99))
    os.utime(first / "images" / "i2.png", ns=(0, 0))  # the same path, size and time
    with pytest.raises(FileExistsError, match="leave source out to use it, choose another folder"):
        loaded(first)
    assert read(data_prep.prepare("covid_chestxray", size=16, smallest_site=1)).fingerprint == cases.fingerprint
    assert loaded(other, folder=tmp_path / "second").images[2].max() == 99


def test_a_source_that_is_no_folder_is_refused_though_prepared(tmp_path: Path) -> None:
    loaded(chests(tmp_path / "first", IMAGES))
    with pytest.raises(FileNotFoundError, match=r"not a folder.*or leave source out: .* is prepared already"):
        loaded(tmp_path / "nowhere")


def test_pictures_are_taken_from_the_folder_of_pictures(tmp_path: Path) -> None:
    masks = {f"{folder}/i{k}.png": 255 for k in range(4) for folder in ("annotations", "z")}
    assert loaded(chests(tmp_path / "x", {**IMAGES, **masks})).images.max((1, 2, 3)).tolist() == [40, 41, 42, 43]


def test_two_different_files_of_one_name_are_refused_by_both_paths(tmp_path: Path) -> None:
    files = {f"{folder}/i{k}.png": 40 + k + n for k in range(4) for n, folder in enumerate(("a", "b"))}
    with pytest.raises(ValueError, match=r"there are two files i0\.png: .*/a/i0\.png and .*/b/i0\.png\. They differ"):
        loaded(chests(tmp_path / "x", files))
    copies = {f"{folder}/i{k}.png": 40 + k for k in range(4) for folder in ("a", "b")}
    assert loaded(chests(tmp_path / "y", copies)).images.max((1, 2, 3)).tolist() == [40, 41, 42, 43]


def test_an_archive_and_a_folder_that_differ_are_refused(tmp_path: Path) -> None:
    packed = chests(tmp_path / "x" / "covid-chestxray-dataset-master", IMAGES)
    shutil.make_archive(str(tmp_path / "y" / "covid-chestxray-dataset-master"), "zip", tmp_path / "x")
    shutil.copytree(packed, tmp_path / "y" / "unpacked")
    assert len(loaded(tmp_path / "y")) == 4
    (tmp_path / "y" / "unpacked" / "images" / "i3.png").write_bytes(png(7))
    with pytest.raises(ValueError, match=r"two files i3\.png: .* in .*master\.zip and .*/unpacked/images/i3\.png"):
        loaded(tmp_path / "y", size=17)


def test_paths_in_the_table_are_followed(tmp_path: Path) -> None:
    files = {"images/a/1.png": 10, "images/b/1.png": 20, "images/a/2.png": 30, "images/b/2.png": 40}
    names = ["b/1.png", "a/1.png", "a/2.png", "b/2.png"]
    assert loaded(chests(tmp_path / "x", files, names)).images.max((1, 2, 3)).tolist() == [20, 10, 30, 40]
    with pytest.raises(ValueError, match=r"'1\.png' and 'a/1\.png' are the same file"):
        loaded(chests(tmp_path / "y", {"images/a/1.png": 10}, ["1.png", "a/1.png"]))
    with pytest.raises(FileNotFoundError, match=r"lacks 2 of 2 images \(first: c/1\.png\)"):
        loaded(chests(tmp_path / "z", {"images/1.png": 10}, ["c/1.png", "d/1.png"]))


def test_two_different_tables_are_refused(tmp_path: Path) -> None:
    folder = chests(tmp_path / "x", IMAGES)
    (folder / "old").mkdir()
    shutil.copy(folder / "metadata.csv", folder / "old")
    assert len(loaded(folder)) == 4
    (folder / "old" / "metadata.csv").write_text("filename\nother\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"two files metadata\.csv: .*/x/metadata\.csv and .*/old/metadata\.csv"):
        loaded(folder, size=17)


def test_cells_that_are_not_read_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = {"age": ["045Y", "31,5", "old", ""], "sex": ["female", "M", "x", ""], "patientid": ["p", "?", "p", "q"]}
    with pytest.warns(UserWarning) as caught:
        table = loaded(chests(tmp_path / "x", IMAGES, location=["Milan ", "unknown", "Milan", "-"], **columns)).table
    told = " ".join(str(warning.message) for warning in caught)
    assert "column age: 1 of 4 cells" in told and "'old'" in told and "column sex: 1 of 4 cells" in told
    assert table["age"].tolist()[:2] == [45, 31.5] and table["sex"].tolist()[:2] == ["female", "male"]
    assert table["patient"].isna().tolist() == [False, True, False, False]
    assert table["site"].tolist() == ["Milan", "other", "Milan", "other"]
    assert "4 of 4 rows are used" in capsys.readouterr().err


def test_a_picture_that_is_refused_is_named_with_its_path(tmp_path: Path, home: Path) -> None:
    folder = chests(tmp_path / "x", IMAGES)
    frame = Image.new("L", (9, 9))
    frame.save(folder / "images" / "i1.png", "GIF", save_all=True, append_images=[Image.new("L", (9, 9), 9)])
    with pytest.raises(ValueError, match=r"/x/images/i1\.png holds 2 pictures"):
        loaded(folder)
    assert not list(home.iterdir())


def test_a_scan_that_is_there_twice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    people = pd.DataFrame([(2, 2, 35.8), (3, 1, 20)], columns=ixi.COLUMNS, dtype="string")
    names = ["IXI002-Guys-0828-T1.nii", "IXI002-Guys-0828-T1.nii.gz"]
    with pytest.raises(ValueError, match=r"two scans of IXI002-Guys-0828 \(IXI002.*nii, IXI002.*nii\.gz\)"):
        ixi.cases(names, people)
    table, _ = ixi.cases([names[0], "IXI003-Guys-1-T2.nii.gz", "IXI009-HH-1-T1.nii.gz", "IXI.csv"], people)
    told = capsys.readouterr().err
    assert table["case"].tolist() == ["IXI002-Guys-0828"]
    assert "2 of 3 scans are T1" in told and "1 are not used (first: IXI003-Guys-1-T2.nii.gz)" in told
    assert "1 of 2 scans are of known sex; 1 are left out (first: IXI009-HH-1)" in told


def test_people_of_a_german_spreadsheet() -> None:
    rows = pd.DataFrame({"IXI_ID": ["1", "2", "x"], ixi.SEX: ["1", "2", "1"], "AGE": ["31,5", "044Y", "3"]})
    with pytest.warns(UserWarning, match="1 of 3 (cells are not a number|rows have no number)"):
        assert ixi.people(rows)["age"].tolist() == [31.5, 44]


def test_an_image_that_a_table_names_twice_is_refused() -> None:
    truth = pd.DataFrame({"image": ["a", "b"], **{code: ["0.0", "0.0"] for code in isic2019.CLASSES}, "NV": "1.0"})
    folds = pd.DataFrame({"image": ["a", "a"], "target": "1", "center": "0", "fold": "train"})
    metadata = pd.DataFrame({"image": ["a", "b"]}).reindex(columns=isic2019.METADATA_COLUMNS)
    with pytest.raises(ValueError, match="train_test_split names 'a' twice"):
        isic2019.cases(truth, metadata, folds)
    with pytest.raises(ValueError, match="column center: 1 of 1 cells hold no whole number from 0 to 5"):
        isic2019.cases(truth, metadata, folds[:1].assign(center="7"))


# --- full disks, and processes that were killed


def test_a_full_disk_is_told_before_anything_is_written(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    publish(monkeypatch, tmp_path / "mirror")
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match=r"no space left in .*/home: 17,248 bytes are needed, [\d,]+ are free"):
        data_prep.prepare(SMALL)
    assert not list(home.iterdir())


def test_the_space_of_a_canvas_is_reserved(home: Path) -> None:
    with writer.canvas(home / "x", (100, 1, 64, 64)) as images:
        (file,) = home.glob(".scratch-*/images")
        assert file.stat().st_blocks * 512 >= images.nbytes == 409_600 and not images.any()
    assert not list(home.iterdir())


def test_scratch_of_a_killed_process_is_swept(whole: Path, home: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from fedlab.core.files import scratch_folder\n"
        f"with scratch_folder(Path({str(home)!r})): os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    package = str(Path(fedlab.__file__).parent)  # without the imports of the whole package
    bare = f"import sys, types; sys.modules['fedlab'] = m = types.ModuleType('fedlab'); m.__path__ = [{package!r}]\n"
    assert subprocess.run([sys.executable, "-c", bare + code], env=environment).returncode == -9
    assert len(list(home.glob(f".scratch-*/{LOCK}"))) == 1
    with scratch_folder(home) as living:
        data_prep.prepare(SMALL)  # found, and yet the scratch is swept
        assert list(home.glob(".scratch-*")) == [living]
    assert [path.name for path in home.iterdir()] == [SMALL]


# --- text


def test_what_a_stream_cannot_encode_is_escaped() -> None:
    for encoding, expected in (("ascii", b"Gr\\xfcnwald \\u03bc\n"), ("utf-8", "Grünwald μ\n".encode())):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
        show("Grünwald μ", stream)
        assert stream.buffer.getvalue() == expected  # type: ignore[attr-defined]


def test_volumes_and_pictures_of_a_download_go_through_the_reader(tmp_path: Path) -> None:
    series = nibabel.Nifti1Image(np.zeros((4, 4, 4, 2), np.float32), np.eye(4)).to_bytes()
    with pytest.raises(ValueError, match=r"scan 7 has shape \(4, 4, 4, 2\)"):
        ixi.cube(series, 16, name="scan 7")
    with pytest.raises(ValueError, match="picture 7 cannot be decoded"):
        local.picture(b"", 16, name="picture 7")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has file names that are no text")
def test_a_folder_whose_name_the_locale_cannot_read(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xfcmlaut")
    assert data_prep.prepare(SMALL, folder) == folder == data_prep.prepare(SMALL, folder)
    assert read(folder).fingerprint == read(whole).fingerprint
