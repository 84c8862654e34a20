"""The estimate before the first round."""

import time
from types import SimpleNamespace

import pytest
import torch

import fedlab
from fedlab.experiments import time_estimate
from fedlab.federation import Federation

LONG = fedlab.Experiment(
    dataset="phantoms(cases=120, size=24)", sites=2, model="small_cnn", rounds=2, local_epochs=3, device="cpu"
)


class Listener:
    """An observer that keeps the lines that it receives."""

    def __init__(self):
        self.lines, self.rounds = [], 0

    def restart(self, rounds, title, device=""):
        self.lines.append("restart")

    def update(self, rounds_frame, round):
        self.lines.append(f"round {round}")

    def close(self):
        pass

    def tell(self, text):
        self.lines.append(text)

    def conclude(self, text):
        pass


def federation(experiment):
    return Federation(experiment.make_partition(), experiment.model, experiment)


def test_the_estimate_is_within_a_factor_of_three_of_the_run(tmp_path, monkeypatch):
    """In processor time, so that other work on the machine does not count."""
    monkeypatch.setattr(time_estimate, "time", SimpleNamespace(perf_counter=time.process_time))
    fed = federation(LONG)
    fedlab.run(LONG.with_(rounds=1, seed=1), folder=tmp_path)  # loads what is loaded once
    expected = time_estimate.expected_seconds(LONG, fed) * max(1, min(fed.execution.workers, 2))
    begun = time.process_time()
    fedlab.run(LONG, folder=tmp_path)
    took = time.process_time() - begun
    assert expected / 3 < took < 3 * expected + 0.5  # half a second for the partition and the files


def test_a_long_run_says_it_before_the_first_round_and_a_short_one_does_not(tmp_path, monkeypatch):
    short = Listener()
    fedlab.run(LONG.with_(rounds=1, local_steps=1), folder=tmp_path, live=short)
    assert not any("about" in line for line in short.lines)
    monkeypatch.setattr(time_estimate, "seconds_of_a_step", lambda experiment, fed: 100.0)
    long = Listener()
    fedlab.run(LONG.with_(rounds=2, local_steps=1), folder=tmp_path, live=long)
    said = [line for line in long.lines if "starting, about" in line]
    assert len(said) == 1 and "for 2 rounds" in said[0]
    assert long.lines.index(said[0]) < long.lines.index("round 1")


def test_steps_of_a_round_follow_the_settings():
    """5 steps at each of 4 sites, or of the 2 that take part; epochs take as many steps as there are batches."""
    base = LONG.with_(sites=4, local_steps=5)
    fed = federation(base)
    validation = time_estimate.steps_of_a_round(base, fed) - 4 * 5
    assert 0 < validation < 4
    half = base.with_(participation="sample(0.5)")
    assert time_estimate.steps_of_a_round(half, federation(half)) == pytest.approx(2 * 5 + validation)
    epochs = LONG.with_(sites=4, local_epochs=2)
    batches = sum(-(-site.cases // 32) for site in fed.sites)
    assert time_estimate.steps_of_a_round(epochs, federation(epochs)) == pytest.approx(2 * batches + validation)


def test_a_model_that_cannot_be_timed_is_left_to_the_training(monkeypatch):
    def fails(experiment, fed):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(time_estimate, "seconds_of_a_step", fails)
    assert time_estimate.foresee(LONG, federation(LONG)) == ""


def test_timing_changes_no_random_number(tmp_path):
    fed, before = federation(LONG), torch.random.get_rng_state()
    time_estimate.seconds_of_a_step(LONG.with_(model="small_cnn"), fed)
    assert torch.equal(before, torch.random.get_rng_state())
