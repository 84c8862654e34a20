"""Coverage of intervals of net benefit (`fedlab.plots.net_benefit`): `python benchmarks/net_benefit_coverage.py`.

Patients with one or three images, whose scores share a random effect; the true value is that of 50,000 patients.
"""

import itertools
import sys

import numpy as np
from scipy.special import expit

from fedlab.analysis import operating_curves
from fedlab.analysis.operating_curves import Place
from fedlab.analysis.scores import TestSet

SEPARATION = 1.5


def place(rng: np.random.Generator, patients: int, images: int, prevalence: float) -> Place:
    """Test cases of a site, with the probabilities of a calibrated model of one feature."""
    y = np.repeat(rng.random(patients) < prevalence, images).astype(int)
    effect = np.repeat(0.8 * rng.normal(size=patients), images)
    x = SEPARATION * (y - 0.5) + effect + 0.6 * rng.normal(size=len(y))
    p = expit(SEPARATION * x + np.log(prevalence / (1 - prevalence)))
    test = TestSet("auroc", y, np.repeat(np.arange(patients), images), 2)
    return Place("A", test, y, {"model": {0: [np.column_stack([1 - p, p])]}})


def main(draws: int) -> None:
    """Print a row for each setting and threshold: coverage and mean width."""
    thresholds = [0.05, 0.2, 0.5, 0.8]
    for images, patients, prevalence in itertools.product((1, 3), (20, 50, 200), (0.1, 0.4)):
        rng = np.random.default_rng(1)
        truth = operating_curves.net_benefit([place(rng, 50_000, images, prevalence)], thresholds)[:4]["net_benefit"]
        found = [operating_curves.net_benefit([place(rng, patients, images, prevalence)], thresholds)[:4]
                 for _ in range(draws)]  # fmt: skip
        inside = np.mean([(one["low"] <= truth) & (truth <= one["high"]) for one in found], axis=0)
        width = np.mean([one["high"] - one["low"] for one in found], axis=0)
        for row in zip(thresholds, truth, inside, width, strict=True):
            print(images, patients, prevalence, *(f"{value:.3f}" for value in row), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
