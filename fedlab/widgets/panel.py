"""A panel that partitions cases into sites with a slider for each axis of heterogeneity."""

from __future__ import annotations

import warnings
from base64 import b64decode
from typing import Any

import ipywidgets
from ipywidgets import Layout

from fedlab.core.registry import nearest
from fedlab.data.cases import Cases
from fedlab.data.catalogue import loaded_from
from fedlab.notebook.live import Screen, picture
from fedlab.notebook.output import show_controls
from fedlab.partitioning.build import partition
from fedlab.partitioning.partitions import Partition
from fedlab.plots import sites as draw
from fedlab.widgets.controls import Notice, Settings, button, copyable, guarded
from fedlab.widgets.copy_settings import as_papermill, as_yaml, axes, plain, signature
from fedlab.widgets.short_training import ShortTraining

QUALITY = {"dpi": 96, "effort": 1}  # of the picture that follows the sliders: fast rather than small or sharp
SETTING = "this partition cannot be made (the figure shows the previous one)"


def sites(cases: Cases, **start: Any) -> Panel:
    """Partition cases into sites with sliders: a figure follows each change, and the setting can be copied.

    As a cell's last expression it shows the figure as an ordinary output, then the controls. A headless execution keeps
    the figure.

    Parameters
    ----------
    cases : Cases
        What `fedlab.load` returned.
    **start
        Where the controls start, by the names of `fedlab.partition`. A notebook that is run from start to end has the
        partition that `fedlab.partition(cases, **start)` makes.

    Returns
    -------
    Panel
        `values` are the arguments of `fedlab.partition` that the controls show, `partition` is the last partition that
        could be made, `drawing` its figure and table, `controls` the widget.

    Raises
    ------
    TypeError
        If `start` has a name that `fedlab.partition` does not take.
    ValueError
        If `fedlab.partition` refuses `start`.

    Examples
    --------
    >>> import fedlab
    >>> panel = fedlab.widgets.sites(fedlab.load("phantoms(cases=120, size=16)"), sites=3, prevalence=0.4)
    >>> panel.values["prevalence"], panel.partition.sites
    (0.4, ['Site A', 'Site B', 'Site C'])
    """
    return Panel(cases, start)


class Panel:
    """Controls, a figure and the setting to copy.

    values: what the controls show. partition, hash, drawing, png: of the last setting that could be made. controls: the
    widget. comparison: the short training. notice: errors and warnings.
    """

    def __init__(self, cases: Cases, start: dict[str, Any]) -> None:
        self.cases, self.screen, self.notice = cases, Screen(), Notice()
        self.settings = Settings(_complete(start), self._follow)
        self.parameters, self.yaml = copyable("For papermill", 2), copyable("As YAML", 5)
        self.comparison = ShortTraining()
        self.reset_button = button("Reset", "Back to the values at the start", "undo")
        self.reset_button.on_click(guarded(self.notice, "reset", self.settings.reset))
        self.comparison.train_button.on_click(guarded(self.comparison.notice, "training", self._train))
        self._adopt(partition(cases, **self.values))
        self.controls = self._layout()

    def _layout(self) -> ipywidgets.Widget:
        """Arrange axes on the left, counts and texts on the right (below on a narrow page), then the training."""
        axes, counts = self.settings.columns()
        right = ipywidgets.VBox([*counts, self.parameters, self.yaml])
        both = ipywidgets.HBox(
            [ipywidgets.VBox([*axes, self.reset_button]), right], layout=Layout(flex_flow="row wrap")
        )
        return ipywidgets.VBox([both, self.notice.widget, self.comparison.controls])

    @property
    def values(self) -> dict[str, Any]:
        """Arguments of `fedlab.partition`."""
        return self.settings.values

    @property
    def hash(self) -> str:
        """The fingerprint of the partition."""
        return self.partition.fingerprint

    def _follow(self) -> None:
        """Partition, measure and draw; if the setting is refused, show the reason and keep the last figure."""
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                self._adopt(partition(self.cases, **self.values))
            self.notice.say("; ".join(dict.fromkeys(str(one.message) for one in caught)))
        except Exception as error:  # the traceback of a callback is not shown in the notebook
            self.notice.fail(error, SETTING)

    def _adopt(self, part: Partition) -> None:
        """Show a partition and the setting that makes it again."""
        drawn = draw(part)
        content, metadata = picture(drawn.figure, drawn.figure.axes[0].get_title(loc="left"), **QUALITY)
        self.partition, self.drawing, self.png = part, drawn, b64decode(content["image/png"])
        self._shown = content, metadata
        dataset = loaded_from(self.cases)
        named = ({} if dataset is None else {"dataset": dataset}) | self.values
        self.parameters.value, self.yaml.value = as_papermill(named), as_yaml(named)
        if self.screen.shown:
            self.screen.show(content, metadata)

    def _train(self) -> None:
        """Start the short training on the present partition."""
        self.comparison.start(self.partition)

    def _ipython_display_(self) -> None:
        """Display the figure, which a headless execution keeps, then the controls."""

        self.screen.open(*self._shown)
        show_controls(self.controls)


def _complete(start: dict[str, Any]) -> dict[str, Any]:
    """Add the defaults of all arguments to the start, in the order of the panel; those without a control come last."""
    defaults = signature()
    for name in start:
        if name not in defaults:
            raise TypeError(f"partition has no axis or argument {name!r}: {nearest(name, defaults)}")
    order = dict.fromkeys(name for name in ("sites", *axes(), "unseen", "seed", *defaults) if name in defaults)
    return {name: plain((defaults | start)[name]) for name in order}
