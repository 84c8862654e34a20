"""A browser of finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ipywidgets
import pandas as pd
from ipywidgets import Dropdown, Layout, SelectMultiple

from fedlab import plots
from fedlab.analysis.comparison import compare, transfer
from fedlab.core.files import resolve
from fedlab.core.site_names import natural
from fedlab.experiments.run_folder import Run, find, known
from fedlab.learning.metrics import METRIC_LABELS
from fedlab.notebook.live import Screen, picture
from fedlab.notebook.output import show_controls
from fedlab.plots.inputs import OUTSIDE, headline_metric
from fedlab.plots.style import Drawing
from fedlab.widgets.controls import WIDE, Notice

EVERYWHERE = "all sites"
FIGURES = {"Gain of each site": "gains", "Curves by round": "curves", "Cross-site generalization": "transfer"}
WIDTH = "54em"
CHANGE = "this choice cannot be drawn (the figure shows the previous one)"


def runs(folder: str | Path = "out/runs") -> Browser:
    """Browse the finished runs of a folder: choose a setting, runs, a metric, a site and a figure.

    As a cell's last expression it shows figure and table as ordinary outputs, then the controls.

    Parameters
    ----------
    folder : str or Path, default "out/runs"
        The folder of `fedlab.run` and `fedlab.grid`.

    Returns
    -------
    Browser
        `chosen` are the runs, `drawing` is the figure and its table, `controls` is the widget.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> exp = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     done = fedlab.grid(exp, method=["local", "fedavg"], folder=folder)
    ...     browser = fedlab.widgets.runs(folder)
    >>> sorted(run.method for run in browser.chosen)
    ['fedavg', 'local']
    """
    return Browser(folder)


class Browser:
    """The browser: `chosen` (runs), `drawing` (figure and table), `controls` (widget)."""

    def __init__(self, folder: str | Path) -> None:
        self.folder, self.found = resolve(folder), known(find(folder))
        self.screen, self.below, self.notice = Screen(), Screen(), Notice()
        self._quiet = False
        self.drawing: Drawing | None = None
        self.settings = _grouped(self.found)
        look: dict[str, Any] = {"style": WIDE, "layout": Layout(width=WIDTH, max_width="98%")}
        self.setting = Dropdown(description="Setting", options=list(self.settings), **look)
        self.runs = SelectMultiple(description="Runs", rows=6, **look)
        self.metric, self.site = Dropdown(description="Metric", **look), Dropdown(description="Site", **look)
        self.figure = Dropdown(description="Figure", options=list(FIGURES.items()), **look)
        self.controls = ipywidgets.VBox(
            [self.setting, self.runs, self.metric, self.site, self.figure, self.notice.widget]
        )
        self.setting.observe(self._offer, "value")
        for control in (self.runs, self.metric, self.site, self.figure):
            control.observe(self._follow, "value")
        self._offer()

    @property
    def chosen(self) -> list[Run]:
        """The selected runs."""
        return list(self.runs.value)

    def _offer(self, *_: Any) -> None:
        """Offer the runs of the chosen setting, their metrics and their sites."""
        there = self.settings.get(self.setting.value, [])
        if not there:
            return
        self._quiet = True
        known = set().union(*(set(run.rounds.loc[run.rounds["split"] == "val", "metric"]) for run in there))
        headline = headline_metric(there, None)
        names = sorted(known | {headline}, key=lambda name: (name != headline, name))
        sites = sorted(set(there[0].partition_table["site"]) - {*OUTSIDE, *there[0].unseen}, key=natural)
        self.runs.options = [(f"{run.method}, seed {run.experiment.seed}", run) for run in there]
        self.runs.value = tuple(there)
        _put(self.metric, [(METRIC_LABELS.get(name, name), name) for name in names])
        _put(self.site, [(site, site) for site in (EVERYWHERE, *sites)])
        self._quiet = False
        self._follow()

    def _follow(self, *_: Any) -> None:
        """Draw the choice; if it cannot be drawn, show the reason and keep the last figure."""
        if self._quiet:
            return
        try:
            drawing = draw(self.chosen, self.figure.value, self.metric.value, self.site.value)
            contents, self.drawing = _contents(drawing), drawing
            self.notice.clear()
            if self.screen.shown:
                for screen, shown in zip((self.screen, self.below), contents, strict=True):
                    screen.show(*shown)
        except Exception as error:  # the traceback of a callback is not shown in the notebook
            self.notice.fail(error, CHANGE)

    def _ipython_display_(self) -> None:
        """Display figure and table, which a headless execution keeps, then the controls."""
        from IPython.display import display

        if not self.found:
            display({"text/plain": self.empty}, raw=True)
            return
        if self.drawing is not None:
            for screen, shown in zip((self.screen, self.below), _contents(self.drawing), strict=True):
                screen.open(*shown)
        show_controls(self.controls)

    @property
    def empty(self) -> str:
        """Message for a folder without a run."""
        there = "has no finished run" if self.folder.is_dir() else "does not exist"
        return f"{self.folder} {there}: train one with fedlab.run(fedlab.Experiment(...), folder={str(self.folder)!r})"


def _put(control: Dropdown, options: list[tuple[str, str]]) -> None:
    """Replace the options; keep the selected one if it is still there, else select the first."""
    values = [value for _, value in options]
    chosen = control.value if control.value in values else values[0]
    control.options = options
    control.value = chosen


def draw(chosen: list[Run], figure: str, metric: str, site: str) -> Drawing:
    """Draw a figure of these runs, at one site or at all; ValueError if there is nothing to draw."""
    if not chosen:
        raise ValueError("no run is chosen: pick one or more")
    if figure == "curves":
        return plots.curves(chosen if site == EVERYWHERE else [_AtSite(run, site) for run in chosen], metric)
    if figure == "transfer":
        return plots.transfer(chosen, metric) if site == EVERYWHERE else _at(transfer(chosen, metric), site, metric)
    if site == EVERYWHERE:
        return plots.local_vs_global(chosen, metric)
    frame = compare(chosen, metric)
    return plots.local_vs_global(frame[frame["site"] == site])


def _at(frame: Any, site: str, metric: str) -> Drawing:
    """Draw the models tested on one site."""
    return plots.transfer(frame[frame["tested_on"] == site], metric)


class _AtSite:
    """The rows of one site of a run."""

    def __init__(self, run: Run, site: str) -> None:
        self.run = run
        self.rounds = run.rounds[run.rounds["site"] == site]
        self.partition_table = run.partition_table[run.partition_table["site"] == site]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.run, name)


def _grouped(found: list[Run]) -> dict[str, list[Run]]:
    """Group runs that may be compared, by the fields in which settings differ."""
    groups: dict[str, list[Run]] = {}
    data: dict[str, list[str]] = {}  # name of a setting -> fingerprints of the federations that it was run on
    plain = [run.experiment.with_(method="local", seed=0).model_dump() for run in found]
    differing = [name for name in (plain[0] if plain else {}) if len({str(one[name]) for one in plain}) > 1]
    for run, setting in zip(found, plain, strict=True):
        fields = ", ".join(f"{name}={setting[name]}" for name in differing if name != "dataset")
        name = str(setting["dataset"]) + (f": {fields}" if fields else "")
        seen = data.setdefault(name, [])
        seen += [] if run.partition_fingerprint in seen else [run.partition_fingerprint]
        if place := seen.index(run.partition_fingerprint):
            name += f" (other data or sites, {place + 1})"
        groups.setdefault(name, []).append(run)
    return groups


def _contents(drawing: Drawing) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return figure and table as contents of two screens."""
    shown = drawing.table[drawing.table.attrs.get("shown", list(drawing.table.columns))].round(3)
    title = drawing.figure.axes[0].get_title(loc="left")
    with pd.option_context("display.html.use_mathjax", False):  # names with "$" are no formulas
        table = {"text/html": shown.to_html(max_rows=12), "text/plain": str(shown)}
    return [picture(drawing.figure, title), (table, {})]
