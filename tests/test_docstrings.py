"""Docstrings: their examples run, and everything that a user calls has the sections that a user looks for."""

import doctest
import importlib
import inspect
import itertools
import pkgutil

import matplotlib
import pytest

import data_prep
import fedlab

MODULES = [
    module.name
    for package in (fedlab, data_prep)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith("__main__")
]
REGISTRIES = {"method": fedlab.METHODS, "model": fedlab.MODELS}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["fedlab", *MODULES])
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path / "data"))
    matplotlib.use("Agg")
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert found.failed == 0


def sections(thing) -> set[str]:
    lines = (inspect.getdoc(thing) or "").split("\n")
    return {line for line, rule in itertools.pairwise(lines) if rule and set(rule) == {"-"}}


@pytest.mark.parametrize("name", [n for n in fedlab.__all__ if callable(getattr(fedlab, n))])
def test_public_names_are_documented(name):
    thing = getattr(fedlab, name)
    wanted = {"Examples"} | (set() if inspect.isclass(thing) else {"Parameters", "Returns"})
    assert wanted <= sections(thing)


@pytest.mark.parametrize("name", fedlab.plots.__all__)
def test_plots_are_documented(name):
    assert {"Parameters", "Examples"} <= sections(getattr(fedlab.plots, name))


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in REGISTRIES.items() for name in names])
def test_registered_functions_are_documented(kind, name):
    function = REGISTRIES[kind].function(name)
    arguments = list(inspect.signature(function).parameters)[1 if kind == "method" else 2 :]
    assert "Examples" in sections(function)
    assert not arguments or "Parameters" in sections(function)
