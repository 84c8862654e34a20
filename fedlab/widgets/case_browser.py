"""A browser of the cases of a dataset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets
import pandas as pd
from ipywidgets import HTML, Checkbox, Dropdown, HBox, IntSlider, Layout, Text, VBox

from fedlab import plots
from fedlab.data.cases import Cases
from fedlab.data.filters import EXAMPLE, selected
from fedlab.data.thumbnails import check_slice
from fedlab.notebook.live import Screen, picture
from fedlab.notebook.output import show_controls
from fedlab.plots.case_groups import CASE, CLASS, LEVELS, SITE, checked_by
from fedlab.plots.case_sheet import page_count
from fedlab.plots.identical import identical, pages_of
from fedlab.plots.names import name
from fedlab.plots.style import Drawing
from fedlab.widgets.controls import Notice, button, copyable, guarded

GROUPED, EACH_CASE, INTENSITY, DUPLICATES = "by site and class", "case by case", "intensity", "identical images"
VIEWS: dict[
    str, tuple[Callable[..., Drawing], tuple[str, ...]]
] = {  # view -> the function of `fedlab.plots`, and which controls it has besides the filter
    GROUPED: (plots.cases, ("by", "page", "slice", "channel", "masks")),
    EACH_CASE: (plots.cases, ("page", "slice", "channel", "masks")),
    INTENSITY: (plots.intensity, ("by", "channel")),
    DUPLICATES: (plots.duplicates, ("page", "slice", "channel", "masks")),
}
QUALITY = {"dpi": 96, "effort": 1}  # of the picture that follows the controls: fast rather than small or sharp
CHANGE = "this choice cannot be drawn (the figure shows the previous one)"
ALL, ROWS = "all", 60


def cases(cases: Cases, where: str | None = None, *, by: str | None = None, seed: int = 0) -> CaseBrowser:
    """Browse the cases of a dataset: examples by site and class, every case, intensities, identical images.

    As a cell's last expression it shows the figure as an ordinary output, then the controls: what to show, filters by
    site, class and a condition on the table, pages, the slice of volumes, masks on and off. A headless execution keeps
    the figure.

    Parameters
    ----------
    cases : Cases
        What `fedlab.load` returned.
    where : str, optional
        A condition on the table, such as "age > 60 and sex == 'F'", see `fedlab.plots.cases`.
    by : str, optional
        A column of the table, whose values are the rows of the figure, or "class"; the site by default, where there is
        one.
    seed : int, default 0
        The same seed shows the same cases.

    Returns
    -------
    CaseBrowser
        `values` are the arguments of the figure that the controls show, `drawing` is the figure and its table,
        `controls` is the widget.

    Raises
    ------
    ValueError
        If the condition or the column cannot be used.

    Examples
    --------
    >>> import fedlab
    >>> browser = fedlab.widgets.cases(fedlab.load("phantoms(cases=120, size=16)"), "age > 40")
    >>> browser.values["where"], len(browser.drawing.table)
    ('age > 40', 16)
    """
    return CaseBrowser(cases, where, by, seed)


class CaseBrowser:
    """The browser: `values` (arguments of the figure), `drawing` (figure and table), `controls` (widget)."""

    def __init__(self, cases: Cases, where: str | None = None, by: str | None = None, seed: int = 0) -> None:
        self.cases, self.seed, self.screen, self.notice = cases, seed, Screen(), Notice()
        self._quiet = True
        start = checked_by(cases, by)
        self.view = Dropdown(
            description="Show", options=list(VIEWS), value=EACH_CASE if start == CASE else GROUPED, **_look()
        )
        columns = _columns(cases)
        default = checked_by(cases, None) if start == CASE else start
        self.by = Dropdown(
            description="Rows", options=list(dict.fromkeys([*columns, default])), value=default, **_look()
        )
        sites = _choices(cases.table[SITE]) if SITE in cases.table else [(ALL, "")]
        classes = [(ALL, ""), *((name(each), f"label == {each!r}") for each in cases.classes)]
        self.site = Dropdown(description="Site", options=sites, value="", **_look())
        self.label = Dropdown(description="Class", options=classes, value="", **_look())
        self.where = Text(where or "", description="Where", placeholder=EXAMPLE, continuous_update=False, **_look())
        self.page = IntSlider(1, min=1, max=1, description="Page", continuous_update=False, **_look())
        self.before, self.after = button("", "Previous page", "arrow-left"), button("", "Next page", "arrow-right")
        shape = cases.shape
        self.slice = IntSlider(
            check_slice(None, shape) or 0,
            min=0,
            max=max(1, shape[-1] - 1),
            description="Slice",
            continuous_update=False,
            **_look(),
        )
        self.channel = Dropdown(description="Channel", options=_channels(shape[0]), **_look())
        self.masks = Checkbox(True, description="Masks", indent=False, layout=Layout(width="6em"))
        self.code, self.below = copyable("As code", 1), HTML()
        self.before.on_click(guarded(self.notice, CHANGE, lambda: self._turn(-1)))
        self.after.on_click(guarded(self.notice, CHANGE, lambda: self._turn(1)))
        for control in (self.view, self.by, self.site, self.label, self.where):
            control.observe(self._choose, "value")
        for control in (self.page, self.slice, self.channel, self.masks):
            control.observe(self._follow, "value")
        self.controls = self._layout()
        self._quiet = False
        self._show_controls()
        self._adopt()

    def _layout(self) -> ipywidgets.Widget:
        """Arrange the filter, then the pages, then how images are shown, then the code and the table."""
        wrap = Layout(flex_flow="row wrap")
        first = HBox([self.view, self.by], layout=wrap)
        chosen = HBox([self.site, self.label, self.where], layout=wrap)
        shown = HBox([self.page, self.before, self.after, self.slice, self.channel, self.masks], layout=wrap)
        return VBox([first, chosen, shown, self.notice.widget, self.code, self.below])

    @property
    def condition(self) -> str | None:
        """The condition of all three filters; None for every case."""
        text = self.where.value.strip()
        parts = [part for part in (self.site.value, self.label.value) if part]
        return " and ".join([*([f"({text})" if parts else text] if text else []), *parts]) or None

    @property
    def values(self) -> dict[str, Any]:
        """The arguments of the figure; those at their defaults are left out."""
        _, named = VIEWS[self.view.value]
        found: dict[str, Any] = {"where": self.condition}
        if self.view.value == EACH_CASE:
            found["by"] = CASE
        elif "by" in named and self.by.value != checked_by(self.cases, None):
            found["by"] = self.by.value
        if "page" in named and self.page.value > 1:
            found["page"] = self.page.value
        if "slice" in named and len(self.cases.shape) == 4 and self.slice.value != check_slice(None, self.cases.shape):
            found["slice"] = self.slice.value
        if self.channel.value != ALL:
            found["channel"] = self.channel.value
        if "masks" in named and self.cases.masks is not None and not self.masks.value:
            found["masks"] = False
        if self.seed and self.view.value != DUPLICATES:
            found["seed"] = self.seed
        return {key: value for key, value in found.items() if value is not None}

    def _turn(self, pages: int) -> None:
        """Go to another page, if there is one."""
        self.page.value = min(max(self.page.value + pages, 1), self.page.max)

    def _choose(self, *_: Any) -> None:
        """Draw the first page of other cases."""
        self._follow(first=True)

    def _follow(self, *_: Any, first: bool = False) -> None:
        """Draw the choice; if it cannot be drawn, show the reason and keep the last figure."""
        if self._quiet:
            return
        self._quiet = True  # the page that follows from other cases draws nothing
        try:
            if first:
                self._show_controls()
            self._adopt()
            self.notice.clear()
        except Exception as error:  # the traceback of a callback is not shown in the notebook
            self.notice.fail(error, CHANGE)
        finally:
            self._quiet = False

    def _show_controls(self) -> None:
        """Show the controls that the view has, and its first page."""
        _, named = VIEWS[self.view.value]
        pages = self._pages() if "page" in named else 1
        there = {
            "by": True,
            "page": True,
            "slice": len(self.cases.shape) == 4,
            "channel": self.cases.shape[0] > 1,
            "masks": self.cases.masks is not None,
        }
        for key in there:
            shown = there[key] and key in named and (key != "page" or pages > 1)
            for control in (self.page, self.before, self.after) if key == "page" else (getattr(self, key),):
                control.layout.display = None if shown else "none"
        self.site.layout.display = None if SITE in self.cases.table else "none"
        quiet, self._quiet = self._quiet, True
        self.page.value, self.page.max = 1, pages
        self._quiet = quiet

    def _pages(self) -> int:
        """How many pages the view has."""
        if self.view.value == DUPLICATES:
            return pages_of(len(identical(self.cases, self.condition)))
        rows = CASE if self.view.value == EACH_CASE else self.by.value
        return page_count(self.cases, selected(self.cases, self.condition, None), rows)

    def _adopt(self) -> None:
        """Draw what the controls say, with its table and the code that draws it again."""
        drawn = VIEWS[self.view.value][0](self.cases, **self.values)
        content = picture(drawn.figure, drawn.figure.axes[0].get_title(loc="left"), **QUALITY)
        self.drawing, self._shown = drawn, content
        self.code.value = self._code()
        self.below.value = _as_html(drawn.table)
        if self.screen.shown:
            self.screen.show(*content)

    def _code(self) -> str:
        """The call that draws the figure."""
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.values.items())
        called = {INTENSITY: "intensity", DUPLICATES: "duplicates"}.get(self.view.value)
        return (
            f"fedlab.plots.{called}(cases{', ' * bool(arguments)}{arguments})" if called else f"cases.show({arguments})"
        )

    def _ipython_display_(self) -> None:
        """Display the figure, which a headless execution keeps, then the controls."""

        self.screen.open(*self._shown)
        show_controls(self.controls)


def _look() -> dict[str, Any]:
    """The look of one control; each has its own, since some are hidden."""
    return {"style": {"description_width": "6em"}, "layout": Layout(width="22em")}


def _columns(cases: Cases) -> list[str]:
    """What rows can be: the site, the class, and columns of the table with few values."""
    few = [name for name in cases.table if name not in (CASE, "label") and cases.table[name].nunique() <= LEVELS]
    return [*([SITE] if SITE in few else []), CLASS, *(name for name in few if name not in (SITE, CLASS))]


def _choices(values: pd.Series) -> list[tuple[str, str]]:
    """Options of a filter: (the name of a value, the condition that selects it)."""
    known = sorted(values.dropna().unique().tolist(), key=str)
    found = [(ALL, ""), *((name(each), f"{values.name} == {each!r}") for each in known)]
    return [*found, *([("not known", f"{values.name} is None")] if values.isna().any() else [])]


def _channels(count: int) -> list[tuple[str, int | str]]:
    """Options of the channel; the default is `ALL`, since a value of None would select no option."""
    every = [(f"channel {number}", number) for number in range(count)]
    return [("colours", ALL), *every] if count == 3 else [("channel 0", ALL), *every[1:]]


def _as_html(table: pd.DataFrame) -> str:
    """The rows of a table, folded up."""
    with pd.option_context("display.html.use_mathjax", False):  # names with "$" are no formulas
        rows = table.round(3).to_html(max_rows=ROWS, border=0)
    return f"<details><summary>table ({len(table):,} rows)</summary>{rows}</details>"
