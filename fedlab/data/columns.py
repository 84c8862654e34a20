"""Columns of a table of cases: what they may hold, their canonical text, placeholders, and names that look alike."""

import unicodedata
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from fedlab.core.typing import Bools

ABSENT = {"", "-", "--", "?", ".", "na", "n/a", "n.a.", "nan", "nat", "none", "null", "<na>", "missing", "unknown"}
SENTINELS = (-1, -9, -99, -999, -9999, 999, 9999)  # numbers that tables use for a missing value
EXACT = 2**53  # whole numbers that floats hold exactly
NUMBERS = ("integer", "floating")
KINDS = ("string", "boolean", "datetime64", "timedelta64", "date", "empty", *NUMBERS)  # what a dataset folder can hold
REMEDIES = {
    "datetime": "pd.to_datetime({0})",
    "timedelta": "pd.to_timedelta({0})",
    "decimal": "{0}.astype(float)",
    "dictionary": "{0}.astype('category')",
    "sparse": "{0}.sparse.to_dense()",
    "mixed-integer-float": "pd.to_numeric({0})",
    "period": "{0}.dt.to_timestamp()",
}


def kind_of(values: pd.Series) -> str:
    """What a column holds, whatever its dtype: one of KINDS, or something that cannot be stored."""
    if isinstance(values.dtype, pd.SparseDtype):
        return "sparse"
    if str(values.dtype).startswith("dictionary<"):  # of arrow; pandas cannot read it back
        return "dictionary"
    if isinstance(values.dtype, pd.CategoricalDtype):
        return kind_of(values.cat.categories.to_series())
    kind = str(pd.api.types.infer_dtype(values, skipna=True))
    return str(pd.api.types.infer_dtype(values.astype(object), skipna=True)) if kind == "unknown-array" else kind


def check_columns(table: pd.DataFrame) -> None:
    """Check that every column has a name and holds plain values of one kind that can be stored."""
    for name in table.columns:
        if not isinstance(name, str) or not name or not _is_unicode(name):
            raise ValueError(
                f"the table has a column {name!r}: name columns by text, e.g. table.rename(columns={{{name!r}: 'a'}})"
            )
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        raise ValueError(f"the table has more than one column {twice!r}: rename or drop one")
    for name in table.columns:
        _check_column(table[name], name)


def _check_column(values: pd.Series, name: str) -> None:
    """Check the values of one column."""
    kind = kind_of(values)
    if kind not in KINDS:
        known = values[values.notna()]
        first = known.iloc[0]
        other = next((value for value in known if type(value) is not type(first)), first)
        found = f"{first!r:.60} and {other!r:.60}" if other is not first else f"{first!r:.60}"
        remedy = REMEDIES.get(kind, "{0}.astype(str)").format(f"table[{name!r}]")
        raise ValueError(
            f"column {name!r} holds {kind} values such as {found}, which a dataset cannot store: wanted text, numbers,"
            f" booleans or dates, all of one kind, e.g. {remedy}"
        )
    if kind == "string" and not _is_unicode("".join(known := values.dropna().tolist())):
        wrong = next(value for value in known if not _is_unicode(value))
        raise ValueError(f"column {name!r} holds {wrong!r}, which is no Unicode text: replace it")
    if kind == "integer" and values.dtype == object and any(abs(value) > EXACT for value in values.dropna()):
        raise ValueError(f"column {name!r} holds very large numbers as objects: give table[{name!r}].astype('Int64')")
    if kind == "floating" and np.isinf(values.to_numpy(np.float64, na_value=np.nan)).any():
        raise ValueError(f"column {name!r} holds an infinite number: write None where there is no value")


def _is_unicode(text: str) -> bool:
    """Whether text can be written as UTF-8."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def canonical(values: pd.Series) -> list[str]:
    """Text of each value, (n,), that depends on the values alone and not on how pandas holds them.

    Missing is "nan", so that a whole number beside missing ones reads like the float that pandas may make of it. Text
    is escaped where it says "nan" or holds the separator of the fingerprint.
    """
    kind, missing = kind_of(values), values.isna().to_numpy(bool)
    write = _writer(kind, bool(missing.any()))
    return ["nan" if gone else write(value) for value, gone in zip(values.tolist(), missing.tolist(), strict=True)]


def _writer(kind: str, gaps: bool) -> Callable[[Any], str]:
    """The function that writes one value of a column of this kind."""
    if kind == "string":
        return lambda text: "\x1enan" if text == "nan" else text.replace("\x1f", "\x1e\x1f")
    if kind == "integer":
        return lambda number: str(float(number)) if gaps and int(float(number)) == int(number) else str(int(number))
    return {"floating": lambda number: str(float(number)), "boolean": lambda value: str(bool(value))}.get(kind, str)


def look_alike(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that differ by blanks, case or invisible letters alone."""
    groups: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        groups.setdefault(_seen(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _seen(name: str) -> str:
    """A name without what a reader does not see."""
    text = unicodedata.normalize("NFKC", name).casefold()
    return " ".join("".join(letter for letter in text if unicodedata.category(letter) != "Cf").split())


def is_absent(values: pd.Series) -> Bools:
    """Which values are text that stands for a missing value, such as "", "n/a", "unknown" or "-1"; (n,)."""
    words = ABSENT | {str(number) for number in SENTINELS if number < 0}
    return np.array([isinstance(value, str) and value.strip().lower() in words for value in values.tolist()], bool)


ALIKE = "they differ by blanks or case alone and are kept apart, so rename those that are one"


def placeholders(values: pd.Series) -> dict[str, int]:
    """How many cases hold each value that usually stands for a missing one.

    Of numbers these are -1, 999 and the like where all others are at least 0, and less than half of it.
    """
    absent = is_absent(values)
    found = pd.Series([repr(value) for value in values[absent]], dtype=object).value_counts().to_dict()
    numbers = _numbers(values[~absent])
    known = numbers[~numbers.isin(SENTINELS)]
    for number, count in numbers[numbers.isin(SENTINELS)].value_counts().items():
        if known.empty or (number < 0 <= known.min()) or (number > 0 and number > 2 * known.max()):
            found[f"{number:g}"] = count
    return {str(value): int(count) for value, count in found.items()}


def _numbers(values: pd.Series) -> pd.Series:
    """The numbers of a column, also those written as text; none if it holds anything else."""
    if kind_of(values) not in (*NUMBERS, "string"):
        return pd.Series(dtype=np.float64)
    known = pd.to_numeric(values.dropna().astype(object), errors="coerce").astype(np.float64)
    return known if known.notna().all() else known[:0]


_doubted: deque[tuple[str, pd.Series, list[str]]] = deque(maxlen=8)  # read last: a slider reads them every time


def doubts(name: str, values: pd.Series) -> list[str]:
    """A line on each thing in a column that may not be what it seems: placeholders, and categories that look alike.

    "none" is a value here, since it may say that there is no finding; "None" is not.
    """
    if values.dtype == object:  # equal values may be of different types
        return _doubts(name, values)
    for known, kept, lines in list(_doubted):
        if known == name and kept.dtype == values.dtype and kept.equals(values):
            return lines
    lines = _doubts(name, values)
    _doubted.append((name, values.copy(), lines))
    return lines


def _doubts(name: str, values: pd.Series) -> list[str]:
    """The lines, read from every value."""
    lines = [
        f"{count} of {len(values)} cases hold {value} in {name!r}, which usually stands for a missing value: write None"
        " where it does"
        for value, count in placeholders(values).items()
        if value != repr("none")
    ]
    if kind_of(values) == "string":
        groups = look_alike(value.strip() for value in values.dropna())
        lines += [f"{' and '.join(map(repr, group))} in {name!r} look alike: {ALIKE}" for group in groups]
    return lines
