"""Read an explicit assignment, in any form that users have, as the name of the site of each case."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.core.registry import nearest
from fedlab.core.typing import Names
from fedlab.data.cases import SPLITS, Cases

Explicit: TypeAlias = str | Mapping[Any, Any] | pd.DataFrame | pd.Series | Sequence[Any] | NDArray[Any]


def read_sites(cases: Cases, sites: Explicit) -> tuple[Names, Names | None]:
    """Site name of each case (n,), None for cases of no site, and the split of each case if `sites` says so.

    sites: a column of the cases' table; a value a case (None, NaN or pandas' code -1: no site); a mapping from a site
    to its cases, as ids or row positions; or a frame with columns case, site and perhaps split. Text names a site,
    anything else k becomes "Site k".
    """
    if isinstance(sites, str):
        if sites not in cases.table:
            raise ValueError(f"the cases have no column {sites!r}: {nearest(sites, cases.table.columns)}")
        return _named(cases.table[sites]), None
    if isinstance(sites, pd.DataFrame):
        return _from_frame(cases, sites)
    if isinstance(sites, Mapping):
        return _from_mapping(cases, sites), None
    values = _aligned(cases, sites) if isinstance(sites, pd.Series) else pd.Series(list(sites), dtype=object)
    if len(values) != len(cases):
        raise ValueError(f"sites holds {len(values)} values for {len(cases)} cases: give one a case, None for no site")
    return _named(values), None


def _aligned(cases: Cases, sites: pd.Series) -> pd.Series:
    """In the order of the cases: by case id or row number if the index names all of them, else in the given order."""
    for key in (cases.table["case"], cases.table.index):
        if len(sites) == len(key) and sites.index.is_unique and bool(key.isin(sites.index).all()):
            return sites.loc[list(key)]
    return sites


def _from_frame(cases: Cases, frame: pd.DataFrame) -> tuple[Names, Names | None]:
    for column in ("case", "site"):
        if column not in frame:
            raise ValueError(f"sites has columns {list(frame.columns)}: wanted case, site and perhaps split")
    rows = _positions(cases, frame["case"].to_list(), "sites")
    if len(np.unique(rows)) < len(rows):
        raise ValueError(f"sites names {len(rows) - len(np.unique(rows))} cases more than once: one row a case")
    site, split = np.full(len(cases), None, object), np.full(len(cases), "", object)
    site[rows] = _named(frame["site"])
    if "split" not in frame:
        return site, None
    wrong = set(frame["split"].astype(str)) - set(SPLITS)
    if wrong:
        raise ValueError(f"column 'split' of sites holds {sorted(wrong)}: use {SPLITS}")
    split[rows] = frame["split"].to_numpy(object)
    return site, split


def _from_mapping(cases: Cases, sites: Mapping[Any, Any]) -> Names:
    site = np.full(len(cases), None, object)
    for name, members in sites.items():
        rows = _positions(cases, members, name)
        taken = rows[pd.notna(site[rows])]
        if len(taken) or len(np.unique(rows)) < len(rows):
            twice = taken[0] if len(taken) else rows[pd.Series(rows).duplicated()][0]
            raise ValueError(f"case {cases.table['case'][twice]!r} is listed twice: a case belongs to one site")
        site[rows] = _name(name)
    return site


def _positions(cases: Cases, members: Any, name: object) -> NDArray[np.int64]:
    """Row positions of cases given as ids, positions or a mask."""
    listed = np.asarray(list(members))
    if not len(listed):
        raise ValueError(f"site {name!r} lists no cases: leave it out or give it some")
    if listed.dtype == bool and len(listed) == len(cases):
        return np.flatnonzero(listed)
    if np.issubdtype(listed.dtype, np.integer):
        if listed.min() < 0 or listed.max() >= len(cases):
            raise ValueError(
                f"site {name!r} lists rows {listed.min()}..{listed.max()}: there are rows 0..{len(cases) - 1}"
            )
        return listed.astype(np.int64)
    rows = pd.Index(cases.table["case"]).get_indexer(listed.astype(object))
    if (rows < 0).any():
        raise ValueError(
            f"{(rows < 0).sum()} cases of site {name!r} are unknown (first: {listed[rows < 0][0]!r}): check the ids"
        )
    return rows.astype(np.int64)


def _named(values: pd.Series) -> Names:
    codes, kinds = pd.factorize(values)
    names = np.array([*(None if _missing(kind) else _name(kind) for kind in kinds), None], object)
    return names[codes]


def _missing(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and value == -1


def _name(value: object) -> str:
    if isinstance(value, str):
        return str(value)
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return f"Site {int(value) if whole else value}"  # type: ignore[call-overload]
