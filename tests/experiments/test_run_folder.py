"""Run folders: whole or not at all, resumed bit for bit, never overwritten, never misread."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cells import defined
from interruptions import PowerCut, interrupt
from worlds import CNN, cases, partition

import fedlab
from fedlab.algorithms import METHODS, algorithm
from fedlab.core import files
from fedlab.core.weights import weighted_mean
from fedlab.engine.loop import SequentialEngine
from fedlab.experiments import checkpoint, run_folder, runner
from fedlab.federation import Round, aggregation

pytestmark = pytest.mark.filterwarnings("ignore:scaffold with momentum")
KNOBS = {"model": CNN, "rounds": 3, "local_steps": 2, "batch_size": 8, "momentum": 0.9, "device": "cpu"}


def experiment(**changes) -> fedlab.Experiment:
    return fedlab.Experiment(**{**KNOBS, **changes})


@pytest.fixture(scope="module")
def part():
    return partition()


def assert_same_run(a: run_folder.Run, b: run_folder.Run) -> None:
    """Weights, rounds and predictions bit for bit; only seconds may differ."""
    for name in ("predictions", "ledger", "events", "visits"):
        pd.testing.assert_frame_equal(getattr(a, name), getattr(b, name), check_exact=True)
    seconds = ["seconds"]
    pd.testing.assert_frame_equal(a.rounds.drop(columns=seconds), b.rounds.drop(columns=seconds), check_exact=True)
    for choice in ("last", "best"):
        ensemble = a.method.startswith("ensemble")  # its members are the sites' models
        for model in a.partition_table["site"].unique() if ensemble else a.predictions["model"].unique():
            first, second = a.weights(model, choice), b.weights(model, choice)
            assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def assert_resumes(one: fedlab.Experiment, part, tmp_path, monkeypatch, after: int) -> None:
    """The run that was cut off in the middle of a round ends as the one that was not."""
    whole = fedlab.run(one, part, folder=tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        interrupt(patch, after)
        fedlab.run(one, part, folder=tmp_path / "cut")
    assert not list((tmp_path / "cut").glob("*/experiment.json"))
    assert list((tmp_path / "cut").glob("*.unfinished/checkpoint.pt"))
    assert_same_run(fedlab.run(one, part, folder=tmp_path / "cut"), whole)


def test_tables_are_the_files_that_pandas_writes(part, tmp_path):
    """Six tables, some of them without a row; seconds are read from the file, which alone has them."""
    run = fedlab.run(experiment(rounds=1), part, folder=tmp_path)
    for name in run_folder.TABLES:
        stored = run.folder / f"{name}.parquet"
        frame = pd.read_parquet(stored)
        rebuilt = frame if len(frame) else frame.astype(object)  # a table without a row has no types
        rebuilt.to_parquet(tmp_path / "again.parquet", index=False)
        assert stored.read_bytes() == (tmp_path / "again.parquet").read_bytes(), name


CUT = {"centralized": 3}  # trainings at a site after which the power goes; some are of the second round or later
LONG = ("scaffold(option=1)", "split(turns='batch')", "swarm(sync=1)")


VARIANTS = [
    *("scaffold(option=1)", "feddyn(release='all')", "fedadam(bias_correction=True)", "cyclic(recalibrate=True)"),
    *("cyclic(mitigation=('iterations', 'sampling'), order='shuffled')", "cyclic(optimizer='reset')"),
    *("split(tail=1)", "split(handover='server')", "split(handover='none')", "split(turns='batch')"),
    *("splitfed(version=2, optimizer='keep')", "splitfed(version=3)", "swarm(sync=1)", "swarm(merge='median')"),
    *("swarm(leader_failure=0.3)", "gossip('matching', optimizer='keep')", "single_pass(optimizer='reset')"),
]


@pytest.mark.every_method
@pytest.mark.parametrize("method", VARIANTS)
def test_variants_resume_bit_for_bit(method, part, tmp_path, monkeypatch):  # O53
    assert_resumes(experiment(method=method), part, tmp_path, monkeypatch, 11 if method in LONG else 7)


FAULTS = {
    "availability": 0.8,
    "stragglers": 0.3,
    "failures": 0.1,
    "participation": "sample(0.9)",
    "rounds": 4,
    "seed": 3,
}


@pytest.mark.every_method
@pytest.mark.parametrize("method", METHODS)
def test_runs_with_faults_resume_bit_for_bit(method, part, tmp_path, monkeypatch):  # O53
    """Every method, with absences, partial work and failures: also what sites keep while they are away."""
    changes = FAULTS | {"momentum": 0.0, "optimizer": "adam", "lr": 0.01, "batchnorm": "fedbn"}
    assert_resumes(experiment(method=method, **changes), part, tmp_path, monkeypatch, CUT.get(method, 9))


@pytest.mark.parametrize(
    "changes",
    [{"local_optimizer": "keep"}, {"local_optimizer": "share"}, {"aggregate": "geomedian"}, {"attack": "gaussian"},
     {"secure_sum": True}, {"watch_visits": True, "method": "cyclic"}, {"participation": "unbiased(0.5)"}],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_settings_resume_bit_for_bit(changes, part, tmp_path, monkeypatch):  # O53
    assert_resumes(experiment(**changes), part, tmp_path, monkeypatch, 5 if "participation" in changes else 6)


@pytest.mark.parametrize("policy", ["pooled", "fedbn"])
@pytest.mark.parametrize("method", ["fedavg", "cyclic"])
def test_what_stays_at_sites_resumes_too(policy, method, part, tmp_path, monkeypatch):  # O53
    one = experiment(method=method, batchnorm=policy, optimizer="adam", momentum=0.0, lr=0.01)
    whole = fedlab.run(one, part, folder=tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        interrupt(patch, after=7)
        fedlab.run(one, part, folder=tmp_path / "cut")
    assert_same_run(fedlab.run(one, part, folder=tmp_path / "cut"), whole)


CHILD = """
    import os, signal, sys
    import torch
    torch.set_num_threads(1)
    from worlds import partition
    import fedlab
    from fedlab.engine.loop import SequentialEngine
    from test_run_folder import experiment

    calls, fit = [], SequentialEngine.train
    def dies(self, *args):
        calls.append(1)
        if len(calls) == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return fit(self, *args)
    SequentialEngine.train = dies
    fedlab.run(experiment(method="fedprox(mu=0.1)"), partition(), folder=sys.argv[1])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_a_killed_process_resumes_bit_for_bit(part, tmp_path):
    """SIGKILL in the middle of round 2 of 3, then the same call again in this process."""
    script = tmp_path / "child.py"
    script.write_text(textwrap.dedent(CHILD), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, str(script), str(tmp_path / "cut"), "7"]
    killed = subprocess.run(command, env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    (left,) = (tmp_path / "cut").glob("*.unfinished")
    assert (left / "checkpoint.pt").is_file()
    cut, whole = (
        fedlab.run(experiment(method="fedprox(mu=0.1)"), part, folder=tmp_path / to) for to in ("cut", "whole")
    )
    assert_same_run(cut, whole)


def test_two_processes_that_start_one_run_train_it_once(part, tmp_path):
    script = tmp_path / "child.py"
    script.write_text(textwrap.dedent(CHILD), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, str(script), str(tmp_path / "runs"), "-1"]
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    (run,) = run_folder.find(tmp_path / "runs")
    assert set(run.rounds["round"]) == {1, 2, 3} and not list((tmp_path / "runs").glob("*.unfinished"))


def test_a_finished_run_is_returned_not_repeated(part, tmp_path, monkeypatch):
    first = fedlab.run(experiment(), part, folder=tmp_path)
    monkeypatch.setattr(SequentialEngine, "train", lambda *a: pytest.fail("trained again"))
    again = fedlab.run(experiment(), part, folder=tmp_path)
    assert again.folder == first.folder and again.experiment == first.experiment


def test_other_experiments_and_other_cases_get_other_folders(part, tmp_path):
    folders = {
        run_folder.folder_of(experiment(), part, tmp_path),
        run_folder.folder_of(experiment(seed=1), part, tmp_path),
        run_folder.folder_of(experiment(method="fedprox(mu=0.1)"), part, tmp_path),
        run_folder.folder_of(experiment(), partition(data=cases(152, seed=1)), tmp_path),
        run_folder.folder_of(experiment(), partition(sizes=(30, 30, 20, 8)), tmp_path),
    }
    assert len(folders) == 5


def test_a_run_folder_holds_what_it_promises(part, tmp_path):
    run = fedlab.run(experiment(method="local"), part, folder=tmp_path)
    files = {path.name for path in run.folder.iterdir()}
    assert files == {
        *("experiment.json", "partition.parquet", "rounds.parquet", "predictions.parquet", "ledger.parquet"),
        *("events.parquet", "visits.parquet", "weights.safetensors", "environment.json", "card.md", "checksums.json"),
    }
    assert set(run.rounds["split"]) == {"train", "val", "test"} and set(run.rounds["round"]) == {1, 2, 3}
    tested = run.predictions.query("split == 'test' and choice == 'last'")
    assert tested.groupby("model")["case"].nunique().tolist() == [32] * 4  # each site's model on all sites' cases
    assert np.allclose(tested[["p0", "p1"]].sum(axis=1), 1)
    assert (
        json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))["packages"]["torch"]
        == torch.__version__
    )


def test_stored_weights_give_the_stored_predictions(part, tmp_path):
    run = fedlab.run(experiment(precision="float64"), part, folder=tmp_path)
    from fedlab.learning.models import build

    net = build(CNN, part.cases.shape, 1, seed=0).double().eval()
    net.load_state_dict(run.weights("global", "last"))
    rows = run.predictions.query("choice == 'last'")
    position = part.cases.table.reset_index().set_index("case")["index"]
    x = torch.from_numpy(part.cases.images[position[rows["case"]].to_numpy()]).double() / 255
    with torch.inference_mode():
        p = torch.sigmoid(net(x)[:, 0]).numpy()
    assert np.abs(p - rows["p1"]).max() < 1e-12


def test_the_best_round_is_chosen_on_validation_alone(part, tmp_path):
    run = fedlab.run(experiment(method="local", rounds=6, lr=0.3), part, folder=tmp_path)
    scores = run.rounds.query("split == 'val' and metric == 'auroc'").pivot(
        index="round", columns="site", values="value"
    )
    for site in scores:
        weights, last = run.weights(site, "best"), run.weights(site, "last")
        chosen = scores[site].idxmax()
        same = all(torch.equal(weights[k], last[k]) for k in last)
        assert same == (chosen == 6), site


@pytest.mark.parametrize("method", ["fedavg", "ensemble", "cyclic"])
def test_a_run_that_patience_stopped_resumes(method, part, tmp_path, monkeypatch):
    """Cut off in the midst of training, or after the round that was the last, before the run was finished."""
    base = experiment(method=method, rounds=40, patience=2, lr=0.0)
    whole = fedlab.run(base, part, folder=tmp_path / "whole")
    assert whole.rounds["round"].max() == 3  # the first is the best, two more without improvement
    assert_resumes(base, part, tmp_path, monkeypatch, after=10)
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(run_folder, "finish", lambda *_: (_ for _ in ()).throw(PowerCut))
        fedlab.run(base, part, folder=tmp_path / "stopped")
    with monkeypatch.context() as patch:
        interrupt(patch, after=1)  # nothing is trained any more
        assert_same_run(fedlab.run(base, part, folder=tmp_path / "stopped"), whole)


def test_live_follows_what_trains_and_shows_nothing_for_what_is_finished(part, tmp_path, capsys):
    both = {"partition": part, "folder": tmp_path, "live": True, "method": ["local", "fedavg"]}
    fedlab.grid(experiment(rounds=2), **both)
    shown = capsys.readouterr().err
    assert all(
        f"{each}, round 2 of 2" in shown for each in ("local on world: run 1 of 2", "fedavg on world: run 2 of 2")
    )
    assert "2 runs in" in shown
    fedlab.run(experiment(rounds=2, method="local"), part, folder=tmp_path, live=True)
    assert capsys.readouterr().err == ""


def test_grid_validates_all_before_the_first(part, tmp_path):
    with pytest.raises(ValueError, match="did you mean 'fedavg'"):
        fedlab.grid(experiment(), partition=part, folder=tmp_path, method=["local", "fedavgg"])
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="did you mean 'method'"):
        fedlab.grid(experiment(), partition=part, folder=tmp_path, methods=["local"])
    with pytest.raises(ValueError, match="list of values"):
        fedlab.grid(experiment(), partition=part, folder=tmp_path, method="local")


def test_grid_is_the_product_in_order(part, tmp_path):
    both = fedlab.grid(experiment(rounds=1), partition=part, folder=tmp_path, method=["local", "fedavg"], seed=[0, 1])
    assert [(r.method, r.experiment.seed) for r in both] == [("local", 0), ("local", 1), ("fedavg", 0), ("fedavg", 1)]
    assert [r.folder for r in run_folder.find(tmp_path)] == sorted(r.folder for r in both)


def test_divergence_names_site_and_round_and_averages_nothing(part, tmp_path):
    with pytest.raises(RuntimeError, match=r"Site A, round 1: training diverged .* lr=1e\+20: lower `lr`"):
        fedlab.run(experiment(lr=1e20, momentum=0.0, local_steps=4), part, folder=tmp_path)


def test_a_full_disk_loses_nothing(part, tmp_path, monkeypatch):
    save, calls = checkpoint.save, []

    def full(path, state):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(path, state)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="free some space and run the same"):
        patch.setattr(checkpoint, "save", full)
        fedlab.run(experiment(), part, folder=tmp_path / "full")
    after = fedlab.run(experiment(), part, folder=tmp_path / "full")
    assert_same_run(after, fedlab.run(experiment(), part, folder=tmp_path / "whole"))


def test_an_interrupted_run_of_an_earlier_version_is_refused(part, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        interrupt(patch, 5)
        fedlab.run(experiment(), part, folder=tmp_path)
    (left,) = tmp_path.glob("*.unfinished")
    (left / "checkpoint.pt").rename(left / "checkpoint.safetensors")
    with pytest.raises(ValueError, match=r"interrupted run of an earlier fedlab.*remove the folder and run"):
        fedlab.run(experiment(), part, folder=tmp_path)
    assert (left / "checkpoint.safetensors").exists()


class Watching:
    """An observer that notes its calls."""

    def __init__(self) -> None:
        self.calls: list = []

    def restart(self, rounds, title, device=""):
        self.calls.append(("restart", rounds, title))

    def update(self, rounds_frame, round):
        self.calls.append(("update", round, int(rounds_frame["round"].max())))

    def close(self):
        self.calls.append(("close",))

    def tell(self, text):
        self.calls.append(("tell",))

    def conclude(self, text):
        self.calls.append(("conclude", text.split(" in ")[0]))


def test_an_observer_follows_each_round_of_each_run_that_trains(part, tmp_path):
    fedlab.run(experiment(method="local", rounds=2), part, folder=tmp_path)
    watching = Watching()
    fedlab.grid(experiment(rounds=2), partition=part, folder=tmp_path, method=["local", "fedavg"], live=watching)
    begun = ("restart", 2, "fedavg on world")
    assert watching.calls == [begun, ("update", 1, 1), ("update", 2, 2), ("close",), ("conclude", "2 runs")]
    with pytest.raises(ValueError, match="live is 1: give True, False, or an object with the methods"):
        fedlab.run(experiment(rounds=2), part, folder=tmp_path, live=1)


def test_predictions_of_earlier_versions_are_read_under_the_present_column_names(part, tmp_path):
    run = fedlab.run(experiment(method="local", rounds=1), part, folder=tmp_path)
    stored = pd.read_parquet(run.folder / "predictions.parquet")
    stored.assign(marked=1 - stored["label"]).to_parquet(run.folder / "predictions.parquet", index=False)
    (run.folder / "checksums.json").unlink()  # earlier versions wrote none
    earlier = run_folder.read(run.folder)
    assert (earlier.predictions["annotated"] == 1 - stored["label"]).all() and "marked" not in earlier.predictions
    wrong, right = (fedlab.compare([earlier], "accuracy", labels=labels) for labels in ("marked", "true"))
    assert (wrong["value"] + right["value"])[:-2].to_numpy() == pytest.approx(1)


def test_a_folder_of_another_version_is_refused_not_misread(part, tmp_path):
    run = fedlab.run(experiment(), part, folder=tmp_path)
    about = run.folder / "experiment.json"
    about.write_text(
        about.read_text(encoding="utf-8").replace(f'"format": {run_folder.FORMAT}', '"format": 99'), encoding="utf-8"
    )
    with pytest.raises(ValueError, match=r"written in format 99 .* run the experiment again"):
        run_folder.read(run.folder)
    with pytest.raises(ValueError, match="no run folder"):
        run_folder.read(tmp_path)
    other = fedlab.run(experiment(seed=1), part, folder=tmp_path)
    with pytest.warns(UserWarning, match="left out: .* format 99"):
        assert [found.folder for found in run_folder.find(tmp_path)] == [other.folder]


def test_unfinished_folders_are_ignored(part, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        interrupt(patch, after=6)
        fedlab.run(experiment(), part, folder=tmp_path)
    assert run_folder.find(tmp_path) == []
    (left,) = tmp_path.glob("*.unfinished")
    with pytest.raises(ValueError, match="unfinished"):
        run_folder.read(left)


def test_unknown_models_of_a_run_name_the_known(part, tmp_path):
    run = fedlab.run(experiment(), part, folder=tmp_path)
    with pytest.raises(ValueError, match="did you mean 'global'"):
        run.weights("globl")


def test_determinism_settings_are_put_back(part, tmp_path):
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        fedlab.run(experiment(rounds=1), part, folder=tmp_path)
        assert torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark = before


def test_a_grid_partitions_its_cases_once(monkeypatch, tmp_path):
    runner._make_partition.cache_clear()
    made, make_partition = [], fedlab.Experiment.make_partition
    monkeypatch.setattr(fedlab.Experiment, "make_partition", lambda self: made.append(1) or make_partition(self))
    base = experiment(dataset="phantoms(cases=200)", rounds=1)
    fedlab.grid(base, folder=tmp_path, method=["local", "fedavg"])
    assert len(made) == 1


def test_runs_of_a_method_that_only_another_notebook_knows_are_left_out(tmp_path):
    wanted = fedlab.Experiment(dataset="phantoms(cases=60)", sites=2, rounds=1, local_steps=1, device="cpu")
    done = fedlab.run(wanted, folder=tmp_path)
    about = json.loads((done.folder / "experiment.json").read_text(encoding="utf-8"))
    about["experiment"]["method"] = "of_my_own"
    other = tmp_path / "other"
    shutil.copytree(done.folder, other)
    (other / "experiment.json").write_text(json.dumps(about), encoding="utf-8")
    files.write_checksums(other)
    with pytest.warns(UserWarning, match="left out: .*of_my_own"):
        assert [run.folder for run in run_folder.like(wanted, tmp_path)] == [done.folder]


@pytest.fixture
def watchful():
    """A method of one's own that trusts its memory to come back as what it was."""

    @algorithm
    def watchful(fed):
        """Averaging that records the sites that answered, by round and site."""
        s = fed.memory(w=fed.start, seen={}, pair=(0, [0]), best=np.float32(-np.inf), none=np.zeros((0, 3)))
        for r in fed.rounds(s):
            back = fed.gather(fed.fit(fed.broadcast(s.w), r))
            s.seen = {**s.seen, **{(r.number, k): np.bool_(True) for k in back.owners}, r.number: len(back)}
            assert all(s.seen[number] == len(fed.sites) for number in range(1, r.number + 1))
            assert type(s.pair) is tuple and type(s.best) is np.float32
            s.pair, s.best = (*s.pair, r.number), max(s.best, np.float32(r.number))
            s.none = np.concatenate([s.none, s.none])
            s.w = fed.merge(s.w, back)
            fed.log("best", s.best + len(s.pair) + len(s.seen))
            yield Round({"global": s.w})

    yield "watchful"
    METHODS.remove("watchful")


def test_a_method_of_ones_own_finds_its_memory_as_it_was(watchful, part, tmp_path, monkeypatch):
    assert_resumes(experiment(method=watchful), part, tmp_path, monkeypatch, after=10)


def test_an_edited_user_rule_is_another_run(part, tmp_path):
    found = []
    for cell in ("shares", "shares", "shares[::-1].copy()"):
        source = f"def mine(models, shares, w):\n    p = {cell}\n    return Merged(weighted_mean(models, p), p)"
        aggregation.RULES.add(defined(source, weighted_mean=weighted_mean, Merged=aggregation.Merged))
        found.append(fedlab.run(experiment(aggregate="mine", rounds=1), part, folder=tmp_path))
    aggregation.RULES.remove("mine")
    assert found[0].folder == found[1].folder != found[2].folder
    first, _, last = (run.weights("global", "last") for run in found)
    assert not all(torch.equal(first[key], last[key]) for key in first)
