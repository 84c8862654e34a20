"""Texts that a panel offers to copy give its sites in every notebook, whatever the notebook's own defaults are."""

import contextlib
import io
import shlex
import warnings
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import IPython
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from papermill.cli import _resolve_type
from papermill.iorw import NoDatesSafeLoader, load_notebook_node
from papermill.parameterize import parameterize_notebook
from worlds import cases as made_up

import fedlab
from fedlab import widgets
from fedlab.core.registry import Registry
from fedlab.data import catalogue
from fedlab.data.phantoms import phantoms
from fedlab.widgets import panel
from fedlab.widgets.copy_settings import as_papermill, as_yaml, signature

AXES = list(fedlab.AXES)
START_HERE = load_notebook_node(str(Path(__file__).parents[2] / "notebooks" / "00-start-here.ipynb"))
NOTEBOOK = {  # defaults that a notebook may have, none of them that of `fedlab.partition`
    "sites": 3, "quantity": 0.5, "prevalence": 0.5, "acquisition": 0.2, "annotation": 0.8, "geography": 0.5,
    "unseen": 1, "partition_seed": 7, "splits": "site", "leakage": "drop",
}  # fmt: skip
TEXTS = ["nan", "inf", "1_000", "None", "True", "null", "yes", "1e-5", "2020-01-01", "", " a ", "a: b", "- a", "a #b",
         "[", "%x", "{a", "'", '"', "O'Neill", "line\nbreak",
         "-x", "🏥 \u202eabc", "\x7f", "$HOME `id`", "١٢"]  # fmt: skip


def read(line: str) -> dict:
    """The parameters that papermill takes from these options."""
    words, found = shlex.split(line), {}
    while words:
        option, name = words.pop(0), words.pop(0)
        assert option in ("-p", "-y")
        found |= yaml.load(name, NoDatesSafeLoader) if option == "-y" else {name: _resolve_type(words.pop(0))}
    return found


def fingerprint(parameters: dict, data) -> str:
    """The partition of a notebook that was given these parameters on top of its own."""
    given = NOTEBOOK | parameters
    fields = {name: value for name, value in given.items() if name != "partition_seed"}
    return fedlab.partition(data, seed=given["partition_seed"], **fields).fingerprint


def grades(cases: int = 300, size: int = 16) -> fedlab.data.cases.Cases:
    """Phantoms in four classes, whose names must be quoted everywhere."""
    found = phantoms(cases, size)
    card = {"name": "grades", "task": "multiclass", "classes": ["a: b", "O'Neill #1", '"c"', "d [e]"]}
    return fedlab.data.cases.Cases(found.images, found.table.assign(label=np.arange(cases) % 4), card)


@pytest.fixture
def known(monkeypatch) -> None:
    """Two known datasets, one of them of several classes."""
    registry = Registry("dataset")
    registry.add(phantoms)
    registry.add(grades)
    monkeypatch.setattr(catalogue, "_registry", lambda: registry)


@pytest.fixture(scope="module")
def data():
    table = fedlab.load("phantoms(cases=160, size=16)").table
    columns = {name: table[name] for name in ("age", "sex", "severity", "subtype")}
    return made_up(160, (1, 4, 4), hospital=np.where(np.arange(160) % 5 < 2, "nan", "O'Neill: #1"), **columns)


def notebook_sites(parameters: dict, monkeypatch: pytest.MonkeyPatch) -> str:
    """The partition of notebook 00: its cells up to there, as papermill changes them for these parameters."""
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings(action="ignore"):
        notebook = parameterize_notebook(START_HERE, parameters)
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    (last,) = [number for number, cell in enumerate(cells) if "make_partition()" in cell]
    names: dict = {"In": [""]}
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(user_ns=names))
    for cell in cells[: last + 1]:
        names["In"].append(cell)
        exec("\n".join(line for line in cell.split("\n") if ".save(" not in line), names)
    return names["part"].fingerprint


@pytest.mark.filterwarnings("ignore")
def test_random_settings_are_the_same_federation_in_the_first_notebook(monkeypatch, known):
    rng, refused = np.random.default_rng(0), 0
    monkeypatch.setattr(catalogue, "load", cache(catalogue.load))
    monkeypatch.setattr(panel.Panel, "_draw", lambda self, part, *begun: setattr(self, "_shown", ({}, {})))
    shown = widgets.sites(fedlab.load("grades"), sites=3, model="small_cnn", prevalence=0.2)
    scenarios, found, classes = [name for name in fedlab.SCENARIOS if "mri" not in name], set(), set()
    for number in range(20):
        if number % 5 == 0:
            shown.scenario.value = scenarios[rng.integers(len(scenarios))]
        elif number % 5 == 1:
            shown.settings.source.index = int(number % 10 == 1)
        elif number % 5 == 2:
            shown.classes.value = rng.choice(shown.classes.options, rng.integers(2, 5), replace=False)[:, 1].tolist()
        picked = rng.choice([*AXES, "sites", "unseen", "seed"], 3, replace=False)
        free = [name for name in picked if not shown.settings.controls[name].disabled]
        counts = {"sites": int(rng.integers(2, 6)), "unseen": int(rng.integers(2)), "seed": int(rng.integers(100))}
        shown.settings.set({name: counts.get(name, round(float(rng.random()), 2)) for name in free})
        shown._moved()
        refused += "cannot be made" in shown.notice.widget.value
        line, text = read(shown.parameters.value), yaml.load(shown.yaml.value, NoDatesSafeLoader)
        assert repr(line) == repr(text)  # values and types: both inject the same cell
        assert notebook_sites(line, monkeypatch) == shown.hash, (line, shown.values)
        found.add(shown.hash)
        classes.add(tuple(shown.cases.classes))
    assert len(found) > 16 and refused < 4 and len(classes) > 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "start",
    [
        {},
        {"sites": "hospital"},
        {"sites": 2, "quantity": [2e-5, 1e-5]},
        {"sites": 3, "quantity": np.array([1 / 3, 2 / 3, 1]), "unseen": ["Site B"]},
        {"prevalence": 0.123456789012345, "acquisition": "generic(0.3)"},
        {"prevalence": "dirichlet(0.5)", "unseen": "Site A", "seed": 3},
    ],
)
def test_a_panel_shows_the_partition_of_its_start_and_copies_it(data, start):
    shown = widgets.sites(data, **start)
    assert shown.hash == fedlab.partition(data, **start).fingerprint
    assert set(shown.values) == set(signature())
    parameters = read(shown.parameters.value)
    assert fingerprint(parameters, data) == shown.hash and parameters == yaml.safe_load(shown.yaml.value)
    assert parameters.keys() == {"partition_seed", *signature()} - {"seed"}


@pytest.mark.parametrize("name", ["phantoms(cases=160, size=16)", "phantoms(160, 16)"])
def test_what_is_copied_names_the_dataset_that_was_loaded(name):
    shown = widgets.sites(fedlab.load(name), sites=2, prevalence=0.5)
    parameters = read(shown.parameters.value)
    assert next(iter(parameters)) == "dataset" and parameters == yaml.safe_load(shown.yaml.value)
    assert fedlab.Experiment(**parameters).make_partition().fingerprint == shown.hash


names = st.sampled_from(TEXTS) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(max_examples=20, deadline=None)
@given(names | st.lists(names, max_size=3) | st.floats(allow_nan=False) | st.lists(st.floats(0, 1), max_size=3))
def test_every_value_is_read_as_it_was_written(value):
    values = {"unseen": value}
    for found in (read(as_papermill(values)), yaml.safe_load(as_yaml(values))):
        assert found["unseen"] == value and type(found["unseen"]) is type(value)
