"""Laws of the table reader: any spreadsheet's dialect gives the same cells, and what is not read is counted."""

import io
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import tables

PEOPLE = pd.DataFrame({"name": ["Åse", "Zoë, the 2nd", "x"], "age": ["31.5", "", "7"], "note": ["a;b", "c\nd", 'e"f']})


def written(encoding: str = "utf-8", **options: str) -> bytes:
    return PEOPLE.to_csv(index=False, **options).encode(encoding)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_every_dialect_gives_the_same_cells(separator: str, encoding: str, ends: str) -> None:
    found = tables.read("x.csv", written(encoding, sep=separator, lineterminator=ends))
    assert found["name"].tolist() == PEOPLE["name"].tolist() and found["note"].tolist() == PEOPLE["note"].tolist()
    assert found["age"].isna().tolist() == [False, True, False] and list(found) == ["name", "age", "note"]


def test_plain_tables_are_what_pandas_reads() -> None:
    body = b"id,site,age\n1,NA,3\n2,Nan,\n 3 ,null,None\n\n"
    expected = pd.read_csv(io.BytesIO(body), dtype="string")
    assert tables.read("x", body).equals(expected)


def test_windows_text_is_read_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"x\.csv is no UTF-8 text \(byte \d+\): it is read as Windows-1252"):
        assert tables.read("x.csv", written("cp1252"))["name"].tolist() == PEOPLE["name"].tolist()


def test_quotation_marks_inside_of_cells_are_kept() -> None:
    assert tables.read("x", b'id,note\n1,5" lesion\n2,"a ""b"""\n')["note"].tolist() == ['5" lesion', 'a "b"']


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "holds no rows"),
        (b"\n \n", "holds no rows"),
        (
            b"id,age\n1,31,5\n2,44,25\n",
            "line 2 has 3 cells and the header 2",
        ),  # a decimal comma that is also the separator
        (b"id,age\n1,3\n2\n", "line 3 has 1 cells and the header 2"),
        (b'id,age\n1,"3\n2,4\n', "opened and never closed"),
    ],
)
def test_a_ragged_table_is_refused(body: bytes, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        tables.read("x", body)


def test_separators_at_the_ends_of_rows_are_no_cells() -> None:
    assert tables.read("x", b"id;age\n1;2;;\n3;4;\n;;\n")["age"].tolist() == ["2", "4"]


def test_what_is_no_spreadsheet_is_told() -> None:
    with pytest.raises(ValueError, match=r"it is no spreadsheet|save the sheet as x\.csv"):
        tables.read("x.xlsx", b"not a zip")


@given(st.lists(st.floats(0, 120).map(lambda age: round(age, 2)), min_size=1, max_size=20))
@settings(max_examples=6, deadline=None)
def test_ages_are_read_from_points_commas_and_units(ages: list[float]) -> None:
    forms: list[Callable[[float], str]] = [
        str,
        lambda age: str(age).replace(".", ","),
        lambda age: f" {age} years ",
        lambda age: f"{age}Y",
        lambda age: f"{age * 12}m",
    ]
    for form in forms:
        found = tables.ages(pd.Series([form(age) for age in ages], dtype="string"), "x")
        assert found.dtype == np.float64 and np.allclose(found, ages)


@pytest.mark.parametrize(
    ("text", "years"), [("045Y", 45), ("018M", 1.5), ("026W", 0.498), ("010D", 0.0274), ("1e1", 10), ("045y", 45)]
)
def test_ages_as_dicom_writes_them(text: str, years: float) -> None:
    assert tables.ages(pd.Series([text], index=["any"]), "x")["any"] == pytest.approx(years, rel=1e-2)


def test_what_is_no_age_is_counted_with_examples() -> None:
    cells = pd.Series(["40", "old", "old", ">90", "-1", "999", "inf", "", None, "unknown", "?", "n/a"], dtype="string")
    with pytest.warns(UserWarning, match=r"t\.csv, column age: 6 of 12 cells are not an age in years.*'old'.*missing"):
        found = tables.ages(cells, "t.csv, column age")
    assert found.dropna().tolist() == [40]


def test_numbers_keep_what_pandas_reads_and_count_the_rest() -> None:
    cells = pd.Series(["1", "-2.5", "3,25", "1e3", "1,000.5", "0x"], dtype="string")
    with pytest.warns(UserWarning, match="2 of 6 cells are not a number"):
        assert tables.numbers(cells, "x").tolist()[:4] == [1, -2.5, 3.25, 1000]


def test_words_in_any_case_are_understood_and_others_counted() -> None:
    cells = pd.Series(["F", "female", " MALE", "m", "unknown", None, "divers"], dtype="string")
    with pytest.warns(UserWarning, match="x: 1 of 7 cells are not one of F, M .*'divers'"):
        found = tables.words(cells, {"F": "female", "M": "male"}, "x")
    assert found.dropna().tolist() == ["female", "female", "male", "male"] and found.isna().sum() == 3


def test_unknown_is_nobody() -> None:
    found = tables.names(pd.Series(["p1", "Unknown", "-", " n/a ", "p1"], dtype="string"))
    assert found.isna().tolist() == [False, True, True, True, False]


@pytest.mark.parametrize("cell", ["2.5", "6", "-1", "", "x", None])
def test_an_index_that_is_none_is_refused(cell: str | None) -> None:
    with pytest.raises(ValueError, match=r"x: 1 of 2 cells hold no whole number from 0 to 5"):
        tables.whole(pd.Series(["3.0", cell], dtype="string"), "x", 6)
    assert tables.whole(pd.Series(["3.0", "5"]), "x", 6).tolist() == [3, 5]
