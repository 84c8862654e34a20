"""Seconds to partition a million cases into a hundred sites with three axes: `python benchmarks/partitions.py`."""

import argparse
import os
import platform
import time
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd

import fedlab
from fedlab.data.cases import Cases

AXES = {"quantity": 0.03, "prevalence": 0.6, "population": 0.5}


def cohort(n: int, seed: int = 0) -> Cases:
    """n cases of 1 to 3 a patient, with age and a four-grade label; images are a few random bytes."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n), rng.integers(1, 4, n))[:n]
    table = pd.DataFrame(
        {
            "case": np.char.add("case-", np.arange(n).astype(str)).astype(object),
            "label": rng.integers(0, 4, n)[patient],
            "patient": patient,
            "age": rng.integers(20, 90, n)[patient],
            "split": rng.choice(["train", "val", "test"], n, p=[0.7, 0.1, 0.2])[patient],
        }
    )
    card = {"name": "cohort", "task": "ordinal", "classes": ["none", "mild", "moderate", "severe"]}
    return Cases(rng.integers(0, 255, (n, 1, 4, 4), dtype=np.uint8), table, card)


def measure(n: int, sites: int, repeats: int) -> list[float]:
    """Seconds of each repetition, each with another seed."""
    cases = cohort(n)
    _ = cases.units  # patients and duplicates: once a dataset, not once a partition
    found = []
    for seed in range(repeats):
        start = time.perf_counter()
        part = fedlab.partition(cases, sites, **AXES, seed=seed)
        found.append(time.perf_counter() - start)
        assert len(part.table) == n and len(part.sites) == sites
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--cases", type=int, default=1_000_000)
    options.add_argument("--sites", type=int, default=100)
    options.add_argument("--repeats", type=int, default=3)
    given = options.parse_args()
    warnings.simplefilter("ignore")
    seconds = measure(given.cases, given.sites, given.repeats)
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}")
    print(f"{given.cases:,} cases to {given.sites} sites with {', '.join(AXES)}:")
    print(f"median {np.median(seconds):.2f} s of {[round(s, 2) for s in seconds]}")


if __name__ == "__main__":
    main()
