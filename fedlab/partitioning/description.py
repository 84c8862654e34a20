"""Table 1 of a federation: cases, patients, classes and covariates of each site, with standardised differences."""

import html
import itertools
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.core.registry import nearest
from fedlab.core.typing import Ints
from fedlab.data.cases import Cases
from fedlab.data.columns import is_absent
from fedlab.partitioning.assignment import check_split

IMAGES = "different images"  # what is counted where a dataset names no patients
EVERYWHERE, CLASS, OTHERS, COUNTED = "all sites", "class", "other", ("cases", "patients")
COLUMNS = ["characteristic", "level", "site", "known", "missing", "value", "share", "low", "high", "smd"]
FIRST = ("age", "sex", "scanner")  # covariates in their usual order
NO_COVARIATES = ("case", "label", "patient", "split", "site")
KINDS = 10  # levels of a column; the rarest beyond them are pooled
HEAD = "SMD"
LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "−": "$-$",
    "–": "--",
    "…": r"\ldots{}",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "∞": r"$\infty$",
} | {letter: f"\\{letter}" for letter in "&%$#_{}"}


class SiteTable(pd.DataFrame):
    """The table of `Partition.describe`: a tidy DataFrame that prints as the first table of a paper."""

    @property
    def _constructor(self) -> type["SiteTable"]:
        return SiteTable

    def wide(self) -> pd.DataFrame:
        """Characteristics x sites as text, with a column for all sites and one for the standardised difference.

        Returns
        -------
        pandas.DataFrame
            Counts with percentages, "62 [51, 70]" (median and quartiles), and how many values are missing.

        Examples
        --------
        >>> import fedlab
        >>> part = fedlab.partition(fedlab.load("phantoms(cases=120, size=16)"), sites=2)
        >>> part.describe(columns=["age"]).wide().index.tolist()
        ['cases', 'patients', 'class: normal, n (%)', 'class: nodule, n (%)', 'age, median [IQR]']
        """
        sites, rows, shown = list(dict.fromkeys(self["site"])), {}, None
        for (what, level), block in pd.DataFrame(self).groupby(["characteristic", "level"], sort=False):
            one = block.set_index("site")
            smd = (what, one["smd"].iloc[0])
            rows[_label(what, level, one)] = [
                *(_cell(one.loc[site]) for site in sites),
                "" if smd == shown else _smd(smd[1]),
            ]
            shown = smd
            if one["missing"].any() and level == _last(self, what):
                rows[f"{what}, missing"] = [*(f"{one.loc[site, 'missing']:,}" for site in sites), ""]
        return pd.DataFrame.from_dict(rows, orient="index", columns=[*sites, HEAD])

    def to_latex(self) -> str:  # type: ignore[override]
        """The table as LaTeX (booktabs), in which names are text.

        Returns
        -------
        str
        """
        wide = self.wide()
        rows = ([name, *cells] for name, cells in zip(wide.index, wide.to_numpy(), strict=True))
        return latex_table(["", *wide.columns], rows, "l" + "r" * wide.shape[1])

    def to_html(self) -> str:  # type: ignore[override]
        """The table as HTML, in which names are text.

        Returns
        -------
        str
        """
        wide = self.wide()
        head = "".join(f'<th scope="col">{html.escape(str(name))}</th>' for name in ["", *wide.columns])
        rows = "".join(
            f'<tr><th scope="row">{html.escape(str(name))}</th>'
            + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
            + "</tr>"
            for name, cells in zip(wide.index, wide.to_numpy(), strict=True)
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"

    def __repr__(self) -> str:
        if not set(COLUMNS) <= set(self):
            return repr(pd.DataFrame(self))
        with pd.option_context("display.max_columns", None, "display.width", 160):
            return repr(self.wide())

    def _repr_html_(self) -> str | None:
        return self.to_html() if set(COLUMNS) <= set(self) else pd.DataFrame(self)._repr_html_()  # type: ignore[operator]


def latex(text: object) -> str:
    """A text that LaTeX shows as it is written."""
    words = " ".join(str(text).split())
    return "".join("?" if unicodedata.category(one) in ("Cc", "Cs") else LATEX.get(one, one) for one in words)


def latex_table(head: Sequence[object], rows: Iterable[Sequence[object]], columns: str) -> str:
    """A table (booktabs) whose cells are text; columns: how they are aligned, such as "lrr"."""
    lines = [" & ".join(map(latex, line)) + r" \\" for line in [head, *rows]]
    lines = ["{}" + line if line.startswith(("[", "*")) else line for line in lines]  # no argument of the line above
    rule = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule"]
    return "\n".join([*rule, *lines[1:], r"\bottomrule", r"\end{tabular}"]) + "\n"


def _label(what: str, level: str, one: pd.DataFrame) -> str:
    """How a row is called, with the unit of its cells."""
    if one["low"].notna().any():
        return f"{what}, median [IQR]"
    return f"{what}: {level}, n (%)" if level else what


def _cell(row: pd.Series) -> str:
    if np.isnan(row["value"]):
        return "–"
    if not np.isnan(row["low"]):
        return f"{_short(row['value'])} [{_short(row['low'])}, {_short(row['high'])}]"
    return f"{row['value']:,.0f}" + ("" if np.isnan(row["share"]) else f" ({100 * row['share']:.1f})")


def _short(value: float) -> str:
    """A number of three digits or more."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _smd(value: float) -> str:
    return "" if np.isnan(value) else "∞" if np.isinf(value) else f"{value:.2f}"


def _last(table: pd.DataFrame, what: str) -> str:
    """The last level of a characteristic, below which its missing values are counted."""
    return str(table.loc[table["characteristic"] == what, "level"].iloc[-1])


# -- the numbers -----------------------------------------------------------------------------------------------------


def describe(part: Any, split: str | None, columns: Sequence[str] | None) -> SiteTable:
    """See `Partition.describe`."""
    cases, table = part.cases, part.table
    use = np.ones(len(table), bool) if split is None else (table["split"] == check_split(split)).to_numpy()
    index, where = part.rows[use], table["site"].to_numpy(object)[use]
    units = cases.units[index]
    each = _by_site(where, part.sites)
    lines = [_row("cases", "", site, len(at), 0, len(at)) for site, at in each.items()]
    counted = {site: len(np.unique(units[at])) for site, at in each.items()}
    who = COUNTED[1] if "patient" in cases.table else IMAGES
    lines += [_row(who, "", site, count, 0, count) for site, count in counted.items()]
    lines += _classes(cases, index, each)
    known = cases.table.iloc[index].reset_index(drop=True)
    for name in _chosen(cases.table, columns, str(part.spec.get("sites"))):
        lines += _covariate(name, known[name], units, each)
    return SiteTable(pd.DataFrame(lines, columns=COLUMNS))


def _by_site(where: NDArray[np.object_], sites: list[str]) -> dict[str, Ints]:
    """The rows of each site, and all of them."""
    return {site: np.flatnonzero(where == site) for site in sites} | {EVERYWHERE: np.arange(len(where))}


def _row(what: str, level: str, site: str, known: int, missing: int, value: float, share: float = np.nan,
         low: float = np.nan, high: float = np.nan, smd: float = np.nan) -> tuple[Any, ...]:  # fmt: skip
    return what, level, site, known, missing, value, share, low, high, smd


def _classes(cases: Cases, index: Ints, each: dict[str, Ints]) -> list[tuple[Any, ...]]:
    """Cases of each class; findings that may occur together have a difference each."""
    member = np.column_stack([cases.members(name)[index] for name in cases.classes])
    groups = (
        [[k] for k in range(len(cases.classes))] if cases.task == "multilabel" else [list(range(len(cases.classes)))]
    )
    lines = []
    for group in groups:
        smd = largest([member[at][:, group].mean(0) for site, at in each.items() if site != EVERYWHERE and len(at)])
        lines += [line for k in group for line in _level(CLASS, cases.classes[k], member[:, k], each, smd)]
    return lines


def _level(
    what: str,
    level: str,
    member: NDArray[np.bool_],
    each: dict[str, Ints],
    smd: float,
    missing: dict[str, int] | None = None,
) -> list[tuple[Any, ...]]:
    """A row for each site: how many of its cases or patients have a level."""
    lost = missing or dict.fromkeys(each, 0)
    return [
        _row(
            what,
            level,
            site,
            len(at),
            lost[site],
            int(member[at].sum()),
            member[at].mean() if len(at) else np.nan,
            smd=smd,
        )
        for site, at in each.items()
    ]


def _chosen(table: pd.DataFrame, columns: Sequence[str] | None, sites: str) -> list[str]:
    """The covariates that are described: those named, or all that are no identifiers."""
    if columns is not None:
        for name in [columns] if isinstance(columns, str) else columns:
            if name not in table:
                raise ValueError(f"the cases have no column {name!r}: {nearest(name, list(table))}")
        return [columns] if isinstance(columns, str) else list(columns)
    found = [name for name in table if name not in (*NO_COVARIATES, sites) and _describes(table[name])]
    return sorted(found, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))


def _describes(values: pd.Series) -> bool:
    """Whether a column says something of groups: a number, or text of which values repeat."""
    return _is_number(values) or values.nunique() <= max(2, len(values) // 4)


def _is_number(values: pd.Series) -> bool:
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return bool(numeric and values.nunique() > 2)


def _covariate(name: str, values: pd.Series, units: Ints, each: dict[str, Ints]) -> list[tuple[Any, ...]]:
    """Rows of a covariate: each patient of a site counts once, with the first value that is known there."""
    name = f"{name} (column)" if name in (CLASS, *COUNTED) else name
    number = _is_number(values)
    values = values if number else values.astype(object).where(values.notna() & ~is_absent(values), None)
    first = {site: values.iloc[at].groupby(units[at]).first() for site, at in each.items()}
    known = {site: one.dropna() for site, one in first.items()}
    missing = {site: len(first[site]) - len(known[site]) for site in each}
    inside = [known[site] for site in each if site != EVERYWHERE]
    if number:
        smd = largest_of_means([one.to_numpy(np.float64) for one in inside])
        quartiles = {site: _quartiles(one.to_numpy(np.float64)) for site, one in known.items()}
        return [
            _row(name, "", site, len(known[site]), missing[site], middle, low=low, high=high, smd=smd)
            for site, (low, middle, high) in quartiles.items()
        ]
    known = _pooled({site: one.astype(str) for site, one in known.items()})
    levels = sorted(set(known[EVERYWHERE]), key=lambda level: (level == OTHERS, level))
    smd = largest([np.array([(known[site] == level).mean() for level in levels]) for site in each
                   if site != EVERYWHERE and len(known[site])])  # fmt: skip
    together = pd.concat(known.values()).to_numpy(object) if known else np.array([], object)
    ends = np.cumsum([0, *(len(one) for one in known.values())])
    at = {site: np.arange(ends[k], ends[k + 1]) for k, site in enumerate(known)}
    return [line for level in levels for line in _level(name, level, together == level, at, smd, missing)]


def _pooled(known: dict[str, pd.Series]) -> dict[str, pd.Series]:
    """The values of each site, the rarest levels beyond KINDS pooled."""
    common = known[EVERYWHERE].value_counts().index
    if len(common) <= KINDS:
        return known
    return {site: one.where(one.isin(common[: KINDS - 1]), OTHERS) for site, one in known.items()}


def _quartiles(values: NDArray[np.float64]) -> tuple[float, float, float]:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75]) if len(values) else (np.nan,) * 3
    return float(low), float(middle), float(high)


# -- standardised differences ----------------------------------------------------------------------------------------


def largest_of_means(sites: list[NDArray[np.float64]]) -> float:
    """The largest |m1 - m2| / sqrt((s1^2 + s2^2) / 2) over pairs of sites, of their means and sample variances.

    NaN with fewer than two sites that have two values each; infinite where both are constant and differ.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.partitioning.description import largest_of_means
    >>> round(largest_of_means([np.array([0.0, 2.0]), np.array([1.0, 3.0]), np.array([2.0, 4.0])]), 6)
    1.414214
    """
    parts = [(values.mean(), values.var(ddof=1)) for values in sites if len(values) > 1]
    found = [_ratio(abs(m - n), (u + v) / 2) for (m, u), (n, v) in itertools.combinations(parts, 2)]
    return max(found, default=np.nan)


def largest(shares: list[NDArray[np.float64]]) -> float:
    """The largest standardised difference of shares (levels,) over pairs of sites.

    sqrt((p - q)' S^-1 (p - q)) over all levels but one, S the mean of the two multinomial covariances; with two levels
    |p - q| / sqrt((p (1 - p) + q (1 - q)) / 2).

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.partitioning.description import largest
    >>> round(largest([np.array([0.5, 0.5]), np.array([0.8, 0.2])]), 6)
    0.662589
    """
    return max((_apart(p, q) for p, q in itertools.combinations(shares, 2)), default=np.nan)


def _apart(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    if len(p) > 1 and np.isclose(p.sum(), 1) and np.isclose(q.sum(), 1):
        p, q = p[1:], q[1:]  # the first share follows from the others
    gap = p - q
    spread = (np.diag(p) - np.outer(p, p) + np.diag(q) - np.outer(q, q)) / 2
    inverse = np.linalg.pinv(spread, hermitian=True)
    if not np.allclose(spread @ inverse @ gap, gap):
        return float("inf")  # a difference that nothing varies along
    return float(np.sqrt(np.abs(gap @ inverse @ gap)))


def _ratio(gap: float, variance: float) -> float:
    if variance > 0:
        return float(gap / np.sqrt(variance))
    return float("inf") if gap > 0 else 0.0
