"""Read a column that describes patients: as numbers, as ordered or as unordered categories, and which are missing.

A number may be written as text, with a decimal comma, a unit or as a limit: "45", "31,5", "90+" or DICOM's "045Y".
Missing are NaN, None, NaT and infinities, and text that says so, such as "" or "NA".
"""

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fedlab.core.typing import Bools, Floats, Ints
from fedlab.data.columns import ABSENT

NONE = "None"  # as Python writes a missing value; "none" says that there is nothing, such as no finding
NUMBER = re.compile(r"[<>]?=?\s*([+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:e[+-]?\d+)?)\s*([^\W\d_]*)\+?", re.IGNORECASE)
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}\D*")  # "1,234" may be 1234 or 1.234
YEARS = {
    **dict.fromkeys(("", "y", "yr", "yrs", "yo", "year", "years"), 1.0),
    **dict.fromkeys(("m", "mo", "mos", "month", "months"), 1 / 12),
    **dict.fromkeys(("w", "wk", "wks", "week", "weeks"), 7 / 365.25),
    **dict.fromkeys(("d", "day", "days"), 1 / 365.25),
}
ORDERED_NAMES = ("age", "severity", "score", "grade", "stage")  # columns that have an order, whatever their values


@dataclass(frozen=True, eq=False)
class Column:
    """The values of a column, (n,).

    known: which are not missing. numbers: NaN where missing, None for a column of categories. codes: category of each
    value, -1 where missing, for all columns without numbers. names: text of the categories. ordered: whether the
    categories have an order, that of their codes. write: the text of a number.
    """

    known: Bools
    numbers: Floats | None
    codes: Ints
    names: list[str]
    ordered: bool
    write: Callable[[float], str]

    @property
    def distinct(self) -> int:
        """Number of different known values."""
        return len(np.unique(self.codes[self.known] if self.numbers is None else self.numbers[self.known]))

    def ranks(self) -> Floats | None:
        """Numbers that order the values, (n,), NaN where missing; None for categories without an order."""
        if self.numbers is not None:
            return self.numbers
        ranked = np.where(self.known, self.codes.astype(np.float64), np.nan)
        return ranked if self.ordered or self.distinct <= 2 else None


_read: deque[tuple[pd.Series, Column]] = deque(maxlen=8)  # texts that were read last: a slider reads them every time


def read_column(values: pd.Series) -> Column:
    """Read a column of a table of cases."""
    if not _is_text(values):
        return _parsed(values)
    found = next((column for kept, column in list(_read) if kept.equals(values)), None)
    if found is None:
        found = _parsed(values)
        _read.append((values.copy(), found))
    return found


def _parsed(values: pd.Series) -> Column:
    """Read a column value by value."""
    known = _known(values)
    found = _numbers(values, known)
    if found is not None:
        numbers = np.where(known & np.isfinite(found), found, np.nan)
        none = np.full(len(values), -1, np.int64)
        return Column(~np.isnan(numbers), numbers, none, [], True, _date if _is_date(values) else "{:g}".format)
    codes, names, ordered = _categories(values, known)
    return Column(known, None, codes, names, ordered, str)


def lost_order(name: str, values: pd.Series) -> str:
    """Return a line if a column has an order that its text does not tell, else ""."""
    column = read_column(values)
    if column.numbers is not None or column.ordered or column.distinct <= 2:
        return ""
    digits = np.mean([text.lstrip("<>=~+-([ ")[:1].isdigit() for text in column.names])
    if name.lower() not in ORDERED_NAMES and digits <= 0.5:
        return ""
    return (
        f"{name!r} is text such as {column.names[0]!r} and was used without an order: make it a number, or an ordered"
        " category of pandas"
    )


def _known(values: pd.Series) -> Bools:
    """Tell which values are not missing, (n,)."""
    known = values.notna().to_numpy(bool)
    if not _is_text(values):
        return known
    return known & np.array([not (isinstance(value, str) and _says_missing(value.strip())) for value in values], bool)


def _says_missing(text: str) -> bool:
    """Tell whether a text says that there is no value."""
    return text == NONE or (text.lower() in ABSENT and text.lower() != NONE.lower())


def _is_text(values: pd.Series) -> bool:
    """Tell whether values may be text."""
    kind = values.dtype.categories.dtype if isinstance(values.dtype, pd.CategoricalDtype) else values.dtype
    return not (pd.api.types.is_numeric_dtype(kind) or _is_date_type(kind))


def _is_date_type(kind: object) -> bool:
    return pd.api.types.is_datetime64_any_dtype(kind) or isinstance(kind, pd.PeriodDtype)  # type: ignore[arg-type]


def _is_date(values: pd.Series) -> bool:
    """Tell whether a column holds dates, which are read as days since 1970."""
    return _is_date_type(values.dtype)


def _date(days: float) -> str:
    """Write days since 1970 as a date."""
    return str(np.datetime64(int(np.floor(days)), "D"))


def _numbers(values: pd.Series, known: Bools) -> Floats | None:
    """Return the column as numbers (n,), NaN where missing; None if it holds something else."""
    if pd.api.types.is_bool_dtype(values):
        return None
    if isinstance(values.dtype, pd.CategoricalDtype):
        return _numbers_of_categories(values, known)
    if pd.api.types.is_complex_dtype(values):
        return None
    if pd.api.types.is_numeric_dtype(values):
        return values.to_numpy(np.float64, na_value=np.nan)
    if isinstance(values.dtype, pd.PeriodDtype):
        values = values.dt.to_timestamp()
    if pd.api.types.is_datetime64_any_dtype(values):
        utc = values.dt.tz_convert("UTC").dt.tz_localize(None) if values.dt.tz is not None else values
        return ((utc - pd.Timestamp(0)) / pd.Timedelta(days=1)).to_numpy(np.float64, na_value=np.nan)
    if pd.api.types.is_timedelta64_dtype(values):
        return (values / pd.Timedelta(days=1)).to_numpy(np.float64, na_value=np.nan)
    return _numbers_in_text(values, known)


def _numbers_of_categories(values: pd.Series, known: Bools) -> Floats | None:
    """Return the numbers of a categorical column; None if an order of its own contradicts them."""
    categories = pd.Series(values.cat.categories)
    found = _numbers(categories, _known(categories))
    if found is None or (values.cat.ordered and (np.diff(found[~np.isnan(found)]) < 0).any()):
        return None
    codes = values.cat.codes.to_numpy(np.int64)
    return np.where(codes >= 0, found[codes], np.nan)


def _numbers_in_text(values: pd.Series, known: Bools) -> Floats | None:
    """Return numbers written as text, with one unit or with units of age; None if any value is something else."""
    given = [value for value, there in zip(values, known, strict=True) if there]
    if not given or any(isinstance(value, bool | np.bool_) for value in given):
        return None
    texts = [str(value).strip() for value in given]
    read = [NUMBER.fullmatch(text) for text in texts]
    commas = [text for text in texts if "," in text]
    if not all(read) or (commas and all(THOUSANDS.fullmatch(text) for text in commas)):
        return None
    numbers = np.array([float(one[1].replace(",", ".")) for one in read if one])
    units = [one[2].lower() for one in read if one]
    if len(set(units)) > 1:
        if not set(units) <= set(YEARS):
            return None
        numbers = numbers * [YEARS[unit] for unit in units]
    found = np.full(len(values), np.nan)
    found[known] = numbers
    return found


def _categories(values: pd.Series, known: Bools) -> tuple[Ints, list[str], bool]:
    """Return (code of each value, -1 where missing; names; whether they are ordered), sorted by value or by order."""
    codes = np.full(len(values), -1, np.int64)
    if isinstance(values.dtype, pd.CategoricalDtype) and values.cat.ordered:
        used, codes[known] = np.unique(values.cat.codes.to_numpy(np.int64)[known], return_inverse=True)
        return codes, [str(values.cat.categories[code]) for code in used], True
    if pd.api.types.is_bool_dtype(values):
        codes[known], names = pd.factorize(values[known].astype(bool), sort=True)
    else:
        text = [value.strip() if isinstance(value, str) else str(value) for value in values[known]]
        codes[known], names = pd.factorize(np.array(text, object), sort=True)
    return codes, [str(name) for name in names], False
