"""Impossible values of any argument of any registered function are refused before anything begins, or they work."""

import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import cases

import fedlab
from fedlab.core.arguments import signature
from fedlab.experiments.experiment import CODE

GIVEN = {"method": 1, "model": 2, "schedule": 1, "participation": 1, "aggregate": 3, "attack": 5, "augment": 3,
         "topology": 2, "presentation": 2, "population": 2}  # fmt: skip
BASE = {"dataset": "phantoms(cases=60, size=16)", "sites": 3, "model": "logistic", "rounds": 1, "local_steps": 1,
        "batch_size": 8, "device": "cpu"}  # fmt: skip
WRONG = ["x", "0.5", "", None, [], [1], (), {}, True, False, float("nan"), 1e300, -1e300, 1e999, -1, -0.5, 0, 0.5, 1, 2,
         3.5, 10**12, -(10**30), 10**400, 1j, b"x"]  # fmt: skip
NEEDED = {"presentation": {"dose": 0.5}, "population": {"dose": 0.5}, "stragglers": {"share": 0.5}, "crop": {"size": 8}}


def arguments(field: str, name: str) -> list[str]:
    """The arguments of a registered function that a user may set."""
    if field == "annotation":
        return ["dose"]
    return list(signature(CODE[field].function(name)).parameters)[GIVEN.get(field, 0) :]


PLACES = [
    (field, name, argument)
    for field in CODE
    for name in CODE[field]
    if name not in ("densenet121", "resnet18")  # slow
    for argument in arguments(field, name)
]


def changes(field: str, name: str, argument: str, value: Any) -> dict[str, Any]:
    """The field of an experiment whose text sets one argument."""
    spelt = "1e999" if value == float("inf") else "1e999 - 1e999" if value != value else repr(value)
    named = {each: repr(needed) for each, needed in NEEDED.get(field, {}).items()} | {argument: spelt}
    inner = ", ".join(f"{each}={text}" for each, text in named.items())
    if field == "topology":
        return {"method": f"gossip({name}({inner}))"}
    return {field: f"{name}({inner})"}


def outcome(changed: dict[str, Any], folder) -> str:
    """What comes of an experiment: refused with this sentence, or run. Any other error passes through."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            experiment = fedlab.Experiment(**{**BASE, **changed})
        except ValueError as error:
            return f"refused: {error}"
        try:
            fedlab.run(experiment, folder=folder)
        except (ValueError, fedlab.federation.DivergedError) as error:
            return f"refused by the run: {error}"
    return "ran"


RAW = ("unsupported operand", "object has no attribute", "argument of type", "Input should", "not subscriptable",
       "unexpected keyword", "must be real number", "cannot unpack", "invalid literal", "pydantic",
       "NoneType")  # fmt: skip


def check(found: str, *named: str) -> None:
    """An error names the argument, or what it belongs to, in one sentence."""
    assert not any(raw in found for raw in RAW), found
    if found.startswith("refused:"):
        assert any(name in found for name in named) and len(found) < 600, found


@settings(deadline=None, max_examples=12)
@given(st.sampled_from(PLACES), st.sampled_from(WRONG))
def test_a_wrong_value_of_an_argument_is_refused_or_works(tmp_path_factory, place, value):
    field, name, argument = place
    check(outcome(changes(field, name, argument, value), tmp_path_factory.mktemp("gate")), name, argument, field)


FIELDS = sorted(fedlab.Experiment.model_fields.keys() - {"device", "execution", "precision"})


@settings(deadline=None, max_examples=12)
@given(st.sampled_from(FIELDS), st.sampled_from([*WRONG, "true", "none", "[0.5, 0.5, 0.5]", "-" * 100_000, "(" * 5000]))
def test_a_wrong_value_of_a_field_is_refused_or_works(tmp_path_factory, field, value):
    if field in ("rounds", "local_epochs", "local_steps", "evaluate_every") and value == 10**12:
        value = 10**6 + 10**12
    kind = CODE[field].kind if field in CODE else field
    check(outcome({field: value}, tmp_path_factory.mktemp("gate")), field, kind)


@pytest.mark.parametrize("text", ["fedprox(**{'mu': 5})", "fedprox(*[5])"])
def test_starred_arguments_are_refused(text):
    with pytest.raises(ValueError, match=r"write each argument as name=value, without \* and \*\*"):
        fedlab.Experiment(method=text)


def test_numbers_as_text_are_the_numbers():
    """As `papermill -r` and quoted YAML give them."""
    found = fedlab.Experiment(prevalence="0.5", sites="2", seed="3", lr="0.1")
    assert (found.prevalence, found.sites, found.seed, found.lr) == (0.5, 2, 3, 0.1)
    assert found == fedlab.Experiment(prevalence=0.5, sites=2, seed=3, lr=0.1)


def test_sites_that_were_given_case_by_case_cannot_be_requested_again():
    data = cases(40)
    part = fedlab.Partition.from_sites(data, ["A", "B"] * 20)
    with pytest.raises(ValueError, match=r"given case by case.*hand on the partition itself"):
        fedlab.partition(data, **part.requested)


def test_an_axis_without_values_is_refused(tmp_path):
    with pytest.raises(ValueError, match="seed"):
        fedlab.grid(fedlab.Experiment(), folder=tmp_path, seed=[])
    assert not list(tmp_path.iterdir())
