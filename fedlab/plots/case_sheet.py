"""The cases of a dataset: examples by site and class with their masks, or every case with its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from fedlab.core.rng import stream
from fedlab.core.typing import Ints
from fedlab.data.filters import selected
from fedlab.plots import style, titles
from fedlab.plots.case_groups import (
    CASE,
    CLASS,
    LONGEST,
    PALE,
    ROWS,
    SITE,
    SPACE,
    Group,
    checked_by,
    groups_of,
    heads_width,
    left_out,
    write_foot,
    write_heads,
)
from fedlab.plots.intensities import AXIS, FOOT, GREY_LINE, HEAD, LOWEST, ROOM, draw_intensities, intensities, means
from fedlab.plots.names import more, names
from fedlab.plots.sheet import Box, length, sheet, short, write
from fedlab.plots.thumbnails import Place, View

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GAP, BETWEEN, PADDING = 0.06, 0.3, 0.05  # between images and those of two classes, in widths; between rows, inches
LARGEST, WIDTH = 1.0, 7.2  # inches: of one image, of all columns
HISTOGRAM, NARROWEST = 1.9, 7.0  # inches: width of the histograms, of the figure at least
CLASSES, IMAGES = 30, 60  # classes, and images of a row or page, that are drawn
EACH = {CASE: 24, "": 8}  # images of a page of cases, and of a row, by default
UPRIGHT = 1.6  # inches: the longest name of a class that is written upright
PAGE, TALLEST, CAPTION, SMALL = 9.0, 3.0, 0.155, 8.0  # inches: a page, an image on it, a line below it; points


class Layout(NamedTuple):
    """Where images are, in inches. spans: class -> left edges of its images; bottom: of the rows."""

    spans: dict[str, list[float]]
    size: float
    pitch: float
    head: float
    bottom: float
    left: float
    histogram: float
    right: float


def cases(
    cases: Any,
    where: str | None = None,
    *,
    ax: Axes | None = None,
    rows: ArrayLike | None = None,
    by: str | None = None,
    n: int | None = None,
    page: int = 1,
    slice: int | None = None,
    channel: int | None = None,
    masks: bool = True,
    seed: int = 0,
) -> style.Drawing:
    """Draw examples of each site and class, with masks as contours, next to the histogram of their intensities.

    The histogram of a row counts up to 64 of its cases (fewer of large images); the grey line is that of all rows
    together. At most 46 rows and 30 classes are drawn, and the others counted.

    Parameters
    ----------
    cases : Cases
        What `fedlab.load` returned.
    where : str, optional
        A condition on the table, such as "age > 60 and sex == 'F'", "label == 'nodule'" or "patient is None". Columns
        whose names are no Python names are written in backticks.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    rows : array-like, optional
        Row positions, or a mask of the cases.
    by : str, optional
        A column of the table, whose values are the rows of the figure, "class", or "case" for every case with its name,
        in the order of the table. The site by default, where there is one, else the class.
    n : int, optional
        About how many images a row, as many of each class, at most 60: 8 by default. Of "case", how many on a page, 24
        by default.
    page : int, default 1
        Further pages show further cases.
    slice : int, optional
        Which slice of volumes; the middle one by default.
    channel : int, optional
        Which channel; colours by default if there are three, else the first.
    masks : bool, default True
        Whether to draw masks.
    seed : int, default 0
        The same seed shows the same cases.

    Returns
    -------
    Drawing
        (figure, table). table: a row an image in reading order, with the columns of the cases' table after class (and
        slice).

    Raises
    ------
    ValueError
        If the condition, column, slice, channel or page does not exist, or no case is left.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=60, size=16)")
    >>> table = fedlab.plots.cases(cases, "age > 40", by="sex", n=4).table
    >>> table.groupby(["sex", "class"]).size().to_dict()
    {('F', 'nodule'): 2, ('F', 'normal'): 2, ('M', 'nodule'): 2, ('M', 'normal'): 2}
    """
    view = View.of(cases, slice, channel, masks)
    pool = selected(cases, where, rows)
    by = checked_by(cases, by)
    wanted = EACH.get(by, EACH[""]) if n is None else n
    if isinstance(wanted, bool) or not isinstance(wanted, int | np.integer) or wanted < 1:
        raise ValueError(f"n={n!r}: give a whole number of images, 1 or more")
    if by == CASE:
        return _draw_pages(view, pool, ax, min(int(wanted), IMAGES), page)
    return _draw_rows(view, pool, by, ax, min(int(wanted), IMAGES), page, seed)


def page_count(cases: Any, pool: Ints, by: str, n: int | None = None) -> int:
    """How many pages `cases` has of these positions."""
    wanted = min(EACH.get(by, EACH[""]) if n is None else n, IMAGES)
    if by == CASE:
        return _pages(len(pool), wanted)
    classes = _classes(cases, by)
    cells = _cells(cases, groups_of(cases, pool, by)[:ROWS], classes, 0)
    most = max(map(len, cells.values()))
    return _pages(most, max(1, wanted // len(classes)))


def _pages(count: int, each: int) -> int:
    """How many pages so many cases fill."""
    return max(1, -(-count // each))


def _check_page(page: int, pages: int) -> None:
    """Refuse a page that does not exist."""
    if isinstance(page, bool) or not isinstance(page, int | np.integer) or not 1 <= page <= pages:
        raise ValueError(f"page={page!r}: {'there is page 1' if pages == 1 else f'there are pages 1 to {pages:,}'}")


# -- examples of rows and classes ------------------------------------------------------------------------------------


def _draw_rows(view: View, pool: Ints, by: str, ax: Axes | None, n: int, page: int, seed: int) -> style.Drawing:
    """Draw examples of each row and class, and the histogram of each row."""
    cases = view.cases
    every, classes = groups_of(cases, pool, by), _classes(cases, by)
    groups = every[:ROWS]
    cells = _cells(cases, groups, classes, seed)
    most, each = max(map(len, cells.values())), max(1, n // len(classes))
    pages = _pages(most, each)
    _check_page(page, pages)
    layout = _layout(view, groups, classes, min(each, max(1, most)))
    found = intensities(view, groups, seed)
    chosen = {cell: rows[(page - 1) * each : page * each].tolist() for cell, rows in cells.items()}
    foot = layout.bottom + AXIS
    title = titles.cases(len(pool), len(cases), means(groups, found))
    with sheet(ax, layout.right, foot + FOOT * (1 + view.outlined), title) as ax:
        write_heads(ax, groups, layout.left - SPACE, layout.head, layout.pitch)
        if by != CLASS:
            _write_classes(ax, layout)
        _write_dashes(ax, groups, classes, layout, cells)
        view.draw(ax, _places(view, groups, chosen, layout), layout.size)
        draw_intensities(ax, view, groups, found, Box(layout.histogram, layout.head, layout.right, layout.bottom))
        view.legend(ax, 0, foot + FOOT / 2, layout.right)
        others = more(len(cases.classes) - CLASSES, "classes") if by != CLASS and len(cases.classes) > CLASSES else ""
        notes = [view.slice_note, view.channel_note, f"page {page} of {pages:,}" if pages > 1 else ""]
        notes += [left_out(every, by), others, GREY_LINE if len(groups) > 1 else ""]
        write_foot(ax, foot + FOOT * (0.5 + view.outlined), layout.right, notes)
    shown = [(row, name or group) for (group, name), some in chosen.items() for row in some]
    return style.Drawing(style.root(ax), _table(view, shown, by))


def _classes(cases: Any, by: str) -> list[str]:
    """Columns of the figure: classes, or one for any."""
    return [""] if by == CLASS else cases.classes[:CLASSES]


def _cells(cases: Any, groups: Sequence[Group], classes: list[str], seed: int) -> dict[tuple[str, str], Ints]:
    """The cases of each row and class, in an order of the seed."""
    has = {name: cases.members(name) for name in classes if name}
    return {
        (group.name, name): stream(seed, "shown", group.name, name).permutation(
            group.rows[has[name][group.rows]] if name else group.rows
        )
        for group in groups
        for name in classes
    }


def _layout(view: View, groups: Sequence[Group], classes: list[str], each: int) -> Layout:
    """Place the images as large as width and height allow."""
    between = BETWEEN if each > 1 else GAP
    starts = [[(each * k + one) * (1 + GAP) + k * between for one in range(each)] for k in range(len(classes))]
    units = starts[-1][-1] + 1
    size = min(LARGEST, WIDTH / units, (ROOM / len(groups) - PADDING) / view.aspect)
    pitch = max(LOWEST, size * view.aspect + max(PADDING, GAP * size))
    left = heads_width(groups) + SPACE
    spans = {name: [left + x * size for x in xs] for name, xs in zip(classes, starts, strict=True)}
    head = HEAD if classes == [""] else _head(spans, size)
    histogram = left + units * size + 2 * SPACE
    right = max(histogram + HISTOGRAM, NARROWEST)
    return Layout(spans, size, pitch, head, head + pitch * len(groups), left, histogram, right)


def _head(spans: dict[str, list[float]], size: float) -> float:
    """The height of the names of classes, in inches: HEAD if they fit above their images, more if they are upright."""
    words = names(spans, LONGEST)
    if all(length(words[name]) <= xs[-1] + size - xs[0] for name, xs in spans.items()):
        return HEAD
    return min(UPRIGHT, max(map(length, words.values()))) + 0.2


def _places(
    view: View, groups: Sequence[Group], chosen: dict[tuple[str, str], list[int]], layout: Layout
) -> list[Place]:
    """Where each image is."""
    space = (layout.pitch - layout.size * view.aspect) / 2
    tops = {group.name: layout.head + layout.pitch * k + space for k, group in enumerate(groups)}
    return [
        Place(row, x, tops[group])
        for (group, name), some in chosen.items()
        for row, x in zip(some, layout.spans[name], strict=False)
    ]


def _write_dashes(
    ax: Axes, groups: Sequence[Group], classes: list[str], layout: Layout, cells: dict[tuple[str, str], Ints]
) -> None:
    """Write a dash where a row has no case of a class."""
    for k, group in enumerate(groups):
        for name in classes:
            if not len(cells[group.name, name]):
                xs = layout.spans[name]
                middle = layout.head + layout.pitch * (k + 0.5)
                write(ax, (xs[0] + xs[-1] + layout.size) / 2, middle, "–", align="center", color=style.GREY)


def _write_classes(ax: Axes, layout: Layout) -> None:
    """Write each class above its images, upright where names would touch."""
    for name, text in names(layout.spans, LONGEST).items():
        xs = layout.spans[name]
        middle = (xs[0] + xs[-1] + layout.size) / 2
        if layout.head == HEAD:
            write(ax, middle, layout.head - 0.12, text, align="center")
        else:
            write(ax, middle, layout.head - 0.08, short(text, UPRIGHT), align="center", rotation=90, va="bottom")


# -- pages of cases --------------------------------------------------------------------------------------------------


def _draw_pages(view: View, pool: Ints, ax: Axes | None, each: int, page: int) -> style.Drawing:
    """Draw every case with its name, class and site, in the order of the table."""
    pages = _pages(len(pool), each)
    _check_page(page, pages)
    first = (page - 1) * each
    shown = pool[first : first + each]
    columns = 6 if each <= EACH[CASE] else 8 if each <= 2 * EACH[CASE] else 10
    wide, lines = PAGE / columns, captions(view.cases, shown)
    size = min(wide - 2 * PADDING, TALLEST / view.aspect)
    pitch = size * view.aspect + CAPTION * len(lines[0]) + 2 * PADDING
    spots = [(number % columns * wide, number // columns * pitch) for number in range(len(shown))]
    bottom = pitch * -(-len(shown) // columns)
    title = f"Cases {first + 1:,} to {first + len(shown):,} of {len(pool):,}"
    title += f", chosen from {len(view.cases):,}" if len(pool) < len(view.cases) else ""
    with sheet(ax, PAGE, bottom + FOOT * (1 + view.outlined), title) as ax:
        view.draw(ax, [Place(int(row), *spot) for row, spot in zip(shown, spots, strict=True)], size)
        for caption, (x, y) in zip(lines, spots, strict=True):
            write_caption(ax, caption, x, y + size * view.aspect, wide - 2 * PADDING)
        view.legend(ax, 0, bottom + FOOT / 2, PAGE)
        notes = [view.slice_note, view.channel_note, f"page {page} of {pages:,}" if pages > 1 else ""]
        write_foot(ax, bottom + FOOT * (0.5 + view.outlined), PAGE, notes)
    table = _table(view, [(int(row), class_names(view.cases, row)) for row in shown], CASE)
    return style.Drawing(style.root(ax), table)


def captions(cases: Any, rows: Ints, columns: Sequence[str] = (SITE,)) -> list[list[str]]:
    """The lines below each case: its name, its class, and its value in columns that the table has."""
    table = cases.table.iloc[rows]
    ids = names(table[CASE], 20)
    lines = [[ids[case] for case in table[CASE]], [class_names(cases, row) for row in rows]]
    for column in columns:
        if column in table:
            lines.append(["" if pd.isna(value) else str(value) for value in table[column]])
    return [list(caption) for caption in zip(*lines, strict=True)]


def write_caption(ax: Axes, lines: Sequence[str], x: float, y: float, width: float) -> None:
    """Write lines below an image whose lower left corner is at x, y; the first is the name of the case."""
    first, *others = (short(line, width, SMALL) for line in lines)
    write(ax, x, y + 0.02, first, size=SMALL, va="top")
    look: dict[str, Any] = {"va": "top", "color": PALE, "linespacing": CAPTION * style.POINTS / SMALL / 1.164}
    write(ax, x, y + CAPTION + 0.02, "\n".join(others), size=SMALL, **look)


def class_names(cases: Any, row: int) -> str:
    """The class of a case; several where labels overlap."""
    label = int(cases.labels[row])
    if cases.task != "multilabel":
        return str(cases.classes[label])
    return " + ".join(name for bit, name in enumerate(cases.classes) if label >> bit & 1) or "none"


def _table(view: View, shown: Sequence[tuple[int, str]], by: str) -> pd.DataFrame:
    """The cases that are drawn, (position, class) each, with the columns of their table."""
    table = view.cases.table.iloc[[row for row, _ in shown]].reset_index(drop=True)
    front: dict[str, Any] = {} if by in (CLASS, CASE) else {by: table[by]}
    front[CLASS] = [name for _, name in shown]
    if view.slice is not None:
        front["slice"] = view.slice
    front[CASE] = table[CASE]
    found = pd.DataFrame(front).join(table.drop(columns=[name for name in front if name in table]))
    found.attrs["shown"] = list(front)
    return found
