"""A streaming mean, which frees each model, equals the mean of all models in memory."""

import time

import numpy as np
import pytest
import torch
from worlds import CNN, ends, federation, partition

import fedlab
from fedlab.core.weights import stack, weighted_mean
from fedlab.engine import streaming_mean
from fedlab.engine.loop import SequentialEngine, StoppedError
from fedlab.engine.streaming_mean import StreamingMean
from fedlab.federation import server

SIZES = (10, 36, 20, 10, 14)
MEANS = ["fedavg", "fedavg(weighting='uniform')", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "fedprox", "fedsam"]


@pytest.fixture
def one_at_a_time(monkeypatch):
    """No models are small enough to stay in memory; the sites that were added to a streaming mean."""
    seen, add = [], StreamingMean.add

    def counted(self, site, w, check_stopped):
        seen.append(site)
        add(self, site, w, check_stopped)

    monkeypatch.setattr(server, "STACK_BYTES", 0)
    monkeypatch.setattr(StreamingMean, "add", counted)
    return seen


def trained(method, workers=1, **changes):
    settings = {"rounds": 2, "local_steps": None, "momentum": 0.5, "execution": "sequential", **changes}
    fed = federation(partition(SIZES), CNN, **settings)
    fed.execution.pool.count = workers
    return fed, ends(method, fed)["global"]


@pytest.mark.parametrize(
    ("method", "changes"),
    [(method, {}) for method in MEANS]
    + [
        ("fedavg", {"participation": "sample(0.6)", "failures": 0.3, "rounds": 3}),
        ("fedadam", {"participation": "unbiased(0.6)"}),
        ("fedsam", {"precision": "float64"}),
    ],
    ids=repr,
)
def test_it_is_the_mean_of_all_models_in_memory(method, changes, monkeypatch):
    together, expected = trained(method, **changes)
    monkeypatch.setattr(server, "STACK_BYTES", 0)
    apart, found = trained(method, **changes)
    bound = 1e-12 if changes.get("precision") else 2e-6
    assert float((found.vector - expected.vector).abs().max()) <= bound and torch.equal(found.counts, expected.counts)
    assert apart.ledger.rows == together.ledger.rows and apart.round_log.numbers == together.round_log.numbers
    assert apart.round_log.events == together.round_log.events
    assert apart.round_log.updates == pytest.approx(together.round_log.updates, rel=1e-4, nan_ok=True)
    assert {n: (c.steps, c.samples) for n, c in apart.round_log.costs.items()} == {
        n: (c.steps, c.samples) for n, c in together.round_log.costs.items()
    }
    np.testing.assert_array_equal(apart.trainer.steps, together.trainer.steps)


@pytest.mark.parametrize("method", ["fedavg", "fedadam", "fedsam"])
def test_cores_change_no_bit(method, one_at_a_time):
    (alone, a), (several, b) = trained(method), trained(method, workers=3)
    assert torch.equal(a.vector, b.vector) and alone.round_log.updates == several.round_log.updates
    assert sorted(one_at_a_time) == sorted([*alone.names, *alone.names] * 2)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("fedavg", {"aggregate": "median"}),
        ("fedavg", {"secure_sum": True}),
        ("fedavg", {"attack": "signflip(count=1)"}),
        ("fedavg", {"batchnorm": "fedbn"}),
        ("fedavg", {"batchnorm": "pooled"}),
        ("fedavg", {"local_optimizer": "keep"}),
        ("fedavg", {"execution": "vmap"}),
        ("scaffold", {"momentum": 0.0}),
    ],
    ids=repr,
)
@pytest.mark.filterwarnings("ignore")
def test_models_stay_in_memory_if_a_setting_needs_all_of_them(method, changes, one_at_a_time):
    trained(method, **changes)
    assert one_at_a_time == []


def test_a_hook_at_the_channel_sees_every_model(one_at_a_time):
    fed, seen = federation(partition(SIZES), CNN), []
    fed.channel.hooks.append(lambda message: seen.append((message.direction, len(message.tensors))))
    ends("fedavg", fed)
    assert one_at_a_time == [] and seen.count(("up", 2)) == 2 * len(SIZES)


def models(count):
    fed = federation(partition(SIZES), CNN)
    vectors = torch.randn(count, fed.layout.size, generator=torch.Generator().manual_seed(0))
    return fed.start, [
        fed.start.with_parameters(v[: fed.layout.trained] * fed.layout.occupied[: fed.layout.trained]) for v in vectors
    ]


def test_equal_models_have_themselves_as_a_mean():
    start, (w, *_) = models(1)
    found = StreamingMean(start, "abc", np.array([0.2, 0.5, 0.3]), np.full(3, 1 / 3))
    for site in "cab":
        found.add(site, w, lambda: None)
    assert torch.equal(found.mean().vector, w.vector)


def test_the_order_of_arrival_changes_no_bit():
    start, each = models(4)
    shares, found = np.array([0.1, 0.2, 0.3, 0.4]), []
    for order in ("abcd", "dcba", "bdac"):
        one = StreamingMean(start, "abcd", shares, shares)
        for site in order:
            one.add(site, each["abcd".index(site)], lambda: None)
        found.append((one.mean().vector, one.squared_norms()))
    assert all(torch.equal(found[0][0], vector) for vector, _ in found)
    assert all(torch.equal(found[0][1], lengths) for _, lengths in found)
    assert torch.equal(found[0][0], weighted_mean(stack(each), shares).vector)


def test_waiting_ends_if_training_was_stopped(monkeypatch):
    monkeypatch.setattr(streaming_mean, "MAX_WAITING", 1)
    start, each = models(3)
    one = StreamingMean(start, "abc", np.full(3, 1 / 3), np.full(3, 1 / 3))
    one.add("b", each[1], lambda: None)

    def stopped():
        raise StoppedError

    with pytest.raises(StoppedError):
        one.add("c", each[2], stopped)


def test_finished_models_wait_for_the_first_one(monkeypatch, one_at_a_time):
    """The largest site is slow, and there are more other sites than may wait."""
    monkeypatch.setattr(streaming_mean, "MAX_WAITING", 2)
    fit, names = SequentialEngine.train, []

    def slow(engine, job):
        if job.site == "Site B":
            time.sleep(0.3)
        names.append(job.site)
        return fit(engine, job)

    monkeypatch.setattr(SequentialEngine, "train", slow)
    _, found = trained("fedavg", workers=4, rounds=1)
    assert names[-1] != names[0] and sorted(names) == [f"Site {name}" for name in "ABCDE"]
    monkeypatch.setattr(streaming_mean, "MAX_WAITING", 16)
    assert torch.equal(found.vector, trained("fedavg", rounds=1)[1].vector)


def test_a_site_that_fails_ends_all_waiting(monkeypatch, one_at_a_time):
    monkeypatch.setattr(streaming_mean, "MAX_WAITING", 1)
    fit = SequentialEngine.train

    def breaks(engine, job):
        if job.site == "Site B":
            time.sleep(0.3)
            raise ValueError("no good")
        return fit(engine, job)

    monkeypatch.setattr(SequentialEngine, "train", breaks)
    with pytest.raises(ValueError, match="Site B, round 1: no good"):
        trained("fedavg", workers=3, rounds=1)


def test_a_run_is_the_same_with_a_streaming_mean(tmp_path, monkeypatch):
    base = fedlab.Experiment(dataset="phantoms(cases=160)", model=CNN, rounds=2, batch_size=16, device="cpu")
    expected = fedlab.run(base, folder=tmp_path / "together")
    monkeypatch.setattr(server, "STACK_BYTES", 0)
    found = fedlab.run(base, folder=tmp_path / "apart")
    assert found.rounds.drop(columns="seconds")["site"].equals(expected.rounds["site"])
    a, b = found.weights("global"), expected.weights("global")
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < 2e-6
