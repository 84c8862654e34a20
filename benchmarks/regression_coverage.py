"""Coverage of the intervals of regression: of MAE and bias, of paired differences, and of those that are not shown.

python benchmarks/regression_coverage.py [--repeats 1000] [--out benchmarks/results/regression-coverage.md]

Patients with one, or one to three images, whose errors share a part. Errors: normal; one in twenty five times as large
(outliers); multiplicative, of a skewed target such as a volume. The true values are those of 1,000,000 patients.
"""

import argparse
import datetime
import itertools
import time
from pathlib import Path

import numpy as np
import pandas as pd

from fedlab.analysis.scores import Gain, Score, TestSet
from fedlab.core.rng import stream
from fedlab.evaluation.intervals import means
from fedlab.evaluation.intervals.interval import Interval
from fedlab.learning.metrics import METRICS

POPULATION = 1_000_000
SHOWN, PAIRED, WITHHELD = ("mae", "bias"), ("mae", "r2"), {"rmse": "log", "r2": "identity"}


def draw(rng: np.random.Generator, errors: str, patients: int, clustered: bool) -> tuple[np.ndarray, ...]:
    """Targets, predictions of two models, and the patient of each image."""
    images = rng.choice([1, 2, 3], patients, p=[0.7, 0.2, 0.1]) if clustered else np.ones(patients, np.int64)
    patient, share = np.repeat(np.arange(patients), images), 0.8 if clustered else 1.0

    def noise() -> np.ndarray:
        def one(size: int) -> np.ndarray:
            large = np.where(rng.random(size) < 0.05, 5.0, 1.0) if errors == "outliers" else 1.0
            return rng.standard_normal(size) * large

        return np.sqrt(share) * one(patients)[patient] + np.sqrt(1 - share) * one(len(patient))

    truth, common = rng.standard_normal(patients)[patient], noise()
    first, second = (0.7 * common + 0.7 * noise() for _ in range(2))
    if errors == "skewed":
        return np.exp(0.6 * truth), np.exp(0.6 * truth + 0.3 * first), np.exp(0.6 * truth + 0.33 * second), patient
    return truth, 0.6 * truth + 0.45 * first + 0.1, 0.6 * truth + 0.5 * second, patient


def coverage(repeats: int) -> pd.DataFrame:
    """A row for each setting: the share of intervals that hold the true value."""
    rows = []
    for errors, clustered, patients in itertools.product(
        ("normal", "outliers", "skewed"), (False, True), (10, 25, 60, 200)
    ):
        rng = stream(0, "regression", errors, int(clustered), patients)
        y, first, second, _ = draw(rng, errors, POPULATION, clustered)
        true = {name: (METRICS.function(name)(y, first), METRICS.function(name)(y, second)) for name in METRICS_USED}
        inside = pd.DataFrame([_inside(draw(rng, errors, patients, clustered), true) for _ in range(repeats)])
        rows.append({"errors": errors, "images": "1 to 3" if clustered else "1", "patients": patients, **inside.mean()})
    return pd.DataFrame(rows)


METRICS_USED = ("mae", "rmse", "r2", "bias")


def _inside(drawn: tuple[np.ndarray, ...], true: dict[str, tuple[float, float]]) -> dict[str, bool]:
    """Which intervals of one test set hold the true value."""
    y, first, second, patient = drawn
    scores = {}
    for name in METRICS_USED:
        test = TestSet(name, y, patient, 0)
        scores[name] = [Score(test, {0: test.score([p[:, None]])}) for p in (first, second)]
    found = {name: _holds(scores[name][0].limits, true[name][0]) for name in SHOWN}
    for name in PAIRED:
        found[f"{name}, paired"] = _holds(Gain(*scores[name]).limits, true[name][0] - true[name][1])
    for name, scale in WITHHELD.items():
        score = scores[name][0]
        found[f"{name}, not shown"] = _holds(means.jackknife(score.value, score.left, scale), true[name][0])
    return found


def _holds(limits: Interval, value: float) -> bool:
    return bool(limits.low <= value <= limits.high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000, help="test sets in each setting")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/regression-coverage.md"))
    given = parser.parse_args()
    begun = time.process_time()
    table = coverage(given.repeats)
    lowest = ", ".join(f"{name} {table[name].min():.3f}" for name in table.columns[3:])
    shown = table.map(lambda value: f"{value:.3f}" if isinstance(value, float) else str(value))
    lines = [list(shown.columns), ["---"] * shown.shape[1], *shown.to_numpy().tolist()]
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    page = f"""# Do intervals of regression cover?

`python benchmarks/regression_coverage.py --repeats {given.repeats}`, {datetime.date.today()},
{time.process_time() - begun:.0f} s of CPU. Standard error at 0.95: {np.sqrt(0.95 * 0.05 / given.repeats):.3f}.
Lowest coverage of {len(table)} cells: {lowest}.

Intervals of RMSE (jackknife on the log scale) and R² (jackknife) are not shown to users, since they miss the truth too
often where few errors are large.

{rows}
"""
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
