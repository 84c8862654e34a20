"""Runs of a grid in lock-step give the same results as each run alone."""

import threading
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from worlds import CNN

import fedlab
from fedlab.engine.device_dataset import DeviceDataset
from fedlab.engine.seed_batching import LockstepScheduler
from fedlab.engine.vmap import ModelStack, VmapEngine
from fedlab.federation import DivergedError
from fedlab.learning.models import MODELS

SEEDS = [0, 1, 2]
BASE = {"dataset": "phantoms(cases=120, size=16)", "model": CNN, "rounds": 2, "batch_size": 16, "precision": "float64"}


def experiment(**changes):
    return fedlab.Experiment(**{**BASE, "device": "cpu", **changes})


def grid(folder, mode="vmap", seeds=SEEDS, **changes):
    return fedlab.grid(experiment(execution=mode, **changes), folder=folder, seed=seeds)


def assert_alike(found, expected):
    assert [run.folder.name for run in found] == [run.folder.name for run in expected]
    for a, b in zip(found, expected, strict=True):
        pd.testing.assert_frame_equal(a.predictions, b.predictions, check_exact=False, rtol=0, atol=1e-9)
        pd.testing.assert_frame_equal(a.ledger, b.ledger)
        pd.testing.assert_frame_equal(a.events, b.events)
        for name in a.models:
            first, second = a.weights(name), b.weights(name)
            assert max(float((first[key].double() - second[key].double()).abs().max()) for key in first) < 1e-11
        times = ["seconds"]
        pd.testing.assert_frame_equal(a.rounds.drop(columns=times), b.rounds.drop(columns=times), rtol=1e-7, atol=1e-9)


@pytest.fixture
def widths(monkeypatch):
    """How many models each stack had."""
    found, begin = [], ModelStack.__init__

    def counted(stack, serial, model, jobs):
        found.append(len(jobs))
        begin(stack, serial, model, jobs)

    monkeypatch.setattr(ModelStack, "__init__", counted)
    return found


@pytest.mark.every_method
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", sorted(fedlab.METHODS))
def test_in_lockstep_every_method_gives_the_same_result_as_alone(method, tmp_path):
    given = {"method": method, "sites": 3, "evaluate_every": 2}
    together = grid(tmp_path / "together", seeds=[0, 1], **given)
    assert_alike(together[1:], grid(tmp_path / "alone", "sequential", seeds=[1], **given))  # not the first of its stack
    assert not [thread for thread in threading.enumerate() if thread.name == "fedlab run"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "changes",
    [  # with one method of a shared model and one of own models
        {"rounds": 6, "patience": 1, "lr": 0.2},  # runs end after different rounds
        {"method": "ditto", "participation": "sample(0.5)", "failures": 0.4, "rounds": 4},  # nobody answers sometimes
        {"method": "ditto", "stragglers": 0.5, "batchnorm": "fedbn"},
        {"optimizer": "adam", "lr": 0.01, "local_optimizer": "keep"},
        {"method": "ditto", "schedule": "cosine", "normalisation": "site", "quantity": 0.8},
        {"aggregate": "median", "attack": "signflip(count=1)"},
        {"augment": "flip + zoom(0.1)"},
    ],
    ids=repr,
)
def test_in_lockstep_every_setting_takes_effect(changes, tmp_path):
    together = grid(tmp_path / "together", **changes)
    assert_alike(together[1:], grid(tmp_path / "alone", "sequential", seeds=SEEDS[1:], **changes))


@pytest.mark.filterwarnings("ignore")
def test_in_lockstep_dropout_draws_what_each_run_draws_alone(tmp_path, monkeypatch):
    def dropping(shape, outputs):
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(int(np.prod(shape)), outputs))

    monkeypatch.setattr(MODELS, "_functions", {**MODELS._functions, "dropping": dropping})
    assert_alike(
        grid(tmp_path / "together", model="dropping"), grid(tmp_path / "alone", "sequential", model="dropping")
    )


@pytest.mark.parametrize(("method", "width"), [("fedavg", 12), ("centralized", 3), ("cyclic", 3), ("fedsam", 4)])
def test_sites_of_all_runs_are_one_stack(method, width, widths, tmp_path):
    """A method with its own update rule is batched only within a run."""
    grid(tmp_path, method=method)
    assert set(widths) == {width}


def test_runs_in_lockstep_share_their_images(tmp_path, monkeypatch):
    built, begin = [], DeviceDataset.__init__
    monkeypatch.setattr(DeviceDataset, "__init__", lambda *given: (built.append(1), begin(*given))[1])
    grid(tmp_path)
    assert len(built) == 1


@pytest.mark.parametrize(
    ("changes", "together"),
    [
        ({"model": "logistic"}, True),
        ({"model": CNN}, False),
        ({"model": "logistic", "execution": "sequential"}, False),
        ({"model": "logistic", "seed": [0]}, False),
    ],
    ids=repr,
)
def test_seeds_run_in_lockstep_where_sites_are_stacked(changes, together, tmp_path, monkeypatch):
    held, hold = [], LockstepScheduler.run
    monkeypatch.setattr(
        LockstepScheduler, "run", lambda meeting, calls: (held.append(len(calls)), hold(meeting, calls))[1]
    )
    seeds = changes.pop("seed", SEEDS)
    fedlab.grid(experiment(**changes, rounds=1), folder=tmp_path, method=["fedavg", "local"], seed=seeds)
    assert held == ([3, 3] if together else [])


def test_only_what_is_unfinished_runs_in_lockstep(widths, tmp_path):
    (first,) = grid(tmp_path, seeds=[1])
    widths.clear()
    runs = grid(tmp_path)
    assert set(widths) == {8} and runs[1].folder == first.folder
    widths.clear()
    grid(tmp_path)
    assert widths == []


def test_a_failure_names_its_run_and_loses_nothing(tmp_path, monkeypatch):
    train, calls = VmapEngine.train, []

    def breaks(stacked, jobs, named):
        found = train(stacked, jobs, named)
        calls.append(1)
        if len(calls) == 2:  # in the second round of the second run
            found[5] = replace(found[5], total=torch.tensor(np.nan))  # the sum of its weights
        return found

    with monkeypatch.context() as patch, pytest.raises(DivergedError, match=r"Site B, round 2.*diverged") as caught:
        patch.setattr(VmapEngine, "train", breaks)
        grid(tmp_path / "cut")
    assert any("in the run of 'fedavg' with seed 1" in note for note in caught.value.__notes__)
    assert not [thread for thread in threading.enumerate() if thread.name == "fedlab run"]
    assert len(list((tmp_path / "cut").glob("*.unfinished"))) == 3
    assert_alike(grid(tmp_path / "cut"), grid(tmp_path / "alone", "sequential"))


def test_an_interrupt_ends_all_and_loses_nothing(tmp_path, monkeypatch):
    train, calls = VmapEngine.train, []

    def interrupted(stacked, jobs, named):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(stacked, jobs, named)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(VmapEngine, "train", interrupted)
        grid(tmp_path / "cut")
    assert not [thread for thread in threading.enumerate() if thread.name == "fedlab run"]
    again = grid(tmp_path / "cut")
    assert_alike(again, grid(tmp_path / "alone", "sequential"))


def test_each_distinct_warning_is_emitted_once(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        grid(tmp_path, method="scaffold", momentum=0.9)
    about = [each for each in caught if "its control variates assume plain SGD" in str(each.message)]
    assert len(about) == 1 and about[0].filename == __file__
