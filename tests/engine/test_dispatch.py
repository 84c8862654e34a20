"""Results do not depend on how sites are trained: sequentially, on several cores or streams, by vmap or CUDA graphs."""

import json
import time
from contextlib import contextmanager
from functools import cache

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
from fedlab.engine.lockstep import lockstep, mean_group_size
from fedlab.engine.loop import SequentialEngine
from fedlab.engine.streaming_mean import StreamingMean
from fedlab.engine.vmap import ModelStack
from fedlab.federation import Federation, server
from fedlab.learning.models import MODELS

UNEQUAL = {"rounds": 2, "local_steps": None, "batch_size": 12}  # sites of 24, 40, 16 and 8 cases
USUAL = {**UNEQUAL, "momentum": 0.5, "weight_decay": 0.01, "precision": "float64"}
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}
WITHOUT = {  # mode -> methods that cannot use it: their sites take turns, or their steps run the method's own code
    "vmap": {"centralized", "cyclic", "single_pass", "split", "splitfed"},
    "cuda_graph": {"apfl", "fedsam", "moon", "pfedme", "split", "splitfed"},
}
CAPTURE_ON = cuda_graph.capture_on  # of a GPU
MODES = [(mode, method) for mode in WITHOUT for method in sorted(fedlab.METHODS)]


def with_workers(fed, count):
    """The same federation whose sites train on so many cores in parallel."""
    fed.execution.pool.count = count
    return fed


@cache
def sequential(method, changes):
    """(models, bytes, samples) of a method whose sites train one after another; for the settings as sorted items."""
    fed = federation(execution="sequential", **dict(changes))
    models = ends(method, fed)
    assert fed.execution.used <= {"sequential"}
    return models, *crossed(fed)


def reference(method, **settings):
    return sequential(method, tuple(sorted(settings.items())))


def crossed(fed):
    """What crossed between sites, and how many cases each site trained on."""
    return fed.ledger.rows, {site: cost.samples for site, cost in fed.round_log.costs.items()}


def parts(model):
    return [model.models] if hasattr(model, "models") else [model]


def same_bits(a, b):
    """Whether two outcomes have the same models, bit for bit."""
    pairs = [pair for name in a for pair in zip(parts(a[name]), parts(b[name]), strict=True)]
    equal = [torch.equal(one.vector, other.vector) and torch.equal(one.counts, other.counts) for one, other in pairs]
    return a.keys() == b.keys() and all(equal)


def apart(a, b):
    """The largest difference between two outcomes, relative to the largest coordinate."""
    pairs = [pair for name in a for pair in zip(parts(a[name]), parts(b[name]), strict=True)]
    assert a.keys() == b.keys() and all(torch.equal(one.counts, other.counts) for one, other in pairs)
    distances = [
        (float((one.vector - other.vector).abs().max()), float(one.vector.abs().max())) for one, other in pairs
    ]
    return max(distance / (size or 1) for distance, size in distances)


@pytest.fixture(autouse=True)
def captures_on_a_cpu(monkeypatch):
    """CUDA graphs as `recordings` has them, since there is no GPU."""
    monkeypatch.setattr(cuda_graph, "capture_on", recordings.capture_on)


# -- cores and streams ---------------------------------------------------------------------------------------------


@pytest.mark.every_method
@pytest.mark.parametrize("method", sorted(fedlab.METHODS))
def test_the_number_of_cores_changes_no_bit(method):
    fed = with_workers(federation(execution="sequential", **USUAL), 3)
    models, ledger, samples = reference(method, **USUAL)
    assert same_bits(models, ends(method, fed)) and (ledger, samples) == crossed(fed)
    parallel = method not in WITHOUT["vmap"]  # whose sites take turns
    assert (len(fed.execution.pool.engines) == 3) is parallel


class FakeStream:
    """Instead of `torch.cuda.Stream`: records what it waits for."""

    current = None

    def __init__(self):
        self.waited = []

    def wait_stream(self, other):
        self.waited.append(other)


@pytest.fixture
def caller(monkeypatch):
    """CUDA streams on a CPU; the caller's stream."""
    FakeStream.current = stream = FakeStream()

    @contextmanager
    def entered(stream):
        before, FakeStream.current = FakeStream.current, stream
        yield
        FakeStream.current = before

    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: FakeStream.current)
    return stream


@pytest.mark.parametrize("limit", [server.STACK_BYTES, 0], ids=["in memory", "streaming mean"])
@pytest.mark.parametrize("method", ["fedavg", "scaffold", "afl", "fedbn", "split"])
def test_streams_change_no_bit(method, limit, caller, monkeypatch):
    monkeypatch.setattr(server, "STACK_BYTES", limit)
    alone, many = federation(local_steps=None), federation(local_steps=None)
    many.execution.pool = StreamPool(many.execution.engine, many.execution.pool.make_engine, 3)
    where, train, add = {}, SequentialEngine.train, StreamingMean.add
    monkeypatch.setattr(
        SequentialEngine,
        "train",
        lambda engine, job: where.update({id(engine): FakeStream.current}) or train(engine, job),
    )
    monkeypatch.setattr(StreamingMean, "add", lambda *given: add(*given) or where.update(merged=FakeStream.current))
    found = ends(method, many)
    used = [stream for key, stream in where.items() if key != "merged"]
    assert same_bits(ends(method, alone), found)
    if method != "split":  # its sites take turns
        assert len(set(used)) == len(used) == 3  # an engine and a stream each
        assert all(caller in stream.waited and stream in caller.waited for stream in used)  # in both directions
        assert where.get("merged", caller) is caller


def test_streams_get_equal_work(caller):
    fed = federation()
    pool = StreamPool(fed.execution.engine, fed.execution.pool.make_engine, 2)
    queued = {}
    steps = [8, 7, 3, 3, 3]
    found = pool.map(lambda engine, i: queued.setdefault(id(engine), []).append(steps[i]) or i, range(5), steps)
    assert found == list(range(5)) and sorted(sum(each) for each in queued.values()) == [11, 13]


def test_a_failure_on_a_stream_is_raised_after_all_streams_are_joined(caller):
    fed = federation()
    pool = StreamPool(fed.execution.engine, fed.execution.pool.make_engine, 2)

    def breaks(engine, i):
        raise ValueError("no good")

    with pytest.raises(ValueError, match="no good"):
        pool.map(breaks, range(3), [1, 1, 1])
    assert len(pool._streams) == 2 and set(pool._streams) <= set(caller.waited)


def test_a_site_that_fails_stops_the_others(monkeypatch):
    fed = with_workers(federation(rounds=1, local_steps=400), 2)
    begun, step = [], SequentialEngine._step

    def breaks(engine, images, targets, rows, local_task, moments):
        begun.append(local_task)
        if local_task.batches.site == "Site B" and len(begun) > 4:
            raise ValueError("no good")
        return step(engine, images, targets, rows, local_task, moments)

    monkeypatch.setattr(SequentialEngine, "_step", breaks)
    with pytest.raises(ValueError, match="Site B, round 1: no good"):
        ends("fedavg", fed)
    assert len(begun) < 400 and not any(engine.stopped for engine in fed.execution.pool.engines)


def test_an_interrupt_stops_all_sites_at_their_next_step(monkeypatch):
    fed = with_workers(federation(rounds=1, local_steps=10_000), 2)
    begun, step, wait = [], SequentialEngine._step, thread_pool.wait

    def counted(*given):
        begun.append(1)
        return step(*given)

    def interrupted(futures, **how):
        if how:  # the wait for all of them, which a user interrupts
            while len(begun) < 6:
                time.sleep(0.01)
            raise KeyboardInterrupt
        return wait(futures)

    monkeypatch.setattr(SequentialEngine, "_step", counted)
    monkeypatch.setattr(thread_pool, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ends("fedavg", fed)
    ended = len(begun)
    time.sleep(0.1)
    assert len(begun) == ended < 1000 and not any(engine.stopped for engine in fed.execution.pool.engines)


# -- modes ---------------------------------------------------------------------------------------------------------


@pytest.mark.every_method
@pytest.mark.parametrize(("mode", "method"), [cell for cell in MODES if cell[1] not in WITHOUT[cell[0]]])
def test_every_mode_equals_sequential_training(mode, method):
    fed = federation(execution=mode, **USUAL)
    models, ledger, samples = reference(method, **USUAL)
    assert apart(models, ends(method, fed)) < TOLERANCE["float64"]
    assert (ledger, samples) == crossed(fed) and mode in fed.execution.used


@pytest.mark.parametrize(("mode", "method"), [cell for cell in MODES if cell[1] in WITHOUT[cell[0]]])
def test_methods_that_cannot_use_a_mode_train_sequentially(mode, method):
    fed = federation(execution=mode, rounds=1, local_steps=1)
    ends(method, fed)
    assert fed.execution.used <= {"sequential"} and fed.execution.fallback()


@pytest.mark.parametrize("mode", WITHOUT)
@pytest.mark.parametrize("method", ["fedavg", "scaffold", "fedrep(head_epochs=1)"])
def test_modes_agree_to_rounding_in_float32(method, mode):
    settings = {**USUAL, "precision": "float32"}
    fed = federation(execution=mode, **settings)
    distance = apart(reference(method, **settings)[0], ends(method, fed))
    assert distance < TOLERANCE["float32"] and fed.execution.used == {mode}


SETTINGS = [
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
]
CORRECTIONS = {  # mode -> a method without corrections, and one for each kind of correction that the mode has
    "vmap": ["fedavg", "fedrep(head_epochs=1)", "moon", "apfl"],  # frozen, term, rule
    "cuda_graph": ["fedavg", "fedrep(head_epochs=1)", "cyclic(mitigation='loss')"],  # frozen, case weights
}


@pytest.mark.parametrize(
    ("mode", "method", "changes"),
    [  # every setting in every mode, with its methods in turn
        (mode, methods[number % len(methods)], changes)
        for mode, methods in CORRECTIONS.items()
        for number, changes in enumerate(SETTINGS)
    ],
    ids=repr,
)
def test_every_setting_has_the_same_effect_in_every_mode(mode, method, changes):
    settings = {**UNEQUAL, "precision": "float64", "lr": 0.01, **changes}
    fed = federation(execution=mode, **settings)
    assert apart(reference(method, **settings)[0], ends(method, fed)) < TOLERANCE["float64"]
    assert mode in fed.execution.used


@pytest.mark.parametrize("mode", WITHOUT)
@pytest.mark.parametrize(("model", "shape"), [("narrow_resnet", (3, 12, 12)), (CNN, (3, 12, 12)), (CNN, (1, 8, 8, 8))])
def test_every_mode_trains_on_every_kind_of_image(model, shape, mode):
    part = partition((5, 3, 5), data=cases(8 * 3 + 3 * 13, shape, classes=3), held_out=8)
    settings = {"model": model, "rounds": 1, "batch_size": 4, "local_steps": 2, "precision": "float64", "lr": 0.01}
    one, other = (federation(part, execution=how, **settings) for how in ("sequential", mode))
    assert apart(ends("fedavg", one), ends("fedavg", other)) < TOLERANCE["float64"]
    assert other.execution.used == {mode}


@given(st.lists(st.tuples(st.integers(2, 40), st.integers(0, 9)), min_size=1, max_size=7), st.integers(2, 12))
def test_in_lockstep_every_site_sees_its_batches_in_order(sites, size):
    tasks = [
        LocalTask(batches=Batches(str(i), np.arange(n) + 100 * i, size, 0), first=i, steps=steps, lr=0.1)
        for i, (n, steps) in enumerate(sites)
    ]
    seen = [[] for _ in tasks]
    for members, batches in lockstep(tasks):
        assert len({len(batch) for batch in batches}) == 1 and members == sorted(set(members))
        for i, batch in zip(members, batches, strict=True):
            seen[i].append(batch.tolist())
    for task, found in zip(tasks, seen, strict=True):
        assert found == [task.batches.at(step).tolist() for step in range(task.first, task.first + task.steps)]


def test_equal_sites_take_every_step_together():
    tasks = [LocalTask(batches=Batches(str(k), np.arange(50), 32, 0), first=0, steps=4, lr=0.1) for k in range(9)]
    assert [len(members) for members, _ in lockstep(tasks)] == [9, 9, 9, 9] and mean_group_size(tasks) == 9


@pytest.mark.parametrize(
    ("sizes", "model", "mode"),
    [
        ((20,) * 8, "logistic", "vmap"),
        ((20,) * 4, "logistic", "sequential"),
        (tuple(range(9, 17)), "logistic", "sequential"),  # full batches of eight sizes: no two sites step together
        ((20,) * 8, CNN, "sequential"),
    ],
)
def test_auto_chooses_the_faster_mode(sizes, model, mode):
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


@pytest.mark.parametrize(
    ("modes", "method"),
    [
        (("sequential", "vmap"), "ditto"),
        (("vmap", "cuda_graph"), "scaffold"),
        (("cuda_graph", "sequential"), "fedavg"),
    ],
    ids=str,
)
def test_a_run_resumes_in_another_mode(method, modes, tmp_path, monkeypatch):  # O53
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
    p, q = (run.predictions[["p0", "p1"]].to_numpy() for run in (whole, resumed))
    assert np.abs(p - q).max() < 1e-9
    assert [modes_of(run) for run in (whole, resumed)] == [[modes[0]], sorted(modes)]


def modes_of(run):
    """The modes in which a run's sites were trained, as its folder says."""
    return json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))["execution"]


def interrupting(call, after):
    """The call, interrupted at its `after`-th time."""
    calls = []

    def wrapped(*args, **arguments):
        calls.append(1)
        if len(calls) == after:
            raise KeyboardInterrupt
        return call(*args, **arguments)

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
def test_a_mode_that_cannot_be_used_is_reported_and_the_run_finishes(mode, method, model, why, tmp_path, monkeypatch):
    if mode == "without a GPU":
        monkeypatch.setattr(cuda_graph, "capture_on", lambda device: None)
    mode = "cuda_graph" if mode.endswith("GPU") else mode

    def dropping(shape, outputs):
        layers = nn.Flatten(), nn.Dropout(0.5), nn.Linear(int(np.prod(shape)), outputs)
        return nn.Sequential(*layers)

    monkeypatch.setattr(MODELS, "_functions", {**MODELS._functions, "dropping": dropping})
    changes = {"rounds": 1, "model": model}
    experiment = fedlab.Experiment(**{**EXPERIMENT, **changes}, method=method, execution=mode)
    with pytest.warns(UserWarning, match=f"execution='{mode}' cannot be used by {method!r}: {why}"):
        run = fedlab.run(experiment, folder=tmp_path)
    assert modes_of(run) == (["sequential"] if method != "split" else [])


# -- vmap ----------------------------------------------------------------------------------------------------------


def test_a_stack_that_does_not_fit_is_halved(monkeypatch):
    fed = federation(execution="vmap", **USUAL)
    sizes, begin = [], ModelStack.__init__

    def fits_two(stack, engine, model, jobs):
        sizes.append(len(jobs))
        if len(jobs) > 2:
            raise torch.OutOfMemoryError("no")
        begin(stack, engine, model, jobs)

    monkeypatch.setattr(ModelStack, "__init__", fits_two)
    with pytest.warns(UserWarning, match="a stack of 4 sites does not fit into the device's memory: 2 at a time"):
        found = ends("fedavg", fed)
    assert sizes == [4, 2, 2, 2, 2] and fed.execution.used == {"vmap"}
    assert apart(reference("fedavg", **USUAL)[0], found) < TOLERANCE["float64"]


def test_the_memory_of_a_stack_is_free_before_smaller_ones_are_tried(monkeypatch):
    import weakref

    begun, alive, step, begin = [], [], ModelStack.step, ModelStack.__init__

    def counted(stack, engine, model, jobs):
        alive.append(sum(other() is not None for other in begun))
        begun.append(weakref.ref(stack))
        begin(stack, engine, model, jobs)

    def fits_two(stack, members, batches):
        step(stack, members, batches)
        if len(stack.jobs) > 2:
            raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(ModelStack, "__init__", counted)
    monkeypatch.setattr(ModelStack, "step", fits_two)
    with pytest.warns(UserWarning, match="2 at a time"):
        ends("fedavg", federation(execution="vmap", rounds=1))
    assert alive == [0, 0, 0]


def test_one_site_that_does_not_fit_says_what_to_do(monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(ModelStack, "__init__", full)
    with pytest.warns(UserWarning), pytest.raises(torch.OutOfMemoryError, match="use a smaller batch_size or model"):
        ends("fedavg", federation(execution="vmap"))


def test_models_predict_in_one_batch_as_each_alone():
    """Models with equally many cases, with other numbers, with none, and with more than an evaluation batch."""
    fed = federation(partition((300, 300, 20, 20)), execution="vmap", precision="float64", local_steps=1)
    models = ends("local", fed)["local"]
    index = [site.batches.index for site in fed.sites]
    requests = [*((models[k], index[k]) for k in range(4)), (models[0], index[1]), (models[0], index[0][:0])]
    assert fed.execution.vmap_possible
    for (model, cases_), found in zip(requests, fed.predictor.predict(requests), strict=True):
        assert found.shape == (len(cases_), 2)
        np.testing.assert_allclose(found, fed.predict(model, cases_), rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["sequential", "vmap"])
def test_the_error_about_a_batch_of_one_case_names_its_site(mode):
    part = partition((9, 8, 1), data=cases(18 + 3 * 4, (1, 2, 2)), held_out=2)
    fed = federation(part, "narrow_resnet", batch_size=9, local_steps=1, execution=mode)  # one pixel is left at its end
    with pytest.raises(ValueError, match=r"Site C, round 1: .*use a larger `batch_size`"):
        ends("fedavg", fed)
    assert fed.execution.vmap_possible is (mode == "vmap")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mode", ["auto", "sequential", "vmap", "cuda_graph"])
def test_a_gpu_equals_the_cpu(mode, monkeypatch):
    """One method of the matrix in tests/gpu.py, which has all of them."""
    expected = reference("scaffold", **USUAL)[0]
    monkeypatch.setattr(cuda_graph, "capture_on", CAPTURE_ON)
    fed = federation(device="cuda", execution=mode, **USUAL)
    found = {name: parts(model)[0].to("cpu") for name, model in ends("scaffold", fed).items()}
    assert apart(expected, found) < 1e-9
    assert mode in ("auto", *fed.execution.used)
