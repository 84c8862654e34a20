"""Images that do not fit into memory come from a scratch file, and nothing else changes."""

import tempfile

import numpy as np
import pandas as pd
import pytest
import torch
from worlds import CNN, ends, federation, partition, same

import fedlab
from fedlab.engine import device_dataset
from fedlab.engine.device_dataset import Resident, Streamed

CPU = torch.device("cpu")


@pytest.fixture
def short_of_memory(monkeypatch):
    monkeypatch.setattr(device_dataset, "free", lambda device: 100.0)


@pytest.mark.parametrize("method", ["fedavg", "cyclic", "split", "centralized", "moon"])
@pytest.mark.parametrize("normalisation", ["none", "site", "global"])
def test_streamed_images_train_to_the_last_bit(method, normalisation, monkeypatch):
    asked = {"batch_size": 8, "local_steps": None, "normalisation": normalisation}
    found = []
    for room in (1e12, 100.0):
        monkeypatch.setattr(device_dataset, "free", lambda device, room=room: room)
        fed = federation(**asked)
        fed.execution.lanes.count = 2
        assert fed._engine.store.pixels.streamed == (room == 100.0)
        found.append(ends(method, fed))
    for name in found[0]:
        assert same(found[0][name].bare(), found[1][name].bare())


def test_a_run_says_that_its_images_are_streamed(short_of_memory, tmp_path):
    asked = fedlab.Experiment(dataset="phantoms(cases=160)", model=CNN, rounds=1)
    events = fedlab.run(asked, partition(), folder=tmp_path).events
    assert events["event"].tolist() == ["images streamed"]


def test_what_was_announced_is_read_ahead_and_what_was_not_all_the_same():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (20, 4, 4, 1)).astype(np.uint8))
    one, other = (kind(images.shape, torch.uint8, CPU) for kind in (Resident, Streamed))
    for kept in (one, other):
        kept.put(np.arange(10), images[:10])
        kept.put(np.arange(10, 20), images[10:])
    first, second = np.array([3, 1, 19]), np.array([0, 2])
    for rows in (first, second):
        other.announce(first)
        assert torch.equal(other.gather(torch.from_numpy(rows)), one.gather(torch.from_numpy(rows)))
    assert torch.equal(other.gather(torch.from_numpy(first)), images[first])


def test_no_scratch_file_is_left(short_of_memory, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fed = federation()
    assert fed._engine.store.pixels.streamed and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("room", "streamed"), [(1000 / 0.6 + 1, False), (1000 / 0.6 - 1, True)])
def test_images_are_streamed_once_they_take_most_of_the_memory(room, streamed, monkeypatch):
    monkeypatch.setattr(device_dataset, "free", lambda device: room)
    assert device_dataset.pixels((10, 10, 10, 1), torch.uint8, CPU).streamed is streamed


def test_free_memory_is_told():
    assert device_dataset.free(CPU) > 1e6 and pd.notna(device_dataset.free(CPU))
