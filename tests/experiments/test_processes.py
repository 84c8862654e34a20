"""A grid on several processes is the same grid, and says what happens in them."""

import json
import os
import re
import textwrap
import time
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from cells import defined
from worlds import CNN, partition

import fedlab
from fedlab.experiments import run_folder
from fedlab.experiments.processes import PendingRun, Speed, followed, progress, run_in_processes, run_one
from fedlab.federation import DivergedError

pytestmark = pytest.mark.xdist_group("processes")  # the same processes serve all tests
BASE = {"dataset": "phantoms(cases=160)", "model": CNN, "rounds": 2, "batch_size": 16, "device": "cpu"}


@pytest.fixture
def base():
    return fedlab.Experiment(**BASE)


def test_processes_change_no_bit_and_their_warnings_are_emitted_here(base, tmp_path):
    base, axes = base.with_(momentum=0.9), {"method": ["scaffold", "cyclic"], "seed": [0]}
    plain_sgd = "momentum=0.9: its control variates assume plain SGD"
    with pytest.warns(UserWarning, match=plain_sgd):
        alone = fedlab.grid(base, folder=tmp_path / "alone", **axes)
    with pytest.warns(UserWarning, match=plain_sgd):
        spread = fedlab.grid(base, folder=tmp_path / "spread", workers=2, **axes)
    assert [run.folder.name for run in alone] == [run.folder.name for run in spread]
    for a, b in zip(alone, spread, strict=True):
        pd.testing.assert_frame_equal(a.predictions, b.predictions, check_exact=True)
        first, second = a.weights("global"), b.weights("global")
        assert all(torch.equal(first[name], second[name]) for name in first)
    before = [run.folder.stat().st_mtime_ns for run in spread]
    again = fedlab.grid(base, folder=tmp_path / "spread", workers=2, **axes)  # nothing is left to do
    assert [run.folder.stat().st_mtime_ns for run in again] == before


def test_a_given_partition_goes_to_every_process(base, tmp_path):
    part = partition()
    alone = fedlab.grid(base, partition=part, folder=tmp_path / "alone", seed=[0, 1])
    spread = fedlab.grid(base, partition=part, folder=tmp_path / "spread", workers=2, seed=[0, 1])
    for a, b in zip(alone, spread, strict=True):
        pd.testing.assert_frame_equal(a.predictions, b.predictions, check_exact=True)


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "two"])
def test_a_number_of_processes_is_wanted(base, workers, tmp_path):
    with pytest.raises(ValueError, match="give a number of processes, from 1 up"):
        fedlab.grid(base, folder=tmp_path, workers=workers, seed=[0])


def test_progress_counts_runs_and_rounds(base, tmp_path):
    tasks = [PendingRun(base, None, tmp_path / name) for name in ("done", "first", "waiting", "second")]
    (tmp_path / "done").mkdir()
    for name, lines in [("first", "1 of 4 runs done; rounds: fedavg 1/2"), ("second", "in 2 runs")]:
        (tmp_path / f"{name}.unfinished").mkdir()
        (tmp_path / f"{name}.unfinished" / "rounds.jsonl").write_text('[1, "a"]\n[1, "b"]\n', encoding="utf-8")
        assert progress(tasks).endswith(lines)


def store(target: Path, until: int, images: int = 100) -> None:
    """Rounds as an unfinished run stores them: two sites whose rows repeat their images, and a row of the round."""
    rows = [
        [r, "global", site, split, metric, 0.5, 8, 2, count, 0.1]
        for r in range(1, until + 1)
        for site, count, split, metric in (
            ("Site A", 3 * images, "train", "loss"),
            ("Site B", images, "train", "loss"),
            ("all sites", 0, "train", "client drift"),
            ("Site A", 3 * images, "val", "auroc"),
            ("Site B", images, "val", "auroc"),
        )
    ]
    work = run_folder.unfinished(target)
    work.mkdir(exist_ok=True)
    (work / "scratch").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (work / "scratch").replace(work / "rounds.jsonl")


def test_images_a_second_are_those_of_all_runs_since_the_first_round(base, tmp_path):
    tasks = [PendingRun(base, None, tmp_path / name) for name in ("one", "two")]
    speed = Speed(tasks)
    assert speed.measure(0.0) is None  # both are loading
    store(tasks[0].target, 1)
    assert speed.measure(50.0) is None
    store(tasks[0].target, 2)
    assert speed.measure(54.0) == pytest.approx(100)
    store(tasks[1].target, 4)
    assert speed.measure(60.0) == pytest.approx(5 * 400 / 10)


def test_images_of_a_finished_run_still_count(base, tmp_path):
    run = fedlab.run(base, folder=tmp_path)
    each = run.rounds[run.rounds["metric"] == "loss"]
    speed = Speed([PendingRun(base, None, run.folder), PendingRun(base, None, tmp_path / "other")])
    assert speed.measure(0.0) is None
    store(tmp_path / "other", 1)
    assert speed.measure(4.0) == pytest.approx(100)
    assert sum(speed._images.values()) == each["samples"].sum() + 400


def test_a_line_that_is_half_written_stops_nobody(base, tmp_path):
    task = PendingRun(base, None, tmp_path / "one")
    speed = Speed([task])
    store(task.target, 1)
    speed.measure(0.0)
    with (run_folder.unfinished(task.target) / "rounds.jsonl").open("a", encoding="utf-8") as file:
        file.write('[2, "global", "Site A", "train", "loss", 0.5, 8')
    assert speed.measure(4.0) is None
    store(task.target, 2)
    assert speed.measure(8.0) == pytest.approx(50)


def test_runs_that_are_followed_tell_of_their_speed_and_device(base, tmp_path, monkeypatch):
    monkeypatch.setattr("fedlab.experiments.processes.PAUSE", 0.01)
    task, lines = PendingRun(base, None, tmp_path / "one"), []
    line = r"0 of 1 runs done; [\d,]+ images/s on cpu; rounds: fedavg \d+/2"
    with followed([task], lines.append):
        for until in range(1, 1000):  # half a minute at most, for a machine that does other things
            store(task.target, until)
            time.sleep(0.03)
            if any(re.fullmatch(line, text) for text in lines):
                break
    assert lines[0].startswith("0 of 1 runs done; on cpu")
    assert any(re.fullmatch(line, text) for text in lines), lines
    with followed([task], lines.append, "2 GPUs"):
        time.sleep(0.1)
    assert "; on 2 GPUs; rounds: fedavg" in lines[-1]


def test_a_method_of_a_notebook_cell_reaches_the_processes(base, tmp_path, capsys):
    """What is defined where the user types is known to no other process by its name."""
    cell = """
        from fedlab.algorithms import algorithm
        from fedlab.federation import Round

        FACTOR = 0.5

        @algorithm
        def mine(fed):
            '''Half of the way to the mean.'''
            s = fed.memory(w=fed.start)
            for r in fed.rounds(s):
                mean = fed.merge(s.w, fed.gather(fed.fit(fed.broadcast(s.w), r)))
                s.w = mean.with_parameters(s.w.parameters + FACTOR * (mean.parameters - s.w.parameters))
                yield Round({"global": s.w})
    """
    defined(textwrap.dedent(cell))
    try:
        spread, alone = (
            fedlab.grid(base.with_(method="mine"), folder=tmp_path / name, seed=[0, 1], **how)
            for name, how in (("spread", {"workers": 2, "live": True}), ("alone", {}))
        )
    finally:
        fedlab.METHODS.remove("mine")
    assert "2 runs in" in capsys.readouterr().err
    for a, b in zip(alone, spread, strict=True):
        assert a.folder.name == b.folder.name
        pd.testing.assert_frame_equal(a.predictions, b.predictions, check_exact=True)


def test_no_process_is_started_for_what_is_finished(base, tmp_path, monkeypatch):
    fedlab.grid(base, folder=tmp_path, seed=[0])
    monkeypatch.setattr("fedlab.experiments.runner.run_in_processes", lambda *given: pytest.fail("started"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fedlab.grid(base, folder=tmp_path, workers=2, seed=[0])


@pytest.mark.parametrize(("set_by_user", "kept"), [(None, None), ("3", "3")])
def test_a_process_keeps_the_users_number_of_threads(set_by_user, kept, base, tmp_path, monkeypatch):
    """joblib sets OMP_NUM_THREADS for every process; a small model would take that for the user's word."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    seen, before = [], torch.get_num_threads()
    task = PendingRun(base, None, tmp_path)

    def run(*given: object) -> None:
        seen.append((os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()))

    try:
        run_one(run, task, None, [], 3, set_by_user)
    finally:
        torch.set_num_threads(before)
    assert seen == [(kept, 3)]


ON_GPUS = """
    import json, os, time
    import torch
    from fedlab.engine.devices import find_device

    class Run:
        def __reduce__(self):
            return prepared, ()

        def __call__(self, experiment, partition, target):
            time.sleep(0.1)
            found = [os.getpid(), torch.cuda.current, str(find_device(experiment.device))]
            target.with_suffix(".json").write_text(json.dumps(found), encoding="utf-8")

    def prepared():
        torch.cuda.is_available = lambda: True
        torch.cuda.device_count = lambda: 2
        torch.cuda.set_device = lambda index: setattr(torch.cuda, "current", index)
        return Run()

    mine = Run()
"""


def test_each_run_of_a_grid_is_on_its_gpu_in_processes_that_are_used_again(tmp_path, monkeypatch):
    """Real processes, with PyTorch's view of GPUs replaced in each before its first task."""
    monkeypatch.setattr("fedlab.experiments.processes._gpu_count", lambda: 2)
    names = ["auto", "cuda", "cuda:1", "auto", "auto", "auto"]
    tasks = [PendingRun(fedlab.Experiment(device=name), None, tmp_path / str(i)) for i, name in enumerate(names)]
    run_in_processes(defined(textwrap.dedent(ON_GPUS)), tasks, 2, None)
    found = [json.loads((tmp_path / f"{i}.json").read_text(encoding="utf-8")) for i in range(6)]
    assert [current for _, current, _ in found] == [0, 1, 1, 0, 1, 0]
    assert [device for *_, device in found] == ["cuda", "cuda", "cuda:1", "cuda", "cuda", "cuda"]
    assert len({process for process, *_ in found}) <= 2  # so that one at least had three tasks
    assert os.getpid() not in {process for process, *_ in found}


# -- at the end, since a failure ends the processes ------------------------------------------------------------------


def test_a_failure_names_its_run_and_loses_no_other(base, tmp_path):
    with pytest.raises(DivergedError, match="training diverged") as caught:
        fedlab.grid(base, folder=tmp_path, workers=2, lr=[0.05, 1e30])
    assert any("in the run of 'fedavg' with seed 0" in note for note in caught.value.__notes__)
    (run,) = fedlab.grid(base, folder=tmp_path, lr=[0.05])
    assert run.experiment.lr == 0.05
