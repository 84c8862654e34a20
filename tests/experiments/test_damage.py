"""What is damaged is named with its file, the damage and what to do; never read as something else."""

import json
import shutil
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from interruptions import PowerCut

import fedlab
from fedlab.core.files import CHECKSUMS, DamagedError
from fedlab.experiments import run_folder
from fedlab.experiments.experiment import CODE
from fedlab.experiments.recorder import Recorder

QUICK = settings(max_examples=20, deadline=None, derandomize=True)
STORED = (*run_folder.FILES, CHECKSUMS)
LEFT = ("checkpoint.pt", "rounds.jsonl", "ledger.jsonl", "events.jsonl", "visits.jsonl")
PLACES = st.one_of(st.floats(0, 1, exclude_max=True), st.integers(-40, -1))  # a share of the file, or from its end
DAMAGE = st.one_of(
    st.tuples(st.just("flip"), PLACES, st.integers(1, 255)),
    st.tuples(st.just("cut"), PLACES, st.just(0)),
    st.tuples(st.just("swap"), st.integers(0, 20), st.just(0)),
    st.tuples(st.just("delete"), st.just(0), st.just(0)),
)


@pytest.fixture(scope="module")
def run(one, part, tmp_path_factory):
    return fedlab.run(one, part, folder=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def left(one, part, tmp_path_factory) -> Path:
    """A folder of runs with an unfinished one, killed after the first of two rounds."""
    folder, add = tmp_path_factory.mktemp("left"), Recorder.add

    def stops(self, outcome):
        add(self, outcome)
        raise PowerCut

    with pytest.MonkeyPatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(Recorder, "add", stops)
        fedlab.run(one, part, folder=folder)
    return folder


def spoil(path: Path, damage: tuple, others: list[Path]) -> None:
    kind, where, by = damage
    content = bytearray(path.read_bytes())
    place = int(where * len(content)) if isinstance(where, float) else max(where + len(content), 0)
    if kind == "flip" and content:
        content[place] ^= by
    elif kind == "cut":
        del content[place:]
    elif kind == "swap":
        content = bytearray(others[where % len(others)].read_bytes())
    path.unlink() if kind == "delete" else path.write_bytes(content)


def everything(folder: Path) -> list:
    """All that can be read of a run."""
    run = run_folder.read(folder)
    weights = [run.weights(model, choice) for model in run.models for choice in ("last", "best")]
    return [
        (run.experiment, run.method, run.task, run.classes, run.headline, run.unseen, repr(run)),
        [getattr(run, name) for name in ("partition_table", *run_folder.TABLES[1:])],
        [{name: tensor.numpy() for name, tensor in each.items()} for each in weights],
        run.trainable().numpy(),
    ]


def assert_equal(a, b) -> None:
    if isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_equal(one, other)
    elif isinstance(a, dict):
        assert_equal(list(a.items()), list(b.items()))
    elif isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b, check_exact=True)
    elif isinstance(a, np.ndarray):
        assert a.tobytes() == b.tobytes() and a.dtype == b.dtype
    else:
        assert a == b


@QUICK
@given(name=st.sampled_from(STORED), damage=DAMAGE)
def test_any_damage_to_a_finished_run_is_named_or_harmless(name, damage, run):
    path, expected = run.folder / name, everything(run.folder)
    before = path.read_bytes()
    try:
        spoil(path, damage, [run.folder / other for other in STORED])
        try:
            assert_equal(everything(run.folder), expected)
            assert name in (CHECKSUMS, "card.md", "environment.json") or path.read_bytes() == before
        except DamagedError as error:
            assert str(run.folder) in str(error) and (name in str(error) or name == CHECKSUMS)
            assert "run the experiment again" in str(error)
    finally:
        path.write_bytes(before)


@settings(QUICK, max_examples=10)
@given(name=st.sampled_from(LEFT), damage=DAMAGE)
def test_any_damage_to_an_unfinished_run_is_named_or_harmless(name, damage, left, one, part, run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged") / "runs"
    shutil.copytree(left, folder)
    (work,) = folder.glob("*.unfinished")
    spoil(work / name, damage, [work / other for other in LEFT])
    try:
        again = fedlab.run(one, part, folder=folder)
    except DamagedError as error:
        assert str(work) in str(error) and (name in str(error) or name == "checkpoint.pt")
        shutil.rmtree(work)  # the remedy
        again = fedlab.run(one, part, folder=folder)
    for table in ("predictions", "ledger", "events", "visits"):
        pd.testing.assert_frame_equal(getattr(again, table), getattr(run, table), check_exact=True)
    rounds, expected = (each.rounds.drop(columns="seconds") for each in (again, run))
    pd.testing.assert_frame_equal(rounds, expected, check_exact=True)
    assert all(torch.equal(again.weights()[key], tensor) for key, tensor in run.weights().items())


@pytest.mark.parametrize("name", LEFT[:3])
def test_a_changed_number_or_bit_of_an_unfinished_run_is_seen(name, left, one, part, tmp_path):
    shutil.copytree(left, tmp_path / "runs")
    (work,) = (tmp_path / "runs").glob("*.unfinished")
    content = bytearray((work / name).read_bytes())
    content[len(content) // 2] ^= 1
    (work / name).write_bytes(content)
    with pytest.raises(DamagedError, match=f"(?s){name}.* not those that were stored.*: remove it and run"):
        fedlab.run(one, part, folder=tmp_path / "runs")


def test_a_checkpoint_of_another_run_or_of_nothing_is_refused(left, one, part, tmp_path):
    for number, content in enumerate(({"run": "another"}, {}, [1], {"run": None, "written": 3})):
        folder = tmp_path / str(number)
        shutil.copytree(left, folder)
        (work,) = folder.glob("*.unfinished")
        torch.save(content, work / "checkpoint.pt")
        with pytest.raises(DamagedError, match=r"checkpoint.pt holds something else.*remove it and run"):
            fedlab.run(one, part, folder=folder)
    (work / "checkpoint.pt").unlink()
    (work / "checkpoint.pt").mkdir()
    with pytest.raises(DamagedError, match=r"checkpoint.pt.*remove it and run"):
        fedlab.run(one, part, folder=folder)


def test_listings_pass_over_damaged_runs_and_say_so_once(run, one, part, tmp_path):
    runs = tmp_path / "runs"
    good = fedlab.grid(one, partition=part, folder=runs, method=["fedavg", "local"])
    spoilt = {
        "rounds.parquet": b"x",
        "predictions.parquet": b"",
        "weights.safetensors": b"",
        "experiment.json": b"[]",
        "ledger.parquet": None,
    }
    for name, content in spoilt.items():
        other = runs / f"other-{name}"
        shutil.copytree(run.folder, other)
        (other / name).unlink() if content is None else (other / name).write_bytes(content)
    shutil.copytree(run.folder, runs / "without description")
    (runs / "without description" / "experiment.json").unlink()
    (runs / "no run").mkdir()
    for listed in (
        run_folder.find,
        lambda root: run_folder.like(one, root),
        lambda root: fedlab.widgets.runs(root).found,
    ):
        with pytest.warns(UserWarning, match="left out: ") as caught:
            assert [found.folder for found in listed(runs)] == sorted(each.folder for each in good)
        told = [str(each.message) for each in caught if "left out" in str(each.message)]
        assert len(told) == len(spoilt) + 1
        assert all(sum(f"other-{name}" in text and name in text for text in told) == 1 for name in spoilt)


def test_the_remedy_works_when_it_is_followed(one, part, tmp_path):
    first = fedlab.run(one, part, folder=tmp_path)
    expected = everything(first.folder)[2:]
    for name in ("experiment.json", None):
        if name:
            (first.folder / name).write_bytes(b"\xff\xfe")
        else:
            shutil.rmtree(first.folder)
            first.folder.mkdir()
        with pytest.raises(
            DamagedError, match=r"is damaged.*remove the folder .* and run the experiment again"
        ) as caught:
            fedlab.run(one, part, folder=tmp_path)
        assert str(first.folder) in str(caught.value)
        shutil.rmtree(first.folder)
        assert_equal(everything(fedlab.run(one, part, folder=tmp_path).folder)[2:], expected)


def test_a_folder_with_the_files_of_another_run_is_not_returned(one, part, tmp_path):
    first, second = fedlab.grid(one, partition=part, folder=tmp_path, seed=[0, 1])
    shutil.rmtree(first.folder)
    shutil.copytree(second.folder, first.folder)
    with pytest.raises(DamagedError, match="holds the files of another run"):
        fedlab.run(one, part, folder=tmp_path)


def test_folders_of_earlier_versions_without_checksums_are_read(run, tmp_path):
    shutil.copytree(run.folder, tmp_path / "old")
    (tmp_path / "old" / CHECKSUMS).unlink()
    assert_equal(everything(tmp_path / "old")[1:], everything(run.folder)[1:])
    assert len(run_folder.find(tmp_path)) == 1
    (tmp_path / "old" / "rounds.parquet").write_bytes(b"x")
    with pytest.raises(DamagedError, match=r"rounds.parquet is damaged \("):
        _ = run_folder.read(tmp_path / "old").rounds


def test_a_folder_that_vanishes_while_it_is_read_is_named(run, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "here")
    there = run_folder.read(folder)
    shutil.rmtree(folder)
    for read in (lambda: there.rounds, there.weights, lambda: there.models, lambda: there.predictions):
        with pytest.raises(DamagedError, match=f"{folder}/.* is missing"):
            read()


def test_a_folder_that_vanishes_while_its_run_trains_is_named(one, part, tmp_path, monkeypatch):
    add = Recorder.add

    def removed(self, outcome):
        shutil.rmtree(self.work)
        add(self, outcome)

    monkeypatch.setattr(Recorder, "add", removed)
    with pytest.raises(
        FileNotFoundError, match="unfinished was removed while its run trained: run the experiment again"
    ):
        fedlab.run(one, part, folder=tmp_path)


def test_a_function_of_ones_own_that_is_not_defined_here_is_left_out_whatever_field_names_it(run, tmp_path):
    """The experiment itself says what it may name; presentation and population may also name a column."""
    fields = set(CODE) & set(fedlab.Experiment.model_fields) - {"presentation", "population"}
    for field in fields:
        other = shutil.copytree(run.folder, tmp_path / field)
        about = json.loads((other / "experiment.json").read_text(encoding="utf-8"))
        about["experiment"][field] = "of_my_own(0.5)"
        (other / "experiment.json").write_text(json.dumps(about), encoding="utf-8")
        (other / CHECKSUMS).unlink()
    with pytest.warns(UserWarning, match="left out: .*of_my_own") as caught:
        assert run_folder.like(run.experiment, tmp_path) == []
    assert sum("left out" in str(each.message) for each in caught) == len(fields) > 10


def test_a_partition_folder_that_is_damaged_is_named(part, tmp_path):
    folder = part.save(tmp_path / "part")
    assert fedlab.Partition.load(folder, part.cases).fingerprint == part.fingerprint
    for name in ("partition.json", "partition.parquet"):
        path = folder / name
        before = path.read_bytes()
        for content in (before[:50], b"", b"[]", before.replace(b'"prevalence"', b'"prevalance"', 1)):
            if content != before:
                path.write_bytes(content)
                with pytest.raises(DamagedError, match=f"{name} is damaged"):
                    fedlab.Partition.load(folder, part.cases)
        path.unlink()
        with pytest.raises(FileNotFoundError, match=f"has no {name}"):
            fedlab.Partition.load(folder, part.cases)
        path.write_bytes(before)
    assert {path.name for path in folder.iterdir()} == {"partition.json", "partition.parquet"}
