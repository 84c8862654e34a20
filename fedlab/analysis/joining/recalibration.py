"""Recalibration of a model at each site on its validation cases, and what it repairs on the test cases."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from fedlab.analysis.alignment import Alignment, align, probabilities
from fedlab.analysis.joining.rule import statement
from fedlab.analysis.scores import Gain, Score
from fedlab.core.registry import choose
from fedlab.core.typing import Floats, Ints
from fedlab.evaluation.intervals import calibration
from fedlab.evaluation.intervals.decisions import UNKNOWN
from fedlab.experiments.run_folder import Run

WAYS = ("temperature", "intercept")
FEWEST = 10  # validation patients from which on a site recalibrates
LARGEST = 20.0  # factor by which a temperature sharpens or flattens, at most
MARGIN = 0.02  # of the findings
EPS = float(np.finfo(np.float64).eps)


def recalibrate(run: Run, by: str = "temperature", *, choice: str = "best", margin: float = MARGIN) -> pd.DataFrame:
    """Recalibrate the model that each site uses on its validation cases, and measure on test cases what that repairs.

    Parameters
    ----------
    run : Run
        Of a classification task with one label a case.
    by : {"temperature", "intercept"}, default "temperature"
        "temperature": p' proportional to p ** (1 / T); it repairs probabilities that are too extreme (T > 1) or too
        timid. "intercept": logit p' = logit p + b, of binary tasks; it repairs another prevalence. Both minimise the
        log loss of the site's validation cases, and neither changes the AUROC.
    choice : {"best", "last"}, default "best"
        Model of the round that is best on validation cases, or of the last round.
    margin : float, default 0.02
        Of the findings, as in `fedlab.compare`.

    Returns
    -------
    pandas.DataFrame
        A row for each site: site, by, cases (validation patients), parameter (T or b; 1 or 0 where nothing was fitted,
        with the reason in `note`), tests (test patients); of the test cases log_loss_before, log_loss_after,
        log_loss_gain with its 95 % interval log_loss_low, log_loss_high and log_loss_finding (positive: better); the
        same of brier; in binary tasks slope_before, slope_after (1 is best) and intercept_before, intercept_after (0
        is best), each with the limits _low and _high of its 95 % interval.

    Raises
    ------
    ValueError
        If the task has several labels a case or masks, or `by` does not fit it.

    References
    ----------
    .. [1] C. Guo et al., On calibration of modern neural networks, ICML 2017, arXiv:1706.04599 (temperature).

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> from fedlab.analysis.joining.recalibration import recalibrate
    >>> base = fedlab.Experiment(dataset="phantoms(cases=300, size=16)", sites=2, model="logistic", rounds=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = recalibrate(fedlab.run(base, folder=folder))
    >>> table["site"].tolist(), bool((table["parameter"] > 0).all())
    (['Site A', 'Site B'], True)
    """
    choose("by", by, WAYS)
    if run.task in ("segmentation", "multilabel", "regression") or (by == "intercept" and run.task != "binary"):
        wanted = "a binary task" if by == "intercept" else "one class a case (binary, multiclass or ordinal)"
        raise ValueError(f"{run.method!r} solves a {run.task} task: by={by!r} needs {wanted}")
    labels = "annotated" if "annotated" in run.predictions else "true"
    fitted = align([run], "log_loss", choice, "val", labels)[0]
    tested = [align([run], metric, choice, "test", "true")[0] for metric in ("log_loss", "brier")]
    before, there = probabilities(run, tested[0])[0], probabilities(run, fitted)[0]
    return pd.DataFrame([_row(site, by, fitted, there, tested, before, margin) for site in fitted.sites])


def _row(
    site: str, by: str, fitted: Alignment, there: Floats, tested: list[Alignment], before: Floats, margin: float
) -> dict[str, Any]:
    """What recalibration does at a site."""
    rows, at = fitted.spans[site], tested[0].spans[site]
    patients = fitted.test_set(site).patients
    parameter, note = _fitted(by, there[rows], fitted.y[rows], patients)
    p = before[at]
    after = APPLY[by](p, parameter)
    row: dict[str, Any] = {"site": site, "by": by, "cases": patients, "parameter": parameter}
    row["tests"] = tested[0].test_set(site).patients
    for alignment in tested:
        test, name = alignment.test_set(site), alignment.metric
        old, new = (Score(test, {0: test.score([each])}) for each in (p, after))
        said = statement(Gain(new, old), margin)
        row |= {f"{name}_before": old.value, f"{name}_after": new.value, f"{name}_gain": old.value - new.value}
        row |= {f"{name}_low": said.at_95.low, f"{name}_high": said.at_95.high}
        row[f"{name}_finding"] = said.says if said.known else UNKNOWN
    if fitted.task == "binary":
        y, patient = tested[0].y[at], tested[0].table["unit"].to_numpy()[at]
        for when, each in (("before", p), ("after", after)):
            row |= _calibrated(each, y, patient, when)
    return row | {"note": note}


def _calibrated(p: Floats, y: Ints, patient: np.ndarray, when: str) -> dict[str, float]:
    """Calibration slope and intercept with their intervals."""
    several = None if len(np.unique(patient)) == len(patient) else patient
    found: dict[str, float] = {}
    for name, measure in (("slope", calibration.slope), ("intercept", calibration.intercept)):
        value, limits = measure(p[:, 1], y, patient=several)
        found |= {f"{name}_{when}": value, f"{name}_{when}_low": limits.low, f"{name}_{when}_high": limits.high}
    return found


def _fitted(by: str, p: Floats, y: Ints, patients: int) -> tuple[float, str]:
    """The parameter of a site, and why nothing was fitted, if so."""
    if patients < FEWEST:
        return IDENTITY[by], f"not recalibrated: {patients} validation patients, {FEWEST} at least"
    if len(np.unique(y)) < 2:
        return IDENTITY[by], "not recalibrated: validation cases of one class"
    return FIT[by](p, y), ""


def with_temperature(p: Floats, temperature: float) -> Floats:
    """Probabilities (n, classes) to the power 1 / T, each row summing to 1 again.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.analysis.joining.recalibration import with_temperature
    >>> with_temperature(np.array([[0.8, 0.2]]), 2.0).round(3).tolist()
    [[0.667, 0.333]]
    """
    if temperature == 1:
        return p
    logits = np.log(np.maximum(p, EPS)) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def with_intercept(p: Floats, shift: float) -> Floats:
    """Probabilities (n, 2) whose log-odds of class 1 are shifted.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.analysis.joining.recalibration import with_intercept
    >>> with_intercept(np.array([[0.5, 0.5]]), np.log(3)).round(2).tolist()
    [[0.25, 0.75]]
    """
    if shift == 0:
        return p
    odds = np.maximum(p, EPS) * np.exp([-shift / 2, shift / 2])
    return np.asarray(odds / odds.sum(1, keepdims=True))


def fit_temperature(p: Floats, y: Ints) -> float:
    """The temperature that minimises the log loss of labels (n,), within 1 / LARGEST to LARGEST.

    The log loss is convex in 1 / T. Never worse than 1, the model as it is.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.analysis.joining.recalibration import fit_temperature
    >>> p = np.array([[0.9, 0.1]] * 10)
    >>> round(fit_temperature(p, np.array([0] * 7 + [1] * 3)), 2)  # the odds are 7 : 3, not 9 : 1
    2.59
    """
    from scipy import optimize

    def loss(inverse: float) -> float:
        after = with_temperature(p, 1 / inverse)
        return float(-np.log(np.maximum(after[np.arange(len(y)), y], EPS)).mean())

    found = optimize.minimize_scalar(loss, bounds=(1 / LARGEST, LARGEST), method="bounded", options={"xatol": 1e-8})
    return float(1 / found.x) if found.fun < loss(1.0) else 1.0


def fit_intercept(p: Floats, y: Ints) -> float:
    """The shift of the log-odds that minimises the log loss: mean probability and prevalence agree."""
    return calibration.intercept_value(p[:, 1], y)


APPLY: dict[str, Callable[[Floats, float], Floats]] = {"temperature": with_temperature, "intercept": with_intercept}
FIT: dict[str, Callable[[Floats, Ints], float]] = {"temperature": fit_temperature, "intercept": fit_intercept}
IDENTITY = {"temperature": 1.0, "intercept": 0.0}
