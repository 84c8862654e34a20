"""Predicted against true numbers: points at their places, errors and limits of agreement in the table."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_partition_plots import check_texts

from fedlab import plots
from fedlab.plots import predicted_numbers


def run(method: str, task: str = "regression", n: int = 12, offset: float = 2.0) -> SimpleNamespace:
    rng = np.random.default_rng(len(method))
    age = rng.uniform(20, 90, 2 * n)
    frame = pd.DataFrame(
        {
            "model": "global",
            "choice": "best",
            "site": np.repeat(["Site A", "Site B"], n),
            "split": "test",
            "case": [f"case {k}" for k in range(2 * n)],
            "target": age,
            "prediction": age + offset + rng.normal(0, 5, 2 * n),
        }
    )
    return SimpleNamespace(method=method, task=task, target="age", predictions=frame)


@pytest.fixture(autouse=True)
def _any_runs(monkeypatch):
    monkeypatch.setattr(predicted_numbers, "listed", list)


@pytest.mark.parametrize("site", [None, "Site B"])
def test_points_are_at_their_numbers_and_the_table_has_errors_and_limits_of_agreement(site):
    runs = [run("local"), run("fedavg", offset=-4.0)]
    figure, table = plots.predicted_vs_true(runs, site)
    check_texts(figure)
    low, high = figure.axes[0].get_ylim()
    drawn = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    for k, (one, line) in enumerate(zip(runs, drawn, strict=True)):
        cases = one.predictions if site is None else one.predictions[one.predictions["site"] == site]
        assert np.allclose(line.get_ydata(), cases["prediction"])
        assert np.allclose(line.get_xdata(), k * 1.14 + (cases["target"] - low) / (high - low))
        error = cases["prediction"] - cases["target"]
        (row,) = table[(table["method"] == one.method) & (table["site"] == (site or "all sites"))].itertuples()
        spread = 1.96 * error.std()
        assert np.allclose([row.mae, row.bias], [error.abs().mean(), error.mean()])
        assert np.allclose([row.low, row.high], [error.mean() - spread, error.mean() + spread])
    assert f"{table[table['site'] == (site or 'all sites')]['mae'].iloc[0]:#.3g} (local)" in figure.axes[0].get_title(
        "left"
    )


def test_other_tasks_and_sites_are_refused_and_further_methods_counted():
    with pytest.raises(ValueError, match="these runs are for a binary task"):
        plots.predicted_vs_true([run("fedavg", task="binary")])
    with pytest.raises(ValueError, match="site='Site C' has no test cases here: did you mean 'Site"):
        plots.predicted_vs_true([run("fedavg")], "Site C")
    figure, table = plots.predicted_vs_true([run(f"fedprox(mu={k})") for k in range(8)])
    check_texts(figure)
    assert "2 more methods" in figure.axes[0].get_xlabel() and table["method"].nunique() == 8
