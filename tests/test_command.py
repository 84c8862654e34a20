"""The command writes what Python writes, refuses what Python refuses, and starts without loading PyTorch."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import fedlab
from fedlab.experiments import runner
from fedlab.experiments.experiment_file import load_code, read_axes, read_fields
from fedlab_command import main
from fedlab_command.commands import COMMANDS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # so few cases leave sites without a class

TINY = {"dataset": "phantoms(cases=120, size=16)", "sites": 2, "model": "logistic", "rounds": 1, "device": "cpu"}
CHOICES = {
    "method": ["local", "fedavg", "fedprox(mu=0.1)", "apfl(alpha=0.5)"],
    "prevalence": [0.0, 0.5, "dirichlet(2.0)"],
    "lr": [0.1, 1e-05, 1],
    "batch_size": [8, None],
    "seed": [0, 3],
    "unseen": [0, 1],
    "class_weights": ["none", [1, 2.5]],
    "secure_sum": [False, True],
    "augment": ["none", "flip + noise(0.05)"],
}


def written(fields: dict) -> list[str]:
    """Fields as on a command line, values as YAML on one line."""
    return [
        f"{name}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}" for name, value in fields.items()
    ]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(TINY), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("seed", range(4))
def test_a_random_experiment_gives_the_folder_and_the_predictions_that_python_gives(seed, tmp_path, capsys):
    rng = np.random.default_rng(seed)
    fields = {name: values[rng.integers(len(values))] for name, values in CHOICES.items()} | {"sites": 3}
    in_file = dict(TINY) | {name: value for name, value in fields.items() if rng.random() < 0.5}
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(in_file), encoding="utf-8")
    try:
        expected = fedlab.run(fedlab.Experiment(**TINY | fields), folder=tmp_path / "python")
    except ValueError as error:  # such as a secure sum of a method that has none
        assert main(["run", str(path), *written(fields), "--folder", str(tmp_path / "command")]) == 2
        assert " ".join(str(error).split()) in capsys.readouterr().err
        return
    assert main(["run", str(path), "--folder", str(tmp_path / "command"), *written(fields)]) == 0
    (folder,) = capsys.readouterr().out.split()
    found = fedlab.runs.read(folder)
    assert found.folder.name == expected.folder.name and found.experiment == expected.experiment
    pd.testing.assert_frame_equal(found.predictions, expected.predictions, check_exact=True)


def test_a_grid_is_that_of_python_and_is_compared_and_listed_as_there(file, tmp_path, capsys):
    runs = tmp_path / "runs"
    assert (
        main(["grid", file, "method=local,fedprox(mu=0.1, weighting='uniform')", "--folder", str(runs), "seed=0,1"])
        == 0
    )
    folders = capsys.readouterr().out.split("\n")[:-1]
    methods = ["local", "fedprox(mu=0.1, weighting='uniform')"]
    again = fedlab.grid(fedlab.Experiment(**TINY), folder=runs, method=methods, seed=[0, 1])
    assert folders == [str(run.folder) for run in again]
    assert main(["report", str(runs), "--file", str(tmp_path / "report.html")]) == 0
    assert Path(capsys.readouterr().out.strip()).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert main(["compare", str(runs), "--csv", "--metric", "auroc"]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out), keep_default_na=False, na_values=[""])
    expected = pd.DataFrame(fedlab.compare(fedlab.runs.find(runs), "auroc"))
    pd.testing.assert_frame_equal(table[["method", "site", "value"]], expected[["method", "site", "value"]])
    assert main(["status", str(runs)]) == 0
    listed = capsys.readouterr().out
    assert listed.count("  finished  ") == 4 and listed.rstrip().endswith("4 finished")
    assert all(run.folder.name in listed for run in again)


@pytest.mark.parametrize(
    "fields",
    [{"ruonds": 3}, {"method": "fedprx"}, {"rounds": 0}, {"sites": 2, "quantity": [1, 2, 3]}, {"prevalence": 3}],
)
def test_what_python_refuses_is_refused_with_the_same_words_and_code_2(fields, file, tmp_path, capsys):
    with pytest.raises(ValueError) as refused:
        fedlab.run(fedlab.Experiment(**TINY | fields), folder=tmp_path)
    assert main(["run", file, "--folder", str(tmp_path / "runs"), *written(fields)]) == 2
    shown = capsys.readouterr()
    assert shown.err == f"fedlab run: {refused.value}\n" and not shown.out


@pytest.mark.parametrize("wrong", [["run", "{file}", "rounds"], ["grid", "{file}", "seed=0,,1"], ["run", "no.yaml"],
                                   ["run", "{file}", "seed=1", "seed=2"], ["methods", "fedavgg"], ["compare", "none"],
                                   ["status", "none"], ["run", "{file}", "--code", "none.py"]])  # fmt: skip
def test_other_mistakes_are_one_line_and_code_2(wrong, file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([text.format(file=file) for text in wrong]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"fedlab {wrong[0]}: ") and shown.err.count("\n") == 1 and not shown.out


def test_an_interrupt_says_what_is_kept_and_the_same_command_resumes_to_the_same_result(
    file, tmp_path, monkeypatch, capsys
):
    whole = fedlab.run(fedlab.Experiment(**TINY | {"rounds": 3}), folder=tmp_path / "whole")
    command, add = ["run", file, "rounds=3", "--folder", str(tmp_path / "runs")], runner.Recorder.add

    def stopped(record, outcome):
        add(record, outcome)
        if record.fed.round == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(runner.Recorder, "add", stopped)
    assert main(command) == 130
    shown = capsys.readouterr()
    assert "are kept in" in shown.err and str(tmp_path / "runs") in shown.err and "Traceback" not in shown.err
    monkeypatch.undo()
    assert main(["status", str(tmp_path / "runs")]) == 0
    assert capsys.readouterr().out.split("\n")[1].split()[1:3] == ["interrupted", "2"]
    assert main(command) == 0
    found = fedlab.runs.read(capsys.readouterr().out.strip())
    pd.testing.assert_frame_equal(found.predictions, whole.predictions, check_exact=True)


def test_lists_have_all_names_and_a_name_shows_its_docstring(capsys):
    for command, registry in (("methods", fedlab.METHODS), ("axes", fedlab.AXES), ("models", fedlab.MODELS)):
        assert main([command]) == 0
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(registry)
        for name in registry:
            assert main([command, name]) == 0
            assert capsys.readouterr().out == registry.explain(name) + "\n"
    assert main(["datasets"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(fedlab.DATASETS)
    assert main(["fields"]) == 0
    assert sorted(line.split()[0] for line in capsys.readouterr().out.splitlines()) == sorted(
        fedlab.Experiment.model_fields
    )


def test_values_on_a_command_line_are_those_of_python_and_commas_in_brackets_separate_nothing():
    rng = np.random.default_rng(0)
    for _ in range(50):
        fields = {name: [values[k] for k in rng.integers(len(values), size=2)] for name, values in CHOICES.items()}
        one = {name: values[0] for name, values in fields.items()}
        assert read_fields(written(one)) == one
        texts = {
            name: [text.split("=", 1)[1] for text in written(dict(enumerate(values)))]
            for name, values in fields.items()
        }
        assert read_axes([f"{name}={','.join(each)}" for name, each in texts.items()]) == fields


QUICK = """
import sys
from fedlab_command import main
try:
    main(["run", "--help"])
except SystemExit:
    assert not {"fedlab", "torch", "numpy"} & set(sys.modules)
"""


def test_help_loads_neither_fedlab_nor_pytorch_and_has_an_example():
    done = subprocess.run([sys.executable, "-c", QUICK], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "\nexample:\n  fedlab run experiment.yaml" in done.stdout


def test_a_file_of_code_is_run_as_it_is_now(tmp_path, monkeypatch):
    """Also after an edit that keeps its size and second, which Python takes for the file that it has compiled."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = tmp_path / "edited_twice.py"
    for value in (1, 2):
        path.write_text(f"VALUE = {value}\n", encoding="utf-8")
        os.utime(path, (1e9, 1e9))
        load_code([path])
        assert value == sys.modules.pop("edited_twice").VALUE


@pytest.mark.parametrize("arguments", [["--help"], ["grid", "--help"], ["grit"]])
def test_python_m_fedlab_helps_before_it_loads_pytorch(arguments):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "fedlab", *arguments],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert done.returncode == (2 if arguments == ["grit"] else 0)
    assert "fedlab grid" in done.stdout or "grit" in done.stderr
    loaded = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "argparse" in loaded and not loaded & {"torch", "pandas", "numpy"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_and_their_options_from_the_printed_script(capsys):
    assert main(["completion", "bash"]) == 0
    text = capsys.readouterr().out

    def completed(*words: str) -> set[str]:
        line = (
            f"COMP_WORDS=({' '.join(map(repr, words))}); COMP_CWORD={len(words) - 1}; _fedlab; echo ${{COMPREPLY[@]}}"
        )
        shell = subprocess.run(
            ["bash", "-c", f"{text}\n{line}"], capture_output=True, encoding="utf-8", timeout=60, check=True
        )
        return set(shell.stdout.split())

    assert completed("fedlab", "re") == {"report", "reproduce"}
    assert completed("fedlab", "compare", "--") == {"--help", "--metric", "--reference", "--csv", "--code"}
    assert completed("fedlab", "completion", "f") >= {"fish"}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_scripts_of_other_shells_name_every_command_and_option(shell, capsys):
    main(["completion", shell])
    text = capsys.readouterr().out
    for name in [*COMMANDS, "completion", *(("workers", "reference") if shell == "fish" else ("--workers", "--csv"))]:
        assert name in text
