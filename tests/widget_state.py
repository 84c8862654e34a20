"""What the widgets of an executed notebook say: an exception in a callback leaves no trace but there."""

from typing import Any

ERROR = "fedlab-error"  # what panels mark errors with
STATE = "application/vnd.jupyter.widget-state+json"


def states(notebook: Any) -> list[tuple[str, dict[str, Any]]]:
    """(model name, state) of each widget kept in the notebook."""
    kept = notebook.metadata.get("widgets", {}).get(STATE, {"state": {}})["state"]
    return [(model["model_name"], model["state"]) for model in kept.values()]


def errors(notebook: Any) -> list[str]:
    """Errors that panels show, and those that Output widgets took."""
    shown = [str(state["value"]) for _, state in states(notebook) if ERROR in str(state.get("value", ""))]
    taken = [
        f"{output.get('ename')}: {output.get('evalue')}"
        for name, state in states(notebook)
        if name == "OutputModel"
        for output in state.get("outputs", ())
        if output["output_type"] == "error"
    ]
    return shown + taken
