"""Coverage of the intervals of `fedlab.contributions`, without training: models of coalitions of known quality.

python benchmarks/contribution_coverage.py [--repeats 200] [--out benchmarks/results/contribution-coverage.md]

Three sites with as many validation patients each. Site A adds most, B less, C nothing. Models are calibrated and agree
in part; with several seeds the quality of each model varies from seed to seed. With one seed the truth is that of the
models that were trained, with several that of the mean over all seeds.
"""

import argparse
import datetime
import itertools
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import expit, logit

from fedlab.analysis.joining.coalitions import _estimate, _Judge, _resampled, coalitions, shapley_values
from fedlab.core.rng import stream

SITES, PREVALENCE, AGREEMENT = ("A", "B", "C"), 0.3, 0.8
WORTH, LEAST = {"A": 0.6, "B": 0.3, "C": 0.0}, 0.7  # what a site adds to the distance of the classes, in SD
SPREAD = 0.15  # standard deviation of that distance from seed to seed
WHOLE = frozenset(SITES)
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)


def distance(members: frozenset[str]) -> float:
    """The distance of the classes in the scores of a coalition's model."""
    return LEAST + sum(WORTH[site] for site in members)


def probability(y: np.ndarray | int, noise: np.ndarray, apart: float) -> np.ndarray:
    """Calibrated probabilities of the second class."""
    return expit(apart * (apart * y + noise - apart / 2) + logit(PREVALENCE))


def truth(metric: str, apart: float | None, spread: float) -> float:
    """The value of a model; apart None: of the one that predicts the prevalence."""
    if apart is None:
        return 0.5 if metric == "auroc" else -PREVALENCE * (1 - PREVALENCE)
    weights = WEIGHTS / WEIGHTS.sum()
    return float(sum(w * _truth(metric, apart + spread * z) for z, w in zip(NODES, weights, strict=True)))


def _truth(metric: str, apart: float) -> float:
    if metric == "auroc":
        return float(stats.norm.cdf(apart / np.sqrt(2)))
    weights = WEIGHTS / WEIGHTS.sum()
    errors = [(probability(y, NODES, apart) - y) ** 2 @ weights for y in (0, 1)]
    return -float((1 - PREVALENCE) * errors[0] + PREVALENCE * errors[1])


def judge(metric: str, patients: int, draws: int, rng: np.random.Generator) -> _Judge:
    """What judges coalitions, with validation cases that are drawn here and not read from runs."""
    made = object.__new__(_Judge)
    made.metric, made.sign, made.patients = metric, 1.0 if metric == "auroc" else -1.0, patients * len(SITES)
    made.y = (rng.random(made.patients) < PREVALENCE).astype(np.int64)
    blocks = np.arange(made.patients).reshape(len(SITES), patients)
    known = [rows for rows in blocks if metric != "auroc" or len(np.unique(made.y[rows])) == 2]
    made.places = [(rows, _resampled(rows, draws, rng)) for rows in known]
    return made


def once(metric: str, patients: int, seeds: int, draws: int, rng: np.random.Generator) -> list[dict]:
    """Whether the interval of each site holds the truth, for one set of validation cases and seeds."""
    at = judge(metric, patients, draws, rng)
    if not at.places:
        return []
    shared = rng.normal(size=at.patients)
    values: dict = {frozenset(): np.full((1, 1 + draws), 0.5)}
    true = {frozenset(): truth(metric, None, 0)}
    if metric == "brier":
        values = {frozenset(): at._value(np.tile([1 - PREVALENCE, PREVALENCE], (at.patients, 1)))[None]}
    for members in coalitions(SITES):
        apart = distance(members) + SPREAD * rng.normal(size=seeds)
        each = []
        for one in apart:
            noise = np.sqrt(AGREEMENT) * shared + np.sqrt(1 - AGREEMENT) * rng.normal(size=at.patients)
            p = probability(at.y, noise, one)
            each.append(at._value(np.column_stack([1 - p, p])))
        values[members] = np.array(each)
        true[members] = truth(metric, apart[0], 0) if seeds == 1 else truth(metric, distance(members), SPREAD)
    lost, lost_true = ({site: of[WHOLE] - of[WHOLE - {site}] for site in SITES} for of in (values, true))
    fair, fair_true = shapley_values(values, SITES), shapley_values(true, SITES)
    rows = []
    for site, (what, found, wanted) in itertools.product(
        SITES, (("leave-one-out", lost, lost_true), ("Shapley", fair, fair_true))
    ):
        _, interval = _estimate(found[site], at.patients)
        covered = interval.low <= wanted[site] <= interval.high
        rows.append({"value": what, "site": site, "truth": wanted[site], "coverage": float(covered),
                     "width": interval.high - interval.low})  # fmt: skip
    return rows


def coverage(repeats: int, draws: int) -> pd.DataFrame:
    """A row for each metric, number of patients and of seeds, value and site."""
    tables = []
    for metric, patients, seeds in itertools.product(("auroc", "brier"), (20, 60), (1, 3, 5)):
        rng = stream(0, "contributions", metric, patients, seeds)
        rows = [row for _ in range(repeats) for row in once(metric, patients, seeds, draws, rng)]
        table = pd.DataFrame(rows).groupby(["value", "site"], sort=False, as_index=False).mean()
        setting = {"metric": metric, "patients of a site": patients, "seeds": seeds}
        tables.append(pd.DataFrame(setting, index=table.index).join(table))
        print(tables[-1].to_string(), flush=True)
    return pd.concat(tables, ignore_index=True)


def markdown(table: pd.DataFrame) -> str:
    shown = table.map(lambda value: f"{value:.3f}" if isinstance(value, float) else str(value))
    lines = [list(shown.columns), ["---"] * shown.shape[1], *shown.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200, help="sets of validation cases in each setting")
    parser.add_argument("--draws", type=int, default=200, help="resamples of validation patients")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/contribution-coverage.md"))
    given = parser.parse_args()
    begun = time.process_time()
    table = coverage(given.repeats, given.draws)
    error = np.sqrt(0.95 * 0.05 / given.repeats)
    by = table.groupby(["metric", "seeds", "value"], sort=False)["coverage"].agg(["min", "mean"]).reset_index()
    added = ", ".join(f"{worth:g} ({site})" for site, worth in WORTH.items())
    page = f"""# Do intervals of contributions cover?

`python benchmarks/contribution_coverage.py --repeats {given.repeats} --draws {given.draws}`, {datetime.date.today()},
{time.process_time() - begun:.0f} s of CPU. Standard error of a coverage of 0.95: {error:.3f}.
Three sites add {added} SD to the distance {LEAST:g} of the classes; from seed to seed that distance has a
standard deviation of {SPREAD:g}.

{markdown(by.rename(columns={"min": "lowest coverage", "mean": "mean coverage"}))}

<details><summary>All cells</summary>

{markdown(table)}

</details>
"""
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
