"""However the work of the sites is carried out, it comes to the same."""

import json
import time
from contextlib import contextmanager

import numpy as np
import pytest
import recordings
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from worlds import CNN, cases, ends, federation, partition

import fedlab
from fedlab.engine import cuda_graph, thread_pool
from fedlab.engine.batches import Batches
from fedlab.engine.cuda_graph import StreamPool
from fedlab.engine.local_task import LocalTask
from fedlab.engine.lockstep import lockstep, together
from fedlab.engine.loop import SequentialEngine
from fedlab.engine.streaming_mean import StreamingMean
from fedlab.engine.vmap import ModelStack
from fedlab.federation import Federation, communication
from fedlab.learning.models import MODELS


def beside(fed, count):
    """The same federation whose sites are trained on so many cores at once."""
    fed.execution.lanes.count = count
    return fed


@pytest.mark.parametrize("method", sorted(fedlab.METHODS))
def test_cores_change_no_bit(method):
    alone, together = (beside(federation(rounds=2, momentum=0.5, model=CNN), count) for count in (1, 3))
    a, b = ends(method, alone), ends(method, together)
    assert a.keys() == b.keys() and alone.ledger.rows == together.ledger.rows
    for name, model in a.items():
        for one, other in zip(parts(model), parts(b[name]), strict=True):
            assert torch.equal(one.vector, other.vector) and torch.equal(one.counts, other.counts)


class FakeStream:
    """In the place of `torch.cuda.Stream`: notes what it waits for."""

    current = None

    def __init__(self):
        self.waited = []

    def wait_stream(self, other):
        self.waited.append(other)


@pytest.fixture
def streams(monkeypatch):
    """Streams on a processor; the caller's own."""
    FakeStream.current = here = FakeStream()

    @contextmanager
    def entered(stream):
        before, FakeStream.current = FakeStream.current, stream
        yield
        FakeStream.current = before

    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: FakeStream.current)
    return here


@pytest.mark.parametrize("together", [communication.TOGETHER, 0], ids=["side by side", "merged as they come"])
@pytest.mark.parametrize("method", ["fedavg", "scaffold", "ditto", "afl", "fedbn", "cyclic", "split"])
def test_streams_change_no_bit(method, together, streams, monkeypatch):
    monkeypatch.setattr(communication, "TOGETHER", together)
    alone, many = federation(local_steps=None), federation(local_steps=None)
    many.execution.lanes = StreamPool(many.execution.serial, many.execution.lanes._another, 3)
    where, train, add = {}, SequentialEngine.train, StreamingMean.add
    monkeypatch.setattr(
        SequentialEngine,
        "train",
        lambda engine, job: where.update({id(engine): FakeStream.current}) or train(engine, job),
    )
    monkeypatch.setattr(StreamingMean, "add", lambda *given: add(*given) or where.update(merged=FakeStream.current))
    b = ends(method, many)
    used = [stream for key, stream in where.items() if key != "merged"]
    a = ends(method, alone)
    for name, model in a.items():
        for one, other in zip(parts(model), parts(b[name]), strict=True):
            assert torch.equal(one.vector, other.vector) and torch.equal(one.counts, other.counts)
    if method not in ("cyclic", "split"):  # whose sites take turns
        assert len(set(used)) == len(used) == 3  # an engine and a stream each
        assert all(streams in stream.waited and stream in streams.waited for stream in used)  # both ways
        assert where.get("merged", streams) is streams


def test_streams_share_the_work_evenly(streams):
    fed = federation()
    lanes_ = StreamPool(fed.execution.serial, fed.execution.lanes._another, 2)
    queued = {}
    steps = [8, 7, 3, 3, 3]
    found = lanes_.each(lambda engine, i: queued.setdefault(id(engine), []).append(steps[i]) or i, range(5), steps)
    assert found == list(range(5)) and sorted(sum(each) for each in queued.values()) == [11, 13]


def test_a_failure_on_a_stream_is_raised_once_all_are_joined(streams):
    fed = federation()
    lanes_ = StreamPool(fed.execution.serial, fed.execution.lanes._another, 2)

    def breaks(engine, i):
        raise ValueError("no good")

    with pytest.raises(ValueError, match="no good"):
        lanes_.each(breaks, range(3), [1, 1, 1])
    assert set(lanes_._streams) <= set(streams.waited)


def parts(model):
    return [model.models] if hasattr(model, "models") else [model]


def test_a_site_that_fails_stops_the_others(monkeypatch):
    fed, begun, step = beside(federation(rounds=1, local_steps=400), 2), [], SequentialEngine._step

    def breaks(engine, images, targets, rows, work, moments):
        begun.append(work)
        if work.batches.site == "Site B" and len(begun) > 4:
            raise ValueError("no good")
        return step(engine, images, targets, rows, work, moments)

    monkeypatch.setattr(SequentialEngine, "_step", breaks)
    with pytest.raises(ValueError, match="Site B, round 1: no good"):
        ends("fedavg", fed)
    assert len(begun) < 400 and not any(engine.stopped for engine in fed.execution.lanes.engines)


def test_an_interrupt_stops_all_sites_at_their_next_step(monkeypatch):
    fed, begun, step, wait = (
        beside(federation(rounds=1, local_steps=10_000), 2),
        [],
        SequentialEngine._step,
        thread_pool.wait,
    )

    def counted(*given):
        begun.append(1)
        return step(*given)

    def interrupted(futures, **how):
        if how:  # the wait for all of them, in which a user interrupts
            while len(begun) < 6:
                time.sleep(0.01)
            raise KeyboardInterrupt
        return wait(futures)

    monkeypatch.setattr(SequentialEngine, "_step", counted)
    monkeypatch.setattr(thread_pool, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ends("fedavg", fed)
    ended = len(begun)
    time.sleep(0.2)
    assert len(begun) == ended < 1000 and not any(engine.stopped for engine in fed.execution.lanes.engines)


def apart(a, b):
    """The largest difference between two outcomes, relative to the largest coordinate."""
    pairs = [pair for name in a for pair in zip(parts(a[name]), parts(b[name]), strict=True)]
    assert a.keys() == b.keys() and all(torch.equal(one.counts, other.counts) for one, other in pairs)
    each = [(float((one.vector - other.vector).abs().max()), float(one.vector.abs().max())) for one, other in pairs]
    return max(distance / (size or 1) for distance, size in each)


UNEQUAL = {"rounds": 2, "local_steps": None, "batch_size": 12}  # sites of 24, 40, 16 and 8 cases
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


@pytest.fixture(params=["vmap", "cuda_graph"])
def mode(request, monkeypatch):
    """A way of execution beside the serial one; CUDA graphs as `recordings` has them where there is no GPU."""
    monkeypatch.setattr(cuda_graph, "recorder", recordings.recorder)
    return request.param


@pytest.mark.parametrize("method", sorted(fedlab.METHODS))
def test_every_mode_comes_to_the_same(method, precision, mode):
    asked = {**UNEQUAL, "momentum": 0.5, "weight_decay": 0.01, "precision": precision}
    alone, together = (federation(execution=how, **asked) for how in ("sequential", mode))
    assert apart(ends(method, alone), ends(method, together)) < TOLERANCE[precision]
    assert alone.ledger.rows == together.ledger.rows
    assert {site: cost.samples for site, cost in alone.costs.items()} == {
        site: cost.samples for site, cost in together.costs.items()
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adam", "local_optimizer": "keep", "local_epochs": 2},
        {"optimizer": "adamw", "weight_decay": 0.1, "local_optimizer": "share"},
        {"batchnorm": "frozen"},
        {"batchnorm": "silobn", "participation": "sample(0.5)"},
        {"batchnorm": "pooled", "failures": 0.3},
        {"batchnorm": "group", "stragglers": 0.5},
        {"batch_size": None, "local_steps": 3},
        {"model": "logistic", "normalisation": "site"},
        {"model": "small_cnn(width=4, depth=2, projection=6)"},
        {"schedule": "cosine", "rounds": 3, "normalisation": "image"},
        {"augment": "flip + rotate(10) + shift(0.1) + light(0.1)", "normalisation": "global"},
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    "method", ["fedavg", "fedrep(head_epochs=1)", "local", "moon", "apfl", "cyclic(mitigation='loss')"]
)
def test_every_mode_heeds_every_setting(method, changes, mode):
    asked = {**UNEQUAL, "precision": "float64", "lr": 0.01, **changes}
    alone, together = (federation(execution=how, **asked) for how in ("sequential", mode))
    assert apart(ends(method, alone), ends(method, together)) < TOLERANCE["float64"]


@pytest.mark.parametrize("model", ["resnet18", "small_cnn(width=4, depth=2)"])
@pytest.mark.parametrize("shape", [(3, 12, 12), (1, 8, 8, 8)], ids=["2D", "3D"])
def test_every_mode_takes_every_kind_of_image(model, shape, mode):
    part = partition((5, 3, 5), data=cases(8 * 3 + 3 * 13, shape, classes=3), held_out=8)
    asked = {"model": model, "rounds": 1, "batch_size": 4, "local_steps": 2, "precision": "float64", "lr": 0.01}
    alone, together = (federation(part, execution=how, **asked) for how in ("sequential", mode))
    assert apart(ends("fedavg", alone), ends("fedavg", together)) < TOLERANCE["float64"]


@given(st.lists(st.tuples(st.integers(2, 40), st.integers(0, 9)), min_size=1, max_size=7), st.integers(2, 12))
def test_in_lockstep_every_site_sees_its_own_batches_in_order(sites, size):
    works = [
        LocalTask(Batches(str(i), np.arange(n) + 100 * i, size, 0), i, steps, 0.1) for i, (n, steps) in enumerate(sites)
    ]
    seen = [[] for _ in works]
    for who, batches in lockstep(works):
        assert len({len(batch) for batch in batches}) == 1 and who == sorted(set(who))
        for i, batch in zip(who, batches, strict=True):
            seen[i].append(batch.tolist())
    for work, found in zip(works, seen, strict=True):
        assert found == [work.batches.at(step).tolist() for step in range(work.first, work.first + work.steps)]


def test_alike_sites_are_always_in_step():
    works = [LocalTask(Batches(str(k), np.arange(50), 32, 0), 0, 4, 0.1) for k in range(9)]
    assert [len(who) for who, _ in lockstep(works)] == [9, 9, 9, 9] and together(works) == 9


@pytest.mark.parametrize(
    ("sizes", "model", "mode"),
    [
        ((20,) * 8, "logistic", "vmap"),
        ((20,) * 4, "logistic", "sequential"),
        (tuple(range(9, 17)), "logistic", "sequential"),  # full batches of eight sizes: nobody is in step
        ((20,) * 8, CNN, "sequential"),
    ],
)
def test_a_mode_is_chosen_by_what_is_faster(sizes, model, mode):
    fed = federation(partition(sizes), model, batch_size=None)
    ends("fedavg", fed)
    assert fed.execution.used == {mode}


EXPERIMENT = {
    "dataset": "phantoms(cases=160)",
    "model": CNN,
    "rounds": 3,
    "batch_size": 16,
    "precision": "float64",
    "device": "cpu",
}


@pytest.mark.parametrize("method", ["fedavg", "scaffold", "ditto"])
@pytest.mark.parametrize(
    "modes", [("sequential", "vmap"), ("vmap", "cuda_graph"), ("cuda_graph", "sequential")], ids=" then ".join
)
def test_a_run_begun_in_one_mode_goes_on_in_another(method, modes, tmp_path, monkeypatch):  # O53
    monkeypatch.setattr(cuda_graph, "recorder", recordings.recorder)
    first, second = (fedlab.Experiment(method=method, execution=mode, **EXPERIMENT) for mode in modes)
    whole = fedlab.run(first, folder=tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Federation, "gather", interrupting(Federation.gather, 2))
        fedlab.run(first, folder=tmp_path / "cut")
    assert len(list((tmp_path / "cut").glob("*.unfinished"))) == 1
    resumed = fedlab.run(second, folder=tmp_path / "cut")
    assert resumed.folder.name == whole.folder.name and not list((tmp_path / "cut").glob("*.unfinished"))
    a, b = whole.weights("global"), resumed.weights("global")
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < 1e-12
    assert (
        np.abs(whole.predictions[["p0", "p1"]].to_numpy() - resumed.predictions[["p0", "p1"]]).to_numpy().max() < 1e-9
    )
    told = json.loads((resumed.folder / "environment.json").read_text())["execution"]
    assert told == [modes[1]]


def interrupting(call, after):
    """The call, which at its so many-th time is interrupted instead."""
    calls = []

    def wrapped(*args, **knobs):
        calls.append(1)
        if len(calls) == after:
            raise KeyboardInterrupt
        return call(*args, **knobs)

    return wrapped


@pytest.mark.parametrize(
    ("mode", "method", "model", "why"),
    [
        ("vmap", "cyclic", CNN, "its sites train one at a time"),
        ("vmap", "split", CNN, "its sites train one at a time"),
        ("vmap", "fedavg", "dropping", "layer '1' draws random numbers, which would be drawn differently"),
        ("without a GPU", "fedavg", CNN, "CUDA graphs need a GPU"),
        ("on a GPU", "fedsam", CNN, "its steps run code of the method's own"),
        ("on a GPU", "split", CNN, "its steps run code of the method's own"),
    ],
)
def test_a_mode_that_has_no_place_is_told_and_runs_all_the_same(mode, method, model, why, tmp_path, monkeypatch):
    if mode.endswith("GPU"):
        record = recordings.recorder if mode == "on a GPU" else lambda device: None
        monkeypatch.setattr(cuda_graph, "recorder", record)
        mode = "cuda_graph"

    def dropping(shape, outputs):
        layers = nn.Flatten(), nn.Dropout(0.5), nn.Linear(int(np.prod(shape)), outputs)
        return nn.Sequential(*layers)

    monkeypatch.setattr(MODELS, "_functions", {**MODELS._functions, "dropping": dropping})
    changes = {"rounds": 1, "model": model}
    asked = fedlab.Experiment(**{**EXPERIMENT, **changes}, method=method, execution=mode)
    with pytest.warns(UserWarning, match=f"execution='{mode}' has no place in {method!r}: {why}"):
        run = fedlab.run(asked, folder=tmp_path)
    assert json.loads((run.folder / "environment.json").read_text())["execution"] == (
        ["sequential"] if method != "split" else []
    )


def test_a_stack_that_does_not_fit_is_made_smaller(monkeypatch):
    asked = {**UNEQUAL, "precision": "float64", "weight_decay": 0.01}
    alone, together = (federation(execution=mode, **asked) for mode in ("sequential", "vmap"))
    sizes, begin = [], ModelStack.__init__

    def fits_two(stack, serial, model, jobs):
        sizes.append(len(jobs))
        if len(jobs) > 2:
            raise torch.OutOfMemoryError("no")
        begin(stack, serial, model, jobs)

    monkeypatch.setattr(ModelStack, "__init__", fits_two)
    with pytest.warns(UserWarning, match="a stack of 4 sites does not fit into the device's memory: 2 at a time"):
        found = ends("fedavg", together)
    assert sizes == [4, 2, 2, 2, 2] and apart(ends("fedavg", alone), found) < TOLERANCE["float64"]


def test_one_site_that_does_not_fit_says_what_to_do(monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(ModelStack, "__init__", full)
    with pytest.warns(UserWarning), pytest.raises(torch.OutOfMemoryError, match="use a smaller batch_size or model"):
        ends("fedavg", federation(execution="vmap"))


def test_many_models_predict_as_each_alone():
    """Of as many cases, of others and of none, of more than a batch."""
    fed = federation(partition((300, 300, 20, 20)), execution="vmap", precision="float64")
    models = ends("local", fed)["local"]
    index = [site.batches.index for site in fed.sites]
    asked = [*((models[k], index[k]) for k in range(4)), (models[0], index[1]), (models[0], index[0][:0])]
    together = fed.predict_each(asked)
    assert fed.execution.stackable
    for (model, cases_), found in zip(asked, together, strict=True):
        assert found.shape == (len(cases_), 2)
        np.testing.assert_allclose(found, fed.predict(model, cases_), rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["sequential", "vmap"])
def test_a_batch_of_one_case_is_told_of_its_site(mode):
    part = partition((9, 8, 1), data=cases(18 + 3 * 4, (1, 8, 8)), held_out=2)
    fed = federation(part, "resnet18", batch_size=9, local_steps=1, execution=mode)  # one pixel is left at its end
    with pytest.raises(ValueError, match=r"Site C, round 1: .*use a larger `batch_size`"):
        ends("fedavg", fed)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("how", ["auto", "sequential", "vmap", "cuda_graph"])
@pytest.mark.parametrize("method", sorted(fedlab.METHODS))
def test_a_gpu_comes_to_the_same(method, how):
    asked = {**UNEQUAL, "momentum": 0.5, "weight_decay": 0.01, "precision": "float64"}
    here, there = (federation(device=device, execution=how, **asked) for device in ("cpu", "cuda"))
    expected = {name: parts(model)[0] for name, model in ends(method, here).items()}
    found = {name: parts(model)[0].to("cpu") for name, model in ends(method, there).items()}
    assert apart(expected, found) < 1e-9
