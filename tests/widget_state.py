"""Errors in the widgets of an executed notebook, the only trace of an exception in a callback."""

from typing import Any

ERROR = "fedlab-error"  # CSS class of errors in panels
STATE = "application/vnd.jupyter.widget-state+json"


def states(notebook: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return (model name, state) of each widget saved in the notebook."""
    kept = notebook.metadata.get("widgets", {}).get(STATE, {"state": {}})["state"]
    return [(model["model_name"], model["state"]) for model in kept.values()]


def errors(notebook: Any) -> list[str]:
    """Return the errors in panels and those captured by Output widgets."""
    shown = [str(state["value"]) for _, state in states(notebook) if ERROR in str(state.get("value", ""))]
    captured = [
        f"{output.get('ename')}: {output.get('evalue')}"
        for name, state in states(notebook)
        if name == "OutputModel"
        for output in state.get("outputs", ())
        if output["output_type"] == "error"
    ]
    return shown + captured
