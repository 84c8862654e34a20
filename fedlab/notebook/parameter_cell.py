"""The parameters of a notebook, from its parameters cell, papermill and defaults; unknown names are refused."""

import ast
import os
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import wraps
from typing import Any

from fedlab.core.registry import nearest
from fedlab.data import catalogue
from fedlab.data.home import OFFLINE
from fedlab.engine.devices import find_device
from fedlab.experiments.experiment import Experiment
from fedlab.partitioning.build import ASSIGNING

INJECTED = "# Parameters"  # first line of the cell in which papermill passes parameters
SUGGESTED = {"quantity": 0.5, "prevalence": 0.5, "acquisition": 0.2}  # doses of the notebooks, for simulated sites
SWEEP = [0.0, 0.5, 1.0]  # doses of a study; natural sites can have scanners and annotators, but no other prevalence


def parameters(
    namespace: Mapping[str, Any] | None = None,
    *,
    own: Iterable[str] = (),
    accept: Iterable[str] | None = None,
    fallbacks: Mapping[str, Sequence[str]] | None = None,
    **defaults: Any,
) -> dict[str, Any]:
    """Settings of the experiment, as the notebook that calls this was given them.

    A notebook's parameters cell shows the few parameters that the notebook is about, each with a type
    (`rounds: int = 15`). Every other field of `fedlab.Experiment` can be set by name all the same, with
    `papermill -p lr 0.01`. papermill warns that such a parameter is unknown, because its parameters cell does not list
    it; it is used nevertheless. Names that are neither are refused here.

    Where `sites` is a column of the dataset, the sites are natural, and the doses that the notebooks suggest for
    simulated sites (quantity 0.5, prevalence 0.5, acquisition 0.2; in a study, the doses of an axis that assigns cases)
    become 0, which one printed sentence says. Other
    values, and all values from papermill, are your own and stay; `fedlab.Experiment` refuses those that natural sites
    cannot have.

    Parameters
    ----------
    namespace : mapping, optional
        Names and values of the notebook, with its cells under "In". By default those of the running kernel.
    own : iterable of str, optional
        Parameters that only this notebook uses, besides `out`. They are no settings of the experiment: they are left
        out of the result, even if a field of `fedlab.Experiment` has the same name.
    accept : iterable of str, optional
        Names that may be set. By default every field of `fedlab.Experiment` except `method`, which notebooks choose
        themselves.
    fallbacks : mapping of str to sequence of str, optional
        Dataset that this notebook suggests -> what to use for it: the first that needs no download, else the last,
        which a printed sentence says. A dataset from papermill stays, and is downloaded.
    **defaults
        Settings of the notebook that its parameters cell does not show. A value in the parameters cell or from
        papermill takes precedence.

    Returns
    -------
    dict
        Name and value of each setting that has a default, a line in the parameters cell, or a value from papermill.

    Raises
    ------
    ValueError
        If a name is unknown (the message names the nearest known ones), or a device is not on this machine.

    Examples
    --------
    The cells of a notebook that was run with `papermill -p lr 0.01`:

    >>> cells = ["rounds: int = 15  # communication rounds", "# Parameters\\nlr = 0.01"]
    >>> notebook = {"In": cells, "rounds": 15, "lr": 0.01}
    >>> parameters(notebook, batch_size=16)
    {'batch_size': 16, 'rounds': 15, 'lr': 0.01}

    Sites of the dataset instead of simulated ones:

    >>> parameters({"In": ["# Parameters\\nsites = 'hospital'"], "sites": "hospital"}, quantity=0.5)
    The sites come from column 'hospital': what this notebook suggests for simulated ones, quantity=0.5, is 0.
    {'quantity': 0.0, 'sites': 'hospital'}
    """
    if namespace is None:
        ipython = sys.modules.get("IPython")  # is loaded wherever a notebook runs
        shell = ipython.get_ipython() if ipython is not None else None
        namespace = shell.user_ns if shell is not None else {"In": []}
        if getattr(shell, "kernel", None) is not None:
            show_warnings_plainly()
    private = {"out", *own}
    accepted = (set(Experiment.model_fields) - {"method"} if accept is None else set(accept)) - private
    cells = list(namespace["In"])
    declared = [name for cell in cells for name in assigned(cell, ast.AnnAssign)]
    injected = [name for cell in cells if cell.startswith(INJECTED) for name in assigned(cell, ast.Assign)]
    for name in [*defaults, *declared, *injected]:
        if name in accepted | private:
            continue
        if name in Experiment.model_fields:
            raise ValueError(f"{name!r} is not a parameter of this notebook: leave it out")
        raise ValueError(f"unknown parameter {name!r}: {nearest(name, accepted | private)}")
    known = defaults | {name: namespace[name] for name in [*declared, *injected] if name in namespace}
    settings = {name: value for name, value in known.items() if name in accepted}
    if "device" in settings:
        find_device(settings["device"])  # refused before the figures that come before training
    if "dataset" not in injected:
        settings = _at_hand(settings, fallbacks or {})
    return _natural(settings, explicit=injected)


def _at_hand(settings: dict[str, Any], fallbacks: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Settings with a dataset that needs no download, if there are fallbacks for it."""
    dataset = str(settings.get("dataset"))
    if dataset not in fallbacks:
        return settings
    *wanted, last = fallbacks[dataset]
    if found := next(filter(_is_at_hand, wanted), None):
        return settings | {"dataset": found}
    print(
        f"{wanted[0]} is neither prepared nor in a mirror, so this notebook runs on {last}."
        f" fedlab.load({wanted[0]!r}) downloads it; then run all cells again."
    )
    return settings | {"dataset": last}


def _is_at_hand(dataset: str) -> bool:
    """Whether a dataset can be loaded without a download; it is prepared if its files are in a mirror."""
    before = os.environ.get(OFFLINE)
    os.environ[OFFLINE] = "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of loading are shown when the notebook loads it
            catalogue.load(dataset)
    except OSError:
        return False
    finally:
        os.environ.pop(OFFLINE) if before is None else os.environ.update({OFFLINE: before})
    return True


def _natural(settings: dict[str, Any], explicit: Iterable[str]) -> dict[str, Any]:
    """Settings in which suggested doses yield to natural sites; explicit: names of values that do not."""
    column = settings.get("sites")
    if not isinstance(column, str) or column.strip().isdecimal():
        return settings
    kept = set(explicit)
    yielding: dict[str, Any] = {
        axis: 0.0 for axis, dose in SUGGESTED.items() if settings.get(axis) == dose and axis not in kept
    }
    yielding |= {axis: [0.0] for axis in ASSIGNING if settings.get(axis) == SWEEP and axis not in kept}
    if yielding:
        shown = ", ".join(f"{axis}={settings[axis]}" for axis in yielding)
        print(f"The sites come from column {column!r}: what this notebook suggests for simulated ones, {shown}, is 0.")
    return settings | yielding


def show_warnings_plainly() -> None:
    """Show warnings of fedlab in this notebook without the path of the kernel's file and the line of the cell."""
    usual = warnings.formatwarning
    if getattr(usual, "__name__", "") == _formatted.__name__:
        return

    @wraps(_formatted)
    def formatted(message: Any, category: type[Warning], *where: Any, **line: Any) -> str:
        return _formatted(message, category) or usual(message, category, *where, **line)

    warnings.formatwarning = formatted


def _formatted(message: Any, category: type[Warning]) -> str:
    """A warning of fedlab in words; empty for any other."""
    return f"{category.__name__}: {message}\n" if category.__module__.startswith("fedlab.") else ""


def assigned(cell: str, kind: type[ast.Assign] | type[ast.AnnAssign]) -> list[str]:
    """Names that a cell assigns at its top level, with a type (AnnAssign) or without (Assign)."""
    try:
        body = ast.parse(cell).body
    except SyntaxError:  # an unfinished cell, or one with a magic command
        return []
    nodes = [node for node in body if isinstance(node, kind)]
    targets = [target for node in nodes for target in getattr(node, "targets", None) or [node.target]]  # type: ignore[union-attr]
    return [target.id for target in targets if isinstance(target, ast.Name)]
