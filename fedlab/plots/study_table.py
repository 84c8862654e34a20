"""What figures of a study read from its table: the means over sites, clear costs, axes and doses in words."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.plots import style, titles
from fedlab.plots.inputs import SUMMARIES
from fedlab.plots.measured_shift import NAMES, WRITTEN
from fedlab.plots.names import listed, names
from fedlab.plots.names import name as short

MEAN = SUMMARIES[0]
NEEDED = ["axis", "dose", "method", "site", "metric", "value"]
NUMBERS = ["value", "low", "high", "cases", "cost", "cost_low", "cost_high", "cost_p_holm", "shift", "shift_null"]
OTHERS = ["varied", "measure", "paired"]
AXES = {**NAMES, "sites": "Number of sites"}
CERTAIN = 0.05  # adjusted p-value below which a dose is called a cost
WIDE = 4.0  # ratio of the largest to the smallest number of sites from which on their scale is logarithmic
MEASURE, DOSE = 20, 24  # characters
UNCLEAR = "(95 % CI includes 0)"


class Scale(NamedTuple):
    """Where the doses of an axis are drawn, and what is written there; doses: as text, to find their rows."""

    doses: list[str]
    places: NDArray[np.float64]
    words: list[str]
    numeric: bool


def mean_rows(study: Any, metric: str | None = None) -> pd.DataFrame:
    """Return the rows of the mean of sites of one metric, with `clear`; optional columns that are missing are NaN.

    clear: 1 where the dose costs, -1 where it gains, against the first dose of its axis; 0 where neither is shown.
    """
    frame = study if isinstance(study, pd.DataFrame) else study.table(metric)
    missing = [column for column in NEEDED if column not in frame]
    if missing:
        raise ValueError(f"the table lacks the columns {missing}: pass a study, or what its `table` returned")
    known = list(dict.fromkeys(frame["metric"]))
    chosen = metric or next(iter(known), None)
    rows = frame[(frame["site"] == MEAN) & (frame["metric"] == chosen)]
    if rows.empty:
        raise ValueError(f"no row is the {MEAN!r} of {chosen!r}: found the metrics {known}; choose one of these")
    twice = rows.assign(dose=rows["dose"].astype(str)).duplicated(["axis", "dose", "method"])
    if twice.any():
        axis, dose, method = rows.loc[twice, ["axis", "dose", "method"]].iloc[0]
        raise ValueError(f"found several rows of {method!r} at dose {dose} of {axis!r}: draw one study at a time")
    rows = rows.reindex(columns=[*frame.columns, *(c for c in [*NUMBERS, *OTHERS] if c not in frame)])
    rows = rows.assign(axis=rows["axis"].astype(str), method=rows["method"].astype(str))
    numbers = rows[NUMBERS].apply(pd.to_numeric, errors="coerce").astype(float).replace([np.inf, -np.inf], np.nan)
    rows[NUMBERS] = numbers
    return rows.assign(clear=_clear(rows)).reset_index(drop=True)


def _clear(rows: pd.DataFrame) -> NDArray[np.int64]:
    """Return the direction of the costs that are shown: p after Holm below 0.05, and an interval without 0.

    A table without p-values is judged by its intervals alone.
    """
    beyond = (rows["cost_low"] > 0).astype(int) - (rows["cost_high"] < 0).astype(int)
    if not has_p(rows):
        return beyond.to_numpy(np.int64)
    sign = np.sign(rows["cost"].fillna(0)).astype(int)
    known = rows[["cost_low", "cost_high"]].notna().all(axis=1)
    return (sign * ((rows["cost_p_holm"] < CERTAIN) & ((beyond == sign) | ~known))).to_numpy(np.int64)


def has_p(rows: pd.DataFrame) -> bool:
    """Tell whether costs have p-values."""
    return bool(rows["cost_p_holm"].notna().any())


def subject(rows: pd.DataFrame) -> str:
    """Return the method that a title is about: the first federated one, or the first if there is none."""
    methods = list(dict.fromkeys(rows["method"]))
    return next((method for method in methods if style.is_federated(method)), methods[0])


def axis_name(axis: str) -> str:
    """Return the name of an axis at a panel."""
    return AXES.get(axis, short(axis, DOSE))


def in_sentence(axis: str) -> str:
    """Return the name of an axis as the subject of a sentence."""
    return f"heterogeneity in {NAMES[axis].lower()}" if axis in NAMES else axis_name(axis).lower()


def measure_name(measure: object) -> str:
    """Return the short name of a measure of shift; empty if there is none."""
    text = "" if pd.isna(measure) else str(measure)  # type: ignore[call-overload]
    return WRITTEN.get(text, short(text, MEASURE))


def unit(measure: object) -> str:
    """Return the unit of a measure of shift; empty if it has none."""
    return "bit" if str(measure).startswith("I(") else ""


def base(rows: pd.DataFrame) -> pd.Series:
    """Tell which rows are at the first dose of their axis."""
    return rows["dose"].astype(str) == rows["axis"].map(rows.groupby("axis", sort=False)["dose"].first().astype(str))


def scale(axis: str, doses: Iterable[Any]) -> Scale:
    """Place doses at their value; texts evenly in their order; numbers of sites of a wide range by their ratio."""
    found = {str(dose): dose for dose in doses}
    try:
        places = np.array([float(dose) for dose in found.values()])
    except (TypeError, ValueError):
        places = np.full(len(found), np.nan)
    if not np.isfinite(places).all():
        texts = [f"{dose:g}" if isinstance(dose, Real) else text for text, dose in found.items()]
        called = names(texts, DOSE)
        return Scale(list(found), np.arange(len(found), dtype=float), [called[text] for text in texts], False)
    words = [f"{place:g}" for place in places]
    if axis == "sites" and places.min() > 0 and places.max() >= WIDE * places.min():
        places = np.log2(places)
    return Scale(list(found), places, words, True)


def digits(values: Iterable[float]) -> int:
    """Return how many decimals give the largest of some values two significant digits, at most four."""
    most = max((abs(value) for value in values if np.isfinite(value)), default=0.0)
    return int(np.clip(1 - math.floor(math.log10(most)), 0, 4)) if most > 0 else 0


def written(value: float, decimals: int) -> str:
    """Format a value with so many decimals; "0" only where it is 0, a dash if it is not known."""
    if not np.isfinite(value):
        return "–"
    text = f"{value:.{decimals}f}" if abs(value) > 1e-12 else "0"
    return (text.replace("-", "") if float(text) == 0 else text).replace("-", "−")


# -- notes -----------------------------------------------------------------------------------------------------------


def sentence(parts: Iterable[str]) -> str:
    """Join the parts of a note."""
    text = "; ".join(parts)
    return text[:1].upper() + text[1:] + "." * bool(text)


def counted(table: pd.DataFrame, raised: pd.DataFrame) -> list[str]:
    """Return a part of a note with the number of test cases, or none; raised: the rows but those of first doses."""
    cases = table["cases"].dropna()
    if cases.empty:
        return []
    most = f" to {int(cases.max()):,}" if cases.max() > cases.min() else ""
    return [f"{int(cases.min()):,}{most} test cases{paired(raised)}"]


def over(table: pd.DataFrame) -> str:
    """Say what varies within an interval: " over test cases, 3 seeds"; empty if the table does not tell."""
    varied = [short(text) for text in dict.fromkeys(table["varied"].dropna().astype(str)) if text.strip()]
    return f" over {' or '.join(varied[:3])}" if varied else ""


def filled(table: pd.DataFrame) -> str:
    """Say what filled marks mean, or open ones if there are no others."""
    if not table["clear"].any():
        return f"open marks are not shown to differ {titles.UNLIKELY if has_p(table) else UNCLEAR}"
    return f"filled marks differ {titles.LIKELY if has_p(table) else titles.SUPPORTED}"


def paired(raised: pd.DataFrame) -> str:
    """State on which axes the test cases are the same at all doses."""
    known = raised[raised["paired"].notna()]
    if known.empty:
        return ""
    same = known["paired"].astype(bool).groupby(known["axis"], sort=False).all()
    if same.all():
        return ", the same at all doses"
    if not same.any():
        return ", not the same at all doses"
    return f", the same at all doses except on {listed(axis_name(axis).lower() for axis in same.index[~same])}"
