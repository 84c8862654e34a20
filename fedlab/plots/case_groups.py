"""Rows of figures of cases: the values of a column, or classes, with their names and numbers of cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedlab.core.registry import nearest
from fedlab.core.site_names import natural
from fedlab.core.typing import Ints
from fedlab.data.columns import NUMBERS, kind_of
from fedlab.plots.names import more, names
from fedlab.plots.sheet import length, short, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SITE, CLASS, CASE = "site", "class", "case"  # what rows can be, besides other columns
ROWS, LEVELS = 46, 40  # rows that are drawn; different numbers of a column that can be rows
UNKNOWN, NO_CLASS = "not known", "no class"  # rows of cases without a value in the column, and without a class
NAMED, LONGEST = 2.1, 28  # inches and characters: the widest name of a row
COUNT, SPACE = 0.55, 0.16  # inches: the column of counts, and between columns
PALE = "#555555"  # of numbers and notes


class Group(NamedTuple):
    """A row of the figure: its name and the positions of its cases."""

    name: str
    rows: Ints


def checked_by(cases: Any, by: str | None) -> str:
    """What the rows of the figure are; ValueError if it is no column that has few values."""
    if by is None:
        return SITE if SITE in cases.table else CLASS
    if by in (CLASS, CASE):
        return by
    if by not in cases.table:
        raise ValueError(f"by={by!r}: {nearest(str(by), [CLASS, *map(str, cases.table.columns)])}")
    values = cases.table[by]
    if kind_of(values) in NUMBERS and values.nunique() > LEVELS:
        raise ValueError(
            f"by={by!r}: it holds {values.nunique():,} different numbers; choose another column, or cases by"
            f" where='{by} > {values.median():g}'"
        )
    return by


def groups_of(cases: Any, pool: Ints, by: str) -> list[Group]:
    """Rows of the figure: classes in their order, sites from the largest, other values in natural order."""
    if by == CLASS:
        found = [Group(name, pool[cases.members(name)[pool]]) for name in cases.classes]
        return [group for group in found if len(group.rows)] or [Group(NO_CLASS, pool)]
    values = cases.table[by].iloc[pool].reset_index(drop=True)
    found = [Group(str(value), pool[index]) for value, index in values.groupby(values, observed=True).indices.items()]
    if by == SITE:
        found.sort(key=lambda group: (-len(group.rows), natural(group.name)))
    elif kind_of(cases.table[by]) not in NUMBERS:
        found.sort(key=lambda group: natural(group.name))
    missing = pool[values.isna().to_numpy()]
    return [*found, *([Group(UNKNOWN, missing)] if len(missing) else [])]


def left_out(groups: Sequence[Group], by: str) -> str:
    """Say how many rows are not drawn."""
    things = {SITE: "sites", CLASS: "classes"}.get(by, "rows")
    return more(len(groups) - ROWS, things) if len(groups) > ROWS else ""


def heads_width(groups: Sequence[Group]) -> float:
    """The width of the names of rows and their counts, in inches."""
    shown = names([group.name for group in groups], LONGEST)
    return min(NAMED, max(map(length, shown.values()))) + 0.1 + COUNT


def write_heads(ax: Axes, groups: Sequence[Group], right: float, head: float, pitch: float) -> None:
    """Write the name of each row and how many cases it has."""
    write(ax, right, head - 0.12, "cases", align="right", color=PALE)
    shown = names([group.name for group in groups], LONGEST)
    for group, middle in zip(groups, head + pitch * (np.arange(len(groups)) + 0.5), strict=True):
        write(ax, 0, middle, short(shown[group.name], right - COUNT))
        write(ax, right, middle, f"{len(group.rows):,}", align="right", color=PALE)


def write_foot(ax: Axes, y: float, width: float, notes: Sequence[str]) -> None:
    """Write notes below the figure, in one line."""
    write(ax, 0, y, short("; ".join(filter(None, notes)), width), color=PALE)
