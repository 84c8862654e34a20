"""Imports point down: every module of fedlab stands on a floor and sees only the floors below it (or its own)."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1] / "fedlab"
FLOORS = [
    {"registry", "randomness", "memory", "layout", "weights", "topology", "cases", "metrics", "intervals"},
    {"phantoms", "heterogeneity", "tasks", "models", "stages", "augmentation", "aggregation", "attacks", "secure"},
    {"partition", "making", "observing", "dose_response", "datasets", "training", "turnout", "devices"},
    {"federation", "engine", "protocol"},
    {"algorithms", "evaluation", "selection"},
    {
        "experiment",
        "record",
        "checkpoint",
        "runs",
        "cards",
        "conduct",
        "comparison",
        "terms",
        "costs",
        "spending",
        "leakage",
        "drift",
        "workers",
        "abreast",
    },
    {"plots", "live", "notebook", "widgets"},
]
SIDE = len(FLOORS) - 1
LAZY = {("datasets", "data_prep"), ("conduct", "live")}  # loaded when asked for, named here one by one


def place(module: str) -> int:
    (floor,) = [i for i, names in enumerate(FLOORS) if module in names]
    return floor


def imported(path: Path):
    """(name of the fedlab module, inside a function) of each import."""
    tree = ast.parse(path.read_text())
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "fedlab" else [f"fedlab.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "fedlab" and len(parts) > 1:
                yield parts[1], id(node) not in top


def test_imports_point_down():
    upward = []
    for path in ROOT.rglob("*.py"):
        module = path.relative_to(ROOT).with_suffix("").parts[0]
        if module == "__init__":
            continue
        for other, inside in imported(path):
            allowed = place(other) <= place(module) or (inside and (module, other) in LAZY)
            if not allowed:
                upward.append(f"{module} imports {other}")
    assert not upward


def test_every_module_has_a_floor():
    modules = {path.relative_to(ROOT).with_suffix("").parts[0] for path in ROOT.rglob("*.py")} - {"__init__"}
    assert modules == set().union(*FLOORS)


def test_importing_fedlab_stays_light():
    """Drawing, MONAI, scikit-learn and downloads are loaded when first needed."""
    heavy = ["monai", "matplotlib", "sklearn", "scipy.optimize", "scipy.stats", "pooch", "IPython", "papermill"]
    code = f"import sys, fedlab; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert found == "[]"


def test_modules_stay_readable():
    """A module is a page or four."""
    long = {path.name: n for path in ROOT.rglob("*.py") if (n := len(path.read_text().splitlines())) > 320}
    assert not long
