"""A run that is trained again agrees bit for bit; what differs, or is missing, is named."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from worlds import cases

import fedlab
from fedlab.core import files
from fedlab.experiments import experiment_file, runner
from fedlab.experiments.reproduction import PARTS, agreement
from fedlab.experiments.run_folder import FILES, Run
from fedlab_command import main

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # so few cases leave sites without a class

OWN = '''
from fedlab.algorithms import algorithm
from fedlab.core.weights import interpolate
from fedlab.federation import Federation, Round


@algorithm
def of_a_colleague(fed: Federation):
    """Federated averaging."""
    s = fed.memory(w=fed.start)
    for r in fed.rounds(s):
        s.w = interpolate(s.w, fed.average(fed.broadcast(s.w), r), 1.0)
        yield Round({"global": s.w})
'''

OWN_MODEL = """
from torch import nn

from fedlab.learning.models import MODELS


@MODELS.add
def net_of_a_colleague(shape: tuple[int, ...], outputs: int, width: int = 3):
    \"\"\"Two layers.\"\"\"
    first = nn.Linear(shape[0] * shape[1] * shape[2], width)
    return nn.Sequential(nn.Flatten(), first, nn.Tanh(), nn.Linear(width, outputs))
"""


@pytest.fixture(scope="module")
def run(one, tmp_path_factory) -> Run:
    return fedlab.run(one, folder=tmp_path_factory.mktemp("runs"))


@pytest.fixture
def copy(run, tmp_path) -> Run:
    """The run in a folder that a test may change."""
    return Run(shutil.copytree(run.folder, tmp_path / run.folder.name))


def change(copy: Run, name: str, edit) -> None:
    """Change a table of a run folder, and its checksum, so that the folder looks undamaged."""
    table = pd.read_parquet(path := copy.folder / f"{name}.parquet")
    edit(table)
    table.to_parquet(path, index=False)
    files.write_checksums(copy.folder, FILES)


def edit_versions(folder: Path, **versions: str) -> None:
    """Let the run have been trained with these versions of packages."""
    about = json.loads((path := folder / "environment.json").read_text(encoding="utf-8"))
    about["packages"] |= versions
    files.write_json(path, about)
    files.write_checksums(folder, FILES)


def test_an_unchanged_run_agrees_bit_for_bit_and_is_really_trained_again(copy, monkeypatch, capsys):
    trained, train = [], runner._train
    monkeypatch.setattr(runner, "_train", lambda *given: trained.append(given) or train(*given))
    for number in (1, 2):
        assert main(["reproduce", str(copy.folder)]) == 0
        assert "agrees bit for bit" in capsys.readouterr().out and len(trained) == number
    found = fedlab.reproduce(copy.folder, into=copy.folder.parent / "here")
    assert found.agrees and found.table["what"].tolist() == list(PARTS) and not found.table["difference"].any()
    assert len({found.again.folder, *copy.folder.parent.glob("*-again*/*-*")}) == 3 and copy.folder.is_dir()
    with pytest.raises(ValueError, match="holds this run already"):
        fedlab.reproduce(copy.folder, into=copy.folder.parent / "here")


def test_a_changed_prediction_is_named_with_its_case_and_size(copy, run, capsys):
    change(
        copy,
        "predictions",
        lambda table: table.__setitem__("p0", table["p0"].where(table.index != 3, table["p0"] + 0.25)),
    )
    assert main(["reproduce", str(copy.folder)]) == 1
    assert "differs in predictions\n" in capsys.readouterr().out
    table = agreement(copy, run).set_index("what")
    assert table.index[~table["agrees"]].tolist() == ["predictions"]
    assert table.loc["predictions", "difference"] == pytest.approx(0.25)
    assert f"case {copy.predictions['case'][3]}" in table.loc["predictions", "detail"]
    assert [bool(agreement(copy, run, limit)["agrees"].all()) for limit in (0.26, 0.2)] == [True, False]


@pytest.mark.parametrize("name", ["predictions.parquet", "weights.safetensors"])
def test_a_damaged_file_is_named_before_training_and_cannot_be_compared(name, copy):
    path = copy.folder / name
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.warns(UserWarning, match=name):
        found = fedlab.reproduce(copy.folder)
    (wrong,) = found.table[~found.table["agrees"]].itertuples()
    assert name.startswith(wrong.what) and np.isnan(wrong.difference) and name in wrong.detail


@pytest.mark.parametrize(
    "name, column, parts", [("rounds", "value", {"rounds", "headline"}), ("ledger", "bytes", {"ledger"})]
)
def test_the_first_round_that_differs_is_the_one_that_was_changed(name, column, parts, run, copy):
    def later(table):
        table.loc[table["round"] >= 2, column] += 1

    change(copy, name, later)
    table = agreement(copy, run).set_index("what")
    assert set(table.index[~table["agrees"]]) == parts
    assert table.loc[name, "round"] == 2 and table.loc[name, "difference"] == pytest.approx(1)


def test_other_seeds_differ_in_everything_but_partition_and_ledger(one, run, tmp_path):
    other = fedlab.run(one.with_(seed=1, model="small_cnn(width=4)"), folder=tmp_path)
    same = fedlab.run(one.with_(seed=2, model="small_cnn(width=4)"), folder=tmp_path)
    table = agreement(other, same).set_index("what")
    assert table.index[table["agrees"]].tolist() == ["partition", "ledger"]
    assert table.loc["rounds", "round"] == 1
    assert not agreement(run, other).set_index("what").loc["weights", "agrees"]  # of another shape


def test_other_versions_are_remarked_before_training_which_goes_on(copy):
    edit_versions(copy.folder, torch="1.0", **{"left-pad": "0.1"})
    with pytest.warns(UserWarning, match=r"other versions: torch 1\.0 \(now .*left-pad 0\.1 \(now missing\)"):
        found = fedlab.reproduce(copy.folder)
    assert found.agrees and len(found.remarks) == 1 and "remark: trained with other versions" in repr(found)


def test_a_method_from_a_file_is_reproduced_with_it_and_named_without_it(one, tmp_path, capsys):
    file, experiment = tmp_path / "colleague.py", tmp_path / "experiment.yaml"
    file.write_text(OWN, encoding="utf-8")
    files.write_json(experiment, one.model_dump() | {"method": "of_a_colleague"})  # JSON is YAML
    try:
        assert main(["run", str(experiment), "--code", str(file), "--folder", str(tmp_path / "runs")]) == 0
        folder = capsys.readouterr().out.strip()
        fedlab.METHODS.remove("of_a_colleague")
        assert main(["reproduce", folder]) == 2
        said = capsys.readouterr().err
        assert f"method 'of_a_colleague', defined in line 7 of {file}" in said and not list(
            tmp_path.glob("runs/*-again")
        )
        assert main(["reproduce", folder, "--code", str(file)]) == 0
        file.write_text(OWN.replace("1.0)", "0.5)"), encoding="utf-8")
        capsys.readouterr()
        assert main(["reproduce", folder, "--code", str(file)]) == 1
        shown = capsys.readouterr().out
        assert "remark: of_a_colleague has changed since the run" in shown and "from round 1 on" in shown
    finally:
        fedlab.METHODS.remove("of_a_colleague")


def forget() -> None:
    """Leave the registries as they are where the code of a colleague was never run."""
    for registry, name in ((fedlab.METHODS, "of_a_colleague"), (fedlab.MODELS, "net_of_a_colleague")):
        if name in registry:
            registry.remove(name)
    sys.modules.pop("colleague_files", None)


def test_a_colleague_repeats_own_method_model_and_data_from_an_archive(one, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    here, there = tmp_path / "mine", tmp_path / "theirs"
    fedlab.load("phantoms(cases=60, size=16)").save(here / "data")
    (here / "colleague_files.py").write_text(OWN + OWN_MODEL, encoding="utf-8")
    own = {"dataset": str(here / "data"), "method": "of_a_colleague", "model": "net_of_a_colleague(width=2)"}
    try:
        experiment_file.load_code([here / "colleague_files.py"])
        trained = fedlab.run(one.with_(**own), folder=here / "runs")
        name = trained.folder.name
        shutil.unpack_archive(shutil.make_archive(str(tmp_path / "packed"), "zip", here), there)
        here.rename(tmp_path / "renamed")
        forget()
        folder = there / "runs" / name
        edit_versions(folder, torch="1.0")
        with pytest.raises(
            ValueError, match=r"method 'of_a_colleague', .* model 'net_of_a_colleague', .*colleague_files\.py.*--code"
        ):
            fedlab.reproduce(folder)
        experiment_file.load_code([there / "colleague_files.py"])
        with pytest.raises(
            ValueError, match=r"is not found: it was the folder .*data: give its place now as `dataset`"
        ):
            fedlab.reproduce(folder)
        with pytest.warns(UserWarning, match=r"trained with other versions: torch 1\.0 \(now "):
            found = fedlab.reproduce(folder, dataset=there / "data")
        assert found.agrees and not found.table["difference"].any() and len(found.remarks) == 1, found
        assert not here.exists() and found.again.folder.is_relative_to(there)
    finally:
        forget()


def test_a_dataset_that_is_gone_is_named_with_its_place_and_found_at_its_new_one(one, tmp_path, monkeypatch):
    fedlab.load("phantoms(cases=60, size=16)").save(tmp_path / "mine")
    run = fedlab.run(one.with_(dataset=str(tmp_path / "mine"), rounds=1), folder=tmp_path / "runs")
    (tmp_path / "mine").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"is not found: it was the folder .*mine: give its place now"):
        fedlab.reproduce(run.folder)
    with pytest.raises(ValueError, match=r"nowhere is no folder that can be read; it was .*mine: give its place now"):
        fedlab.reproduce(run.folder, dataset=tmp_path / "nowhere")
    assert fedlab.reproduce(run.folder, dataset=tmp_path / "moved").agrees

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", refuse)  # in a home folder of somebody else
    with pytest.raises(ValueError, match=r"is not found: it was the folder .*mine: give its place now"):
        fedlab.reproduce(run.folder)


def test_sites_that_were_given_case_by_case_are_those_of_the_table(one, tmp_path):
    mine = cases(120)
    part = fedlab.Partition.from_sites(mine, np.arange(120) % 3, acquisition=0.5, unseen=1, splits="site", seed=4)
    run = fedlab.run(one.with_(rounds=1), part, folder=tmp_path)
    with pytest.raises(
        ValueError, match=r"the dataset 'world' of .* cannot be loaded here .* if they were made in Python"
    ):
        fedlab.reproduce(run.folder)
    assert fedlab.reproduce(run.folder, dataset=mine).agrees
