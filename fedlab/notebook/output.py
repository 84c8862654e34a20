"""Output widgets as targets of live figures."""

from __future__ import annotations

from typing import Any

import ipywidgets

ELSEWHERE = "(The controls of this figure work where the notebook is open, in JupyterLab.)"


def output() -> ipywidgets.Output:
    """Make an Output widget, whose content is replaced through its `outputs`."""
    return ipywidgets.Output()


def show_controls(widget: ipywidgets.Widget) -> None:
    """Display a widget; where only text can be shown, as on a saved page, one line says where it works."""
    from IPython.display import display

    content = dict(widget._repr_mimebundle_())
    display(content | {"text/plain": ELSEWHERE}, raw=True)


def captures() -> bool:
    """Return whether an Output widget captures what is displayed now, as inside `with output:`."""
    from IPython import get_ipython

    shell = get_ipython()
    parent = shell.get_parent() if hasattr(shell, "get_parent") else {}
    request = (parent or {}).get("header", {}).get("msg_id")
    models: dict[str, Any] = ipywidgets.Widget.get_manager_state()["state"]
    outputs = [model["state"] for model in models.values() if model["model_name"] == "OutputModel"]
    return bool(request) and any(state.get("msg_id") == request for state in outputs)
