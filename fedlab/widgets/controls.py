"""Controls of a panel: a slider an axis, counts, where sites come from, buttons, texts to copy, a line for errors."""

from __future__ import annotations

import html
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from ipywidgets import HTML, BoundedIntText, Button, Dropdown, FloatSlider, HBox, IntSlider, Layout, Textarea

from fedlab.partitioning.build import ASSIGNING
from fedlab.plots.measured_shift import NAMES
from fedlab.widgets.copy_settings import COUNTS, plain

ERROR = "fedlab-error"  # CSS class of an error, which tests of executed notebooks look for
STEP = 0.05
DIGITS = 10  # a slider's 0.1 + 0.05 is 0.15
WIDE = {"description_width": "11em"}
NARROW: dict[str, Any] = {"style": {"description_width": "132px"}, "layout": {"width": "330px"}}
SIMULATED = "simulated"  # as opposed to those of a column
LABELS = {"sites": "Number of sites", "unseen": "Held-out sites", "seed": "Random seed"}
MOST_SITES = 12
COPY = (
    html.escape(  # browsers refuse their clipboard to pages from other machines without https: there a selection helps
        "const b=this,t=b.dataset.text,done=()=>{b.textContent='Copied';setTimeout(()=>b.textContent='Copy',1500)},"
        "old=()=>{const a=document.createElement('textarea');a.value=t;document.body.append(a);a.select();"
        "document.execCommand('copy');a.remove();done()};"
        "navigator.clipboard?navigator.clipboard.writeText(t).then(done,old):old()"
    )
)


class Settings:
    """A control for each argument of the partition. Values that no control can express are kept until it is moved.

    start: name -> value, in the order of the panel. moved: called after every change by the user. columns: of the
    table of cases, from which sites can be taken.
    """

    def __init__(self, start: dict[str, Any], moved: Callable[[], None], columns: Sequence[str] = ()) -> None:
        self.start, self._moved, self._quiet = dict(start), moved, False
        self.kept = {name: value for name, value in start.items() if not _expressible(name, value)}
        self.controls = {name: self._control(name, value) for name, value in start.items() if name in LABELS | NAMES}
        for name, control in self.controls.items():
            control.observe(lambda change, name=name: self._changed(name), "value")
        self.source = Dropdown(description="Sites", **narrow())
        self.source.observe(lambda change: self._take_sites(), "value")
        self.offer(columns)

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

    def set(self, values: dict[str, Any]) -> None:
        """Set arguments, all others stay; `moved` is not called."""
        self._quiet = True
        for name in sorted(values, key="sites".__ne__):  # sites first: they limit how many may be held out
            if name in self.controls and _expressible(name, values[name]):
                self.kept.pop(name, None)
                control, value = self.controls[name], values[name]
                if name in COUNTS and name != "seed":
                    control.max = max(control.max, value)
                control.value = value
            else:
                self.kept[name] = values[name]
        self._quiet = False
        self._refresh()

    def offer(self, columns: Sequence[str]) -> None:
        """Offer these columns as sites, and the one that is set."""
        self._quiet = True
        self._offered = list(dict.fromkeys([*columns, *[v for v in [self.kept.get("sites")] if isinstance(v, str)]]))
        self.source.options = [SIMULATED, *(f"column {name}" for name in self._offered)]
        self._quiet = False
        self._refresh()

    def rows(self) -> list[Any]:
        """Return the controls in their order."""
        first = [name for name in ("sites",) if name in self.controls]
        axes = [name for name in self.controls if name not in COUNTS]
        return [self.source, *(self.controls[name] for name in [*first, *axes, *COUNTS[1:]] if name in self.controls)]

    def _control(self, name: str, value: Any) -> Any:
        """Make the control of one argument."""
        value = value if name not in self.kept else 0
        look: dict[str, Any] = {**narrow(), "continuous_update": False}
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
        self._refresh()
        self._moved()

    def _take_sites(self) -> None:
        """Take sites from a column, whose cases no axis can move, or simulate them again."""
        if self._quiet:
            return
        if self.source.index:
            self.set({"sites": self._offered[self.source.index - 1], **{a: 0.0 for a in ASSIGNING if a in self.start}})
        else:
            self.kept.pop("sites", None)
            self._refresh()
        self._moved()

    def _refresh(self) -> None:
        """Limit, label and enable the controls as the values require."""
        quiet, self._quiet = self._quiet, True
        column = self.kept.get("sites") if isinstance(self.kept.get("sites"), str) else None
        self.source.index = self._offered.index(column) + 1 if column in self._offered else 0
        if "unseen" in self.controls and "sites" in self.controls and "sites" not in self.kept:
            self.controls["unseen"].max = max(0, self.controls["sites"].value - 1)  # one site trains at least
        for name, control in self.controls.items():
            control.disabled = column is not None and name in ("sites", *ASSIGNING)
            label = (NAMES | LABELS)[name]
            text = label if name not in self.kept or control.disabled else f"{label}: {self.kept[name]}"
            control.description = text
            control.tooltip = f"{text} (parameter {name})"
            if name != "seed":
                control.readout = name not in self.kept  # no number that is not the value
        self.source.layout.display = None if self._offered else "none"
        self._quiet = quiet


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


def narrow() -> dict[str, Any]:
    """The look of a control in a column; each has its own, since some are hidden."""
    return {"style": dict(NARROW["style"]), "layout": Layout(**NARROW["layout"])}


def choice(label: str, options: list[Any], value: Any, hint: str) -> Dropdown:
    """Make a choice among options."""
    return Dropdown(description=label, options=options, value=value, tooltip=hint, **narrow())


class CopyText:
    """A text in one line that can be selected, next to a button that copies it to the clipboard."""

    def __init__(self, label: str, hint: str) -> None:
        self.hint = hint
        self.text = Textarea(description=label, rows=1, style=NARROW["style"], layout=Layout(width="276px"))
        self.copy = HTML()
        self.row = HBox([self.text, self.copy])

    @property
    def value(self) -> str:
        """The text."""
        return str(self.text.value)

    @value.setter
    def value(self, text: str) -> None:
        self.text.value = text
        self.copy.value = (
            f'<button class="jupyter-button" title="{html.escape(self.hint)}" data-text="{_attribute(text)}"'
            f' onclick="{COPY}">Copy</button>'
        )


def _attribute(text: str) -> str:
    """A text as the value of an attribute, with its line breaks."""
    return html.escape(text).replace("\n", "&#10;").replace("\r", "&#13;").replace("\t", "&#9;")


def copyable(label: str, rows: int) -> Textarea:
    """Make a text that can be selected and copied."""
    return Textarea(description=label, rows=rows, style=WIDE, layout=Layout(width="40em", max_width="98%"))
