"""The column of a table of cases that a regression predicts."""

from typing import Any

import numpy as np
import pandas as pd

from fedlab.core.registry import nearest
from fedlab.core.typing import Floats
from fedlab.data.columns import NUMBERS, kind_of

REGRESSION = "regression"


def numeric_columns(table: pd.DataFrame) -> list[str]:
    """The columns that a regression could predict."""
    return [str(name) for name in table if kind_of(table[name]) in NUMBERS]


def values_of(table: pd.DataFrame, column: str) -> Floats:
    """The numbers (n,) of a column, NaN where one is missing."""
    return table[column].astype(object).where(table[column].notna(), np.nan).to_numpy(np.float64)


def check_target(table: pd.DataFrame, card: dict[str, Any]) -> None:
    """Raise ValueError unless the card of a regression names a column of numbers, one for each case."""
    column, known = card.get("target"), numeric_columns(table)
    if not isinstance(column, str) or not column.strip():
        raise ValueError(
            f"the card of a regression has target={column!r}: name the column that is predicted, one of"
            f" {', '.join(known) or 'the table (which has no column of numbers yet)'}"
        )
    if column not in table:
        raise ValueError(f"target={column!r} is no column of the table: {nearest(column, known or table.columns)}")
    if column not in known:
        known_cells = table[column].dropna().astype(object)
        first = known_cells[pd.to_numeric(known_cells, errors="coerce").isna()].head(1).tolist()
        raise ValueError(
            f"target={column!r} holds {kind_of(table[column])} values{f' such as {first[0]!r}' if first else ''}: a"
            f" regression predicts numbers; choose one of {', '.join(known) or 'none here'}, or convert the column"
            " with pd.to_numeric"
        )
    unknown = ~np.isfinite(values_of(table, column))
    if unknown.any():
        raise ValueError(
            f"{int(unknown.sum()):,} of {len(table):,} cases have no {column!r} (first: case"
            f" {table['case'][unknown].iloc[0]!r}): leave them out, by"
            f" cases.take(cases.table[{column!r}].notna()).with_target({column!r}), or fill them in"
        )
