"""Read an explicit assignment, in any form that users have, as the name of the site of each case."""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.core.registry import nearest
from fedlab.core.typing import Ints, Names
from fedlab.data.cases import SPLITS, Cases
from fedlab.data.columns import ALIKE, look_alike, placeholders
from fedlab.data.per_case import aligned, case_names, chosen_rows, find_cases, shown

Explicit: TypeAlias = str | Mapping[Any, Any] | pd.DataFrame | pd.Series | Sequence[Any] | NDArray[Any]


def read_sites(cases: Cases, sites: Explicit) -> tuple[Names, Names | None, list[str]]:
    """Site name of each case (n,), None for cases of no site; the split of each case if `sites` says so; and notes.

    sites: a column of the cases' table; a value a case (None, NaN or pandas' code -1: no site); a Series whose index
    names the cases; a mapping from a site to its cases, as ids, row positions or a mask; or a frame with columns case,
    site and perhaps split. Text names a site, anything else k becomes "Site k". The notes say how many cases have no
    site, and which names may not be what they seem.
    """
    if isinstance(sites, str):
        if sites not in cases.table:
            raise ValueError(f"the cases have no column {sites!r}: {nearest(sites, cases.table.columns)}")
        values, split = cases.table[sites], None
    elif isinstance(sites, pd.DataFrame):
        values, split = _from_frame(cases, sites)
    elif isinstance(sites, Mapping):
        values, split = _from_mapping(cases, sites), None
    elif isinstance(sites, pd.Series):
        values, split = _placed(sites, aligned(sites.index, cases.table["case"], "sites")), None
    else:
        values, split = _from_sequence(cases, sites), None
    found = _named(cases, values)
    return found, split, _notes(cases, values, found, isinstance(sites, Mapping))


def _from_sequence(cases: Cases, sites: Any) -> pd.Series:
    """One value a case, in the order of the cases."""
    if isinstance(sites, Set | bytes) or not isinstance(sites, Iterable) or getattr(sites, "ndim", 1) != 1:
        raise ValueError(
            f"sites is {shown(sites)}: give a column, one value a case in their order, a mapping from a site to its"
            " cases, or a frame with columns case and site"
        )
    listed = sites.tolist() if hasattr(sites, "tolist") else list(sites)
    if len(listed) != len(cases):
        raise ValueError(f"sites holds {len(listed)} values for {len(cases)} cases: give one a case, None for no site")
    return pd.Series(listed, dtype=object)


def _placed(values: pd.Series, place: Ints) -> pd.Series:
    """The values at these places, one a case; None where the place is -1."""
    found = np.full(len(place), None, object)
    found[place >= 0] = values.to_numpy(object)[place[place >= 0]]
    return pd.Series(found, dtype=object)


def _from_frame(cases: Cases, frame: pd.DataFrame) -> tuple[pd.Series, Names | None]:
    """A value a case, None for those that the frame does not list, and the splits if it has them."""
    if "case" not in frame and (frame.index.name == "case" or all(isinstance(one, str) for one in frame.index)):
        frame = frame.rename_axis("case").reset_index()
    for column in ("case", "site"):
        if column not in frame or not isinstance(frame[column], pd.Series):
            raise ValueError(f"sites has columns {list(frame.columns)}: wanted case, site and perhaps split, each once")
    ids = cases.table["case"]
    rows = find_cases(frame["case"], ids, "sites")
    if len(np.unique(rows)) < len(rows):
        raise ValueError(f"sites names {len(rows) - len(np.unique(rows))} cases more than once: one row a case")
    _check_index(frame, rows, ids)
    place = np.full(len(cases), -1, np.int64)
    place[rows] = np.arange(len(rows))
    values = _placed(frame["site"], place)
    if "split" not in frame:
        return values, None
    wrong = set(frame["split"].astype(str)) - set(SPLITS)
    if wrong:
        raise ValueError(f"column 'split' of sites holds {sorted(wrong)}: use {SPLITS}")
    return values, _placed(frame["split"], place).fillna("").to_numpy(object)


def _check_index(frame: pd.DataFrame, rows: Ints, ids: pd.Series) -> None:
    """Refuse a frame whose index names cases, too, and others than its column `case`."""
    if frame.index.name != "case" and not all(isinstance(label, str) for label in frame.index):
        return
    labels, names = np.array(case_names(frame.index, "the index of sites"), object), ids.to_numpy(object)[rows]
    wrong = np.flatnonzero(labels != names)
    if len(wrong) and pd.Index(labels).isin(ids).all():
        raise ValueError(
            f"a row of sites is case {names[wrong[0]]!r} by its column and {labels[wrong[0]]!r} by its index: drop the"
            " one that is wrong, e.g. frame.reset_index(drop=True)"
        )


def _from_mapping(cases: Cases, sites: Mapping[Any, Any]) -> pd.Series:
    """The name of the site that lists each case."""
    site = pd.Series([None] * len(cases), dtype=object)
    names = [None if _missing(name) else _name(name) for name in sites]
    if twice := [name for name in names if name is not None and names.count(name) > 1]:
        raise ValueError(f"sites has more than one key for {twice[0]!r}: list all of its cases under one")
    for (name, members), called in zip(sites.items(), names, strict=True):
        rows = _members(cases, members, name)
        taken = rows[site[rows].notna()]
        if len(taken) or len(np.unique(rows)) < len(rows):
            first = taken[0] if len(taken) else rows[pd.Series(rows).duplicated()][0]
            raise ValueError(f"case {cases.table['case'][first]!r} is listed twice: a case belongs to one site")
        site[rows] = called
    return site


def _members(cases: Cases, members: Any, name: object) -> Ints:
    """Row positions of cases given as ids, positions or a mask.

    Whole numbers are ids where they name cases, and positions where no case is called by a number.
    """
    no_list = isinstance(members, str | bytes | Mapping) or not isinstance(members, Iterable)
    if no_list or getattr(members, "ndim", 1) != 1:
        raise ValueError(
            f"site {name!r} lists {shown(members)}: map each site to a list of its cases; to map a case to its site,"
            " give pd.Series(mapping)"
        )
    listed = list(members)
    if not listed:
        raise ValueError(f"site {name!r} lists no cases: leave it out or give it some")
    ids = cases.table["case"]
    if all(isinstance(one, bool | np.bool_) for one in listed):
        return chosen_rows(members if isinstance(members, pd.Series) else np.array(listed), ids)
    if not all(isinstance(one, int | np.integer) and not isinstance(one, bool) for one in listed):
        return find_cases(listed, ids, f"site {name!r}")
    rows = np.array(listed, np.int64)
    by_id = pd.Index(ids).get_indexer(pd.Index(case_names(listed, f"site {name!r}"), dtype=object))
    in_range = bool((rows >= 0).all() and (rows < len(cases)).all())
    if (by_id >= 0).all() and in_range and not np.array_equal(by_id, rows):
        raise ValueError(
            f"site {name!r} lists numbers such as {listed[0]}, which could be case ids or row positions: write the ids"
            " as text, or give a mask"
        )
    if ids.str.fullmatch(r"\s*\d+\s*").any():
        return find_cases(listed, ids, f"site {name!r}")
    if not in_range:
        raise ValueError(f"site {name!r} lists rows {rows.min()}..{rows.max()}: there are rows 0..{len(cases) - 1}")
    return rows


def _named(cases: Cases, values: pd.Series) -> Names:
    """The name of the site of each case, None where there is none."""
    plain = [None if _missing(value) else value for value in values]
    known = [value for value in plain if value is not None]
    for value, case in zip(plain, cases.table["case"], strict=True):
        if value is not None and not pd.api.types.is_scalar(value):
            raise ValueError(f"the site of case {case!r} is {shown(value)}: name a site by text or by a number")
        if isinstance(value, str) and not value.strip():
            raise ValueError(
                f"a site is called {value!r} (first: case {case!r}), which means something else: rename it, or write"
                " None for cases of no site"
            )
    kinds = {isinstance(value, str): value for value in known}
    if len(kinds) > 1:
        raise ValueError(
            f"sites are named by text and by numbers, such as {kinds[True]!r} and {kinds[False]!r}: write all as text"
        )
    return np.array([*(None if value is None else _name(value) for value in plain), None], object)[:-1]


def _missing(value: object) -> bool:
    """Whether a value stands for no site: None, NaN, NaT, pd.NA, or the code -1 of pandas."""
    if not pd.api.types.is_scalar(value):
        return False
    return bool(pd.isna(value)) or (isinstance(value, int | float | np.number) and value == -1)  # type: ignore[call-overload]


def _name(value: object) -> str:
    """The name of a site: text without blanks around it, or "Site k"."""
    if isinstance(value, str):
        return str(value).strip()
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return f"Site {int(value) if whole else value}"  # type: ignore[call-overload]


def _notes(cases: Cases, values: pd.Series, found: Names, listed: bool) -> list[str]:
    """Lines on cases of no site, unless each site listed its cases, on placeholders, and on names that look alike."""
    without = pd.isna(found)
    notes = []
    if without.any() and not listed:
        shown = ", ".join(repr(case) for case in cases.table["case"][without][:3])
        notes.append(f"{without.sum()} of {len(cases)} cases have no site and are left out, such as {shown}")
    notes += [
        f"{count} cases have the site {value}, which usually stands for none: write None if it does"
        for value, count in placeholders(values[~without]).items()
    ]
    notes += [f"sites {' and '.join(map(repr, group))} look alike: {ALIKE}" for group in look_alike(found[~without])]
    return notes
