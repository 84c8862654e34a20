"""A dataset folder that was damaged says so, with file and remedy, or gives what was stored: never something else."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import cases

import fedlab
from fedlab.core.files import DamagedError
from fedlab.data import cases as module
from fedlab.data.cases import Cases, read

NAMES = ("cases.parquet", "images.npy", "masks.npy", "card.json", "checksums.json")


def masked(n: int = 12) -> Cases:
    base = cases(n, (1, 6, 6))
    masks = (base.images[:, 0] > 80).astype(np.uint8)
    card = {**base.card, "task": "segmentation", "structures": ["outside", "inside"]}
    return Cases(base.images, base.table.assign(age=np.linspace(20, 80, n)), card, masks)


def content(one: Cases) -> list[Any]:
    assert one.masks is not None
    return [one.images.tobytes(), one.images.shape, one.masks.tobytes(), one.table.to_dict("list"), one.card]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    folder = masked().save(tmp_path_factory.mktemp("data") / "whole")
    return folder, content(read(folder))


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(NAMES), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_any_changed_byte_is_named_or_harmless(
    whole: tuple[Path, list[Any]], tmp_path_factory: pytest.TempPathFactory, name: str, place: float, flip: int
) -> None:
    folder = Path(shutil.copytree(whole[0], tmp_path_factory.mktemp("copy") / "set"))
    raw = bytearray((folder / name).read_bytes())
    raw[int(place * len(raw))] ^= flip
    (folder / name).write_bytes(raw)
    try:
        found = content(fedlab.load(folder))
    except DamagedError as error:
        assert str(folder) in str(error) and "remove the folder and prepare or save it again" in str(error)
    else:
        assert found == whole[1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_file_that_breaks_off_is_named(whole: tuple[Path, list[Any]], tmp_path: Path, name: str, kept: float) -> None:
    folder = Path(shutil.copytree(whole[0], tmp_path / "set"))
    raw = (folder / name).read_bytes()
    (folder / name).write_bytes(raw[: int(kept * len(raw))])
    with pytest.raises(DamagedError) as caught:
        read(folder)
    assert str(folder / name) in str(caught.value)


@pytest.mark.parametrize("name", ["cases.parquet", "images.npy", "masks.npy", "card.json"])
@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_folders_without_checksums_are_read_and_name_what_breaks_off(
    whole: tuple[Path, list[Any]], tmp_path: Path, name: str, kept: float
) -> None:
    folder = Path(shutil.copytree(whole[0], tmp_path / "set"))
    (folder / "checksums.json").unlink()
    assert content(read(folder)) == whole[1]
    raw = (folder / name).read_bytes()
    (folder / name).write_bytes(raw[: int(kept * len(raw))])
    with pytest.raises(DamagedError) as caught:
        read(folder)
    assert str(folder / name) in str(caught.value) and "Error" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_files_of_another_dataset_are_seen(whole: tuple[Path, list[Any]], tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(whole[0], tmp_path / "set"))
    base = masked()
    other = Cases(base.images[::-1], base.table.assign(age=1.0), {**base.card, "name": "other"}, base.masks[::-1])  # type: ignore[index]
    shutil.copy(other.save(tmp_path / "other") / name, folder / name)
    with pytest.raises(DamagedError):
        read(folder)


def test_missing_masks_are_not_a_dataset_without_masks(tmp_path: Path) -> None:
    base = masked()
    folder = Cases(base.images, base.table, cases(12).card, base.masks).save(tmp_path / "set")
    (folder / "masks.npy").unlink()
    with pytest.raises(DamagedError, match=r"masks\.npy is missing"):
        read(folder)


def test_large_images_are_compared_when_they_are_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = masked().save(tmp_path / "set")
    wanted = read(folder).fingerprint
    monkeypatch.setattr(module, "LARGE", 0)
    assert read(folder).fingerprint == wanted
    for name in ("images.npy", "masks.npy"):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        opened = read(folder)
        with pytest.raises(DamagedError, match=rf"{name} is damaged"):
            _ = opened.fingerprint
        (folder / name).write_bytes(before)


def test_who_changes_a_folder_on_purpose_is_told_how(tmp_path: Path) -> None:
    folder = masked().save(tmp_path / "set")
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    (folder / "card.json").write_text(json.dumps({**card, "title": "Größen"}), encoding="utf-8")
    with pytest.raises(DamagedError, match=r"changed it on purpose, delete checksums\.json"):
        read(folder)
    (folder / "checksums.json").unlink()
    again = read(folder)
    assert again.card["title"] == "Größen"
    assert read(again.save(tmp_path / "again")).card == again.card


def test_an_archive_or_a_table_in_the_place_of_images_is_refused(tmp_path: Path) -> None:
    folder = masked().save(tmp_path / "set")
    (folder / "checksums.json").unlink()
    np.savez(tmp_path / "a.npz", images=np.zeros(3))
    shutil.copy(tmp_path / "a.npz", folder / "images.npy")
    with pytest.raises(ValueError, match=r"set: images are a NpzFile"):
        read(folder)
    shutil.copy(folder / "cases.parquet", folder / "images.npy")
    with pytest.raises(DamagedError, match=r"images\.npy cannot be read"):
        read(folder)
    pd.DataFrame({"case": ["a"]}).to_csv(folder / "cases.parquet")
    with pytest.raises(DamagedError, match=r"(images\.npy|cases\.parquet) cannot be read"):
        read(folder)


def test_a_path_is_followed_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("~/at home", "./with blank ", "u" * 250):
        folder = masked().save(name)
        assert folder.is_absolute() and read(name).fingerprint == masked().fingerprint
    assert (tmp_path / "at home").is_dir() and not (tmp_path / "~").exists()
