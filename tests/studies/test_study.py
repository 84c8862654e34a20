"""A study is the runs that its fields describe, each once; stopped, resumed or run elsewhere it ends the same."""

import itertools
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

import fedlab
from fedlab.core.warnings import each_once, warn
from fedlab.experiments import runner
from fedlab.experiments.processes import PendingRun
from fedlab.studies import schedule
from fedlab.studies.__main__ import main

pytestmark = [
    pytest.mark.filterwarnings("ignore::fedlab.core.warnings.HeterogeneityWarning"),
    pytest.mark.xdist_group("studies"),  # a whole study serves most tests
]

BASE = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=1, splits="common")
FIELDS = {"prevalence": [0.0, 0.8], "acquisition": [0.0, 0.6], "method": ["local", "fedavg"], "seed": [0, 1]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study that was run without interruption."""
    study = fedlab.Study(BASE, folder=tmp_path_factory.mktemp("whole"), **FIELDS)
    study.run()
    return study


FEW = {"acquisition": [0.0, 0.6], "method": ["local", "fedavg"]}


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """The table of a study of four runs."""
    study = fedlab.Study(BASE, folder=tmp_path_factory.mktemp("few"), **FEW)
    study.run()
    return study.table(shift=False)


def test_the_runs_are_those_of_grids_of_one_axis_each_with_the_base_once(whole):
    crossed = {"method": FIELDS["method"], "seed": FIELDS["seed"]}
    grids = [{}, {"prevalence": [0.8]}, {"acquisition": [0.6]}]
    expected = [
        BASE.with_(**dict(zip({**axis, **crossed}, values, strict=True)))
        for axis in grids
        for values in itertools.product(*axis.values(), *crossed.values())
    ]
    assert whole.experiments == expected
    folders = {run.folder for axis in grids for run in fedlab.grid(BASE, folder=whole.folder, **axis, **crossed)}
    assert folders == {run.folder for run in whole.runs} and len(folders) == 12


def test_interrupted_and_resumed_it_ends_as_without_interruption(whole, tmp_path, monkeypatch):
    study, count, train = fedlab.Study(BASE, folder=tmp_path, **FIELDS), itertools.count(), schedule.grid

    def interrupted(*args, **kwargs):
        if next(count) in (1, 3):
            raise KeyboardInterrupt
        return train(*args, **kwargs)

    monkeypatch.setattr(schedule, "grid", interrupted)
    for done in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            study.run()
        assert (study.status()["state"] == "finished").sum() == done
    assert len(study.run()) == 12
    pd.testing.assert_frame_equal(study.table(shift=False), whole.table(shift=False))


class Elsewhere:
    """An executor that runs each task as soon as it is asked whether it is done."""

    def __init__(self, threads=1):
        self.threads, self.cancelled = threads, 0

    def nthreads(self):
        return {"worker": self.threads}

    def submit(self, function, *arguments, pure):
        assert pure is False
        task = type("Task", (), {})()
        task.result = lambda: function(*arguments)
        task.done = lambda: True
        task.cancel = lambda: setattr(self, "cancelled", self.cancelled + 1)
        return task


def test_an_executor_gives_the_same_table(few, tmp_path):
    study = fedlab.Study(BASE, folder=tmp_path, **FEW)
    study.run(client=Elsewhere())
    pd.testing.assert_frame_equal(study.table(shift=False), few)


def test_dask_gives_the_same_table(few, tmp_path):
    distributed = pytest.importorskip("distributed")
    study = fedlab.Study(BASE, folder=tmp_path, **FEW)
    options = {"processes": False, "n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.Client(**options) as client:
        study.run(client=client)
    pd.testing.assert_frame_equal(study.table(shift=False), few)


def test_workers_with_several_threads_are_refused(tmp_path):
    with pytest.raises(ValueError, match="threads_per_worker=1"):
        fedlab.Study(BASE, folder=tmp_path, **FIELDS).run(client=Elsewhere(threads=4))


def test_a_worker_that_writes_elsewhere_is_found_out(tmp_path, monkeypatch):
    elsewhere = Elsewhere()
    monkeypatch.setattr(schedule, "run_into", lambda *args: None)
    with pytest.raises(FileNotFoundError, match="all workers share"):
        fedlab.Study(BASE, folder=tmp_path, **FIELDS).run(client=elsewhere)
    assert elsewhere.cancelled == 11


def test_a_device_that_is_not_here_is_refused_before_the_first_run(tmp_path):
    study = fedlab.Study(BASE.with_(device="cuda:99"), folder=tmp_path, **FEW)
    with pytest.raises(ValueError, match="device='cuda:99', but PyTorch finds"):
        study.run()
    with pytest.raises(ValueError, match=r"no run of this study is finished: call run\(\) first"):
        study.table()
    with pytest.warns(UserWarning, match=r"4 of 4 runs failed: run 0 \(local, base\) and 3 more: ValueError: device"):
        study.run(client=Elsewhere())
    with pytest.raises(ValueError, match="is finished: 4 of 4 runs failed"):
        study.table()


@pytest.mark.parametrize("client", [None, Elsewhere()], ids=["here", "elsewhere"])
def test_a_failed_run_ends_no_other_is_named_and_tried_again(whole, tmp_path, monkeypatch, client):
    study, train = fedlab.Study(BASE, folder=tmp_path, **FIELDS), schedule.run_into

    def failing(experiment, partition, target):
        if experiment.acquisition and experiment.seed == 1:
            raise ArithmeticError("out of luck")
        train(experiment, partition, target)

    monkeypatch.setattr(schedule, "run_into", failing)
    monkeypatch.setattr(schedule, "grid", lambda *args, **kwargs: 1 / 0)
    with pytest.warns(
        UserWarning, match=r"2 of 12 runs failed: run 9 \(local, acquisition 0.6\) and 1 more: .*out of luck"
    ):
        assert len(study.run(client=client)) == 10
    status = study.status()
    assert status["state"].value_counts().to_dict() == {"finished": 10, "failed": 2}
    assert status.loc[status["state"] == "failed", "error"].tolist() == ["ArithmeticError: out of luck"] * 2
    with pytest.warns(UserWarning, match="2 of 12 runs are not finished"):
        study.table(shift=False)
    monkeypatch.undo()
    assert len(study.run()) == 12 and set(study.status()["state"]) == {"finished"}
    pd.testing.assert_frame_equal(study.table(shift=False), whole.table(shift=False))


def test_nothing_starts_before_every_dose_is_possible(tmp_path):
    study = fedlab.Study(BASE, folder=tmp_path, prevalence=[0.0, 0.8], sites=[2, 400], method=["local", "fedavg"])
    with pytest.raises(ValueError, match=r"sites=400, partition seed 0: .*no case to train on"):
        study.run()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": ["local", "fedavg"]}, "no axis has several doses"),
        ({"prevalance": [0, 1]}, "did you mean 'prevalence'"),
        ({"prevalence": [0, 0.5, 0.5]}, "lists 0.5 twice"),
        ({"prevalence": [0, 0.5], "seed": []}, "seed=.* has no value"),
        ({"prevalence": [0, 1.5]}, "prevalence is 1.5"),
        ({"prevalence": [0, 0.5], "method": ["local", "fedvag"]}, "did you mean 'fedavg'"),
        ({"prevalence": [0, 0.5], "rounds": [1, 2]}, "rounds"),
    ],
)
def test_what_cannot_be_a_study_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        fedlab.Study(BASE, **fields)


def test_what_is_written_is_read_again(tmp_path):
    doses = {"prevalence": [0.0, "dirichlet(0.3)"], "quantity": [[1, 2]], "population": np.array([0, 0.5])}
    study = fedlab.Study(BASE, folder=tmp_path, **doses, method=["fedavg", "fedprox(0.1)"], partition_seed=range(3))
    again = fedlab.Study.load(study.save(tmp_path / "new folder" / "study.yaml"), folder=tmp_path)
    assert again.experiments == study.experiments and repr(again) == repr(study)


def test_what_is_written_holds_whatever_else_is_the_default(tmp_path):
    study = fedlab.Study(BASE, prevalence=[0.0, 0.8])
    written = yaml.safe_load(study.save(tmp_path / "study.yaml").read_text(encoding="utf-8"))
    other = {
        "quantity": [0.0, 0.5],
        "annotation": 0.3,
        "method": ["local", "fedavg"],
        "batch_size": 7,
        "splits": "site",
    }
    assert fedlab.Study(**(other | written)).experiments == study.experiments


@pytest.mark.parametrize("text", ["- 1", "prevalence", "prevalence: [0", "1: 2"])
def test_a_file_that_is_no_study_is_refused_with_its_name(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.yaml is no"):
        fedlab.Study.load(tmp_path / "bad.yaml")


def test_the_jobs_of_an_array_are_the_runs_that_are_left(tmp_path, capsys):
    study = fedlab.Study(BASE, folder=tmp_path / "runs", prevalence=[0.0, 0.8], method=["local", "fedavg"])
    fedlab.run(study.experiments[1], folder=study.folder)
    lines = study.jobs(tmp_path / "jobs.txt").read_text(encoding="utf-8").splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["0", "2", "3"]
    for line in lines:
        _, _, _, file, _, folder, _, number = line.split(" ")
        main([file.strip('"'), "--folder", folder.strip('"'), "--run", number])
    assert len(study.runs) == 4 and study.jobs(tmp_path / "jobs.txt").read_text(encoding="utf-8") == ""
    main([str(tmp_path / "jobs.yaml"), "--folder", str(study.folder), "--status"])
    assert capsys.readouterr().out.splitlines()[-1].split() == ["finished", "4"]


@pytest.mark.parametrize(("arguments", "message"), [(["--run", "12"], "from 0 to 3"), (["no.yaml"], "no.yaml")])
def test_the_command_says_what_is_wrong_with_it(tmp_path, capsys, arguments, message):
    fields = {"prevalence": [0, 0.8], "method": ["local", "fedavg"]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")
    file = [] if arguments[0].endswith("yaml") else [str(tmp_path / "study.yaml")]
    with pytest.raises(SystemExit) as stopped:
        main([*file, *arguments])
    assert stopped.value.code == 2 and message in capsys.readouterr().err


class Lines:
    """An observer that keeps the lines that it receives."""

    def __init__(self):
        self.lines = []

    def tell(self, text):
        self.lines.append(text)

    conclude = tell

    def restart(self, rounds, title, device=""):
        raise AssertionError("a study shows lines only")

    def update(self, rounds_frame, round):
        raise AssertionError("a study shows lines only")

    def close(self):
        pass


def test_progress_counts_runs_and_says_how_long_the_others_take(tmp_path):
    live = Lines()
    fedlab.Study(BASE, folder=tmp_path, **FIELDS).run(live=live)
    first, *lines, last = live.lines
    assert first == "12 runs: making their federations" and last == "12 of 12 runs finished"
    done = [line.split(",")[0].split(";")[0] for line in lines]
    assert list(dict.fromkeys(done)) == [f"{count} of 12 runs done" for count in range(0, 13, 2)]
    assert all(" left" in line for line in lines if line[0] != "0" and not line.startswith("12"))
    assert any(line.startswith("0 of 12 runs done; ") for line in lines)


def test_a_run_of_a_study_shows_its_round_its_speed_and_what_is_left_of_all(monkeypatch, tmp_path):
    timer = SimpleNamespace(perf_counter=lambda: timer.now, now=0.0)
    monkeypatch.setattr(schedule, "time", timer)
    lines = []
    pending = [PendingRun(BASE.with_(rounds=10), None, tmp_path / name) for name in "abcd"]
    live = schedule.Rounds(schedule.Progress(pending, lines.append))
    live.restart(10, "fedavg on phantoms")
    for number in (1, 2, 3):
        timer.now += 4
        rows = {"round": range(1, number + 1), "site": "A", "samples": 40}
        live.update(pd.DataFrame(rows), number)
    assert lines[0] == "0 of 4 runs done; fedavg on phantoms: starting"
    assert lines[-1] == "0 of 4 runs done, about 2 min left; fedavg on phantoms: round 3 of 10, 10 images/s"


def test_an_interrupt_says_in_one_sentence_what_is_kept_and_shows_no_internals(tmp_path, monkeypatch):
    base = fedlab.Experiment(dataset="phantoms(cases=60, size=16)", sites=2, model="logistic", rounds=1)

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    study = fedlab.Study(base, folder=tmp_path, prevalence=[0.0, 0.8])
    fedlab.run(base, folder=tmp_path)
    monkeypatch.setattr(runner, "_train", stop)
    for call, kept in [
        (lambda: study.run(), "1 of 2 runs are finished"),
        (lambda: fedlab.grid(base, folder=tmp_path, seed=[0, 1]), "1 of 2 runs"),
        (lambda: fedlab.run(base.with_(seed=2), folder=tmp_path), "finished rounds are kept"),
    ]:
        with pytest.raises(KeyboardInterrupt) as stopped:  # a script ends, as after any Ctrl-C
            call()
        (text,) = stopped.value._render_traceback_()  # what a notebook shows
        assert kept in text and str(tmp_path) in text and "resumes" in text and "\n" not in text


def test_a_warning_is_shown_once_in_a_study():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with each_once():
            for _ in range(2):
                warn("the same")
                with warnings.catch_warnings():  # after this, Python forgets what it has shown
                    warn("the same")
                    warn("another")
                    warnings.warn("of somebody else", stacklevel=1)
        warn("the same")  # after the study it is shown again
    shown = [str(each.message) for each in caught]
    assert shown == ["the same", "another", "of somebody else", "of somebody else", "the same"]


def test_the_estimate_is_near_what_the_runs_take_and_leaves_nothing(tmp_path):
    study = fedlab.Study(BASE, folder=tmp_path, prevalence=[0.0, 0.8], method=["local", "fedavg"])
    assert study.estimate().startswith("4 runs, about ")
    assert not list(tmp_path.iterdir())
    study.run()
    assert study.estimate() == "no run is left"
