"""What `Cases` takes and refuses when it is made, and an identity that depends on values alone."""

import datetime
import decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import cases

from fedlab.data.cases import Cases, read
from fedlab.data.columns import doubts

N = 12


def made(**columns: Any) -> Cases:
    """A dozen cases with these columns instead of, or beside, their own."""
    base = cases(N)
    return Cases(base.images, base.table.assign(**columns), base.card)


def alternating(first: object, second: object, dtype: Any = None) -> pd.Series:
    return pd.Series([first, second] * (N // 2), dtype=dtype)


def arrow(kind: pa.DataType) -> pd.ArrowDtype:
    return pd.ArrowDtype(kind)


# --- identity

SAME = {
    "text": [
        *(alternating("left", gone, object) for gone in (None, np.nan, pd.NA)),
        *(alternating("left", None, kind) for kind in ("string", "category", arrow(pa.string()))),
    ],
    "whole numbers": [
        alternating(1, 2, kind) for kind in ("int64", "int32", "uint8", "Int16", "category", object, arrow(pa.int64()))
    ],
    "whole numbers and gaps": [
        alternating(1, None, kind) for kind in ("float64", "float32", "Int64", "category", object, arrow(pa.int8()))
    ],
    "numbers": [
        alternating(1.25, 2.5, kind) for kind in ("float64", "float32", "Float32", "category", arrow(pa.float64()))
    ],
    "booleans": [alternating(True, False, kind) for kind in (bool, object, "boolean", arrow(pa.bool_()))],
    "booleans and gaps": [alternating(True, None, kind) for kind in (object, "boolean", arrow(pa.bool_()))],
    "times": [
        pd.to_datetime(alternating("2020-01-01", None)).astype(f"datetime64[{unit}]") for unit in ("s", "us", "ns")
    ],
    "dates": [alternating(datetime.date(2020, 1, 1), None, kind) for kind in (object, arrow(pa.date32()))],
}


@pytest.mark.parametrize("name", SAME)
def test_the_fingerprint_is_that_of_the_values_whatever_holds_them(name: str, tmp_path: Path) -> None:
    found = [made(extra=values) for values in SAME[name]]
    again = [read(one.save(tmp_path / str(number))) for number, one in enumerate(found)]
    assert len({one.fingerprint for one in (*found, *again)}) == 1


def test_fingerprints_of_ordinary_tables_are_those_of_earlier_versions() -> None:
    assert made().fingerprint == "6f0ef699d265ec39800ea0561efe9d73"
    assert (
        made(age=alternating(31.5, np.nan), sex=alternating("F", "M")).fingerprint == "16b32eaf5a27b2383082c7a10b8d4bf5"
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["nan", "b"], [None, "b"]),
        (["None", "b"], [None, "b"]),
        (["a\x1fb", "c"], ["a", "b\x1fc"]),
        (["a", "b"], ["b", "a"]),
        ([2**60, None], [2**60 + 1, None]),
    ],
)
def test_other_values_have_another_fingerprint(one: list[Any], other: list[Any]) -> None:
    kind = "Int64" if isinstance(one[0], int) else object
    assert made(extra=alternating(*one, kind)).fingerprint != made(extra=alternating(*other, kind)).fingerprint


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.text()), min_size=N, max_size=N)
    | st.lists(st.one_of(st.none(), st.integers(-(2**62), 2**62)), min_size=N, max_size=N)
    | st.lists(st.one_of(st.none(), st.floats(allow_infinity=False)), min_size=N, max_size=N)
)
def test_what_is_read_is_what_was_saved_or_was_refused(tmp_path_factory: Any, values: list[Any]) -> None:
    try:
        one = made(extra=pd.Series(values, dtype=object))
    except ValueError as error:
        assert "column 'extra'" in str(error)
        return
    again = read(one.save(tmp_path_factory.mktemp("saved") / "set"))
    assert again.fingerprint == one.fingerprint
    assert again.table["extra"].isna().equals(one.table["extra"].isna())


# --- the gate

LISTS = pd.Series([["a"]] * N)


@pytest.mark.parametrize(
    ("column", "remedy"),
    [
        (alternating("a", 3, object), "astype(str)"),
        (alternating(Path("a.png"), None), "astype(str)"),
        (LISTS, "astype(str)"),
        (LISTS.astype(arrow(pa.list_(pa.string()))), "astype(str)"),
        (alternating({}, {"a": 1}), "astype(str)"),
        (alternating(b"a", b"b"), "astype(str)"),
        (alternating(decimal.Decimal("1.5"), None), "astype(float)"),
        (alternating(1, 2.5, object), "pd.to_numeric"),
        (alternating(True, 2, object), "astype(str)"),
        (pd.Series(pd.cut(np.arange(N), 3)), "astype(str)"),
        (pd.Series(pd.period_range("2020", periods=N, freq="D")), "dt.to_timestamp()"),
        (pd.Series(pd.arrays.SparseArray(np.arange(N))), "sparse.to_dense()"),
        (alternating("a", None, arrow(pa.dictionary(pa.int32(), pa.string()))), "astype('category')"),
        (alternating(1.0, np.inf), "infinite"),
        (alternating("\ud800", "b", object), "no Unicode text"),
        (alternating(2**60 + 1, None, object), "astype('Int64')"),
    ],
)
def test_a_column_that_cannot_be_stored_is_refused_by_name(column: pd.Series, remedy: str) -> None:
    with pytest.raises(ValueError, match="column 'extra'") as caught:
        made(extra=column)
    assert remedy in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [7, 1.5, None, ("a", "b"), ""])
def test_columns_are_named_by_text(name: object) -> None:
    base = cases(N)
    table = base.table.assign(extra=1)
    table.columns = pd.Index([*base.table.columns, name], dtype=object)
    with pytest.raises(ValueError, match="name columns by text"):
        Cases(base.images, table, base.card)


def test_a_column_is_there_once() -> None:
    base = cases(N)
    with pytest.raises(ValueError, match="more than one column 'label'"):
        Cases(base.images, pd.concat([base.table, base.table[["label"]]], axis=1), base.card)


@pytest.mark.parametrize(
    "labels",
    [
        [f"{i % 2}.0" for i in range(N)],
        [str(i % 2) for i in range(N)],
        [bool(i % 2) for i in range(N)],
        pd.Categorical([i % 2 for i in range(N)]),
        pd.Series([i % 2 for i in range(N)], dtype="Float64"),
    ],
)
def test_labels_are_numbers_whatever_holds_them(labels: Any) -> None:
    assert made(label=labels).labels.tolist() == [i % 2 for i in range(N)]


@pytest.mark.parametrize("label", ["a", "0.5", None, np.nan, -1, 2, datetime.date(2020, 1, 1)])
def test_labels_that_are_none_are_refused(label: object) -> None:
    with pytest.raises(ValueError, match="label"):
        made(label=pd.Series([0, label] * (N // 2), dtype=object if isinstance(label, datetime.date) else None))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("name", None, "name is None"),
        ("name", " ", "name is ' '"),
        ("classes", [["a"], ["b"]], "list two different names"),
        ("classes", ["a", None], "list two different names"),
        ("classes", ["a", ""], "list two different names"),
        ("classes", [0, 1], "list two different names"),
        ("classes", "ab", "list two different names"),
        ("task", ["binary"], "task is"),
        ("modality", 7, "modality is 7"),
        ("note", {1, 2}, "field 'note' cannot be written as JSON"),
        ("note", Path("a"), "field 'note' cannot be written as JSON"),
        ("note", "\ud800", "field 'note' cannot be written as JSON"),
        (3, "x", "field 3 cannot be written as JSON"),
    ],
)
def test_a_card_that_is_none_is_refused(field: Any, value: Any, words: str) -> None:
    base = cases(N)
    with pytest.raises(ValueError, match="the card") as caught:
        Cases(base.images, base.table, {**base.card, field: value})
    assert words in str(caught.value)


@pytest.mark.parametrize("card", [None, [], "card.json"])
def test_a_card_is_a_dictionary(card: Any) -> None:
    with pytest.raises(ValueError, match="give a dictionary with name, task and classes"):
        Cases(cases(N).images, cases(N).table, card)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (None, "there are no images"),
        ([[0]], "images are a list"),
        (np.zeros((N, 0, 8, 8), np.uint8), "at least one channel and one pixel"),
        (np.zeros((N, 1, 8, 0), np.uint8), "at least one channel and one pixel"),
        (np.ma.masked_array(np.zeros((N, 1, 8, 8), np.uint8)), "images are a MaskedArray"),
        (np.zeros((N, 1, 8, 8), np.float64), "images are float64"),
        (np.zeros((N, 8, 8), np.uint8), "wanted"),
    ],
)
def test_images_that_are_none_are_refused(images: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Cases(images, cases(N).table, cases(N).card)


def test_there_is_at_least_one_case_and_its_table_is_a_frame() -> None:
    base = cases(N)
    with pytest.raises(ValueError, match="at least one case"):
        Cases(base.images[:0], base.table[:0], base.card)
    with pytest.raises(ValueError, match="the table is a dict"):
        Cases(base.images, {"case": [], "label": []}, base.card)  # type: ignore[arg-type]


@pytest.mark.parametrize("unknown", ["", "unknown", "n/a", "-1", -1, "?"])
def test_unknown_patients_are_not_one_person(unknown: object) -> None:
    named = [f"p{i}" for i in range(N)] if isinstance(unknown, str) else list(range(N))
    with pytest.raises(ValueError, match=r"2 cases have the patient .*'case-0000'.*write None"):
        made(patient=[unknown, unknown, *named[2:]])
    assert len(np.unique(made(patient=[None, None, *named[2:]]).units)) == N


def test_blanks_around_a_name_make_no_other_patient() -> None:
    found = made(patient=["p0", "p0 ", *[f"p{i}" for i in range(2, N)]])
    assert found.units[0] == found.units[1] and len(np.unique(found.units)) == N - 1
    alike = made(patient=["p", "P", *[f"p{i}" for i in range(2, N)]])
    assert alike.audit().set_index("kind").loc["patients look alike", "cases"] == 2
    assert len(np.unique(alike.units)) == N


# --- rows


@settings(max_examples=12, deadline=None)
@given(st.permutations(range(N)), st.lists(st.booleans(), min_size=N, max_size=N).filter(any), st.booleans())
def test_a_mask_is_aligned_by_its_index(order: list[int], chosen: list[bool], by_name: bool) -> None:
    base = cases(N)
    mask = pd.Series(chosen, index=base.table["case"] if by_name else range(N)).iloc[order]
    assert base.take(mask).table.equals(base.take(np.array(chosen)).table)
    assert base.take(base.table[chosen].index).table.equals(base.take(np.flatnonzero(chosen)).table)


@pytest.mark.parametrize(
    "index",
    [
        [],
        [N],
        [-1],
        [0.5],
        ["case-0001"],
        [True] * 5,
        [[0, 1]],
        pd.Series([True] * N, index=range(1, N + 1)),
        pd.Series([True] * N, index=[f"other-{i}" for i in range(N)]),
        pd.Series([True] * 5, index=[f"case-{i:04d}" for i in range(5)]),
    ],
)
def test_rows_that_are_none_are_refused(index: Any) -> None:
    with pytest.raises(ValueError, match=r"rows|mask"):
        cases(N).take(index)


# --- values that may not be what they seem


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["F", "M", "unknown", "unknown"], ["2 of 4 cases hold 'unknown' in 'x'"]),
        (["F", "M", "f", "M "], ["'F' and 'f' in 'x' look alike"]),
        ([40, 50, -1, -1], ["2 of 4 cases hold -1 in 'x'"]),
        ([40.0, 50, 999, None], ["1 of 4 cases hold 999 in 'x'"]),
        (["40", "50", "999", "-1"], ["1 of 4 cases hold '-1' in 'x'", "1 of 4 cases hold 999 in 'x'"]),
        ([-3, -1, 0, 2], []),
        ([800, 999, 1200, 1500], []),
        (["none", "solid", "none", "cyst"], []),
        ([True, False, True, None], []),
    ],
)
def test_placeholders_and_near_equal_values_are_counted(values: list[Any], expected: list[str]) -> None:
    found = doubts("x", pd.Series(values))
    assert len(found) == len(expected)
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True))
