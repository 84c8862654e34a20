"""Making institutions by hand: what a slider changes is seen at once, measured, and taken along as parameters."""

from __future__ import annotations

import gc
import warnings
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ipywidgets
from ipywidgets import Layout

from fedlab.core.registry import nearest
from fedlab.data.cases import Cases
from fedlab.notebook.live import Screen, picture
from fedlab.partitioning.build import partition
from fedlab.partitioning.partitions import Partition
from fedlab.plots import institutions as drawing
from fedlab.widgets.comparing import Comparison
from fedlab.widgets.controls import Notice, Settings, button, copyable, guarded
from fedlab.widgets.settings import as_papermill, as_yaml, axes, plain, signature

QUALITY = {"dpi": 96, "effort": 1}  # of the picture that follows the sliders: fast before small, a dot a CSS pixel
SETTING = "this setting cannot be had (the figure shows the last one that could)"


def institutions(cases: Cases, **start: Any) -> Panel:
    """A panel that deals cases to institutions: a slider an axis, a figure that follows, the setting to copy.

    start: where the controls start, by the names of `fedlab.partition`; so a notebook that is run from start to end
    has the partition that `fedlab.partition(cases, **start)` makes. As a cell's last expression it shows the figure as
    an ordinary output, then the controls; without a screen the figure is all that is left.
    """
    return Panel(cases, start)


class Panel:
    """Controls, a figure and the setting to copy.

    values: the setting as the controls stand. partition, hash, drawing, png: of the last setting that could be had.
    controls: the widget. comparison: the short training. notice: errors and warnings.
    """

    def __init__(self, cases: Cases, start: dict[str, Any]) -> None:
        self.cases, self.screen, self.notice = cases, Screen(), Notice()
        self.settings = Settings(_complete(start), self._follow)
        self.parameters, self.yaml = copyable("For papermill", 2), copyable("As YAML", 5)
        self.comparison = Comparison()
        self.reset_button = button("Reset", "Back to where the panel started", "undo")
        self.reset_button.on_click(guarded(self.notice, "reset", self.settings.reset))
        self.comparison.train_button.on_click(guarded(self.comparison.notice, "training", self._train))
        self._adopt(partition(cases, **self.values))
        self.controls = self._layout()

    def _layout(self) -> ipywidgets.Widget:
        """Axes left, counts and texts right (below on a narrow page), then the training."""
        axes, counts = self.settings.columns()
        right = ipywidgets.VBox([*counts, self.parameters, self.yaml])
        both = ipywidgets.HBox(
            [ipywidgets.VBox([*axes, self.reset_button]), right], layout=Layout(flex_flow="row wrap")
        )
        return ipywidgets.VBox([both, self.notice.widget, self.comparison.controls])

    @property
    def values(self) -> dict[str, Any]:
        """Name -> value, as `fedlab.partition` takes them."""
        return self.settings.values

    @property
    def hash(self) -> str:
        """The fingerprint of the partition."""
        return self.partition.fingerprint

    def _follow(self) -> None:
        """Deal, measure and draw what the controls say; what cannot be had is said, and the last figure stays."""
        try:
            with uninterrupted(), warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                self._adopt(partition(self.cases, **self.values))
            self.notice.say("; ".join(dict.fromkeys(str(one.message) for one in told)))
        except Exception as error:  # nobody sees the traceback of a callback
            self.notice.fail(error, SETTING)

    def _adopt(self, part: Partition) -> None:
        """Show a partition that could be had, and how to have it again."""
        drawn = drawing(part)
        content, metadata = picture(drawn.figure, drawn.figure.axes[0].get_title(loc="left"), **QUALITY)
        self.partition, self.drawing, self.png = part, drawn, b64decode(content["image/png"])
        self._shown = content, metadata
        self.parameters.value, self.yaml.value = as_papermill(self.values), as_yaml(self.values)
        if self.screen.shown:
            self.screen.show(content, metadata)

    def _train(self) -> None:
        self.comparison.start(self.partition)

    def _ipython_display_(self) -> None:
        """The figure, which stays where there is no screen, then the controls."""
        from IPython.display import display

        self.screen.open(*self._shown)
        display(self.controls)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """No garbage is collected meanwhile: in a process as large as a kernel that takes as long as half a redraw."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _complete(start: dict[str, Any]) -> dict[str, Any]:
    """The start with every axis and count, in the order of the panel; whatever else was given comes last."""
    defaults = signature()
    for name in start:
        if name not in defaults:
            raise TypeError(f"partition has no axis or argument {name!r}: {nearest(name, defaults)}")
    first = {name: defaults[name] for name in ("sites", *axes(), "unseen", "seed") if name in defaults}
    return {name: plain(value) for name, value in (first | start).items()}
