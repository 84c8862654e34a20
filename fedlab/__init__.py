"""fedlab: a workbench for federated learning in medical imaging.

cases = fedlab.load("phantoms")
part = fedlab.partition(cases, sites=4, prevalence=0.6)
runs = fedlab.grid(fedlab.Experiment(prevalence=0.6), method=["local", "centralized", "fedavg", "cyclic"])
fedlab.compare(runs)
"""

import importlib
import sys
from functools import partial
from typing import Any

if sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv) - 1 :][:2] == ["-m", "fedlab"]:
    from fedlab_command.parser import parse

    parse(sys.argv[1:])  # `python -m fedlab --help` ends here, before imports that take seconds

from fedlab.algorithms import METHODS
from fedlab.analysis.client_drift import drift, weight_divergence
from fedlab.analysis.communication import costs
from fedlab.analysis.comparison import compare
from fedlab.analysis.joining.absent_sites import leave_one_out
from fedlab.analysis.joining.coalitions import contributions
from fedlab.analysis.joining.conformal_sets import conformal
from fedlab.analysis.joining.verdicts import verdict
from fedlab.analysis.patient_groups import subgroups
from fedlab.analysis.segmented_cases import predicted_masks
from fedlab.analysis.split_leakage import leakage
from fedlab.core.warnings import show_each_once
from fedlab.data.cases import register_figure
from fedlab.data.catalogue import DATASETS, load
from fedlab.data.own_images import import_images
from fedlab.experiments import run_folder as runs
from fedlab.experiments.experiment import Experiment
from fedlab.experiments.observer import register_observer
from fedlab.experiments.reproduction import reproduce
from fedlab.experiments.runner import grid, run
from fedlab.experiments.scenarios import SCENARIOS
from fedlab.heterogeneity.axes import AXES
from fedlab.learning.models import MODELS
from fedlab.notebook.live import Live, in_notebook
from fedlab.notebook.parameter_cell import parameters
from fedlab.partitioning.build import partition
from fedlab.partitioning.dose_curve import dose_response
from fedlab.partitioning.export import export_sites
from fedlab.partitioning.partitions import Partition
from fedlab.reporting.concluding import conclusions
from fedlab.reporting.filled_checklist import checklist
from fedlab.reporting.methods import methods_paragraph
from fedlab.reporting.page import report
from fedlab.reporting.paper_tables import paper_table
from fedlab.studies.study import Study

__all__ = [
    "AXES",
    "DATASETS",
    "METHODS",
    "MODELS",
    "SCENARIOS",
    "Experiment",
    "Partition",
    "Study",
    "checklist",
    "compare",
    "conclusions",
    "conformal",
    "contributions",
    "costs",
    "dose_response",
    "drift",
    "export_sites",
    "grid",
    "import_images",
    "leakage",
    "leave_one_out",
    "load",
    "methods_paragraph",
    "paper_table",
    "parameters",
    "partition",
    "plots",
    "predicted_masks",
    "report",
    "reproduce",
    "run",
    "runs",
    "subgroups",
    "verdict",
    "weight_divergence",
    "widgets",
]

if in_notebook():
    show_each_once()
register_observer(partial(Live, 1, ""))  # of run(..., live=True)
register_figure(lambda cases, *values, **options: __getattr__("plots").cases(cases, *values, **options))


def __getattr__(name: str) -> Any:
    """Load figures and widgets when they are first needed, so that importing fedlab stays light."""
    if name not in ("plots", "widgets"):
        raise AttributeError(f"module 'fedlab' has no attribute {name!r}")
    try:
        return importlib.import_module(f"fedlab.{name}")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"fedlab.{name} needs {error.name}, which is not installed: pip install 'fedlab-workbench[notebooks]'",
            name=error.name,
        ) from error
