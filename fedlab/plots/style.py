"""The look of every figure: one style entered by `with`, one role a method, titles and labels that do not collide.

Colour is a role: centralized near-black, local-only grey, every federated method a hue *and* a dash *and* a
marker. Sites are distinguished by position, never by hue. Nothing here changes matplotlib's global state.

No figure is larger than WIDEST x TALLEST inches: rows of many sites are lower, and what does not fit is counted.

Modules of `fedlab.plots` import matplotlib when they draw, so that importing them stays light.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.core.files import LONGEST, resolve
from fedlab.evaluation import report_metrics
from fedlab.learning.mask_metrics import of_structure
from fedlab.learning.metrics import HIGHER_IS_BETTER
from fedlab.plots.names import NAME, lend_fonts, more, name, names, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLACK, GREY, PALE, BLUE = "#1a1a1a", "#808080", "#d5d9e0", "#0072B2"
# Okabe & Ito 2008, moved apart for readers with a colour vision deficiency (see tests/plots/test_themes.py)
HUES = (BLUE, "#e35d0c", "#1bb37b", "#c67dc1", "#3abeff", "#e1aa08", "#704e09")
DASHES: tuple[Any, ...] = (
    (0, (6, 2)),
    (0, (1.5, 1.2)),
    (0, (9, 1.5)),
    (0, (6, 1.5, 1.5, 1.5)),
    (0, (3, 1.2)),
    (0, (6, 1.5, 1.5, 1.5, 1.5, 1.5)),
    (0, (9, 1.5, 3, 1.5)),
)
MARKERS = ("D", "v", "s", "^", ">", "<", "h")
FAMILIES = {  # preferred index of a method in HUES, DASHES and MARKERS
    "fedavg": 0,
    "cyclic": 1,
    "scaffold": 2,
    "ditto": 3,
    "fedprox": 4,
    "swarm": 5,
    "ensemble": 6,
    "split": 3,
    "splitfed": 4,
    "fedbn": 3,
    "fedper": 2,
    "fedadam": 5,
    "moon": 6,
}
WIDEST, TALLEST = 14.0, 18.0  # inches: no figure is larger
ROOM, LOWEST = 12.0, 0.2  # inches: all rows of sites together, and the lowest row that holds a text
LINE = 0.16  # inches: a name at the end of a line
TITLE = 500  # characters of a title
SHOWN, UNFOLDED = 12, 60  # rows of the table below a figure: as text, and once it is opened in a notebook
SAVED = 200  # dots an inch of a PNG file, and of images in an SVG file
POINTS = 72.0  # typographic points in an inch
BREAK = re.compile(r"(?<![<≥=])(?<!CI)\s+(?![%<≥=])")  # where a line may end
SHEET = Path(__file__).with_name("fedlab.mplstyle")


class Role(NamedTuple):
    """How one method is drawn: line colour, dash, marker, and a darker shade of the same hue for its text."""

    color: str
    dash: Any
    marker: str
    ink: str


class Drawing(NamedTuple):
    """The result of every plot, (figure, table). As a cell's last expression it shows the figure, then its table.

    Attributes
    ----------
    figure : matplotlib.figure.Figure
        The figure, or the caller's figure if `ax` was given.
    table : pandas.DataFrame
        The numbers that the figure shows. `table.attrs["shown"]` may list the columns that a notebook displays.
    """

    figure: Figure
    table: pd.DataFrame

    def save(self, folder: str | Path, name: str) -> Drawing:
        """Write name.png, name.svg and the table as name.csv, and return the drawing, so that a cell shows it.

        Parameters
        ----------
        folder : str or Path
            Where to write; made if missing.
        name : str
            File name without extension; characters that a file name cannot hold become `_`.

        Returns
        -------
        Drawing
            This drawing.
        """
        folder = save(self.figure, folder, name)[0].parent
        self.table.to_csv(
            Path(folder) / f"{stem(name)}.csv",
            encoding="utf-8",
            errors="replace",
            index=self.table.index.name is not None,
        )
        return self

    def _ipython_display_(self) -> None:
        from IPython.display import display

        from fedlab.plots.picture import Picture

        if isinstance(self.figure, Picture):  # a figure passed in with `ax` is shown by its owner
            display(self.figure)
        display(Folded(self.table[self.table.attrs.get("shown", list(self.table.columns))].round(3)))

    @property
    def title(self) -> str:
        """What the figure states, in one line."""
        return next((line for ax in self.figure.axes if (line := " ".join(ax.get_title(loc="left").split()))), "")


class Folded:
    """A table below its figure: one line that opens it in a notebook, the table itself where text is shown."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.table = table

    def __repr__(self) -> str:
        with pd.option_context("display.max_rows", SHOWN):
            return repr(self.table)

    def _repr_html_(self) -> str:
        with pd.option_context("display.max_rows", UNFOLDED, "display.html.use_mathjax", False):
            inside = self.table._repr_html_()  # type: ignore[operator]
        rows = f"{len(self.table):,} row{'s' * (len(self.table) != 1)}"
        return f"<details><summary>The numbers of this figure ({rows})</summary>{inside}</details>"


def family(method: str) -> str:
    """Return the method's name without arguments: `"fedprox(mu=0.01)"` -> `"fedprox"`."""
    return method.split("(")[0].strip()


def is_federated(method: str) -> bool:
    """Return whether a method is neither of the two references, local-only and centralized."""
    return family(method) not in ("local", "centralized")


def roles(methods: Iterable[str]) -> dict[str, Role]:
    """Assign each method a role: its family's preferred one if free, else the next free one.

    Roles of one figure are distinct. The order of `methods` does not matter, so two figures of the same methods agree.
    """
    found: dict[str, Role] = {}
    waiting: list[str] = []
    places: dict[int, str] = {}
    for method in sorted(set(methods), key=_rank):
        if not is_federated(method):
            marker, color = ("o", GREY) if family(method) == "local" else ("|", BLACK)
            found[method] = Role(color, "-", marker, ink(color))
        elif (place := FAMILIES.get(family(method), -1)) >= 0 and place not in places:
            places[place] = method
        else:
            waiting.append(method)
    for method in waiting:
        places[next(place for place in range(len(places) + 1) if place not in places)] = method
    return found | {method: _role(place) for place, method in places.items()}


def _rank(method: str) -> tuple[int, str]:
    """Sort families in the order of FAMILIES, then unknown ones by name."""
    known = list(FAMILIES)
    return (known.index(family(method)) if family(method) in known else len(known), method)


def _role(place: int) -> Role:
    """Return the role at an index; beyond seven methods hues repeat with another dash and marker."""
    turn, hue = divmod(place, len(HUES))
    other = (hue + turn) % len(HUES)
    return Role(HUES[hue], DASHES[other], MARKERS[other], ink(HUES[hue]))


def ink(color: str, contrast: float = 4.5) -> str:
    """Darken a hue until its WCAG contrast ratio on white is at least `contrast`."""
    from matplotlib.colors import to_hex, to_rgb

    rgb = np.array(to_rgb(color))
    while 1.05 / (luminance(rgb) + 0.05) < contrast:
        rgb = rgb * 0.95
    return to_hex(tuple(rgb.tolist()))


def luminance(rgb: NDArray[np.float64]) -> float:
    """Return the WCAG relative luminance, 0 (black) to 1 (white), of sRGB values in [0, 1]."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def metric_label(metric: str) -> str:
    """Return the metric's name for axes and titles."""
    return report_metrics.metric_label(metric)


def rises(metric: str) -> bool:
    """Return whether a higher value of the metric is better."""
    if reported := report_metrics.find(metric):
        return reported.higher_is_better is not False
    return HIGHER_IS_BETTER.get(of_structure(metric)[0], metric != "loss") is not False


@contextmanager
def drawing() -> Iterator[None]:
    """Switch the style on and keep other threads from drawing."""
    from matplotlib import style

    from fedlab.plots.picture import LOCK

    with LOCK, style.context(SHEET, after_reset=True):
        yield


@contextmanager
def page(ax: Axes | None, width: float, height: float) -> Iterator[Axes]:
    """Yield the given axes, or those of a new figure of that size in inches, with the style switched on."""
    with drawing():
        if ax is None:
            from fedlab.plots.picture import Picture

            ax = Picture(figsize=(min(width, WIDEST), min(height, TALLEST))).subplots()
        ax.spines[["top", "right"]].set_visible(False)  # the caller's axes may have been made in another style
        ax.tick_params(labelsize=8.5)
        as_written(ax)
        yield ax
        lend_fonts(ax)


def as_written(ax: Axes) -> None:
    """Switch markup off in the labels of axes that were made in another style."""
    for axis in (ax.xaxis, ax.yaxis):
        for text in (axis.label, *(label for tick in axis.get_major_ticks() for label in (tick.label1, tick.label2))):
            text.set_parse_math(False)


def fitting(rows: int, pitch: float, room: float = ROOM, least: float = LOWEST) -> tuple[int, float]:
    """Return how many rows are drawn, and their height in inches: `pitch`, or less if they do not fit into `room`."""
    shown = min(rows, int(room / least + 1e-9))
    return shown, min(pitch, room / max(1, shown))


def root(ax: Axes) -> Figure:
    """Return the whole figure, also for axes in a subfigure."""
    figure: Any = ax.figure
    return figure.figure


def lay_out(ax: Axes) -> Figure:
    """Compute the positions of everything in the axes' figure, and return it."""
    figure = root(ax)
    lend_fonts(ax)
    engine = figure.get_layout_engine()
    fixed = [each for each in figure.axes if each.get_aspect() != "auto"]
    if engine is None or any(each.child_axes or each.get_axes_locator() for each in fixed):
        figure.draw_without_rendering()
    else:  # in little more than half the time
        engine.execute(figure)
        for each in fixed:
            each.apply_aspect()
    return figure


def headline(ax: Axes, text: str, pad: float = 8, left: float = 0.0, size: float | None = None) -> None:
    """Write a bold title at the axes' left edge, broken into lines that fit.

    pad: points above the axes; left: where the title begins, in points right of the axes' left edge;
    size: of its letters in points.
    """
    from matplotlib.transforms import ScaledTranslation

    from fedlab.plots.picture import Picture

    figure = lay_out(ax)
    text = name(" ".join(map(name, plain(text).split())), TITLE)
    own = isinstance(figure, Picture) and len(figure.axes) == 1
    right = figure.bbox.x1 if own else ax.get_tightbbox().x1  # type: ignore[union-attr]
    reach = right - ax.bbox.x0 - left * figure.dpi / POINTS
    room = 0.95 * reach  # hinting makes the same text up to 4 % wider at another resolution
    title = ax.set_title(text, loc="left", pad=pad, parse_math=False)
    if size:
        title.set_fontsize(size)
    if left:
        title.set_transform(title.get_transform() + ScaledTranslation(left / POINTS, 0, figure.dpi_scale_trans))
    lend_fonts(title)
    text = title.get_text()

    @cache
    def width(line: str) -> float:
        title.set_text(line)
        return float(title.get_window_extent().width)

    lines = filled(text, width, room)
    longest = max(map(width, lines), default=0.0)
    evener = (filled(text, width, share * longest) for share in np.arange(0.5, 1.0, 0.05))
    title.set_text("\n".join(next((even for even in evener if len(even) == len(lines)), lines)))


def filled(text: str, width: Callable[[str], float], room: float) -> list[str]:
    """Break a text into lines no wider than `room`, as far as single words allow; "95 %" and "p < 0.05" stay whole."""
    lines: list[str] = []
    for word in BREAK.split(text.strip()) if text.strip() else ():
        longer = " ".join([*lines[-1:], word])
        if lines and width(longer) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def inches(ax: Axes) -> tuple[float, float]:
    """Return (width, height) of the axes after layout, in inches."""
    figure = lay_out(ax)
    return ax.bbox.width / figure.dpi, ax.bbox.height / figure.dpi


def fit_names(ax: Axes) -> None:
    """Turn the names on the x axis upright if any two would touch; a figure made here grows by their length.

    Names of two lines are joined to one, and every second (third, ...) name is left out, if they touch upright too.
    """
    from fedlab.plots.picture import Picture

    figure, boxes = lay_out(ax), _name_boxes(ax)
    if not any(left.x1 + 0.08 * figure.dpi > right.x0 for left, right in pairwise(boxes)):
        return
    room = min((left.x0 + left.x1 - right.x0 - right.x1) / -2 for left, right in pairwise(boxes))
    words = [label.get_text() for label in ax.get_xticklabels()]
    if max(box.height for box in boxes) > room:
        words = [word.replace("\n", "  ") for word in words]
        ax.set_xticks(ax.get_xticks(), words)
        figure, boxes = lay_out(ax), _name_boxes(ax)
    every = max(1, math.ceil(1.05 * max(box.height for box in boxes) / max(room, 1)))
    if every > 1:
        ax.set_xticks(ax.get_xticks(), [word if k % every == 0 else "" for k, word in enumerate(words)])
    ax.tick_params(axis="x", rotation=90)
    if isinstance(figure, Picture):
        width, height = figure.get_size_inches()
        height += max(box.width - box.height for box in boxes) / figure.dpi
        figure.set_size_inches(width, min(TALLEST, height))


def _name_boxes(ax: Axes) -> list[Any]:
    """Return the extents of the names on the x axis, from left to right."""
    return sorted((label.get_window_extent() for label in ax.get_xticklabels()), key=lambda box: box.x0 + box.x1)


def spread(wanted: Sequence[float], gap: float) -> NDArray[np.float64]:
    """Return the positions nearest to those wanted (least squares), in the same order and at least `gap` apart.

    Pool-adjacent-violators on the positions minus rank times gap.
    """
    order = np.argsort(wanted, kind="stable")
    steps = gap * np.arange(len(order))
    pools: list[list[float]] = []
    for value in np.asarray(wanted, float)[order] - steps:
        pools.append([value])
        while len(pools) > 1 and np.mean(pools[-2]) >= np.mean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    placed = np.empty(len(order))
    placed[order] = np.array([np.mean(pool) for pool in pools for _ in pool]) + steps
    return placed


def end_labels(
    ax: Axes,
    ends: Sequence[tuple[float, float, str, str]],
    size: float = 8.5,
    most: int = NAME,
    things: str = "methods",
    height: float = 0.0,
) -> dict[str, float]:
    """Label lines at the right edge: names are moved apart and joined to their line's end by a hair line.

    ends: (x, y, text, ink) of each line, in data units. The lowest that do not fit beside the axes are counted.
    most: characters of a name; things: what is counted; height: of the axes in points, if it is known, which saves
    a layout. Returns the height of each text in data units.
    """
    from matplotlib.transforms import offset_copy

    height = height or inches(ax)[1] * POINTS
    called = names((text for _, _, text, _ in ends), most)
    fit = max(2, int(height / (size * 1.3)))
    if len(ends) > fit:
        x, y, left = *sorted(ends, key=lambda end: end[1])[0][:2], more(len(ends) - fit + 1, things)
        ends = [*sorted(ends, key=lambda end: -end[1])[: fit - 1], (x, y, left, GREY)]
        called[left] = left
    column = offset_copy(ax.get_yaxis_transform(), root(ax), x=14, y=0, units="points")
    low, high = ax.get_ylim()
    wanted = [(y - low) / (high - low) * height for _, y, _, _ in ends]
    placed = spread(wanted, gap=size * 1.3)
    if len(placed):  # keep the stack within the axes where it fits
        placed = placed + max(0.0, -placed.min()) - max(0.0, placed.max() - height)
    for (x, y, text, color), place in zip(ends, placed, strict=True):
        ax.annotate(
            called[text],
            xy=(x, y),
            xytext=(1.0, low + place / height * (high - low)),
            textcoords=column,
            va="center",
            color=color,
            fontsize=size,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.6, "shrinkA": 1, "shrinkB": 1, "relpos": (0, 0.5)},
        )
    heights = low + np.asarray(placed) / height * (high - low)
    return {text: float(place) for (_, _, text, _), place in zip(ends, heights, strict=True)}


def right_of(ax: Axes, place: float, points: float, text: str, **look: Any) -> None:
    """Write a text right of the axes, at a row's height."""
    ax.annotate(
        text,
        (1.0, place),
        xycoords=ax.get_yaxis_transform(),
        xytext=(points, 0),
        textcoords="offset points",
        annotation_clip=False,
        fontsize=8,
        **look,
    )


def stem(text: str) -> str:
    """Return a text as a file name without extension: one part of a path, short enough with an extension of four."""
    words = re.sub(r'[\\/:*?"<>|\ufffd]+', "_", plain(text))
    held = sys.getfilesystemencoding()  # ASCII in the C locale, if it is not in UTF-8 mode
    words = words.encode(held, "replace").decode(held).replace("?", "_")
    cut = words.encode("utf-8")[: LONGEST - len(".png")].decode("utf-8", "ignore")
    if not cut.strip(" ._"):
        raise ValueError(f"{text!r} is no file name: give a name with a letter or a digit, without an extension")
    return cut


def save(figure: Figure, folder: str | Path, name: str) -> tuple[Path, Path]:
    """Write a figure as name.png and name.svg.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        What a plot returned as `figure`.
    folder : str or Path
        Where to write; made if missing.
    name : str
        File name without extension; characters that a file name cannot hold become `_`.

    Returns
    -------
    tuple of Path
        The PNG (200 dots an inch) and the SVG. Text in the SVG stays text; the same figure gives the same bytes. Both
        hold a description of the figure in words.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> part = fedlab.partition(fedlab.load("phantoms(cases=120, size=16)"), sites=3)
    >>> figure, table = fedlab.plots.partition(part)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in fedlab.plots.save(figure, folder, "sites")]
    ['sites.png', 'sites.svg']
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    from fedlab.plots.picture import as_laid_out, described

    target = resolve(folder or ".")
    target.mkdir(parents=True, exist_ok=True)
    png, svg = target / f"{stem(name)}.png", target / f"{stem(name)}.svg"
    words = described(figure)
    with drawing(), as_laid_out(figure, SAVED):  # canvases draw once, where `savefig` draws twice
        FigureCanvasAgg(figure).print_png(png, metadata={"Description": words})
        FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None, "Description": words})
    return png, svg
