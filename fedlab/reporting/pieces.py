"""Pieces of a report: figures with alternative texts, tables of frames, and lists of facts."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from fedlab.reporting.findings import number
from fedlab.reporting.markup import Markup, element, picture, table

DPI = 110  # of figures: sharp at twice the size of text, and small
WIDTH = 900  # CSS pixels of the widest figure
ROWS = 400  # of a table


def figure(draw: Callable[[], Any]) -> Markup:
    """A figure that a plot draws; the reason where it cannot."""
    from fedlab.plots.picture import described, png

    try:
        drawn = draw().figure
    except ValueError as error:
        return element("p", f"No figure: {error}", kind="note")
    data, size = png(drawn, DPI, effort=9)
    return picture(data, described(drawn), min(WIDTH, size["width"]))


def frame(data: pd.DataFrame, caption: str = "", **names: str) -> Markup:
    """A frame as a table; names: columns and how they are called, all of them by default."""
    names = names or {str(column): str(column) for column in data}
    rows = [[cell(value) for value in row] for row in data[list(names)].head(ROWS).itertuples(index=False)]
    found = table(list(names.values()), rows, caption)
    if len(data) <= ROWS:
        return found
    return Markup(found + element("p", f"The first {ROWS:,} of {len(data):,} rows.", kind="note"))


def cell(value: Any) -> str:
    """A value as text: counts with separators, numbers with three decimals, a dash for none."""
    if value is None or value is pd.NA:
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        return f"{value:,.0f}" if abs(float(value)) >= 1000 else number(float(value))
    return str(value)


def facts(known: Mapping[str, object]) -> Markup:
    """What is known, each under its name; what is empty is left out."""
    return element(
        "dl", *(part for name, fact in known.items() if fact for part in (element("dt", name), element("dd", fact)))
    )


def items(lines: Iterable[object], kind: str | None = None) -> Markup:
    """A list of lines."""
    return element("ul", *(element("li", line) for line in lines), kind=kind)
