"""A hand-made table as `Study.table` returns it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from fedlab.core.rng import stream
from fedlab.evaluation.intervals.decisions import holm
from fedlab.heterogeneity.shift.null_intervals import HEADLINES
from fedlab.plots import style

METHODS = ("local", "centralized", "fedavg")
DOSES = (0.0, 0.25, 0.5, 0.75, 1.0)
AXES = ("prevalence", "acquisition")
SLOPES = {"prevalence": 0.06, "acquisition": 0.03, "presentation": 0.01, "sites": 0.02}


def study_table(
    axes: Sequence[str] = AXES,
    methods: Sequence[str] = METHODS,
    doses: Sequence[Any] | dict[str, Sequence[Any]] = DOSES,
    metric: str = "auroc",
    costs: dict[str, float] | None = None,
    half: float = 0.02,
    noise: float = 0.002,
) -> pd.DataFrame:
    """A table in which the highest dose of an axis costs a federated method costs[axis], its interval is +- `half`.

    A cost is clear where it exceeds `half`; the rows of a site come with those of the mean of sites.
    """
    slopes = SLOPES if costs is None else costs
    sign = 1 if style.rises(metric) else -1
    rows = []
    for axis in axes:
        rng = stream(0, "study", axis)
        steps = doses[axis] if isinstance(doses, dict) else doses
        for k, dose in enumerate(steps):
            share = k / max(1, len(steps) - 1)
            for m, method in enumerate(methods):
                lost = slopes.get(axis, 0.0) * share * style.is_federated(method)
                lost += rng.normal(0, noise) * (k > 0)
                start = {"local": 0.76, "centralized": 0.88}.get(method, 0.86 - 0.006 * m)
                start = start if sign > 0 else 1 - start
                value = start - sign * lost
                row = {"axis": axis, "dose": dose, "method": method, "metric": metric, "value": value}
                row |= {"low": value - 0.9 * half, "high": value + 0.8 * half, "interval": "Newcombe", "support": 80}
                row |= {"cases": 640, "cost": lost, "cost_low": lost - half, "cost_high": lost + half}
                row |= {"cost_p": 1e-5 if abs(lost) > half else 0.4, "versus": "local", "gain": 0.1, "gain_low": 0.05}
                row |= {"gain_high": 0.15, "seeds": 3, "partitions": 2, "varied": "test cases, 3 seeds, 2 partitions"}
                row |= {"sd_cases": 0.01, "sd_seeds": 0.004, "sd_partitions": 0.003, "measure": HEADLINES.get(axis, "")}
                row |= {"shift": 0.004 + 0.3 * share**2, "shift_null": 0.0045, "paired": True}
                if k == 0:
                    row |= {"cost": 0.0, "cost_low": np.nan, "cost_high": np.nan, "cost_p": np.nan}
                if axis == "sites":
                    row |= {"shift": np.nan, "shift_null": np.nan, "paired": False}
                rows += [row | {"site": "mean of sites"}, row | {"site": "Site A", "value": value + 0.02}]
    frame = pd.DataFrame(rows)
    means = frame["site"] == "mean of sites"
    frame.loc[means, "cost_p_holm"] = holm(frame.loc[means, "cost_p"].to_list())
    return frame
