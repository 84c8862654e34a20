"""Identical images side by side: copies, and images that have more than one label, mask, split, patient or site."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fedlab.data.duplicates import COMPARED, Group
from fedlab.data.filters import selected
from fedlab.plots import style
from fedlab.plots.case_groups import CLASS, PALE, write_foot
from fedlab.plots.case_sheet import CAPTION, captions, class_names, write_caption
from fedlab.plots.intensities import FOOT
from fedlab.plots.names import more
from fedlab.plots.sheet import sheet, write
from fedlab.plots.thumbnails import Place, View

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ACROSS, WIDE, LARGEST = 6, 1.25, 1.0  # images of a group that are drawn; inches: a column, an image
LABEL, GAP, MORE, LOWEST = 1.25, 0.14, 1.2, 1.1  # inches: findings, between rows, the count of others, a row
NARROWEST = 7.0  # inches: of the figure at least
EACH, GROUPS = 6, 12  # groups on a page by default, and at most
ROOM = 16.0  # inches: of all rows
WORDS = {"label": "labels", "mask": "masks", "split": "splits", "patient": "patients", "site": "sites"}
WORST = ("label", "mask", "split")  # what must not differ


def duplicates(
    cases: Any,
    where: str | None = None,
    *,
    ax: Axes | None = None,
    n: int = EACH,
    page: int = 1,
    slice: int | None = None,
    channel: int | None = None,
    masks: bool = True,
) -> style.Drawing:
    """Draw identical images side by side, a row a group, those with different labels first.

    Images are compared byte by byte, as `Cases.audit` does. At most six images of a group are drawn, and the others
    counted.

    Parameters
    ----------
    cases : Cases
        What `fedlab.load` returned.
    where : str, optional
        A condition on the table, see `cases`: groups with a case that matches are drawn.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    n : int, default 6
        Groups on a page, at most 12.
    page : int, default 1
        Further pages show further groups.
    slice, channel, masks : optional
        How images are shown, see `cases`.

    Returns
    -------
    Drawing
        (figure, table). table: a row for each case of all groups, with group, differ (what differs within the group),
        class and the columns of the cases' table; empty if no two images are identical.

    Raises
    ------
    ValueError
        If the condition, slice, channel or page does not exist.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> import fedlab
    >>> from fedlab.data.cases import Cases
    >>> images = np.stack([np.full((1, 8, 8), level, np.uint8) for level in (9, 50, 9)])
    >>> table = pd.DataFrame({"case": ["a", "b", "c"], "label": [0, 1, 1]})
    >>> cases = Cases(images, table, {"name": "mine", "task": "binary", "classes": ["healthy", "ill"]})
    >>> fedlab.plots.duplicates(cases).table[["group", "differ", "case", "class"]].values.tolist()
    [[1, 'label', 'a', 'healthy'], [1, 'label', 'c', 'ill']]
    """
    view = View.of(cases, slice, channel, masks)
    groups, n = identical(cases, where), min(max(1, n), GROUPS)
    pages = pages_of(len(groups), n)
    if isinstance(page, bool) or not 1 <= page <= pages:
        raise ValueError(f"page={page!r}: {'there is page 1' if pages == 1 else f'there are pages 1 to {pages:,}'}")
    shown = groups[(page - 1) * n : page * n]
    lines = [captions(cases, group.rows[:ACROSS], ("site", "split", "patient")) for group in shown]
    deep = max((len(line) for caption in lines for line in caption), default=0)
    widest = max((min(len(group.rows), ACROSS) for group in shown), default=1)
    block = LABEL + WIDE * widest + MORE * any(len(group.rows) > ACROSS for group in shown)
    side = 2 if widest <= ACROSS // 2 and len(shown) > 1 else 1
    below = CAPTION * deep + GAP
    down = -(-len(shown) // side)
    size = min(LARGEST, LARGEST / view.aspect, max(0.3, ROOM / max(1, down) - below) / view.aspect)
    pitch = max(size * view.aspect + below, LOWEST)
    corners = [(number % side * block, number // side * pitch) for number in range(len(shown))]
    bottom, width = pitch * down, max(NARROWEST, block * side)
    with sheet(ax, width, bottom + FOOT * (1 + view.outlined), _title(groups, len(cases), where)) as ax:
        view.draw(ax, _places(shown, corners), size)
        for group, caption, corner in zip(shown, lines, corners, strict=True):
            _write_group(ax, group, caption, corner, size * view.aspect)
        if shown:
            view.legend(ax, 0, bottom + FOOT / 2, width)
        notes = [view.slice_note, view.channel_note, f"page {page} of {pages:,}" if pages > 1 else ""]
        write_foot(ax, bottom + FOOT * (0.5 + view.outlined), width, notes)
    return style.Drawing(style.root(ax), _table(cases, groups))


def identical(cases: Any, where: str | None) -> list[Group]:
    """Groups of identical images with a case that matches a condition."""
    chosen = selected(cases, where, None)
    return [group for group in cases.duplicates() if where is None or np.isin(group.rows, chosen).any()]


def pages_of(groups: int, n: int = EACH) -> int:
    """How many pages so many groups fill."""
    return max(1, -(-groups // n))


def _title(groups: Sequence[Group], total: int, where: str | None) -> str:
    """State how many groups there are, and in what they differ."""
    if not groups:
        return f"No two of {total:,} images are identical" + (" where the condition holds" if where else "")
    counts = {name: sum(name in group.differ for group in groups) for name in COMPARED}
    parts = [f"{count:,} with different {WORDS[name]}" for name, count in counts.items() if count]
    many = sum(len(group.rows) for group in groups)
    head = f"{many:,} of {total:,} images are identical to another one, in {len(groups):,} group"
    return f"{head}{'s' * (len(groups) > 1)}: {', '.join(parts) or 'copies with the same label'}"


def _places(groups: Sequence[Group], corners: Sequence[tuple[float, float]]) -> list[Place]:
    """Where each image is."""
    return [
        Place(int(row), left + LABEL + WIDE * column, top)
        for group, (left, top) in zip(groups, corners, strict=True)
        for column, row in enumerate(group.rows[:ACROSS])
    ]


def _write_group(ax: Axes, group: Group, lines: list[list[str]], corner: tuple[float, float], tall: float) -> None:
    """Write in what the images of a group differ, and below each image its case."""
    left, top = corner
    for line, name in enumerate(group.differ or ("",)):
        look: dict[str, Any] = (
            {"color": style.ink("#D55E00"), "fontweight": "bold"} if name in WORST else {"color": PALE}
        )
        write(ax, left, top + 0.1 + 0.17 * line, f"{WORDS[name]} differ" if name else "copies", **look)
    for column, caption in enumerate(lines):
        write_caption(ax, caption, left + LABEL + WIDE * column, top + tall, WIDE - 0.1)
    if len(group.rows) > ACROSS:
        write(ax, left + LABEL + WIDE * ACROSS, top + tall / 2, more(len(group.rows) - ACROSS, "cases"))


def _table(cases: Any, groups: Sequence[Group]) -> pd.DataFrame:
    """The cases of all groups, with the columns of their table."""
    rows = np.concatenate([group.rows for group in groups]) if groups else np.zeros(0, np.int64)
    table = cases.table.iloc[rows].reset_index(drop=True)
    sizes = [len(group.rows) for group in groups]
    front = {
        "group": np.repeat(np.arange(1, len(groups) + 1), sizes),
        "differ": np.repeat(np.array([", ".join(group.differ) for group in groups], object), sizes),
        "case": table["case"],
        CLASS: [class_names(cases, row) for row in rows],
    }
    found = pd.DataFrame(front).join(table.drop(columns=[name for name in front if name in table]))
    found.attrs["shown"] = [*front, *(name for name in ("site", "split", "patient") if name in found)]
    return found
