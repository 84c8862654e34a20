"""Dose response: the realised shift of every axis while the dose of one axis rises, with its null interval.

A good axis rises in its measure with its dose, from inside the null interval at dose 0, and leaves the measures of the
other axes inside theirs.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from fedlab.core.registry import nearest
from fedlab.core.warnings import HeterogeneityWarning, LeakageWarning
from fedlab.data.cases import Cases
from fedlab.data.target_column import REGRESSION
from fedlab.heterogeneity.annotation import Annotator
from fedlab.heterogeneity.axes import AXES
from fedlab.heterogeneity.geography import draw_site_effects, region_names
from fedlab.heterogeneity.shift.null_intervals import HEADLINES
from fedlab.partitioning.build import partition
from fedlab.partitioning.partitions import Partition

DOSES = tuple(step / 10 for step in range(11))
COLUMNS = ["axis", "dose", "seed", "measured", "measure", "value", "null_low", "null", "null_high"]
BASE: dict[str, dict[str, Any]] = {"geography": {"prevalence": 0.5, "presentation": 0.5, "population": 0.5}}
SITES = {"geography": 16}  # with fewer sites, regions are often similar by chance and the null is too wide


def dose_response(
    cases: Cases,
    axes: Iterable[str] | None = None,
    doses: Sequence[float] = DOSES,
    seeds: Iterable[int] = range(10),
    sites: int | None = None,
    *,
    brief: bool = True,
    **others: Any,
) -> pd.DataFrame:
    """Measure the realised heterogeneity of every axis while the dose of one axis rises.

    Measured on training cases. An axis that another argument keeps at a dose is not measured.

    Parameters
    ----------
    cases : Cases
        The dataset.
    axes : iterable of str, optional
        Names of `fedlab.AXES` to raise, one at a time; all by default.
    doses : sequence of float, default 0, 0.1, ..., 1
        Strengths from 0 to 1.
    seeds : iterable of int, default 0 to 9
        Seeds of the partition.
    sites : int, optional
        Number of sites; 4 by default, 16 for geography.
    brief : bool, default True
        Only the headline measure of each axis.
    **others
        Further arguments of `fedlab.partition`, such as doses of other axes. Geography, which changes nothing alone,
        is combined with doses 0.5 of prevalence, presentation and population where none is given.

    Returns
    -------
    pandas.DataFrame
        A row for each axis, dose, seed and measure, with columns axis, dose, seed (of the partition), measured, measure
        (what was measured), value, null_low, null, null_high (95 % interval and mean of the permutation null).

    Raises
    ------
    ValueError
        If an axis is unknown.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=120, size=16)")
    >>> found = fedlab.dose_response(cases, ["quantity"], doses=[0.0, 0.9], seeds=[0])
    >>> sizes = found[found["measured"] == "quantity"]
    >>> sizes["value"].is_monotonic_increasing
    True
    """
    usual = [axis for axis in AXES if axis != "annotation" or cases.task != REGRESSION]  # readers write no numbers
    chosen = list(usual if axes is None else axes)
    for axis in chosen:
        if axis not in AXES:
            raise ValueError(f"there is no axis {axis!r}: {nearest(axis, AXES)}")
    seeds, doses, found, known = list(seeds), list(doses), [], {}
    for axis in chosen:
        fixed = {**({} if set(others) & set(AXES) else BASE.get(axis, {})), **others}
        count = sites or SITES.get(axis, 4)
        for dose, seed in product(doses, seeds):
            requested = {**fixed, axis: dose}
            key = repr((count, seed, sorted((name, value) for name, value in requested.items() if value != 0.0)))
            if key not in known:  # dose 0 of one axis is that of another
                known[key] = _measure(cases, count, seed, brief, requested)
            rows = known[key][~known[key]["measured"].isin(set(fixed) - {axis})]
            found.append(rows.assign(axis=axis, dose=float(dose), seed=seed)[COLUMNS])
    return pd.concat(found, ignore_index=True)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Summarise a dose response by axis, measured axis and measure.

    rise: rank correlation of value and dose, median over seeds. rise of median: that of the median over seeds. inside
    at 0: share of seeds whose value is in the null interval at dose 0. inside: share of all doses and seeds, which
    stays near 1 for an axis that does not change. NaN where a value never varies or is never defined.
    """
    known = frame.dropna(subset="value").assign(inside=inside)
    return pd.DataFrame(list(_summaries(known)), columns=SUMMARY)


SUMMARY = ["axis", "measured", "measure", "rise", "rise of median", "inside at 0", "inside"]


def inside(frame: pd.DataFrame) -> pd.Series:
    """Whether each value lies in its null interval."""
    return frame["value"].between(frame["null_low"], frame["null_high"])


def headlines(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of each measured axis' headline."""
    return frame[frame["measure"] == frame["measured"].map(HEADLINES)]


def _summaries(known: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    for (axis, measured, measure), rows in known.groupby(["axis", "measured", "measure"], sort=False):
        by_seed = [_rise(one.set_index("dose")["value"]) for _, one in rows.groupby("seed")]
        median = rows.groupby("dose")["value"].median()
        start = rows[rows["dose"] == 0]["inside"]
        yield axis, measured, measure, _median(by_seed), _rise(median), start.mean(), rows["inside"].mean()


def _rise(values: pd.Series) -> float:
    """Spearman's correlation of values with their index; NaN if they never vary."""
    ranks = values.round(12).rank()
    return float(ranks.corr(values.index.to_series().rank())) if ranks.nunique() > 1 else np.nan


def _median(values: Sequence[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.median(defined)) if defined else np.nan


def _measure(cases: Cases, sites: int, seed: int, brief: bool, requested: dict[str, Any]) -> pd.DataFrame:
    with warnings.catch_warnings():
        for expected in (HeterogeneityWarning, LeakageWarning):
            warnings.simplefilter("ignore", expected)
        part = partition(cases, sites, seed=seed, **requested)
    return measurable(part).shift(brief=brief).rename(columns={"axis": "measured"})


def measurable(part: Partition) -> Partition:
    """Add the regions that geography would form and readers without error: both axes are measured at dose 0, too."""
    table, regions, readers = part.table, part.regions, part.annotators
    if part.cases.task == "segmentation":
        readers = readers or {site: Annotator(site, part.spec["seed"], "outline", 0.0) for site in part.sites}
    elif "annotated" not in table and part.cases.task != REGRESSION:
        table = table.assign(annotated=part.cases.labels[part.rows])
    if not regions and len(part.sites) > 1:
        regions = region_names(draw_site_effects(1.0, len(part.sites), part.spec["seed"]), part.sites)
    return replace(part, table=table, regions=regions, annotators=readers)
