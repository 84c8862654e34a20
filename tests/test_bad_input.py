"""Bad input through the public calls: each error says what was found, what was wanted and what to do; nothing is lost.

All tests share one shelf with a dataset and a finished run, and fail if a byte of either changes.
"""

import functools
import http.server
import json
import mmap
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
import torch
from worlds import CNN, cases

import fedlab
from data_prep import medmnist
from fedlab.core.warnings import HeterogeneityWarning, ProtocolWarning
from fedlab.data.cases import Cases
from fedlab.engine.loop import SequentialEngine
from fedlab.experiments import run_folder
from fedlab.federation import DivergedError

KNOBS = {"dataset": "phantoms(cases=120, size=16)", "sites": 2, "model": CNN, "rounds": 3, "local_steps": 1}


def experiment(**changes: Any) -> fedlab.Experiment:
    return fedlab.Experiment(**{**KNOBS, "batch_size": 8, "device": "cpu", **changes})


@contextmanager
def refused(*expected: str, kind: type[Exception] = ValueError) -> Iterator[None]:
    """The block raises `kind` with a message that holds all of `expected`."""
    with pytest.raises(kind) as caught:
        yield
    for part in expected:
        assert part in str(caught.value), str(caught.value)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shelf")
    cases(40).save(folder / "home" / "kept")
    fedlab.run(experiment(rounds=1), folder=folder / "runs")
    return folder


@pytest.fixture(autouse=True)
def untouched(shelf, monkeypatch) -> Iterator[None]:
    """The files of the shelf are the same after a test, byte for byte."""
    monkeypatch.setenv("FEDLAB_DATA", str(shelf / "home"))
    monkeypatch.setenv("FEDLAB_RUNS", str(shelf / "runs"))
    monkeypatch.delenv("FEDLAB_MIRROR", raising=False)
    before = contents(shelf)
    yield
    assert before.items() <= contents(shelf).items()


@pytest.fixture
def nothing_begun(shelf) -> Iterator[None]:
    """No run folder appears, finished or not."""
    before = entries(shelf / "runs")
    yield
    assert entries(shelf / "runs") == before


# --- datasets


@pytest.mark.usefixtures("nothing_begun")
@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("pneumonia", ("unknown dataset 'pneumonia'", "did you mean 'pneumoniamnist'", "path of a folder")),
        ("kep", ("unknown dataset 'kep'", "choose one of", "phantoms", "path of a folder")),
        ("phantoms(case=30)", ("no argument 'case'", "did you mean 'cases'")),
        ("phantoms(cases=3)", ("cases=3", "from 10 to")),
        ("phantoms(size=8)", ("size=8", "from 16 to")),
        ("pneumoniamnist(size=63)", ("no size 63", "choose one of 28, 64, 128, 224")),
    ],
)
def test_an_unknown_dataset_or_option_is_refused_by_a_run(dataset, expected):
    with refused(*expected):
        fedlab.run(experiment(dataset=dataset))


@pytest.mark.usefixtures("nothing_begun")
def test_a_path_to_nothing_is_refused_by_a_run(tmp_path):
    expected = (str(tmp_path / "scans"), "no cases.parquet", "holds cases.parquet, images.npy and card.json")
    with refused(*expected, kind=FileNotFoundError):
        fedlab.run(experiment(dataset=str(tmp_path / "scans")))


@pytest.fixture
def record(tmp_path, monkeypatch) -> Iterator[Path]:
    """The folder of official files that a server on this machine gives out as the published record."""
    (tmp_path / "files").mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setitem(medmnist.FACTS, "record", f"http://127.0.0.1:{server.server_port}")
        yield tmp_path / "files"
        server.shutdown()


@pytest.mark.parametrize("body", [b"", b"PK\x03\x04 the first bytes of an archive", b"<html>not found</html>"])
def test_a_truncated_or_wrong_download_never_becomes_a_dataset(body, record, shelf, tmp_path, monkeypatch):
    (record / "pneumoniamnist.npz").write_bytes(body)
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "pneumoniamnist.npz").write_bytes(body[:-1] + b"?")
    monkeypatch.setenv("FEDLAB_MIRROR", str(tmp_path / "mirror"))
    wanted = f"md5:{medmnist.MEMBERS['pneumoniamnist']['md5']['28']}"
    expected = (f"gave {len(body)} bytes", wanted, "truncated or not the official file", "try again", "FEDLAB_MIRROR")
    with pytest.warns(UserWarning, match="is skipped: its checksum is md5:"), refused(*expected, kind=OSError):
        fedlab.load("pneumoniamnist")
    assert not list((shelf / "home").glob("**/pneumoniamnist*"))


def changed(folder: Path, **changes: Callable[[Any], Any]) -> Path:
    """A dataset folder with another table, other images or another card."""
    cases(40).save(folder)
    if "table" in changes:
        changes["table"](pd.read_parquet(folder / "cases.parquet")).to_parquet(folder / "cases.parquet", index=False)
    if "images" in changes:
        np.save(folder / "images.npy", changes["images"](np.load(folder / "images.npy")))
    if "card" in changes:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        (folder / "card.json").write_text(json.dumps(changes["card"](card)), encoding="utf-8")
    (folder / "checksums.json").unlink()  # as who changes a folder on purpose is told to do
    return folder


def with_hole(images: np.ndarray) -> np.ndarray:
    scaled = (images / 255).astype(np.float16)
    scaled[7, 0, 3, 3] = np.nan
    return scaled


MISFITS: dict[str, tuple[dict[str, Callable[[Any], Any]], tuple[str, ...]]] = {
    "no label": (
        {"table": lambda table: table.rename(columns={"label": "labl"})},
        ("no column 'label'", "found ['case', 'labl']", "did you mean 'labl'", "Rename or add it"),
    ),
    "fewer images": ({"images": lambda images: images[:30]}, ("(30, 1, 12, 12)", "40 rows", "(40, channels, height")),
    "more rows": ({"table": lambda table: table[:25]}, ("(40, 1, 12, 12)", "25 rows", "(25, channels, height")),
    "no channels": ({"images": lambda images: images[:, 0]}, ("(40, 12, 12)", "(40, channels, height, width")),
    "NaN pixels": ({"images": with_hole}, ("case 'case-0007'", "NaN", "scale images to [0, 1] and fill holes")),
    "unscaled pixels": (
        {"images": lambda images: images.astype(np.float16)},
        ("case 'case-0000'", "outside [0, 1]", "scale images"),
    ),
    "wide pixels": (
        {"images": lambda images: images.astype(np.uint16)},
        ("images are uint16", "uint8 (0..255) or float16"),
    ),
    "classes from 1": (
        {"table": lambda table: table.assign(label=table["label"] + 1)},
        ("20 labels are outside 0..1", "case 'case-0001'", "number the classes ['class 0', 'class 1'] from 0"),
    ),
    "half a class": ({"table": lambda table: table.assign(label=0.5)}, ("40 labels", "0.5", "number the classes")),
    "a missing label": (
        {"table": lambda table: table.assign(label=table["label"].where(table["case"] != "case-0003"))},
        ("1 labels", "case 'case-0003'", "nan", "number the classes"),
    ),
    "a case twice": (
        {"table": lambda table: table.assign(case=table["case"].replace("case-0009", "case-0008"))},
        ("case 'case-0008' occurs more than once", "a unique name"),
    ),
    "another split": (
        {"table": lambda table: table.assign(split="training")},
        ("column 'split' holds ['training']", "use ('train', 'val', 'test')"),
    ),
    "another task": (
        {"card": lambda card: card | {"task": "multi-class"}},
        ("task is 'multi-class'", "did you mean 'multiclass'"),
    ),
    "no classes": (
        {"card": lambda card: {"name": card["name"], "task": card["task"]}},
        ("no 'classes'", "add it to card.json"),
    ),
}


@pytest.mark.usefixtures("nothing_begun")
@pytest.mark.parametrize("name", MISFITS)
def test_a_folder_whose_parts_do_not_fit_is_refused(name, tmp_path):
    changes, expected = MISFITS[name]
    folder = changed(tmp_path / "mine", **changes)
    before = contents(folder)
    with refused(str(folder), *expected):
        fedlab.load(folder)
    with refused(str(folder), *expected):
        fedlab.run(experiment(dataset=str(folder)))
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["cases.parquet", "images.npy", "card.json"])
def test_a_file_that_breaks_off_is_named_with_its_folder(name, tmp_path):
    folder = changed(tmp_path / "mine")
    (folder / name).write_bytes((folder / name).read_bytes()[:-60])
    with refused(str(folder / name), "remove the folder and prepare or save it again"):
        fedlab.load(folder)


def test_saving_never_overwrites(shelf):
    with refused("exists already: choose another folder or remove it", kind=FileExistsError):
        cases(12).save(shelf / "home" / "kept")


# --- sites


@pytest.mark.usefixtures("nothing_begun")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sites": 121}, ("of 121 sites would have no case to train on", "patients or distinct cases", "fewer sites")),
        ({"sites": 0}, ("sites is 0", "how many to simulate (1 or more)")),
        ({"sites": "sexx"}, ("no column 'sexx'", "did you mean 'sex'")),
        ({"sites": "sex", "quantity": 0.5}, ("sites come from column 'sex'", "leave quantity at 0, found 0.5")),
        ({"prevalence": 1.2}, ("prevalence is 1.2", "a dose between 0 (no shift) and 1 (the strongest)")),
        ({"quantity": -0.5}, ("quantity is -0.5", "a dose between 0")),
        ({"acquisition": 2}, ("acquisition is 2", "a dose between 0")),
        ({"prevalence": "dirichlt(0.3)"}, ("unknown prevalence scheme 'dirichlt'", "did you mean 'dirichlet'")),
        ({"prevalence": [0.2, 0.3, 0.4]}, ("3 values for 2 sites", "one for each site")),
        ({"prevalence": [0.2, 30]}, ("prevalence holds 30", "between 0 and 1")),
        ({"quantity": [3, 2, 1]}, ("3 relative sizes for 2 sites", "one for each site")),
    ],
)
def test_a_federation_that_cannot_be_is_refused_by_a_run(changes, expected):
    with refused(*expected):
        fedlab.run(experiment(**changes))


@pytest.mark.filterwarnings("ignore::fedlab.core.warnings.HeterogeneityWarning")
def test_a_prevalence_that_cannot_be_met_names_the_nearest_that_can():
    one = experiment(sites=16, prevalence=[1.0] * 16)
    with pytest.raises(ValueError, match="a site would keep 1 cases, wanted at least 2") as caught:
        fedlab.run(one)
    nearest = json.loads(re.search(r"nearest feasible value is (\[.*\])", str(caught.value))[1])
    assert min(nearest) > 0.5 and len(one.with_(prevalence=nearest).make_partition().sites) == 16


def test_misspelt_arguments_of_explicit_sites_and_of_a_copy_are_refused():
    data = cases(40)
    with refused("'aquisition'", kind=TypeError):
        fedlab.Partition.from_sites(data, ["A", "B"] * 20, aquisition=0.3)
    with refused("1 cases of site 'A' are unknown", "case-00O1", "check the ids"):
        fedlab.Partition.from_sites(data, {"A": ["case-0000", "case-00O1"]})
    with refused("unknown parameter 'prevalance'", "did you mean 'prevalence'"):
        experiment().with_(prevalance=0.3)


def test_a_site_without_a_class_is_named_nan_and_left_out_of_means(tmp_path):
    data = cases(160)
    site = np.where(np.arange(160) < 60, "North", np.where(data.labels == 1, "East", "South"))
    site[60:80] = "East"
    with pytest.warns(HeterogeneityWarning, match=r"South has no class 1 in train.*undefined there and left out"):
        part = fedlab.Partition.from_sites(data, site)
    together = [fedlab.run(experiment(method=method), part, folder=tmp_path) for method in ("local", "fedavg")]
    frame = fedlab.compare(together).set_index(["method", "site"])
    for run in together:
        scores = run.rounds[run.rounds["metric"] == "auroc"].groupby("site")["value"]
        assert scores.apply(lambda values: values.isna().all()).to_dict() == {"East": 0, "North": 0, "South": 1}
        of = frame.loc[run.method]
        assert of.loc["South", ["value", "low", "high", "difference"]].isna().all()
        assert of.loc["South", "note"] == "no test case of class 'class 1'"
        assert of.loc["mean of sites", "value"] == pytest.approx(of.loc[["East", "North"], "value"].mean())
        assert of.loc["mean of sites", "note"].startswith("1 of 3 sites left out") and of.loc["pooled", "value"] > 0


# --- experiments


@pytest.mark.usefixtures("nothing_begun")
@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ({"rouns": [1, 2]}, ("unknown parameter 'rouns'", "did you mean 'rounds'")),
        ({"method": ["local", "fedprox(nu=1)"]}, ("'fedprox' has no argument 'nu'", "did you mean 'mu'")),
        ({"model": [CNN, "small_cnn(widht=4)"]}, ("'small_cnn' has no argument 'widht'", "did you mean 'width'")),
        ({"schedule": ["constant", "cosinus"]}, ("unknown schedule 'cosinus'", "did you mean 'cosine'")),
        ({"batchnorm": ["avg", "fedbm"]}, ("batchnorm='fedbm'", "'fedbn'")),
        ({"lr": [0.1, -1], "seed": [0, 1]}, ("lr=-1", "at least 0")),
        ({"rounds": [1, "many"]}, ("rounds='many'", "whole number")),
        ({"seed": 3}, ("seed=3", "a list of values, such as [3]")),
    ],
)
def test_a_grid_with_one_mistake_begins_nothing(axes, expected):
    with refused(*expected):
        fedlab.grid(experiment(), **axes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"method": "cyclic(order='random')"}, ("order='random'", "'fixed', 'shuffled', 'reversed', 'by_size'")),
        ({"method": "fedavg(weighting='size')"}, ("weighting='size'", "'cases', 'uniform'")),
        ({"method": "fedprox(mu=-1)"}, ("mu=-1", "give a number of at least 0")),
        (
            {"model": "small_cnn(depth=6)"},
            ("'small_cnn(depth=6)' does not fit images of shape (1, 16, 16)", "smaller model", "larger image size"),
        ),
        ({"device": "gpu"}, ("unknown device 'gpu'", "'auto', 'cpu', 'cuda'")),
        ({"device": "mps"}, ("device='mps' is an Apple GPU", "neither CUDA graphs nor float64", "use device='cpu'")),
        ({"device": "mps:0"}, ("device='mps:0' is an Apple GPU", "use device='cpu'")),
        ({"device": "xla"}, ("device='xla' has the type 'xla'", "'auto', 'cpu', 'cuda'")),
        ({"device": "meta"}, ("device='meta' has the type 'meta'", "'auto', 'cpu', 'cuda'")),
        ({"device": "cpu:3"}, ("unknown device 'cpu:3'", "'auto', 'cpu', 'cuda'")),
        ({"device": "cuda:-1"}, ("unknown device 'cuda:-1'", "'auto', 'cpu', 'cuda'")),
        ({"device": ""}, ("unknown device ''", "'auto', 'cpu', 'cuda'")),
    ],
)
def test_what_only_a_run_can_find_out_leaves_no_finished_run(changes, expected, tmp_path):
    with refused(*expected):
        fedlab.run(experiment(**changes), folder=tmp_path)
    assert run_folder.find(tmp_path) == []


def test_cuda_that_is_not_there_is_refused_by_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with refused("device='cuda'", "finds no CUDA here", "device='cpu' or 'auto'"):
        fedlab.run(experiment(device="cuda"), folder=tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for far in ("cuda:7", "cuda:256"):  # PyTorch takes the latter for cuda:0
        with refused(f"device={far!r}", "finds 1 GPU(s) here", "count from cuda:0"):
            fedlab.run(experiment(device=far), folder=tmp_path)
    assert run_folder.find(tmp_path) == []


@pytest.mark.notebook
@pytest.mark.xdist_group("notebooks")
def test_a_misspelt_papermill_parameter_stops_the_notebook_before_any_work(tmp_path, kernel):
    source = "rounds: int = 1\nout: str = ''", "import fedlab\nfedlab.parameters()", "open(out, 'w')"
    written = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in source])
    written.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(written, tmp_path / "nb.ipynb")
    given = {"rouns": 5, "out": str(tmp_path / "work")}
    expected = ("ValueError", "unknown parameter 'rouns'", "did you mean 'rounds'")
    with refused(*expected, kind=papermill.PapermillExecutionError):
        papermill.execute_notebook(
            tmp_path / "nb.ipynb", None, given, kernel_name=kernel, language="python", progress_bar=False
        )
    assert not (tmp_path / "work").exists()


# --- runs


@pytest.mark.parametrize(("method", "place"), [("fedavg", "Site A"), ("local", "Site A"), ("centralized", "all sites")])
def test_a_diverging_run_stays_unfinished_and_goes_on_at_the_round_it_names(method, place, tmp_path, monkeypatch):
    begun, fit = [], SequentialEngine.train
    monkeypatch.setattr(SequentialEngine, "train", lambda *args: begun.append(1) or fit(*args))
    steep, trained = experiment(method=method, rounds=4, local_steps=2, schedule="step(factor=1e30)"), []
    for _ in range(2):
        with refused(f"{place}, round 3: training diverged", "at lr=5e+28", "lower `lr`", kind=DivergedError):
            fedlab.run(steep, folder=tmp_path)
        trained.append(len(begun) - sum(trained))
    assert trained[0] == 3 * trained[1]  # rounds 1 and 2 were kept
    (left,) = tmp_path.glob("*.unfinished")
    with refused("unfinished run", "run its experiment again"):
        run_folder.read(left)
    gentle = fedlab.run(steep.with_(schedule="constant"), folder=tmp_path)
    assert left.is_dir() and [run.folder for run in run_folder.find(tmp_path)] == [gentle.folder]


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[[int], Path]]:
    """A separate file system; calling it with a number of memory pages makes it that large."""
    place = tmp_path / "disk"
    place.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={mmap.PAGESIZE}", "tmpfs", str(place)]
    if not hasattr(os, "geteuid") or os.geteuid() or subprocess.run(mounting, capture_output=True).returncode:
        pytest.skip("a really full disk needs leave to mount a tmpfs (root on Linux)")

    def resize(pages: int) -> Path:
        subprocess.run(["mount", "-o", f"remount,size={pages * mmap.PAGESIZE}", str(place)], check=True)
        return place

    yield resize
    subprocess.run(["umount", str(place)], check=True)


def test_a_really_full_disk_stops_a_run_wherever_it_is_and_loses_nothing(small_disk, tmp_path):
    whole = fedlab.run(experiment(), folder=tmp_path / "whole")
    failures, work = 0, small_disk(2) / "runs"
    for pages in range(2, 100):  # little is freed at a time, so that it fails in every stage of a run
        small_disk(pages)
        try:
            run = fedlab.run(experiment(), folder=work)
            break
        except OSError as error:
            failures += 1
            assert re.search(r"no space left on the disk of .*unfinished.*free some space and run the same", str(error))
            assert run_folder.find(work) == []
    assert failures >= 8
    assert entries(run.folder) == entries(whole.folder) and entries(work) == [run.folder.name]
    for name in ("predictions", "ledger", "partition_table"):
        pd.testing.assert_frame_equal(getattr(run, name), getattr(whole, name), check_exact=True)
    rounds, wanted = (one.rounds.drop(columns="seconds") for one in (run, whole))
    pd.testing.assert_frame_equal(rounds, wanted, check_exact=True)


def test_a_run_folder_of_another_version_is_neither_returned_nor_overwritten(tmp_path):
    run = fedlab.run(experiment(), folder=tmp_path)
    about = run.folder / "experiment.json"
    about.write_text(
        about.read_text(encoding="utf-8").replace(f'"format": {run_folder.FORMAT}', '"format": 99'), encoding="utf-8"
    )
    before = contents(tmp_path)
    expected = (
        str(run.folder),
        "written in format 99",
        f"reads format {run_folder.FORMAT}",
        "install the fedlab that wrote it",
    )
    for read in (lambda: fedlab.run(experiment(), folder=tmp_path), lambda: run_folder.read(run.folder)):
        with refused(*expected):
            read()
    assert contents(tmp_path) == before


# --- what used to pass in silence or end in a riddle


def test_a_folder_prepared_anew_is_read_anew(tmp_path):
    data, mine = cases(40), tmp_path / "mine"
    data.save(mine)
    first = fedlab.run(experiment(dataset=str(mine)), folder=tmp_path / "runs")
    shutil.rmtree(mine)
    Cases(data.images, data.table.assign(label=1 - data.labels), data.card).save(mine)
    second = fedlab.run(experiment(dataset=str(mine)), folder=tmp_path / "runs")
    assert first.folder != second.folder
    both = first.predictions.merge(second.predictions, on=["model", "choice", "site", "split", "case"])
    assert len(both) and (both["label_x"] == 1 - both["label_y"]).all()


class PowerCut(BaseException):
    pass


def cut_off(part, folder: Path, after: int) -> Path:
    """The unfinished folder of a run that was killed in its `after`-th local training."""
    begun, fit = [], SequentialEngine.train

    def stops(*args):
        begun.append(1)
        if len(begun) == after:
            raise PowerCut
        return fit(*args)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(SequentialEngine, "train", stops)
        fedlab.run(experiment(), part, folder=folder)
    (left,) = folder.glob("*.unfinished")
    return left


def test_half_a_row_of_a_first_round_does_not_spoil_the_run(small_disk, tmp_path):
    many = fedlab.partition(cases(160), 16)  # the rows of a round are larger than the disk
    with refused("no space left", kind=OSError):
        fedlab.run(experiment(), many, folder=small_disk(1))
    cut_off(many, small_disk(100), after=20)
    again = fedlab.run(experiment(), many, folder=small_disk(100)).rounds.drop(columns="seconds")
    whole = fedlab.run(experiment(), many, folder=tmp_path / "whole").rounds.drop(columns="seconds")
    pd.testing.assert_frame_equal(again, whole, check_exact=True)


@pytest.mark.parametrize(("name", "size"), [("rounds.jsonl", 700), ("ledger.jsonl", 0), ("checkpoint.pt", 90)])
def test_a_damaged_unfinished_run_is_refused_not_finished_with_less(name, size, tmp_path):
    left = cut_off(None, tmp_path, after=5)
    (left / name).write_bytes((left / name).read_bytes()[:size])
    for _ in range(2):
        with refused(str(left), "is damaged", name, "remove it and run the experiment again"):
            fedlab.run(experiment(), folder=tmp_path)


def test_a_damaged_or_foreign_run_is_named_with_its_folder(tmp_path):
    run = fedlab.run(experiment(), folder=tmp_path)
    about = run.folder / "experiment.json"
    whole = about.read_text(encoding="utf-8")
    about.write_text(whole[:100], encoding="utf-8")
    with refused(str(run.folder), "is damaged", "run the experiment again"):
        run_folder.read(run.folder)
    about.write_text(whole.replace('"patience"', '"endurance"'), encoding="utf-8")
    (run.folder / "checksums.json").unlink()
    with refused(str(run.folder), "unknown parameter 'endurance'", "install the fedlab that wrote it"):
        _ = run_folder.read(run.folder).experiment
    with pytest.warns(UserWarning, match="left out: .*unknown parameter 'endurance'"):
        assert run_folder.like(experiment(), tmp_path) == []


def test_numbers_are_no_case_names():
    data = cases(40)
    for names in (range(1, 41), [*data.table["case"][:39], None], [*data.table["case"][:39], ""]):
        with refused("column 'case' holds", "by text", "astype(str)"):
            Cases(data.images, data.table.assign(case=names), data.card)


@pytest.mark.parametrize("name", ["unassigned", "pooled", "mean of sites", "worst site", "all sites", "global", " "])
def test_a_site_may_not_have_the_name_of_something_else(name):
    with refused(f"a site is called {name!r}", "means something else", "rename it"):
        fedlab.Partition.from_sites(cases(40), [name] * 20 + ["B"] * 20)


def test_weights_are_found_under_any_site_name(tmp_path):
    part = fedlab.Partition.from_sites(cases(40), ["Oslo/Bergen"] * 20 + ["Oslo/Hamar"] * 20)
    run = fedlab.run(experiment(method="local"), part, folder=tmp_path)
    assert run.weights("Oslo/Bergen").keys() == run.weights("Oslo/Hamar", "best").keys()
    with refused("no 'last' model 'Oslo'", "did you mean 'Oslo/Hamar' or 'Oslo/Bergen'"):
        run.weights("Oslo")


@pytest.mark.usefixtures("nothing_begun")
@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ({"prevalence": [0.0, 1.5]}, ("prevalence is 1.5", "a dose between 0")),
        ({"prevalence": [0.0, "dirichlt(1)"]}, ("did you mean 'dirichlet'",)),
        ({"quantity": [0.0, float("nan")]}, ("quantity is nan", "a dose between 0")),
        ({"sites": [2, 0]}, ("sites is 0", "1 or more")),
        ({"device": ["cpu", "gpu"]}, ("unknown device 'gpu'",)),
        ({"device": ["cpu", "mps"]}, ("device='mps' is an Apple GPU", "use device='cpu'")),
        ({"method": ["local", "fedprox(0.1, mu=0.2)"]}, ("is given 'mu' twice",)),
        ({"method": ["local", "fedprox(mu=1, mu=2)"]}, ("cannot read method",)),
    ],
)
def test_a_grid_begins_nothing_where_a_later_run_cannot_be(axes, expected):
    with refused(*expected):
        fedlab.grid(experiment(), **axes)


def test_a_grid_over_federations_of_an_explicit_one_is_refused(tmp_path):
    with refused("'sites' describes a federation", "leave out one"):
        fedlab.grid(experiment(), partition=fedlab.partition(cases(40), 2), folder=tmp_path, sites=[2, 3])


def test_predictions_that_are_not_finite_are_a_divergence(tmp_path):
    with refused("Site A, round 1: training diverged", "not finite", "lower `lr`", kind=DivergedError):
        fedlab.run(experiment(rounds=1, lr=1e37), folder=tmp_path)
    assert run_folder.find(tmp_path) == []


@pytest.mark.parametrize(
    ("task", "classes", "wanted"),
    [
        ("binary", ["a", "b", "c"], "two"),
        ("binary", ["a"], "two"),
        ("multiclass", ["a"], "at least 2"),
        ("multiclass", ["a", "b", "a"], "different names"),
        ("ordinal", 4, "at least 2"),
        ("multilabel", [], "at least 1"),
    ],
)
def test_classes_that_do_not_fit_the_task_are_refused(task, classes, wanted):
    data = cases(12)
    with refused(f"classes are {classes!r}", wanted, f"for a {task} task"):
        Cases(data.images, data.table.assign(label=0), data.card | {"task": task, "classes": classes})


def test_normalising_a_single_value_names_the_site_and_what_to_change(tmp_path):
    part = fedlab.partition(cases(24, shape=(1, 8, 8)), 2)
    with refused("Site A, Site B, round 1", "larger `batch_size`", "batchnorm='group'"):
        fedlab.run(experiment(model="resnet18", batch_size=1), part, folder=tmp_path)


def test_a_federation_that_nothing_can_judge_is_warned_of(tmp_path):
    data = cases(40)
    alone = Cases(data.images, data.table.assign(split="train"), data.card)
    with pytest.warns(ProtocolWarning) as expected:
        fedlab.run(experiment(patience=1), fedlab.partition(alone, 2), folder=tmp_path)
    protocol = [warning for warning in expected if warning.category is ProtocolWarning]
    assert [str(warning.message).split(":")[0] for warning in protocol] == [
        "no site has a test case",
        "no site has a val case",
    ]


@pytest.mark.usefixtures("nothing_begun")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"method": "fedprox(mu='x')"}, ("mu='x'", "give a number")),
        ({"method": "cyclic(order='random')"}, ("order='random'",)),
        ({"model": "small_cnn(width='a')"}, ("model 'small_cnn': width='a'", "whole number")),
        ({"model": "small_cnn(depth=6)"}, ("does not fit images",)),
        ({"dataset": "phantoms(cases='many')"}, ("cases='many'", "whole number from 10")),
        ({"dataset": "pneumoniamnist(size='28')"}, ("no size '28'", "choose one of 28")),
    ],
)
def test_what_a_run_refuses_leaves_no_folder(changes, expected):
    with refused(*expected):
        fedlab.run(experiment(**changes))


def test_the_wrong_thing_in_the_right_place_is_named(tmp_path):
    with refused("cases is 'phantoms'", "fedlab.load('phantoms')"):
        fedlab.partition("phantoms")
    for nothing in (None, 3):
        with refused(f"dataset is {nothing}", "the path of a folder"):
            fedlab.load(nothing)
    run = fedlab.run(experiment(rounds=1), folder=tmp_path)
    with refused("no run has method 'centralised'", "fedavg"):
        fedlab.compare([run], reference="centralised")


def test_a_finished_run_is_returned_where_nobody_may_write(small_disk):
    place = small_disk(100)
    run = fedlab.run(experiment(rounds=1), folder=place / "runs")
    shutil.rmtree(place / "runs" / ".locks", ignore_errors=True)
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    assert fedlab.run(experiment(rounds=1), folder=place / "runs").folder == run.folder


def test_a_memory_that_no_checkpoint_can_hold_is_named(tmp_path):
    @fedlab.algorithms.algorithm
    def drawing(fed):
        """Averaging with a private generator."""
        s = fed.memory(w=fed.start, rng=np.random.default_rng(0))
        for r in fed.rounds(s):
            s.w = fed.merge(s.w, fed.gather(fed.fit(fed.broadcast(s.w), r)))
            yield fedlab.federation.Round({"global": s.w})

    try:
        expected = (
            "memory['rng'] is Generator",
            "numpy.random._generator.Generator",
            "let the memory of a method be weights",
        )
        with refused(*expected, kind=TypeError):
            fedlab.run(experiment(method="drawing"), folder=tmp_path)
        assert run_folder.find(tmp_path) == []
    finally:
        fedlab.METHODS.remove("drawing")
