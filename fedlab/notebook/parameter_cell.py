"""The notebooks' parameters: as now set, and refused where one was misspelt."""

import ast
from collections.abc import Mapping
from typing import Any

from fedlab.core.registry import nearest

INJECTED = "# Parameters"  # first line of the cell in which papermill hands over parameters


def parameters(namespace: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Name -> value of the parameters of the notebook that runs this; call it in a cell after the parameters.

    Parameters are the names assigned with a type, `rounds: int = 15`. Those handed over by papermill must be among
    them: ValueError naming the nearest one otherwise. (papermill itself only warns and goes on with the default.)
    """
    if namespace is None:
        from IPython import get_ipython

        shell = get_ipython()
        namespace = shell.user_ns if shell is not None else {"In": []}
    cells = list(namespace["In"])
    declared = list(dict.fromkeys(name for cell in cells for name in assigned(cell, ast.AnnAssign)))
    given = [name for cell in cells if cell.startswith(INJECTED) for name in assigned(cell, ast.Assign)]
    for name in given:
        if name not in declared:
            raise ValueError(f"unknown parameter {name!r}: {nearest(name, declared)}")
    return {name: namespace[name] for name in declared if name in namespace}


def assigned(cell: str, kind: type[ast.Assign] | type[ast.AnnAssign]) -> list[str]:
    """Names that a cell assigns at its top level, with a type (AnnAssign) or without (Assign)."""
    try:
        body = ast.parse(cell).body
    except SyntaxError:  # an unfinished cell, or one with a magic command
        return []
    nodes = [node for node in body if isinstance(node, kind)]
    targets = [target for node in nodes for target in getattr(node, "targets", None) or [node.target]]  # type: ignore[union-attr]
    return [target.id for target in targets if isinstance(target, ast.Name)]
