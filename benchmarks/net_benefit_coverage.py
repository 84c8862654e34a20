"""Coverage of the intervals of net benefit (`fedlab.plots.net_benefit`).

python benchmarks/net_benefit_coverage.py [--repeats 1000] [--seed 0] [--out benchmarks/results/net-benefit-coverage.md]

Patients with one or three images, whose scores share a random effect; the true value is that of 50,000 patients.
"""

import argparse
import datetime
import itertools
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit

from fedlab.analysis import operating_curves
from fedlab.analysis.operating_curves import Place
from fedlab.analysis.scores import TestSet
from fedlab.core.rng import stream

SEPARATION, POPULATION = 1.5, 50_000
THRESHOLDS = (0.05, 0.2, 0.5, 0.8)


def place(rng: np.random.Generator, patients: int, images: int, prevalence: float) -> Place:
    """Test cases of a site, with the probabilities of a calibrated model of one feature."""
    y = np.repeat(rng.random(patients) < prevalence, images).astype(int)
    effect = np.repeat(0.8 * rng.normal(size=patients), images)
    x = SEPARATION * (y - 0.5) + effect + 0.6 * rng.normal(size=len(y))
    p = expit(SEPARATION * x + np.log(prevalence / (1 - prevalence)))
    test = TestSet("auroc", y, np.repeat(np.arange(patients), images), 2)
    return Place("A", test, y, {"model": {0: [np.column_stack([1 - p, p])]}})


def coverage(repeats: int, seed: int) -> pd.DataFrame:
    """A row for each setting and threshold: true net benefit, coverage of its 95 % interval, mean width."""
    rows = []
    for images, patients, prevalence in itertools.product((1, 3), (20, 50, 200), (0.1, 0.4)):
        rng = stream(seed, "net benefit", images, patients, str(prevalence))
        truth = _benefit(place(rng, POPULATION, images, prevalence))["net_benefit"]
        found = [_benefit(place(rng, patients, images, prevalence)) for _ in range(repeats)]
        inside = np.mean([(one["low"] <= truth) & (truth <= one["high"]) for one in found], axis=0)
        width = np.mean([one["high"] - one["low"] for one in found], axis=0)
        for values in zip(THRESHOLDS, truth, inside, width, strict=True):
            row = {"images of a patient": images, "patients": patients, "prevalence": prevalence}
            rows.append(row | dict(zip(("threshold", "net benefit", "coverage", "width"), values, strict=True)))
    return pd.DataFrame(rows)


def _benefit(at: Place) -> pd.DataFrame:
    """The rows of the model."""
    return operating_curves.net_benefit([at], list(THRESHOLDS))[: len(THRESHOLDS)].reset_index(drop=True)


def markdown(table: pd.DataFrame) -> str:
    shown = table.map(lambda value: f"{value:.3f}" if isinstance(value, float) else str(value))
    lines = [list(shown.columns), ["---"] * shown.shape[1], *shown.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000, help="test sets in each setting")
    parser.add_argument("--seed", type=int, default=0, help="of the test sets")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/net-benefit-coverage.md"))
    given = parser.parse_args()
    begun = time.process_time()
    table = coverage(given.repeats, given.seed)
    error = np.sqrt(0.95 * 0.05 / given.repeats)
    page = f"""# Do intervals of net benefit cover?

`python benchmarks/net_benefit_coverage.py --repeats {given.repeats} --seed {given.seed}`,
{datetime.date.today()}, {time.process_time() - begun:.0f} s of CPU. Truth: {POPULATION:,} patients.
Standard error at 0.95: {error:.3f}.
Lowest coverage of {len(table)} cells: {table["coverage"].min():.3f}, mean {table["coverage"].mean():.3f}.

{markdown(table)}
"""
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
