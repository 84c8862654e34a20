"""Laws of recalibration: the identity, what a fit minimises, and what it repairs."""

import numpy as np
import pytest
from test_conformal_sets import stored

from fedlab.analysis.joining.recalibration import (
    fit_intercept,
    fit_temperature,
    recalibrate,
    with_intercept,
    with_temperature,
)
from fedlab.core.rng import stream
from fedlab.learning.metrics import METRICS

BINARY = ("normal", "nodule")
auroc, log_loss = METRICS.function("auroc"), METRICS.function("log_loss")


def calibrated(n=4000, shift=0.0, slope=1.0, classes=2):
    """Probabilities whose log-odds are shifted and stretched, and labels drawn from the right ones."""
    rng = stream(0, "calibrated", n, classes)
    right = rng.dirichlet(np.full(classes, 0.8), n)
    y = (right.cumsum(1) < rng.random((n, 1))).sum(1).clip(max=classes - 1)
    p = right**slope
    p /= p.sum(1, keepdims=True)
    return (with_intercept(p, shift) if shift else p), y


def test_temperature_one_and_shift_zero_are_the_identity():
    p, _ = calibrated(50)
    assert (with_temperature(p, 1.0) == p).all() and (with_intercept(p, 0.0) == p).all()
    assert np.allclose(with_temperature(with_temperature(p, 2.0), 0.5), p, atol=1e-9)
    assert np.allclose(with_intercept(with_intercept(p, 0.7), -0.7), p, atol=1e-9)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("slope", [0.5, 1.0, 3.0])
def test_the_fitted_temperature_undoes_a_slope_and_no_other_is_better(slope, classes):
    p, y = calibrated(slope=slope, classes=classes)
    fitted = fit_temperature(p, y)
    assert fitted == pytest.approx(slope, rel=0.1)
    best = log_loss(y, with_temperature(p, fitted))
    assert all(best <= log_loss(y, with_temperature(p, t)) + 1e-9 for t in (1.0, fitted * 1.05, fitted / 1.05))


def test_no_fit_raises_the_log_loss_of_the_cases_that_it_was_made_on():
    for seed in range(20):
        rng = stream(seed, "any")
        p, y = rng.dirichlet((0.3, 0.3), 15), rng.integers(0, 2, 15)
        y[:2] = 0, 1
        for fit, apply in ((fit_temperature, with_temperature), (fit_intercept, with_intercept)):
            assert log_loss(y, apply(p, fit(p, y))) <= log_loss(y, p) + 1e-12


def test_a_shift_repairs_another_prevalence_and_neither_changes_the_ranking():
    p, y = calibrated(shift=1.2)
    shifted = with_intercept(p, fit_intercept(p, y))
    assert shifted[:, 1].mean() == pytest.approx(y.mean(), abs=1e-9)
    for after in (shifted, with_temperature(p, 3.0)):
        assert auroc(y, after) == pytest.approx(auroc(y, p), abs=1e-12)


def test_each_site_is_repaired_by_its_own_cases():
    run = stored(n=(150, 150, 9), skills=(2.0, 2.0, 2.0), classes=BINARY)
    at = run.predictions["site"] == "Site B"
    extreme = with_temperature(run.predictions.loc[at, ["p0", "p1"]].to_numpy(), 0.25)
    run.predictions.loc[at, ["p0", "p1"]] = extreme
    for by, identity in (("temperature", 1.0), ("intercept", 0.0)):
        table = recalibrate(run, by).set_index("site")
        assert table.loc["Site C", "parameter"] == identity and "9 validation patients" in table.loc["Site C", "note"]
        assert table.loc["Site C", "log_loss_gain"] == 0
    table = recalibrate(run).set_index("site")
    b = table.loc["Site B"]
    assert b["parameter"] > 2 and b["log_loss_finding"] == "gains" and b["log_loss_low"] > 0
    assert b["log_loss_gain"] == b["log_loss_before"] - b["log_loss_after"] and b["brier_after"] < b["brier_before"]
    assert abs(b["slope_after"] - 1) < abs(b["slope_before"] - 1) and b["slope_after_low"] < 1 < b["slope_after_high"]


def test_tasks_that_cannot_be_recalibrated_are_refused():
    with pytest.raises(ValueError, match="needs a binary task"):
        recalibrate(stored(), "intercept")
    run = stored()
    run.task = "multilabel"
    with pytest.raises(ValueError, match="one class a case"):
        recalibrate(run)
    with pytest.raises(ValueError, match="choose one of"):
        recalibrate(run, "platt")
