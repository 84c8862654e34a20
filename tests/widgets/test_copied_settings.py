"""Texts that a panel offers to copy give its sites in every notebook, whatever the notebook's own defaults are."""

import shlex

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from papermill.cli import _resolve_type
from papermill.iorw import NoDatesSafeLoader
from worlds import cases as made_up

import fedlab
from fedlab import widgets
from fedlab.widgets.copy_settings import as_papermill, as_yaml, signature

AXES = list(fedlab.AXES)
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


@pytest.fixture(scope="module")
def data():
    table = fedlab.load("phantoms(cases=160, size=16)").table
    columns = {name: table[name] for name in ("age", "sex", "severity", "subtype")}
    return made_up(160, (1, 4, 4), hospital=np.where(np.arange(160) % 5 < 2, "nan", "O'Neill: #1"), **columns)


@pytest.mark.filterwarnings("ignore")
def test_random_settings_are_reproduced_on_top_of_other_defaults(data):
    rng = np.random.default_rng(0)
    for number in range(12):
        doses = {axis: [0.0, 0.0, 0.0, 0.0, 0.5, round(float(rng.random()), 2)][rng.integers(6)] for axis in AXES}
        start = {"sites": int(rng.integers(2, 5)), "seed": int(rng.integers(0, 9)), "unseen": int(rng.integers(0, 2))}
        start |= {"splits": ["official", "site"][number % 2], "leakage": ["together", "allow"][number // 2 % 2]}
        wanted = fedlab.partition(data, **start, **doses).fingerprint
        parameters = read(as_papermill(start | doses))
        assert fingerprint(parameters, data) == wanted
        assert parameters == yaml.safe_load(as_yaml(start | doses))


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
