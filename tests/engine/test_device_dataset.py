"""Images that do not fit into memory come from a scratch file, and nothing else changes."""

import errno
import os
import tempfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from worlds import CNN, ends, federation, masked_cases, partition, same

import fedlab
from fedlab.core.files import reserve
from fedlab.engine import device_dataset
from fedlab.engine.device_dataset import MappedImages, ResidentImages, StreamedImages

CPU = torch.device("cpu")


@pytest.fixture
def short_of_memory(monkeypatch):
    monkeypatch.setattr(device_dataset, "free_memory", lambda device: 100.0)


@pytest.mark.parametrize(
    ("method", "normalisation"),
    [(method, "none") for method in ("fedavg", "cyclic", "split", "centralized", "moon")]
    + [("fedavg", "site"), ("fedavg", "global")],
)
def test_streamed_images_train_to_the_last_bit(method, normalisation, monkeypatch):
    settings = {"batch_size": 8, "local_steps": None, "normalisation": normalisation}
    found = []
    for room in (1e12, 100.0):
        monkeypatch.setattr(device_dataset, "free_memory", lambda device, room=room: room)
        fed = federation(**settings)
        fed.execution.pool.count = 2
        assert fed.execution.dataset.streamed == (room == 100.0)
        found.append(ends(method, fed))
    for name in found[0]:
        assert same(found[0][name].without_moments(), found[1][name].without_moments())


def test_a_run_reports_that_its_images_are_streamed(short_of_memory, tmp_path):
    experiment = fedlab.Experiment(dataset="phantoms(cases=160)", model=CNN, rounds=1)
    events = fedlab.run(experiment, partition(), folder=tmp_path).events
    assert events["event"].tolist() == ["images streamed"]


def test_rows_are_gathered_whether_they_were_prefetched_or_not():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (20, 4, 4, 1)).astype(np.uint8))
    one, other = (kind(images.shape, torch.uint8, CPU) for kind in (ResidentImages, StreamedImages))
    for kept in (one, other):
        kept.write(np.arange(10), images[:10])
        kept.write(np.arange(10, 20), images[10:])
    first, second = np.array([3, 1, 19]), np.array([0, 2])
    for rows in (first, second):
        other.prefetch(first)
        assert torch.equal(other.gather(torch.from_numpy(rows)), one.gather(torch.from_numpy(rows)))
    assert torch.equal(other.gather(torch.from_numpy(first)), images[first])


def test_no_scratch_file_is_left(short_of_memory, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fed = federation()
    assert fed.execution.dataset.streamed and list(tmp_path.iterdir()) == []


def test_a_full_scratch_disk_is_told_and_not_taken_for_that_of_the_run(short_of_memory, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    experiment = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model=CNN, rounds=1, device="cpu")
    with pytest.raises(OSError, match=r"\(TMPDIR\): no space left in .*/scratch: [\d,]+ bytes are needed"):
        fedlab.run(experiment, folder=tmp_path / "runs")
    assert not list((tmp_path / "scratch").iterdir())


def test_the_space_of_streamed_images_is_reserved(tmp_path, monkeypatch):
    reserved = []
    monkeypatch.setattr(device_dataset, "reserve", lambda path, size: (reserved.append(size), reserve(path, size)))
    images = StreamedImages((10, 8, 8, 1), torch.float16, CPU)
    assert reserved == [1280] and images.all.shape == (10, 8, 8, 1) and not images.all.any()


@pytest.mark.parametrize(("room", "streamed"), [(1000 / 0.6 + 1, False), (1000 / 0.6 - 1, True)])
def test_images_are_streamed_once_they_take_most_of_the_memory(room, streamed, monkeypatch):
    monkeypatch.setattr(device_dataset, "free_memory", lambda device: room)
    assert device_dataset.allocate((10, 10, 10, 1), torch.uint8, CPU).streamed is streamed


def test_free_memory_is_at_most_the_memory_of_the_machine():
    everything = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 1e6 < device_dataset.free_memory(CPU) <= everything


def mapped(data, folder):
    """The same cases with images and masks in files that are mapped."""
    for name in ("images", "masks"):
        np.save(folder / f"{name}.npy", getattr(data, name))
    images, masks = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", "masks"))
    return replace(data, images=images, masks=masks)


@pytest.mark.parametrize("shape", [(1, 12, 10), (2, 8, 8, 6)], ids=["2D", "3D"])
@pytest.mark.parametrize("changes", [{"crop": "random(6)"}, {"normalisation": "site"}], ids=repr)
def test_files_that_nothing_changes_are_read_as_needed(shape, changes, tmp_path, monkeypatch):
    data = masked_cases(36, shape, structures=3)
    given = {"model": "unet(width=2, depth=1)", "batch_size": 4, "local_steps": 2, **changes}
    part, other = (partition((10, 6), data=one, held_out=4) for one in (data, mapped(data, tmp_path)))
    expected = federation(part, **given)
    if "crop" not in changes:  # crops are read from the file on a CPU, whether it fits into memory or not
        assert isinstance(federation(other, **given).execution.engine.dataset.pixels, ResidentImages)
        monkeypatch.setattr(device_dataset, "free_memory", lambda device: 100.0)
    found = federation(other, **given)
    assert isinstance(found.execution.engine.dataset.pixels, MappedImages)
    assert isinstance(found.execution.engine.dataset.targets.masks, MappedImages)
    a, b = (ends("fedavg", fed)["global"] for fed in (expected, found))
    assert same(a, b)
    index = part.index("Site A", "test")
    np.testing.assert_array_equal(expected.predict(a, index), found.predict(b, index))


def test_what_scanners_or_readers_change_is_not_read_from_the_file(tmp_path):
    data = mapped(masked_cases(36, (1, 12, 10)), tmp_path)
    table = partition((10, 6), data=data, held_out=4).table
    kinds = {"acquisition": ("pixels", {"acquisition": 1.0}), "annotation": ("targets", {"annotation": 1.0})}
    for name, changes in kinds.values():
        part = fedlab.Partition.from_sites(data, table, **changes)
        dataset = federation(part, "unet(width=2, depth=1)", crop="random(6)").execution.engine.dataset
        changed = getattr(dataset, name)
        assert isinstance(changed, ResidentImages | torch.Tensor) and isinstance(
            {"pixels": dataset.targets, "targets": dataset.pixels}[name], device_dataset.MaskRows | MappedImages
        )


def test_few_bytes_are_rendered_at_a_time(monkeypatch):
    """So that large volumes are not in memory twice; which ones are rendered together changes nothing."""
    data = masked_cases(36, (1, 12, 10))
    part = fedlab.Partition.from_sites(data, partition((10, 6), data=data, held_out=4).table, acquisition=1.0)
    whole = federation(part, "unet(width=2, depth=1)").execution.engine.dataset.pixels.all
    monkeypatch.setattr(device_dataset, "CHUNK_BYTES", 300)
    assert torch.equal(federation(part, "unet(width=2, depth=1)").execution.engine.dataset.pixels.all, whole)
