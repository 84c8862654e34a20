"""Given sites belong to the cases that they name: by id, in any order and type, or the assignment is refused."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import cases

import fedlab
from fedlab.core.warnings import HeterogeneityWarning
from fedlab.data.cases import Cases
from fedlab.federation import Federation
from fedlab.federation.settings import FederationSettings
from fedlab.partitioning.explicit import read_sites
from fedlab.partitioning.partitions import Partition
from fedlab.partitioning.validation import ProtocolError

N = 40
quiet = pytest.mark.filterwarnings("ignore::fedlab.core.warnings.HeterogeneityWarning")


def named(ids: list[str], **columns: Any) -> Cases:
    """Cases of these ids."""
    base = cases(len(ids))
    return Cases(base.images, base.table.assign(case=ids, **columns), base.card)


WORLD = cases(N)
ZEROS = np.random.default_rng(1).permutation(N)
IDS = {
    "text": [f"case-{i:04d}" for i in range(N)],
    "from 0": [str(i) for i in range(N)],
    "from 1": [str(i) for i in range(1, N + 1)],
    "backwards": [str(i) for i in reversed(range(N))],
    "shifted": [str(i) for i in range(N // 2, N + N // 2)],
    "scattered": [str(i) for i in np.random.default_rng(0).permutation(3 * N)[:N]],
    "with zeros": [f"{i:03d}" for i in range(N)],
    "with zeros, mixed": [f"{i:03d}" for i in ZEROS],
    "some numbers": [str(i) if i % 2 else f"case-{i}" for i in range(N)],
}
DATA = {name: named(ids) for name, ids in IDS.items()}
KINDS = ("text", "category", "int64", "int32", "uint16", "float64", "Int64")


def as_kind(ids: list[str], kind: str) -> pd.Series:
    """Ids as a table that was read from a file may hold them."""
    values = pd.Series(ids, dtype=object)
    if kind in ("text", "category"):
        return values.astype("category") if kind == "category" else values
    return values.astype(int).astype(kind)  # type: ignore[call-overload]


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(sorted(IDS)),
    st.sampled_from(KINDS),
    st.permutations(range(N)),
    st.integers(N // 2, N),
    st.sampled_from(["frame", "frame by index", "series", "series called case", "mapping"]),
)
def test_every_form_gives_the_case_the_site_that_is_written_beside_it_or_is_refused(
    ids: str, kind: str, order: list[int], count: int, form: str
) -> None:
    data = DATA[ids]
    site = np.array(["A", "B", "C", "A"])[np.arange(N) % 4]
    rows = order[:count]
    try:
        keys = as_kind([IDS[ids][row] for row in rows], kind)
    except ValueError:
        return  # these ids are no numbers
    frame = pd.DataFrame({"case": keys, "site": site[rows]})
    forms: dict[str, Any] = {
        "frame": frame.sample(frac=1, random_state=0),
        "frame by index": frame.set_index("case"),
        "series": pd.Series(site[rows], index=pd.Index(keys)),
        "series called case": frame.set_index("case")["site"],
        "mapping": {name: group["case"] for name, group in frame.groupby("site")},
    }
    try:
        found = read_sites(data, forms[form])[0]
    except ValueError as error:
        lost = "unknown" in str(error) or "neither the ids" in str(error)
        assert "could be case ids or row" in str(error) or (lost and ids.startswith("with zeros"))
        assert kind not in ("text", "category")
    else:
        assert found.tolist() == [site[row] if row in rows else None for row in range(N)]


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(N)), st.sampled_from(["row numbers", "a range", "a column of the table"]))
def test_a_series_that_counts_rows_is_aligned_by_them(order: list[int], form: str) -> None:
    site = np.array(["A", "B", "C", "A"])[np.arange(N) % 4]
    for ids in ("text", "from 0", "with zeros"):
        data = DATA[ids]
        values = {
            "row numbers": pd.Series(site).iloc[order],
            "a range": pd.Series(site, index=pd.RangeIndex(N)),
            "a column of the table": data.table.assign(site=site)["site"].iloc[order],
        }[form]
        assert read_sites(data, values)[0].tolist() == site.tolist()


WRONG_INDEX = {
    "other rows": pd.RangeIndex(1, N + 1),
    "every second row": pd.RangeIndex(0, 2 * N, 2),
    "other cases": [f"patient-{i}" for i in range(N)],
    "a case twice": ["case-0000", *IDS["text"][:-1]],
    "a row twice": [0, *range(N - 1)],
    "dates": pd.date_range("2020", periods=N),
    "levels": pd.MultiIndex.from_product([["x"], range(N)]),
    "missing": [*IDS["text"][:-1], None],
}


@pytest.mark.parametrize("name", WRONG_INDEX)
def test_an_index_that_names_neither_cases_nor_rows_is_refused(name: str) -> None:
    values = pd.Series(["A", "B"] * (N // 2), index=WRONG_INDEX[name])
    with pytest.raises(ValueError, match=r"sites") as caught:
        Partition.from_sites(WORLD, values)
    assert "\n" not in str(caught.value) and "case" in str(caught.value)


@quiet
def test_a_frame_whose_index_and_column_name_different_cases_is_refused() -> None:
    frame = pd.DataFrame({"case": IDS["text"], "site": ["A", "B"] * (N // 2)}, index=IDS["text"])
    Partition.from_sites(WORLD, frame)
    with pytest.raises(ValueError, match=r"by its column and 'case-\d+' by its index"):
        Partition.from_sites(WORLD, frame.set_axis(IDS["text"][::-1]))
    with pytest.raises(ValueError, match=r"by its column and 'case-\d+' by its index"):
        Partition.from_sites(WORLD, frame.set_axis(pd.Index(IDS["text"][::-1], name="case")))


@quiet
def test_a_mask_of_a_site_is_aligned_by_its_index() -> None:
    here = pd.Series([i % 3 == 0 for i in range(N)], index=IDS["text"]).sample(frac=1, random_state=1)
    part = Partition.from_sites(WORLD, {"A": here, "B": ~here})
    assert part.table.loc[part.table["site"] == "A", "case"].tolist() == IDS["text"][::3]
    with pytest.raises(ValueError, match="neither the ids of cases nor their row numbers"):
        Partition.from_sites(WORLD, {"A": here.set_axis(range(1, N + 1))})


@pytest.mark.parametrize(
    ("sites", "words"),
    [
        (dict(zip(IDS["text"], ["A", "B"] * (N // 2), strict=True)), "give pd.Series(mapping)"),
        ({"A": 5}, "a list of its cases"),
        ({"A": "case-0000"}, "a list of its cases"),
        ({"A": WORLD.table[["case"]]}, "a list of its cases"),
        ({"A": [0.5]}, "names a case 0.5"),
        ({"A": ["case-0000", None]}, "names a case None"),
        ({"A": [True] * 5}, "the mask has 5 values for 40 cases"),
        ({"Oslo": [0], "Oslo ": [1]}, "more than one key for 'Oslo'"),
        ({1: [0], "Site 1": [1]}, "more than one key for 'Site 1'"),
        (set(range(N)), "sites is"),
        (4, "sites is 4"),
        (None, "sites is None"),
        (np.array([["A", "B"]] * N), "sites is a ndarray"),
        ([["A"]] * N, "name a site by text or by a number"),
        (["A", 1] * (N // 2), "named by text and by numbers"),
        (["A", " "] * (N // 2), "rename it, or write None for cases of no site"),
        (pd.DataFrame({"case": [*range(N)], "site": "A"}), "40 cases of sites are unknown (first: '0')"),
        (pd.DataFrame({"case": [None] * N, "site": "A"}), "names a case None"),
    ],
)
def test_what_names_no_sites_is_refused_in_a_line(sites: Any, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        Partition.from_sites(WORLD, sites)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@quiet
def test_a_partition_of_cases_that_there_are_not_is_refused() -> None:
    part = Partition.from_sites(WORLD, ["A", "B"] * (N // 2))
    with pytest.raises(ValueError, match="1 cases of the partition are unknown"):
        _ = Partition(WORLD.take(range(1, N)), part.table).rows


@quiet
def test_rows_of_a_partition_are_positions_or_a_mask() -> None:
    part = Partition.from_sites(WORLD, ["A", "B"] * (N // 2), annotation=0.5)
    mask = np.arange(N) % 3 == 0
    for method in (lambda rows: part.pixels(rows, "A"), lambda rows: part.training_labels(rows, "A")):
        assert np.array_equal(method(mask), method(np.flatnonzero(mask)))
        for rows in ([0.5], [-1], [N], mask[:5], pd.Series(mask, index=range(1, N + 1))):
            with pytest.raises(ValueError, match=r"rows|mask"):
                method(rows)


# --- what is reported


@pytest.mark.parametrize(
    "form", [lambda c: "site", lambda c: c["site"].tolist(), lambda c: c[["case", "site"]], lambda c: c.dropna()]
)
def test_cases_of_no_site_are_counted_and_shown(form: Any) -> None:
    data = named(IDS["text"], site=["A", "B", None, "A", "B"] * (N // 5))
    with pytest.warns(HeterogeneityWarning, match="8 of 40 cases have no site and are left out, such as 'case-0002'"):
        part = Partition.from_sites(data, form(data.table))
    assert part.spec["notes"] == [
        "8 of 40 cases have no site and are left out, such as 'case-0002', 'case-0007', 'case-0012'"
    ]
    assert len(part.table) == 32


@quiet
def test_names_are_trimmed_and_those_that_look_alike_are_reported() -> None:
    part = Partition.from_sites(WORLD, ["Oslo", "Oslo ", "Bergen", "\tBergen"] * (N // 4))
    assert part.sites == ["Bergen", "Oslo"]
    for alike in (("Oslo", "oslo"), ("St. Olav", "St.  Olav"), ("Zürich", "Zu\u0308rich"), ("A\u200bB", "AB")):
        with pytest.warns(HeterogeneityWarning, match="look alike"):
            Partition.from_sites(WORLD, list(alike) * (N // 2))


@pytest.mark.parametrize("name", ["unknown", "N/A", "-1", "none", "?"])
def test_placeholders_are_reported_as_sites(name: str) -> None:
    with pytest.warns(HeterogeneityWarning, match="20 cases have the site .* which usually stands for none"):
        Partition.from_sites(WORLD, ["A", name] * (N // 2))


def test_ordinary_sites_are_taken_in_silence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Partition.from_sites(WORLD, ["Oslo", "Oslo", "Bergen", "Bergen"] * (N // 4))
        Partition.from_sites(WORLD, {"A": range(10), "B": range(10, 20)})  # a mapping chooses


def test_placeholders_in_a_column_that_sites_prefer_are_reported() -> None:
    data = named(IDS["text"], age=[20.0, 40, 60, 999] * (N // 4), sex=["F", "M", "m", "F"] * (N // 4))
    with pytest.warns(HeterogeneityWarning, match="10 of 40 cases hold 999 in 'age'"):
        fedlab.partition(data, 2, population=0.5)
    with pytest.warns(HeterogeneityWarning, match="'M' and 'm' in 'sex' look alike"):
        fedlab.partition(data, 2, population="sex(0.5)")


# --- what is given with the sites


@quiet
@pytest.mark.parametrize("value", [np.float32(0.5), np.float16(0.5), np.array(0.5), np.float64(0.5)])
def test_doses_of_numpy_are_saved(value: Any, tmp_path: Path) -> None:
    sites = ["A", "A", "B", "B"] * (N // 4)
    part = Partition.from_sites(WORLD, sites, annotation=value, acquisition=value)
    assert part.fingerprint == Partition.from_sites(WORLD, sites, annotation=0.5, acquisition=0.5).fingerprint
    assert Partition.load(part.save(tmp_path), WORLD).fingerprint == part.fingerprint


@pytest.mark.parametrize("argument", ["annotation", "acquisition"])
@pytest.mark.parametrize("value", [np.zeros(N), pd.Series([0.1, 0.5], index=["B", "A"]), {"B": 0.1, "A": 0.5}])
def test_values_for_each_case_or_site_are_no_dose(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{argument}|unknown scanner preset 0.0"):
        Partition.from_sites(WORLD, ["A", "A", "B", "B"] * (N // 4), **{argument: value})


@quiet
@pytest.mark.parametrize("times", [1, 2])
def test_pixels_that_were_divided_twice_are_refused_by_site(times: int) -> None:
    images = (WORLD.images / 255**times).astype(np.float16)
    part = Partition.from_sites(Cases(images, WORLD.table, WORLD.card), ["A", "A", "B", "B"] * (N // 4))
    given = FederationSettings(rounds=1, local_steps=1, batch_size=4, lr=0.1, device="cpu")
    if times == 1:
        assert Federation(part, "logistic", given).partition is part
        return
    with pytest.raises(ProtocolError, match=r"A: pixels lie in 0\.\.0\.00\d+, agreed is 0\.\.1"):
        Federation(part, "logistic", given)
