"""The parameters of a notebook, from its parameters cell, papermill and defaults; unknown names are refused."""

import ast
import sys
import warnings
from collections.abc import Iterable, Mapping
from functools import wraps
from typing import Any

from fedlab.core.registry import nearest
from fedlab.experiments.experiment import Experiment

INJECTED = "# Parameters"  # first line of the cell in which papermill passes parameters


def parameters(
    namespace: Mapping[str, Any] | None = None,
    *,
    own: Iterable[str] = (),
    accept: Iterable[str] | None = None,
    **defaults: Any,
) -> dict[str, Any]:
    """Settings of the experiment, as the notebook that calls this was given them.

    A notebook's parameters cell shows the few parameters that the notebook is about, each with a type
    (`rounds: int = 15`). Every other field of `fedlab.Experiment` can be set by name all the same, with
    `papermill -p lr 0.01`. papermill warns that such a parameter is unknown, because its parameters cell does not list
    it; it is used nevertheless. Names that are neither are refused here.

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
        If a name is unknown. The message names the nearest known ones.

    Examples
    --------
    The cells of a notebook that was run with `papermill -p lr 0.01`:

    >>> cells = ["rounds: int = 15  # communication rounds", "# Parameters\\nlr = 0.01"]
    >>> notebook = {"In": cells, "rounds": 15, "lr": 0.01}
    >>> parameters(notebook, batch_size=16)
    {'batch_size': 16, 'rounds': 15, 'lr': 0.01}
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
    return {name: value for name, value in known.items() if name in accepted}


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
