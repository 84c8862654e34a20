"""Values and rows that a user gives case by case: matched by case id, or refused, never matched by accident."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from fedlab.core.typing import Ints
from fedlab.data.columns import EXACT


def chosen_rows(index: ArrayLike, ids: pd.Series) -> Ints:
    """Row positions (m,) of cases given as positions, or as a mask with one value a case.

    A mask that is a Series is aligned by its index.

    Raises
    ------
    ValueError
        For positions that no case has, and for anything that is neither.
    """
    values = np.asarray(index)
    if values.dtype == object and pd.api.types.infer_dtype(values, skipna=False) in ("boolean", "integer"):
        values = np.array(values.tolist())
    if values.ndim != 1:
        raise ValueError(f"rows have shape {values.shape}: give a list of row positions, or a mask of the cases")
    if values.dtype == bool:
        if len(values) != len(ids):
            raise ValueError(f"the mask has {len(values)} values for {len(ids)} cases: give one value a case")
        return np.flatnonzero(values if not isinstance(index, pd.Series) else values[_complete(index, ids, "the mask")])
    if len(values) and not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"rows are {values.dtype} such as {values[0]!r}: give row positions, or a mask of the cases")
    if len(values) and not (values.min() >= 0 and values.max() < len(ids)):
        raise ValueError(f"rows {values.min()}..{values.max()} are given: there are rows 0..{len(ids) - 1}")
    return values.astype(np.int64)


def _complete(values: pd.Series, ids: pd.Series, what: str) -> Ints:
    """Where the value of each case is in a Series that has one for every case."""
    place = aligned(values.index, ids, what)
    if (place < 0).any():
        raise ValueError(f"{what} names {(place >= 0).sum()} of {len(ids)} cases: give one value a case")
    return place


def aligned(index: pd.Index, ids: pd.Series, what: str) -> Ints:
    """Where each case is in the index of a Series, (n,), -1 for cases that it does not name.

    An index names cases by id, numbers as text; or it counts rows, 0 to n - 1 in any order. One that could be either,
    also if zeros before the ids were lost, is refused unless both agree or it is called `case`; so is one that is
    neither.
    """
    if index.nlevels > 1 or not index.is_unique:
        raise ValueError(f"the index of {what} {_neither(index)}: name each case once, by its id")
    labels = case_names(index, what)
    by_id = pd.Index(labels).get_indexer(pd.Index(ids))
    named = bool(pd.Index(labels).isin(ids).all())
    counted = pd.api.types.is_integer_dtype(index.dtype) and bool(((index >= 0) & (index < len(ids))).all())
    by_row = index.get_indexer(pd.RangeIndex(len(ids))) if counted else by_id
    if named and (index.name == "case" or np.array_equal(by_row, by_id)):
        return by_id.astype(np.int64)
    short = pd.Index(ids.astype(object).str.replace(r"^0+(?=\d)", "", regex=True))
    perhaps = named or (short.is_unique and bool(pd.Index(labels).isin(short).all()))
    if counted and (by_row >= 0).all() and (not perhaps or np.array_equal(by_row, pd.Index(labels).get_indexer(short))):
        return by_row.astype(np.int64)
    if perhaps and counted:
        raise ValueError(
            f"the index of {what} could be case ids or row numbers: write the ids as text, e.g."
            " values.set_axis(values.index.astype(str)), or give values.to_numpy() in the order of the cases"
        )
    raise ValueError(
        f"the index of {what} {_neither(index)}, neither the ids of cases nor their row numbers: set the ids as index,"
        " or give values.to_numpy() in the order of the cases"
    )


def shown(value: object) -> str:
    """A value in an error message, in one short line."""
    text = repr(value)
    return text if len(text) <= 80 and "\n" not in text else f"a {type(value).__name__}"


def _neither(index: pd.Index) -> str:
    """How an index reads, shortly."""
    return f"is {', '.join(repr(label) for label in index[:3].tolist())}{', ...' if len(index) > 3 else ''}"


def case_names(values: Iterable[Any], what: str) -> list[str]:
    """Ids as text: a whole number is its digits. ValueError for values that name no case."""
    listed = values.to_numpy(object).tolist() if isinstance(values, pd.Series | pd.Index) else list(values)
    if all(type(value) is str for value in listed):
        return listed
    names = []
    for value in listed:
        whole = isinstance(value, float | np.floating) and float(value).is_integer() and abs(float(value)) < EXACT
        if isinstance(value, str):
            names.append(str(value))
        elif whole or (isinstance(value, int | np.integer) and not isinstance(value, bool)):
            names.append(str(int(value)))
        else:
            raise ValueError(f"{what} names a case {value!r}: name every case by its id, as text")
    return names


def find_cases(values: Iterable[Any], ids: pd.Series, what: str) -> Ints:
    """Row positions (m,) of cases by id; ValueError that counts and shows those that are unknown."""
    if isinstance(values, pd.Series) and values.dtype == ids.dtype and values.array.equals(ids.array):
        return np.arange(len(ids))
    given = values.to_numpy(object) if isinstance(values, pd.Series) else None
    if given is not None and len(given) == len(ids) and bool((given == ids.to_numpy(object)).all()):
        return np.arange(len(ids))
    text = given is not None and pd.api.types.infer_dtype(given, skipna=False) == "string"
    names = list(given) if given is not None and text else case_names(values, what)
    rows = pd.Index(ids).get_indexer(pd.Index(names, dtype=object)).astype(np.int64)
    if (rows < 0).any():
        first = names[int(np.flatnonzero(rows < 0)[0])]
        raise ValueError(
            f"{(rows < 0).sum()} cases of {what} are unknown (first: {first!r}): check the ids, such as"
            f" {ids.iloc[0]!r}; from a text file, read them as text, e.g. dtype={{'case': str}}"
        )
    return rows


def numbered(values: pd.Series, names: Sequence[str]) -> Ints:
    """Return the place of each value among the names, (n,); -1 where it is none of them."""
    codes, found = pd.factorize(values)
    return pd.Index(names, dtype=object).get_indexer(np.asarray(found, object)).astype(np.int64)[codes]
