"""fedlab: a workbench for federated learning in medical imaging.

cases = fedlab.load("phantoms")
part = fedlab.partition(cases, sites=4, prevalence=0.6)
runs = fedlab.grid(fedlab.Experiment(prevalence=0.6), method=["local", "centralized", "fedavg", "cyclic"])
fedlab.compare(runs)
"""

import importlib
from typing import Any

from fedlab import runs
from fedlab.algorithms import METHODS
from fedlab.comparison import compare
from fedlab.conduct import grid, run
from fedlab.costs import costs
from fedlab.datasets import DATASETS, load
from fedlab.dose_response import dose_response
from fedlab.drift import drift, weight_divergence
from fedlab.experiment import Experiment
from fedlab.heterogeneity import AXES
from fedlab.leakage import leakage
from fedlab.making import partition
from fedlab.models import MODELS
from fedlab.notebook import parameters
from fedlab.partition import Partition

__all__ = [
    "AXES",
    "DATASETS",
    "METHODS",
    "MODELS",
    "Experiment",
    "Partition",
    "compare",
    "costs",
    "dose_response",
    "drift",
    "grid",
    "leakage",
    "load",
    "parameters",
    "partition",
    "plots",
    "run",
    "runs",
    "weight_divergence",
    "widgets",
]


def __getattr__(name: str) -> Any:
    """Drawing and controls are loaded when first needed, so that importing fedlab stays light."""
    if name in ("plots", "widgets"):
        return importlib.import_module(f"fedlab.{name}")
    raise AttributeError(f"module 'fedlab' has no attribute {name!r}")
