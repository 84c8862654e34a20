"""The package as a whole: importing it is cheap, and no module hides behind a function of the same name."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import fedlab

MODULES = [module.name for module in pkgutil.walk_packages(fedlab.__path__, "fedlab.")]


def test_importing_fedlab_stays_light():
    """Drawing, MONAI, scikit-learn and downloads are loaded when first needed."""
    heavy = ["monai", "matplotlib", "sklearn", "scipy.optimize", "scipy.stats", "pooch", "IPython", "papermill"]
    code = f"import sys, fedlab; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
    ).stdout.strip()
    assert found == "[]"


@pytest.mark.parametrize("name", MODULES)
def test_a_dotted_name_is_the_module_it_says(name):
    """`import fedlab.x.y as m` gives the module, not a function that its package exports."""
    package, _, last = name.rpartition(".")
    module = importlib.import_module(name)
    assert getattr(importlib.import_module(package), last) is module


def test_no_module_is_named_like_a_public_function():
    functions = {name for name in fedlab.__all__ if callable(getattr(fedlab, name))}
    assert not functions & {name.rpartition(".")[2] for name in MODULES}
    assert not set(fedlab.plots.__all__) & {name.rpartition(".")[2] for name in MODULES if ".plots." in name}
