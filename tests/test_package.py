"""The package as a whole: importing it is cheap, and no module hides behind a function of the same name."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import fedlab

MODULES = [module.name for module in pkgutil.walk_packages(fedlab.__path__, "fedlab.")]


LIGHT = """
import sys, fedlab
list(fedlab.DATASETS)
heavy = ["monai", "matplotlib", "sklearn", "scipy.optimize", "scipy.stats", "pooch", "requests", "IPython", "papermill"]
import fedlab.plots, pandas as pd
loaded = [name for name in [*heavy, "ipywidgets"] if name in sys.modules]
assert not loaded, f"importing loads {loaded}"
frame = pd.DataFrame({"trained_at": ["A", "B"], "tested_on": "A", "value": [0.5, 0.6], "cases": 9, "metric": "auroc"})
figure, _ = fedlab.plots.transfer(frame)
assert figure._repr_png_()[0].startswith(b"\\x89PNG")
assert "matplotlib.pyplot" not in sys.modules, "drawing loads pyplot"
experiment = fedlab.Experiment(dataset="phantoms(cases=60, size=16)", sites=2, model="logistic", rounds=1)
fedlab.run(experiment, folder=sys.argv[1], live=True)
assert "torch._dynamo" not in sys.modules, "training loads the compilers of PyTorch"
"""


def test_importing_fedlab_and_listing_datasets_stay_light_and_drawing_needs_no_pyplot(tmp_path):
    """Drawing, widgets, MONAI, scikit-learn and downloads are loaded when first needed."""
    command = [sys.executable, "-c", LIGHT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr


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
