"""Controls of a panel: a slider an axis, counts, buttons, texts to copy, and a line for errors."""

from __future__ import annotations

import html
import traceback
from collections.abc import Callable
from typing import Any

from ipywidgets import HTML, BoundedIntText, Button, FloatSlider, IntSlider, Layout, Textarea

from fedlab.plots.measured_shift import NAMES
from fedlab.widgets.copy_settings import COUNTS, plain

ERROR = "fedlab-error"  # CSS class of an error, which tests of executed notebooks look for
STEP = 0.05
DIGITS = 10  # a slider's 0.1 + 0.05 is 0.15
WIDE = {"description_width": "11em"}
LABELS = {"sites": "Number of sites", "unseen": "Held-out sites", "seed": "Random seed"}
MOST_SITES = 12


class Settings:
    """A control for each argument of the partition. Values that no control can express are kept until it is moved.

    start: name -> value, in the order of the panel. moved: called after every change by the user.
    """

    def __init__(self, start: dict[str, Any], moved: Callable[[], None]) -> None:
        self.start, self._moved, self._quiet = dict(start), moved, False
        self.kept = {name: value for name, value in start.items() if not _expressible(name, value)}
        self.controls = {name: self._control(name, value) for name, value in start.items() if name in LABELS | NAMES}
        for name, control in self.controls.items():
            control.observe(lambda change, name=name: self._changed(name), "value")
        self._limit()
        self._name()

    @property
    def values(self) -> dict[str, Any]:
        """Arguments of `fedlab.partition`, as a plain dict; exactly as given where no control was moved."""
        return {name: self.kept[name] if name in self.kept else self._shown(name) for name in self.start}

    def _shown(self, name: str) -> Any:
        """The value of a control."""
        value, start = plain(self.controls[name].value), self.start[name]
        if value == start:
            return start
        return round(value, DIGITS) if isinstance(value, float) else value

    def reset(self) -> None:
        """Set all controls to their start, as one change."""
        self._quiet = True
        self.kept = {name: value for name, value in self.start.items() if not _expressible(name, value)}
        for name in ("sites", *self.controls):  # sites first: it limits how many may be held out
            if name in self.controls and name not in self.kept:
                self.controls[name].value = self.start[name]
        self._quiet = False
        self._limit()
        self._name()
        self._moved()

    def columns(self) -> tuple[list[Any], list[Any]]:
        """Return (controls of the axes, controls of the counts)."""
        axes = [control for name, control in self.controls.items() if name not in COUNTS]
        return axes, [control for name, control in self.controls.items() if name in COUNTS]

    def _control(self, name: str, value: Any) -> Any:
        """Make the control of one argument."""
        value = value if name not in self.kept else 0
        look: dict[str, Any] = {"style": WIDE, "layout": Layout(width="27em"), "continuous_update": False}
        if name in NAMES:
            return FloatSlider(value, min=0, max=1, step=STEP, readout_format=".2f", **look)
        if name == "seed":
            return BoundedIntText(value, min=0, max=2**31 - 1, **look)
        most = max(MOST_SITES, value) if name == "sites" else max(MOST_SITES - 1, value)
        return IntSlider(max(value, 1) if name == "sites" else value, min=int(name == "sites"), max=most, **look)

    def _changed(self, name: str) -> None:
        """Adopt a value that the user set."""
        if self._quiet:
            return
        self.kept.pop(name, None)
        if name == "sites":
            self._limit()
        self._name()
        self._moved()

    def _limit(self) -> None:
        """Leave at least one site for training."""
        if "unseen" in self.controls and "sites" in self.controls and "sites" not in self.kept:
            self._quiet = True
            self.controls["unseen"].max = max(0, self.controls["sites"].value - 1)
            self._quiet = False

    def _name(self) -> None:
        """Label the controls; a value that a slider cannot express is part of its label."""
        for name, control in self.controls.items():
            label = (NAMES | LABELS)[name]
            control.description = f"{label}: {self.kept[name]}" if name in self.kept else label
            control.tooltip = f"{label} (parameter {name})"


def _expressible(name: str, value: Any) -> bool:
    """Return whether a slider can show the value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value <= 1 if name in NAMES else name in COUNTS and value >= 0


class Notice:
    """A line for messages: errors in red, warnings in grey."""

    def __init__(self) -> None:
        self.widget = HTML()

    def clear(self) -> None:
        """Remove the message."""
        self.widget.value = ""

    def say(self, text: str) -> None:
        """Show a message."""
        self.widget.value = f'<div style="color:#555">{html.escape(text)}</div>' if text else ""

    def fail(self, error: BaseException, doing: str) -> None:
        """Show an error; unless it is a refused value, with the end of its traceback."""
        text = html.escape(f"{doing}: {error}" if str(error) else f"{doing}: {type(error).__name__}")
        if not isinstance(error, ValueError | TypeError):
            lines = "".join(traceback.format_exception(error)[-3:])
            text += f'<pre style="color:inherit">{html.escape(lines)}</pre>'
        look = "color:#b00020;font-weight:bold;line-height:1.4"
        self.widget.value = f'<div class="{ERROR}" role="alert" style="{look}">{text}</div>'


def guarded(notice: Notice, doing: str, call: Callable[[], None]) -> Callable[..., None]:
    """Wrap a call as a callback that shows every error in the notice."""

    def callback(*_: Any) -> None:
        try:
            call()
        except Exception as error:  # the traceback of a callback is not shown in the notebook
            notice.fail(error, doing)

    return callback


def button(text: str, hint: str, icon: str = "") -> Button:
    """Make a button."""
    return Button(description=text, tooltip=hint, icon=icon, layout=Layout(width="auto", align_self="flex-start"))


def copyable(label: str, rows: int) -> Textarea:
    """Make a text that can be selected and copied."""
    return Textarea(description=label, rows=rows, style=WIDE, layout=Layout(width="40em", max_width="98%"))
