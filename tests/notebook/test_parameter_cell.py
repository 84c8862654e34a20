"""Doses that notebooks suggest yield to natural sites; a dataset to download yields to one that is there."""

import ast
import os

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from test_notebooks import ABOUT, NOTEBOOKS, SEGMENTS, STUDY, parameters_cell

import fedlab
from data_prep import fetch
from fedlab.data import catalogue
from fedlab.data.cases import Cases
from fedlab.data.home import OFFLINE


def from_papermill(cell: str, *injected: str, **values):
    """The namespace of a kernel that has run a parameters cell, and the values of papermill."""
    names: dict = {}
    for source in (cell, *injected):
        exec(source, names)
    return names | {"In": [cell, *("# Parameters\n" + line for line in injected)]} | values


def suggestions(path):
    """Doses that a notebook passes to `fedlab.parameters`."""
    second = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"][1]
    calls = [node for node in ast.walk(ast.parse(second)) if isinstance(node, ast.Call)]
    (call,) = [call for call in calls if ast.unparse(call.func) == "fedlab.parameters"]
    return {one.arg: ast.literal_eval(one.value) for one in call.keywords if one.arg in fedlab.AXES}


@pytest.mark.parametrize(
    "path", [path for path in NOTEBOOKS if path.stem[:2] not in ("60", STUDY, SEGMENTS)], ids=lambda path: path.stem
)
def test_no_notebook_keeps_a_suggested_dose_with_natural_sites(path, capsys):
    """Apart from the doses that a notebook is about. Other notebooks have natural sites anyway, or vary doses."""
    names = from_papermill(parameters_cell(path), "sites = 'hospital'")
    found = fedlab.parameters(names, own=set(names) - set(fedlab.Experiment.model_fields), **suggestions(path))
    kept = {axis for axis in fedlab.AXES if found.get(axis)}
    assert kept <= set(ABOUT.get(path.stem[:2], ()))
    assert capsys.readouterr().out.count("The sites come from column 'hospital'") == 1


def test_a_dose_that_was_given_is_refused_and_without_a_column_all_stay(capsys, tmp_path):
    cell = "sites: int = 4\nquantity: float = 0.5\nacquisition: float = 0.2"
    assert fedlab.parameters(from_papermill(cell), prevalence=0.5) == {
        "sites": 4, "quantity": 0.5, "acquisition": 0.2, "prevalence": 0.5
    }  # fmt: skip
    assert capsys.readouterr().out == ""
    typed = cell.replace("4", "'site'").replace("0.5", "0.7")
    for names in (from_papermill(cell, "sites = 'site'\nquantity = 0.5"), from_papermill(typed)):
        settings = fedlab.parameters(names)
        assert settings["quantity"] and settings["acquisition"] == 0
        label = np.arange(40) % 2
        table = pd.DataFrame({"case": [f"c{i}" for i in range(40)], "label": label, "site": label.astype(str)})
        card = {"name": "mine", "task": "binary", "classes": ["a", "b"]}
        cases = Cases(np.zeros((40, 1, 8, 8), "uint8"), table, card)
        with pytest.raises(ValueError, match="leave quantity at 0"):
            fedlab.partition(cases, **{name: settings[name] for name in ("sites", "quantity", "acquisition")})


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_gpu_that_is_not_here_is_refused_before_anything_is_drawn(monkeypatch, gpus):
    """With the preset for a GPU; the sentence says what to write instead."""
    preset = (NOTEBOOKS[0].parent / "presets" / "gpu.yaml").read_text("utf-8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    lines = [f"{name} = {value!r}" for name, value in yaml.safe_load(preset).items()]
    names = from_papermill("rounds: int = 15", "\n".join(lines))
    if gpus:
        assert fedlab.parameters(names)["device"] == "cuda"
    else:
        with pytest.raises(ValueError, match="no CUDA here: use device='cpu' or 'auto'"):
            fedlab.parameters(names)


def test_the_doses_of_a_study_that_natural_sites_cannot_have_become_0_unless_they_were_given():
    cell = "sites: int = 4\nprevalence: list = [0.0, 0.5, 1.0]\nannotation: list = [0.0, 0.5, 1.0]"
    settings = fedlab.parameters(from_papermill(cell, "sites = 'site'"))
    assert settings["prevalence"] == [0.0] and settings["annotation"] == [0.0, 0.5, 1.0]
    given = fedlab.parameters(from_papermill(cell, "sites = 'site'\nprevalence = [0.0, 0.5, 1.0]"))
    assert given["prevalence"] == [0.0, 0.5, 1.0]
    assert fedlab.parameters(from_papermill(cell))["prevalence"] == [0.0, 0.5, 1.0]


def test_a_suggested_dataset_that_must_be_downloaded_yields_and_a_given_one_does_not(monkeypatch, capsys):
    offline = []

    def load(dataset):
        offline.append(os.environ.get(OFFLINE))
        raise ConnectionError

    monkeypatch.setattr(catalogue, "load", load)
    cell, how = 'dataset: str = "blood_cells"', {"fallbacks": {"blood_cells": ["blood_cells", "phantoms"]}}
    assert fedlab.parameters(from_papermill(cell), **how) == {"dataset": "phantoms"}
    assert "blood_cells is neither prepared nor in a mirror" in capsys.readouterr().out
    assert offline == ["1"] and OFFLINE not in os.environ
    assert fedlab.parameters(from_papermill(cell, "dataset = 'blood_cells'"), **how) == {"dataset": "blood_cells"}
    assert fedlab.parameters(from_papermill('dataset: str = "mine"'), **how) == {"dataset": "mine"}
    monkeypatch.setattr(catalogue, "load", lambda dataset: None)
    assert fedlab.parameters(from_papermill(cell), **how) == {"dataset": "blood_cells"}
    assert capsys.readouterr().out == ""


def test_offline_nothing_is_downloaded(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path))
    monkeypatch.delenv("FEDLAB_MIRROR", raising=False)
    monkeypatch.setenv(OFFLINE, "1")
    with pytest.raises(ConnectionError, match="FEDLAB_OFFLINE forbids"):
        fetch.fetch("https://data.invalid/file.zip", "file.zip", "md5:0")
    assert list(tmp_path.iterdir()) == []
