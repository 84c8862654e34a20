"""The one reader of tables: text cells from csv, tab-separated and spreadsheet files, and numbers in such text.

What cannot be read is counted and reported with examples, never dropped in silence.
"""

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from fedlab.core.warnings import warn

SPREADSHEETS = (".xls", ".xlsx")
CELL = 2**24  # characters that one cell may hold
END = "<end>"  # a last row, which an open quotation mark swallows
MISSING = {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A"}
MISSING |= {"NA", "NULL", "NaN", "None", "n/a", "nan", "null"}  # cells without a value, as pandas reads them
UNKNOWN = {word.casefold() for word in MISSING} | {"unknown", "not known", "not stated", "n.a.", "?", "-", "--", "."}
YEARS = {"y": 1, "m": 1 / 12, "w": 7 / 365.25, "d": 1 / 365.25}  # by the first letter of a unit; "045Y" is DICOM's form
UNITS = r"(?:y|yrs?|years?|m|mos?|months?|w|wks?|weeks?|d|days?)"
AGE = rf"(\d+(?:\.\d+)?)\s*({UNITS})\.?"
OLDEST = 150  # years
EXAMPLES = 3


def read(name: str, content: bytes) -> pd.DataFrame:
    """Read a table as text, with trimmed column names: the first sheet of a spreadsheet, or separated values.

    The separator is found from the header: tab, semicolon or comma. Text is UTF-8, UTF-16 with its mark, or else
    Windows-1252, with a warning. Raises ValueError if the file is no table of one width.
    """
    if Path(name).suffix.lower() in SPREADSHEETS:
        try:
            frame = pd.read_excel(io.BytesIO(content)).astype("string")
        except ImportError as error:
            raise ValueError(f"{error}; or save the sheet as {Path(name).stem}.csv") from None
        except Exception as error:  # the readers of spreadsheets raise many kinds of errors
            raise ValueError(f"it is no spreadsheet: {str(error) or type(error).__name__}") from error
    else:
        frame = _separated(_text(name, content))
    return frame.rename(columns=lambda column: str(column).strip())


def numbers(values: pd.Series, where: str, low: float = -np.inf, high: float = np.inf) -> pd.Series:
    """Numbers in text as float64, with decimal points or commas; what is none, or out of range, is reported and NaN."""
    text = _stripped(values)
    found = _number(text)
    return _known(found.where(found.between(low, high)), text, where, _wanted("a number", low, high))


def ages(values: pd.Series, where: str) -> pd.Series:
    """Ages in years as float64, from numbers or from text with a unit such as "045Y" or "18 months"."""
    text = _stripped(values)
    found = _number(text)
    parts = text.str.lower().str.replace(",", ".", regex=False).str.extract(rf"^{AGE}$")
    united = pd.to_numeric(parts[0], errors="coerce") * parts[1].str[0].map(YEARS).astype("float64")
    found = found.fillna(united.astype("float64"))
    return _known(found.where(found.between(0, OLDEST)), text, where, _wanted("an age in years", 0, OLDEST))


def words(values: pd.Series, meanings: Mapping[str, str], where: str) -> pd.Series:
    """Replace words, in any case, by their meanings; what is none of them is reported and missing."""
    text = _stripped(values)
    plain = text.str.casefold()
    known = {**{word.casefold(): word for word in meanings.values()}, **{w.casefold(): m for w, m in meanings.items()}}
    found = plain.map(known)
    _report(found.isna() & ~_unknown(plain), text, where, f"one of {', '.join(meanings)}")
    return found


def names(values: pd.Series) -> pd.Series:
    """Names of patients or places; "unknown" and the like are missing, since they are nobody's and nowhere's name."""
    return values.mask(values.str.strip().str.casefold().isin(UNKNOWN))


def whole(values: pd.Series, where: str, count: int) -> pd.Series:
    """Indices 0 to count - 1 as int64; ValueError if a cell holds anything else, since labels or sites depend on it."""
    text = values.astype("string")
    found = _number(_stripped(values))
    wrong = ~(found.between(0, count - 1) & (found == found.round()))
    if wrong.any():
        raise ValueError(
            f"{where}: {int(wrong.sum()):,} of {len(text):,} cells hold no whole number from 0 to {count - 1}"
            f" ({_examples(text[wrong])}): use the original table"
        )
    return found.astype("int64")


def _stripped(values: pd.Series) -> pd.Series:
    """The cells as text without blanks around them."""
    return values.astype("string").str.strip()


def _number(text: pd.Series) -> pd.Series:
    """Numbers in text; those with a decimal comma are read after the others."""
    points = pd.to_numeric(text, errors="coerce").astype("float64")
    plain = text.where(text.str.fullmatch(r"[+-]?\d+,\d+").fillna(False))
    commas = pd.to_numeric(plain.str.replace(",", ".", regex=False), errors="coerce").astype("float64")
    return points.fillna(commas).replace([np.inf, -np.inf], np.nan)


def _known(found: pd.Series, text: pd.Series, where: str, wanted: str) -> pd.Series:
    """Report the cells that hold something of which no number was read."""
    _report(found.isna() & ~_unknown(text.str.casefold()), text, where, wanted)
    return found


def _unknown(text: pd.Series) -> pd.Series:
    """Whether a cell is empty or says that its value is not known."""
    return text.isna() | text.isin(UNKNOWN)


def _report(wrong: pd.Series, text: pd.Series, where: str, wanted: str) -> None:
    """Warn of cells that were not read, with their number and examples."""
    if wrong.any():
        warn(
            f"{where}: {int(wrong.sum()):,} of {len(text):,} cells are not {wanted} ({_examples(text[wrong])}): they"
            " are missing in the dataset"
        )


def _examples(cells: pd.Series) -> str:
    """The most frequent cells, for a message."""
    kinds = cells.fillna("").value_counts()
    more = ", ..." if len(kinds) > EXAMPLES else ""
    return "e.g. " + ", ".join(repr(str(cell)) for cell in kinds.index[:EXAMPLES]) + more


def _wanted(what: str, low: float, high: float) -> str:
    bounds = [f"from {low:g}" if low > -np.inf else "", f"to {high:g}" if high < np.inf else ""]
    return " ".join(filter(None, [what, *bounds]))


def _text(name: str, content: bytes) -> str:
    """Decode a text file."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        warn(f"{name} is no UTF-8 text (byte {error.start}): it is read as Windows-1252, check names with accents")
        return content.decode("cp1252", "replace")


def _separated(text: str) -> pd.DataFrame:
    """Split text at the separator of its header; cells that hold no value are missing."""
    header = re.sub('"[^"]*"', "", text.lstrip().split("\n", 1)[0])
    separator = "\t" if "\t" in header else max(",;", key=header.count)
    csv.field_size_limit(CELL)
    lines = csv.reader(io.StringIO(f"{text}\n{END}", newline=""), delimiter=separator)
    try:
        rows = [(lines.line_num, row) for row in lines if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ValueError(f"it is no table of separated values: {error}") from None
    if rows.pop()[1] != [END]:
        raise ValueError("a quotation mark is opened and never closed")
    if not rows:
        raise ValueError("it holds no rows")
    names = rows[0][1]
    for number, row in rows:
        if len(row) < len(names) or any(row[len(names) :]):
            raise ValueError(
                f"line {number:,} has {len(row)} cells and the header {len(names)}, split at {separator!r}"
            )
    cells = {place: [row[place] for _, row in rows[1:]] for place in range(len(names))}
    frame = pd.DataFrame(cells, dtype="string").set_axis(names, axis=1)
    return frame.mask(frame.isin(MISSING))
