"""What a population or presentation axis looks at: the level of each case, and which way each site leans between
levels."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fedlab.core.typing import Floats, Ints
from fedlab.data.cases import Cases

L = math.log(19.0)  # at full dose a balanced binary level runs from 5 % at one end to 95 % at the other
BINS = 5  # levels of a number such as age
MISSING = "missing"


@dataclass(frozen=True)
class Levels:
    """Levels of one axis.

    name: of the column, or what the levels are. of: (n,) level of each case. group: (levels,) cases are only leant
    within a group, e.g. within a class. scores: (levels,) -1/2 to 1/2 within a group where levels have an order, else
    NaN, and 0 for what is missing. names: (levels,) what each is called.
    """

    name: str
    of: Ints
    group: Ints
    scores: Floats
    names: list[str]

    def __len__(self) -> int:
        return len(self.group)

    def odds(self, h: float, u: Floats) -> Floats:
        """(sites, levels): exp(h L u score), so that between sites k and l the log-odds differ by h L (u_k - u_l) per
        unit of score.

        Levels without an order turn the sites' coordinates round, each by its own step, and count half.
        """
        direction = np.zeros((len(u), len(self)))
        for one in np.unique(self.group):
            members = np.flatnonzero(self.group == one)
            if len(members) > 1:
                direction[:, members] = _directions(self.scores[members], u)
        return np.exp(h * L * direction)


def _directions(scores: Floats, u: Floats) -> Floats:
    """(sites, levels): which way each site leans, coordinate by score."""
    if not np.isnan(scores).any():
        return np.outer(u, scores)
    turns = [round(j * len(u) / len(scores)) for j in range(len(scores))]
    return 0.5 * np.stack([np.roll(u, turn) for turn in turns], axis=1)


def column_levels(cases: Cases, column: str, within: Ints | None = None) -> Levels:
    """The levels of a column: BINS equal parts of a number, else each value; a missing value is a level that no site
    favours.

    within: (n,) group of each case, e.g. its class; levels of different groups are never compared.
    """
    values = cases.table[column]
    groups = np.zeros(len(cases), np.int64) if within is None else within
    of = np.zeros(len(cases), np.int64)
    names: list[str] = []
    group: list[int] = []
    scores: list[float] = []
    for one in np.unique(groups):
        rows = np.flatnonzero(groups == one)
        level, called, score = _levels_of(values.iloc[rows])
        of[rows] = level + len(names)
        names += called
        scores += score
        group += [int(one)] * len(called)
    return Levels(column, of, np.array(group), np.array(scores), names)


def _levels_of(values: pd.Series) -> tuple[Ints, list[str], list[float]]:
    """(level of each value, names, scores) of one group."""
    known = values.notna().to_numpy()
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    codes, names = _parts(values[known].to_numpy(np.float64)) if numeric else _kinds(values[known])
    ordered = numeric or len(names) == 2
    scores = [float(s) for s in spread(len(names))] if ordered else [math.nan] * len(names)
    level = np.full(len(values), len(names), np.int64)
    level[known] = codes
    if known.all():
        return level, names, scores
    return level, [*names, MISSING], [*scores, 0.0]


def spread(count: int) -> Floats:
    """Scores of ordered levels: equally spaced over one unit; a lone level has none to differ from."""
    return np.linspace(-0.5, 0.5, count) if count > 1 else np.zeros(count)


def _kinds(values: pd.Series) -> tuple[Ints, list[str]]:
    codes, kinds = pd.factorize(values, sort=True)
    return codes.astype(np.int64), [str(kind) for kind in kinds]


def _parts(values: Floats) -> tuple[Ints, list[str]]:
    """A number in at most BINS parts of about equal numbers of cases; equal values share a part."""
    distinct = np.unique(values)
    if len(distinct) <= BINS:
        return np.searchsorted(distinct, values).astype(np.int64), [f"{value:g}" for value in distinct]
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))
    part = np.searchsorted(edges, values, side="right")
    used, of = np.unique(part, return_inverse=True)
    bounds = [(values[of == j].min(), values[of == j].max()) for j in range(len(used))]
    return of.astype(np.int64), [f"{low:g} to {high:g}" for low, high in bounds]


def column_of(cases: Cases, wanted: str, axis: str, alternatives: str) -> str:
    """The column, if the cases have it; ValueError naming the columns that would do."""
    if wanted not in cases.table or wanted in NOT_PATIENTS:
        raise ValueError(
            f"{axis} asks for column {wanted!r}, which the cases lack: {usable(cases) or 'none'} would do;"
            f" {alternatives} needs none"
        )
    return wanted


NOT_PATIENTS = ("case", "label", "patient", "split", "site")


def usable(cases: Cases) -> str:
    """Columns that vary and say something about patients, as text."""
    names = [name for name in cases.table if name not in NOT_PATIENTS and _varies(cases.table[name])]
    return ", ".join(repr(name) for name in names)


def _varies(values: Any) -> bool:
    kinds = values.nunique()
    return kinds > 1 and (pd.api.types.is_numeric_dtype(values) or kinds <= max(20, len(values) // 20))
