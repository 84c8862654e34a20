"""Metrics of regression, from targets y (n,) and predictions p (n, 1), both in the unit of the target.

Weights are multiplicities (B, n), as in `fedlab.learning.metrics`. Predictions that are not finite (a diverged model)
give NaN.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.typing import Floats
from fedlab.learning.metrics import HIGHER_IS_BETTER, METRIC_LABELS, METRICS

COLUMN = "prediction"  # of `run.predictions`
REGRESSION_METRICS: set[str] = set()
Kernel = Callable[[Floats, Floats, Floats], Floats]  # (target (n,), prediction (n,), weights (B, n)) -> (B,)


def regression_metric(label: str, higher_is_better: bool | None = False) -> Callable[[Kernel], Callable[..., Any]]:
    """Register a metric of regression.

    The decorated function takes targets (n,), predictions (n,) and weights (B, n), and returns (B,). The registered
    one takes (y, p, weights) like every metric, with predictions (n, 1) or (n,).

    Parameters
    ----------
    label : str
        Label of the metric in figures.
    higher_is_better : bool or None
        False for errors; None where some value between is best, as for the bias.

    Examples
    --------
    >>> from fedlab.learning.metrics import HIGHER_IS_BETTER, METRIC_LABELS, METRICS
    >>> from fedlab.learning.regression_metrics import REGRESSION_METRICS, regression_metric
    >>> @regression_metric("share within 5", higher_is_better=True)
    ... def within_5(target, prediction, weights):
    ...     "Share of cases whose error is at most 5."
    ...     return weights @ (abs(prediction - target) <= 5) / weights.sum(1)
    >>> within_5([60, 70], [[62], [80]])
    0.5

    Forget it again:

    >>> METRICS.remove("within_5"), REGRESSION_METRICS.remove("within_5")
    (None, None)
    >>> del HIGHER_IS_BETTER["within_5"], METRIC_LABELS["within_5"]
    """

    def register(kernel: Kernel) -> Callable[..., Any]:
        @wraps(kernel)
        def measured(y: ArrayLike, p: ArrayLike, weights: ArrayLike | None = None) -> Any:
            target, prediction = _checked(y, p)
            rows = np.ones((1, len(target))) if weights is None else np.asarray(weights, np.float64)
            if rows.ndim != 2 or rows.shape[1] != len(target):
                raise ValueError(f"weights have shape {rows.shape}: wanted (draws, {len(target)})")
            with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 gives NaN, which means undefined
                known = len(target) > 0 and bool(np.isfinite(prediction).all())
                found = kernel(target, prediction, rows) if known else np.full(len(rows), np.nan)
            return float(found[0]) if weights is None else np.asarray(found)

        name = kernel.__name__
        HIGHER_IS_BETTER[name], METRIC_LABELS[name] = higher_is_better, label
        REGRESSION_METRICS.add(name)
        return METRICS.add(measured)

    return register


def _checked(y: ArrayLike, p: ArrayLike) -> tuple[Floats, Floats]:
    """Targets and predictions, each (n,)."""
    target, found = np.asarray(y, np.float64), np.asarray(p, np.float64)
    found = found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found
    if target.ndim != 1 or found.shape != target.shape:
        raise ValueError(f"y has shape {target.shape} and p {np.shape(p)}: wanted (n,) and (n, 1), one number each")
    return target, found


def _mean(values: Floats, weights: Floats) -> Floats:
    """Weighted means (B,) of values (n,)."""
    return np.asarray(weights @ values / weights.sum(1))


@regression_metric("MAE")
def mae(target: Floats, prediction: Floats, weights: Floats) -> Floats:
    """Mean absolute error, in the unit of the target.

    Parameters
    ----------
    y, p, weights : array-like
        Targets, predictions and optional case multiplicities, see `fedlab.learning.regression_metrics`.

    Returns
    -------
    float, or ndarray of shape (B,)
        0 for perfect predictions.

    Examples
    --------
    >>> from fedlab.learning.regression_metrics import mae
    >>> mae([60, 70, 80], [[62], [70], [75]])
    2.33...
    """
    return _mean(np.abs(prediction - target), weights)


@regression_metric("RMSE")
def rmse(target: Floats, prediction: Floats, weights: Floats) -> Floats:
    """Square root of the mean squared error, in the unit of the target; large errors count more than in the MAE.

    Parameters
    ----------
    y, p, weights
        See `mae`.

    Returns
    -------
    float, or ndarray of shape (B,)
        0 for perfect predictions.

    Examples
    --------
    >>> from fedlab.learning.regression_metrics import rmse
    >>> rmse([60, 70, 80], [[62], [70], [75]])
    3.10...
    """
    return np.sqrt(_mean((prediction - target) ** 2, weights))


@regression_metric("R²", higher_is_better=True)
def r2(target: Floats, prediction: Floats, weights: Floats) -> Floats:
    """Coefficient of determination: 1 less the squared error as a share of that of the mean of these cases' targets.

    It depends on how much the targets of a site vary: the same errors give a lower R² where patients differ little.

    Parameters
    ----------
    y, p, weights
        See `mae`.

    Returns
    -------
    float, or ndarray of shape (B,)
        1 for perfect predictions, 0 for the mean of the cases' targets; below 0 if worse. NaN where all targets are
        equal.

    Examples
    --------
    >>> from fedlab.learning.regression_metrics import r2
    >>> r2([60, 70, 80], [[62], [70], [75]])
    0.855
    """
    around = target - target.mean()  # against rounding where the mean is large
    variance = _mean(around**2, weights) - _mean(around, weights) ** 2
    error = _mean((prediction - target) ** 2, weights)
    return np.where(variance > 1e-12 * max(float((around**2).mean()), 1e-300), 1 - error / variance, np.nan)


@regression_metric("bias", higher_is_better=None)
def bias(target: Floats, prediction: Floats, weights: Floats) -> Floats:
    """Mean error, prediction less target, in the unit of the target: 0 is best.

    Parameters
    ----------
    y, p, weights
        See `mae`.

    Returns
    -------
    float, or ndarray of shape (B,)
        Above 0 where predictions are too high.

    Examples
    --------
    >>> from fedlab.learning.regression_metrics import bias
    >>> bias([60, 70, 80], [[62], [70], [75]])
    -1.0
    """
    return _mean(prediction - target, weights)
