"""Devices: which GPU a run of a grid gets, tested without a second GPU, and which settings leave a GPU idle."""

import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from worlds import CNN, partition

import fedlab
from fedlab.engine.devices import Load, assign_gpus, device_name, find_device, idle_gpu, on_gpu, throughput
from fedlab.experiments.processes import PendingRun, _places, run_one
from fedlab.learning.settings import Training

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture
def two_gpus(monkeypatch) -> SimpleNamespace:
    """PyTorch with two GPUs, as far as the current one is concerned."""
    gpus = SimpleNamespace(current=0, emptied=[])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: gpus.current)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: setattr(gpus, "current", index))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: gpus.emptied.append(gpus.current))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Fake GPU {device.index or gpus.current}")
    return gpus


# -- which device --------------------------------------------------------------------------------------------------


def test_auto_is_a_gpu_where_there_is_one(two_gpus, monkeypatch):
    assert find_device("auto") == CUDA
    assert find_device("cuda:1") == torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == find_device("cpu") == CPU


def test_auto_never_chooses_an_apple_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device("auto") == CPU


def test_a_device_is_shown_by_its_name(two_gpus):
    assert [device_name(find_device(name)) for name in ("cpu", "cuda", "cuda:1")] == ["cpu", "Fake GPU 0", "Fake GPU 1"]


@pytest.mark.parametrize(
    ("rate", "text"), [(12345.6, "12,346 images/s"), (10, "10 images/s"), (0.52, "0.52 images/s"), (0, "0 images/s")]
)
def test_throughput_has_few_digits(rate, text):
    assert throughput(rate) == text


# -- placement -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "count", "gpus"),
    [
        (["auto"] * 5, 2, [0, 1, 0, 1, 0]),
        (["cuda"] * 3, 8, [0, 1, 2]),
        (["auto"] * 2, 1, [0, 0]),
        (["auto"] * 2, 0, [None, None]),
        (["cpu", "cuda", "cpu", "cuda"], 2, [None, 0, None, 1]),  # those on the CPU take no turn
        (["cuda:1", "auto", "cuda:1", "auto"], 2, [1, 0, 1, 1]),  # nor does one that names its GPU
        ([], 2, []),
    ],
)
def test_tasks_get_gpus_in_their_order(names, count, gpus):
    assert assign_gpus(names, count) == gpus


def test_a_reused_process_moves_to_the_gpu_of_its_next_task(two_gpus, tmp_path):
    """The current GPU and the run's device, in one process; memory is freed on the GPU that is left."""
    names, seen = ["auto", "cuda", "cpu", "cuda:1", "auto", "auto"], []
    gpus = assign_gpus(names, 2)
    before = torch.get_num_threads()

    def run(experiment: fedlab.Experiment, *given: object) -> None:
        device = find_device(experiment.device)
        seen.append(None if device == CPU else two_gpus.current if device.index is None else device.index)

    for name, gpu in zip(names, gpus, strict=True):
        task = PendingRun(fedlab.Experiment(device=name), None, tmp_path)
        run_one(run, task, gpu, [], before, None)
    assert seen == gpus == [0, 1, None, 1, 0, 1]
    assert two_gpus.emptied == [0, 1, 1, 0, 1]


def test_memory_is_freed_if_a_run_fails(two_gpus):
    with pytest.raises(RuntimeError, match="out of memory"), on_gpu(1):
        raise RuntimeError("out of memory")
    assert two_gpus.emptied == [1]


def test_a_run_on_the_cpu_leaves_cuda_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: pytest.fail("a GPU was taken"))
    with on_gpu(None):
        pass


@pytest.mark.parametrize(
    ("gpus", "words"), [([None], "cpu"), ([0, 0], "1 GPU"), ([0, 1, 0], "2 GPUs"), ([None, 3], "cpu and 1 GPU")]
)
def test_the_place_of_a_grid_in_words(gpus, words):
    assert _places(gpus) == words


def test_runs_in_lockstep_stay_on_the_current_gpu(two_gpus, tmp_path, monkeypatch):
    """Each run is in a thread, and the current GPU of a new thread is GPU 0."""
    two_gpus.current, seen = 1, []

    def begin(run, tasks, tell):
        two_gpus.current = 0
        run(tasks[0].experiment, tasks[0].partition, tasks[0].target, None)

    monkeypatch.setattr("fedlab.experiments.runner.run_in_lockstep", begin)
    monkeypatch.setattr("fedlab.experiments.runner._execute", lambda *given: seen.append(two_gpus.current))
    base = fedlab.Experiment(dataset="phantoms(cases=100)", execution="vmap", device="cuda")
    fedlab.grid(base, folder=tmp_path, seed=[0, 1])
    assert seen[0] == 1


# -- settings that leave a GPU idle --------------------------------------------------------------------------------

SMALL = Load(parameters=20_000, shape=(28, 28), batch=32, joint_batch=8 * 32, streamed=False)
LARGE = Load(parameters=11_000_000, shape=(224, 224), batch=64, joint_batch=8 * 64, streamed=False)


@pytest.mark.parametrize("load", [SMALL, LARGE])
def test_the_defaults_leave_no_gpu_idle(load):
    for changes in ({}, {"execution": "cuda_graph"}, {"precision": "bf16"}, {"batch_size": None}):
        assert idle_gpu(Training(**changes), CUDA, load) is None


IDLE = {
    "sequential": ({"execution": "sequential"}, SMALL, "execution='sequential'", "use execution='auto'"),
    "few": ({"batch_size": 4}, replace(SMALL, batch=4, joint_batch=16), "16 images of 28 x 28", "larger batch_size"),
    "double": ({"precision": "float64"}, LARGE, "precision='float64'", "use precision='float32' or 'bf16'"),
    "streamed": ({}, replace(LARGE, streamed=True), "read from disk", "use smaller images"),
}


@pytest.mark.parametrize("name", IDLE)
def test_a_setting_that_leaves_a_gpu_idle_is_named_with_a_remedy(name):
    changes, load, found, remedy = IDLE[name]
    message = idle_gpu(Training(**changes), CUDA, load)
    assert message is not None and found in message and remedy in message and ". " not in message
    assert idle_gpu(Training(**changes), torch.device("cuda:1"), load) == message
    assert idle_gpu(Training(**changes), CPU, load) is None


def test_several_settings_are_reported_in_one_sentence():
    settings = Training(execution="sequential", precision="float64", batch_size=2)
    message = idle_gpu(settings, CUDA, Load(2_000_000, (28, 28), 2, 4, True))
    assert message is not None and message.count("the GPU idles") == 1 and message.count(";") == 3


@pytest.mark.parametrize(
    ("changes", "load"),
    [
        ({"execution": "sequential"}, LARGE),  # a step's kernels take longer than launching them
        ({"batch_size": 1}, replace(LARGE, batch=1, joint_batch=4)),  # one image occupies it
        ({"batch_size": 2}, replace(SMALL, batch=2, joint_batch=128)),  # many sites may train as one model
        ({"batch_size": 2}, Load(2_000_000, (96, 96, 96), 2, 2, False)),
        ({"precision": "float64"}, SMALL),  # exact checks on small models
    ],
)
def test_uncertain_cases_are_not_reported(changes, load):
    assert idle_gpu(Training(**changes), CUDA, load) is None


def small_run(**changes) -> fedlab.Experiment:
    return fedlab.Experiment(model=CNN, rounds=1, local_steps=1, device="cpu", **changes)


def test_a_run_warns_once_and_a_finished_one_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr("fedlab.experiments.runner.idle_gpu", lambda *given: "the GPU idles")
    with pytest.warns(UserWarning, match="the GPU idles") as caught:
        fedlab.run(small_run(), partition(), folder=tmp_path)
    (one,) = [each for each in caught if "the GPU idles" in str(each.message)]
    assert one.filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fedlab.run(small_run(), partition(), folder=tmp_path)


@pytest.mark.parametrize("batch_size", [16, None])
def test_the_load_of_a_run_is_measured(batch_size, tmp_path, monkeypatch):
    found: list[Load] = []
    monkeypatch.setattr("fedlab.experiments.runner.idle_gpu", lambda settings, device, load: found.append(load))
    fedlab.run(small_run(batch_size=batch_size), partition((30, 20, 10)), folder=tmp_path / "resident")
    monkeypatch.setattr("fedlab.engine.device_dataset.MEMORY_SHARE", 0)
    fedlab.run(small_run(batch_size=batch_size), partition((30, 20, 10)), folder=tmp_path / "streamed")
    batches = [min(batch_size or cases, cases) for cases in (30, 20, 10)]
    assert [(load.batch, load.joint_batch) for load in found] == [(max(batches), sum(batches))] * 2
    assert [load.streamed for load in found] == [False, True]
    assert found[0].shape == (12, 12) and 0 < found[0].parameters < 100_000
