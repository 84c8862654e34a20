"""A path has one form: however a folder is written, it is the same dataset, run folder and partition."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from worlds import cases

import fedlab
from fedlab.data.cases import Cases
from fedlab.experiments import run_folder, runner

TINY = {"sites": 2, "model": "logistic", "rounds": 1, "batch_size": 16, "device": "cpu"}
BEYOND_ASCII = ["größe 数据"] if sys.getfilesystemencoding() == "utf-8" else []
NAMES = ["mine", "my data", "-x", "a(b)", "x" * 240, "ends.", "a&b'c", *BEYOND_ASCII]
SPELLINGS = ["absolute", "slash", "dots", "relative", "dot", "tilde", "link", "bare"]


@pytest.fixture(scope="module")
def data():
    return cases(60)


@pytest.fixture(scope="module")
def world(data, tmp_path_factory) -> Path:
    """A home and working folder with datasets of all these names."""
    place = tmp_path_factory.mktemp("home").resolve()
    for name in NAMES:
        data.save(place / name)
    return place


@pytest.fixture(autouse=True)
def here(world, monkeypatch):
    monkeypatch.setenv("HOME", str(world))
    monkeypatch.setenv("USERPROFILE", str(world))
    monkeypatch.setenv("FEDLAB_DATA", str(world / "prepared"))
    monkeypatch.chdir(world)


def spelt(place: Path, name: str, how: str) -> str:
    link = place / f"link to {NAMES.index(name)}" if name in NAMES else place / "link to runs"
    if how == "link" and not link.is_symlink():
        link.symlink_to(place / name)
    return {
        "absolute": str(place / name),
        "slash": f"{place / name}/",
        "dots": f"{place}/../{place.name}//{name}/.",
        "relative": f"../{place.name}/{name}",
        "dot": f"./{name}",
        "tilde": f"~/{name}",
        "link": str(link),
        "bare": name,
    }[how]


def experiment(dataset: str, **changes) -> fedlab.Experiment:
    return fedlab.Experiment(**{**TINY, "dataset": dataset, **changes})


@settings(max_examples=15, deadline=None, derandomize=True)
@given(name=st.sampled_from(NAMES), how=st.sampled_from(SPELLINGS), runs=st.sampled_from(SPELLINGS))
def test_however_a_folder_is_written_it_is_one_dataset_and_one_run(name, how, runs, world):
    plain = experiment(str(world / name))
    one = experiment(spelt(world, name, how))
    assert one == plain
    part = runner._partition_of(one)
    (world / "runs").mkdir(exist_ok=True)
    target = runner._target(one, part, spelt(world, "runs", runs))
    assert target == runner._target(plain, part, world / "runs") and target.parent == world / "runs"
    assert len(run_folder.unfinished(target).name.encode()) <= 255


def test_spellings_share_one_run_and_are_compared(world, tmp_path, monkeypatch):
    folder = tmp_path / "runs"
    first = fedlab.run(experiment("./my data"), folder=folder)
    monkeypatch.setattr(runner, "_train", lambda *_: pytest.fail("trained again"))
    for how in SPELLINGS:
        assert fedlab.run(experiment(spelt(world, "my data", how)), folder=folder).folder == first.folder
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    second = fedlab.run(experiment(f"{world}/my data/", method="local"), folder=Path("runs"))
    assert len(fedlab.compare([first, second]))
    found = [run.folder for run in run_folder.like(experiment(str(world / "my data")), "./runs")]
    assert found == sorted([first.folder, second.folder])
    assert run_folder.read(os.path.relpath(first.folder)).folder == first.folder


def test_a_copy_of_the_data_elsewhere_is_the_same_dataset(world, tmp_path):
    shutil.copytree(world / "mine", tmp_path / "elsewhere")
    first, second = (
        fedlab.run(experiment(str(place)), folder=tmp_path / "runs")
        for place in (world / "mine", tmp_path / "elsewhere")
    )
    assert first.folder == second.folder


def test_the_folder_of_runs_may_be_written_in_any_way(world, monkeypatch):
    one = experiment("mine")
    run = fedlab.run(one, folder="~/of mine/my runs")
    assert run.folder.parent == world / "of mine" / "my runs" and not (world / "~").exists()
    monkeypatch.setenv("FEDLAB_RUNS", "~/of mine/my runs/")
    assert fedlab.run(one).folder == run.folder == fedlab.run(one, folder="of mine/my runs").folder
    assert [each.folder for each in run_folder.find("~/of mine/my runs")] == [run.folder]
    assert [each.folder for each in fedlab.widgets.runs("of mine/my runs").found] == [run.folder]


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("a file", "no run can be kept in .*a file.*: choose a folder that can be written to"),
        ("a file/below", "no run can be kept in .*below.*: choose a folder that can be written to"),
        ("y" * 300, "no run can be kept in .*too long"),
        ("", "'' is no path"),
        ("nul\0", "is no path"),
        (3, "folder is 3: give the path of a folder"),
        ("~nobody-of-this-name/x", "no path that can be followed"),
        *(
            []
            if BEYOND_ASCII
            else [("größe", "cannot be the name of a file in the encoding of this locale: set PYTHONUTF8=1")]
        ),
    ],
)
def test_a_folder_that_cannot_hold_runs_is_refused_before_training(folder, expected, world, monkeypatch):
    (world / "a file").write_text("", encoding="utf-8")
    monkeypatch.setattr(runner, "_train", lambda *_: pytest.fail("trained"))
    for call in (fedlab.run, fedlab.grid):
        with pytest.raises((OSError, ValueError), match=expected):
            call(experiment("mine"), folder=folder)


def test_a_folder_of_runs_without_leave_to_write_is_refused_before_training(world, tmp_path, monkeypatch):
    def denied(*_args, **_named):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(run_folder.tempfile, "TemporaryFile", denied)
    monkeypatch.setattr(runner, "_train", lambda *_: pytest.fail("trained"))
    with pytest.raises(PermissionError, match=r"no run can be kept in .* \(Permission denied\): choose a folder"):
        fedlab.run(experiment("mine"), folder=tmp_path)


def test_a_dataset_with_many_options_is_no_name_of_a_file():
    with pytest.raises(ValueError, match="unknown dataset 'nothing"):
        experiment(f"nothing({'x' * 300}=1)").make_partition()


def test_long_texts_of_a_method_are_cut_in_the_name_of_the_folder_and_told_apart_by_the_hash(tmp_path):
    long = "cyclic(mitigation=('iterations', 'sampling'), order='shuffled', recalibrate=True, optimizer='reset')"
    part = experiment("phantoms(cases=60)").make_partition()
    names = {
        runner._target(experiment("phantoms(cases=60)", method=long, seed=seed, model="logistic"), part, tmp_path).name
        for seed in (0, 1)
    }
    assert len(names) == 2 and all(len(name.encode()) < 245 for name in names)


def test_files_that_only_look_unchanged_are_read_again(data, tmp_path, monkeypatch):
    """Another working folder, a copy in its place, and an edit: all of the same size and with the same times."""
    changed = Cases(data.images, data.table.assign(label=1 - data.labels), data.card)
    data.save(tmp_path / "a" / "data")
    changed.save(tmp_path / "b" / "data")

    def old(folder: Path) -> None:
        for path in folder.iterdir():
            os.utime(path, (1e9, 1e9))

    def labels() -> list[int]:
        old(Path("data"))
        return runner._partition_of(experiment("./data")).cases.labels.tolist()

    monkeypatch.chdir(tmp_path / "a")
    assert labels() == data.labels.tolist()
    monkeypatch.chdir(tmp_path / "b")
    assert labels() == changed.labels.tolist()
    for path in (tmp_path / "a" / "data").iterdir():
        shutil.copyfile(path, tmp_path / "b" / "data" / path.name)  # into the same files
    assert labels() == data.labels.tolist()
    shutil.rmtree("data")
    changed.save(Path("data"))
    assert labels() == changed.labels.tolist()


def test_a_run_with_letters_beyond_ascii_is_finished_in_a_locale_without_utf_8(tmp_path):
    """Classes, a source and a dataset folder with such letters, whose name is given as the shell gives it."""
    script = """
        import sys
        import fedlab
        from fedlab.data.cases import Cases
        from worlds import cases

        data = cases(60)
        card = {**data.card, "classes": ["gesund", "\\u00d6dem"], "source": "Universit\\u00e4t \\u6570"}
        Cases(data.images, data.table, card).save("daten")
        one = fedlab.Experiment(dataset=sys.argv[1], sites=2, model="logistic", rounds=1, device="cpu")
        for given in (one, one.with_(dataset="daten")):
            run = fedlab.run(given, folder="runs")
            again = fedlab.run(given, folder="runs")
            part = given.make_partition()
            loaded = fedlab.Partition.load(part.save("part"), part.cases)
            assert run.classes == card["classes"] and again.folder == run.folder == fedlab.runs.find("runs")[-1].folder
            assert loaded.fingerprint == part.fingerprint
            assert run.experiment.dataset == given.dataset
        print(sys.getfilesystemencoding(), ascii(run.folder.name))
    """
    tests = Path(__file__).parents[1]
    link = os.fsdecode("größe".encode())  # as a file system in UTF-8 gives it in any locale
    (tmp_path / link).symlink_to(tmp_path / "daten")
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment["PYTHONPATH"] = f"{tests.parent}{os.pathsep}{tests}"
    command = [sys.executable, "-c", textwrap.dedent(script), f"./{link}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    (run,) = run_folder.find(tmp_path / "runs")
    assert re.search("Ödem", (run.folder / "experiment.json").read_text(encoding="utf-8"))
    assert "Universität 数" in (run.folder / "card.md").read_text(encoding="utf-8")
