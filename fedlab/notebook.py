"""The notebooks' parameters: as now set, and refused where one was misspelt."""

import ast
from collections.abc import Mapping
from typing import Any

from fedlab.registry import nearest

INJECTED = "# Parameters"  # first line of the cell in which papermill hands over parameters


def parameters(namespace: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Name -> value of the parameters of the notebook that runs this; call it in the cell after the parameters.

    Parameters handed over by papermill must be among those that the notebook declares: ValueError naming the nearest
    one otherwise. (papermill itself only warns, and the run would go on with the default.)
    """
    if namespace is None:
        from IPython import get_ipython

        shell = get_ipython()
        namespace = shell.user_ns if shell is not None else {"In": []}
    cells = [cell for cell in namespace["In"][:-1] if cell.strip()]
    given: list[str] = []
    if cells and cells[-1].startswith(INJECTED):
        given = assigned(cells.pop())
    declared = assigned(cells[-1]) if cells else []
    for name in given:
        if name not in declared:
            raise ValueError(f"unknown parameter {name!r}: {nearest(name, declared)}")
    return {name: namespace[name] for name in declared}


def assigned(source: str) -> list[str]:
    """Names that a cell assigns at its top level."""
    names = []
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names
