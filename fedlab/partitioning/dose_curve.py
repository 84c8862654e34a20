"""Does a dose do what it says? The realised shift on every axis while the dose of one axis moves, beside its band.

A good axis rises in its own measure with its dose, from inside the band at dose 0, and leaves the measures of the
others inside theirs.
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
from fedlab.heterogeneity.axes import AXES
from fedlab.heterogeneity.geography import atlas_of, region_names
from fedlab.heterogeneity.shift.null_intervals import HEADLINES
from fedlab.partitioning.build import partition
from fedlab.partitioning.partitions import Partition

DOSES = tuple(step / 10 for step in range(11))
COLUMNS = ["axis", "dose", "seed", "measured", "measure", "value", "null_low", "null", "null_high"]
BASE: dict[str, dict[str, Any]] = {"geography": {"prevalence": 0.5, "presentation": 0.5, "population": 0.5}}
SITES = {"geography": 16}  # fewer regions can be alike by chance, and no band would tell


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
    """A row for each axis, dose and seed, and each measure that is taken of such a partition's training cases.

    Columns axis, dose, seed (what was asked), measured, measure (what is looked at), value, null_low, null, null_high.
    axes: those to move, all by default. sites: 4 by default, of SITES for an axis that needs more. brief: headlines
    alone. others: what else `partition` gets, also doses at which other axes stay; geography, which moves nothing by
    itself, has the doses of BASE where none is given. An axis that stays at a dose is not measured.
    """
    chosen = list(AXES if axes is None else axes)
    for axis in chosen:
        if axis not in AXES:
            raise ValueError(f"there is no axis {axis!r}: {nearest(axis, AXES)}")
    seeds, doses, found, known = list(seeds), list(doses), [], {}
    for axis in chosen:
        fixed = {**({} if set(others) & set(AXES) else BASE.get(axis, {})), **others}
        count = sites or SITES.get(axis, 4)
        for dose, seed in product(doses, seeds):
            asked = {**fixed, axis: dose}
            key = repr((count, seed, sorted((name, value) for name, value in asked.items() if value != 0.0)))
            if key not in known:  # dose 0 of one axis is that of another
                known[key] = _measured(cases, count, seed, brief, asked)
            rows = known[key][~known[key]["measured"].isin(set(fixed) - {axis})]
            found.append(rows.assign(axis=axis, dose=float(dose), seed=seed)[COLUMNS])
    return pd.concat(found, ignore_index=True)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """What a dose-response comes to, by axis moved, axis measured and measure.

    rise: rank correlation of value and dose, median over seeds. rise of median: that of the median over seeds. inside
    at 0: share of seeds whose value is in the band at dose 0. inside: share of all doses and seeds, which an axis that
    is left alone keeps near 1. NaN where a value never varies or is never defined.
    """
    known = frame.dropna(subset="value").assign(inside=inside)
    return pd.DataFrame(list(_summaries(known)), columns=SUMMARY)


SUMMARY = ["axis", "measured", "measure", "rise", "rise of median", "inside at 0", "inside"]


def inside(frame: pd.DataFrame) -> pd.Series:
    """Whether each value lies in its band."""
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


def _measured(cases: Cases, sites: int, seed: int, brief: bool, asked: dict[str, Any]) -> pd.DataFrame:
    with warnings.catch_warnings():
        for expected in (HeterogeneityWarning, LeakageWarning):
            warnings.simplefilter("ignore", expected)
        part = partition(cases, sites, seed=seed, **asked)
    return _watched(part).shift(brief=brief).rename(columns={"axis": "measured"})


def _watched(part: Partition) -> Partition:
    """With the regions that geography would form, and with readers who make no error where none were asked for, so that
    both axes have a measure at dose 0."""
    table, regions = part.table, part.regions
    if "annotated" not in table:
        table = table.assign(annotated=part.cases.labels[part.rows])
    if not regions and len(part.sites) > 1:
        regions = region_names(atlas_of(1.0, len(part.sites), part.spec["seed"]), part.sites)
    return replace(part, table=table, regions=regions)
