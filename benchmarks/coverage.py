"""Do intervals and tests of `fedlab.compare` hold their level? A simulation with its own functions.

python benchmarks/coverage.py [--repeats 400] [--out benchmarks/results/coverage.md]

Every cell draws test sets of a population whose truth is known and counts how often the 95 % interval contains it
("after"), next to a percentile bootstrap of patients within classes ("before", what fedlab did at first). A cell that
lies outside its bounds is drawn again, with ten times as many new test sets.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import expit, logit

from fedlab.analysis.scores import Gain, MeanOfSites, Score, TestSet
from fedlab.core.rng import stream
from fedlab.evaluation.intervals import means, repeats
from fedlab.learning.metrics import METRICS

METRIC_NAMES = ("auroc", "average_precision", "accuracy", "balanced_accuracy", "brier")
DRAWS = 299  # of the bootstrap
POPULATION = 400_000  # images that give the truth
LEAST, MOST = 0.93, 0.06  # bounds of a coverage and of a type I error
AGAIN = 10  # times as many test sets for a cell outside of them


class Cells(NamedTuple):
    """Which cells to draw, all of them or those named, and with which random numbers."""

    seed: int = 0
    named: Sequence[dict] | None = None

    def want(self, quantity: str, **cell: object) -> bool:
        return self.named is None or any({"quantity": quantity, **cell}.items() <= each.items() for each in self.named)

    def stream(self, *names: object) -> np.random.Generator:
        return stream(self.seed, *names)


class Population:
    """Patients with 1 to `images` images; labels are those of patients, scores correlate within a patient."""

    def __init__(self, auroc: float, prevalence: float, images: int, correlation: float = 0.6) -> None:
        self.distance, self.prevalence, self.images = np.sqrt(2) * stats.norm.ppf(auroc), prevalence, images
        self.correlation = correlation if images > 1 else 0.0

    def draw(self, rng: np.random.Generator, patients: int, models: int = 1, agreement: float = 0.8):
        """Labels (n,), patients (n,), probabilities (models, n) of models of one quality."""
        label = rng.random(patients) < self.prevalence
        count = rng.integers(1, self.images + 1, patients)
        patient = np.repeat(np.arange(patients), count)
        n = len(patient)

        def noise() -> np.ndarray:
            shared, own = rng.normal(size=patients)[patient], rng.normal(size=n)
            return np.sqrt(self.correlation) * shared + np.sqrt(1 - self.correlation) * own

        common = noise()
        each = [np.sqrt(agreement) * common + np.sqrt(1 - agreement) * noise() for _ in range(models)]
        y = label[patient].astype(np.int64)
        latent = self.distance * y + np.array(each)
        return y, patient, expit(self.distance * (latent - self.distance / 2) + logit(self.prevalence))

    def truth(self, metric: str) -> float:
        y, _, p = self.draw(stream(0, "truth", self.distance, self.prevalence, self.images), POPULATION // self.images)
        return float(METRICS.function(metric)(y, two(p[0])))


def two(p: np.ndarray) -> np.ndarray:
    return np.column_stack([1 - p, p])


def score(metric: str, y: np.ndarray, patient: np.ndarray, models: np.ndarray) -> Score:
    """The score of one method; models: probabilities (seeds, n)."""
    test = TestSet(metric, y, patient, 2)
    return Score(test, {seed: test.score([two(p)]) for seed, p in enumerate(models)})


def stratified_percentile(metric: str, y, patient, p, rng: np.random.Generator) -> tuple[float, float]:
    """The former interval: patients are resampled within their class."""
    label = np.zeros(patient.max() + 1, int)
    label[patient] = y
    weights = np.zeros((DRAWS, len(label)))
    for value in (0, 1):
        members = np.flatnonzero(label == value)
        if len(members):
            weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), DRAWS)
    drawn = METRICS.function(metric)(y, two(p), weights[:, patient])
    return tuple(np.nanquantile(drawn, [0.025, 0.975])) if np.isfinite(drawn).any() else (np.nan, np.nan)


def one_site(runs: int, cells: Cells) -> Iterator[dict]:
    """Coverage at one site, where an interval is shown."""
    for auroc in (0.7, 0.85, 0.95):
        for prevalence in (0.1, 0.3, 0.5):
            for images in (1, 3):
                population = Population(auroc, prevalence, images)
                truth = {metric: population.truth(metric) for metric in METRIC_NAMES}
                for patients in (25, 60, 200):
                    cell = {"AUROC": auroc, "prevalence": prevalence, "images": f"1 to {images}" if images > 1 else "1"}
                    yield from _one_site(population, truth, patients, cell | {"patients": patients}, runs, cells)


def _one_site(
    population: Population, truth: dict, patients: int, cell: dict, runs: int, cells: Cells
) -> Iterator[dict]:
    rng = cells.stream("one site", *cell.values())
    hits = {metric: [] for metric in METRIC_NAMES if cells.want(metric, **cell)}
    runs = runs if hits else 0
    for _ in range(runs):
        y, patient, p = population.draw(rng, patients)
        for metric in hits:
            low, high = score(metric, y, patient, p).limits
            before = (np.nan, np.nan) if cells.named else stratified_percentile(metric, y, patient, p[0], rng)
            hits[metric].append((low <= truth[metric] <= high if np.isfinite(low) else np.nan, high - low,
                                 before[0] <= truth[metric] <= before[1]))  # fmt: skip
    for metric, found in hits.items():
        after, width, before = np.array(found, float).T
        if np.isfinite(after).mean() > 0.2:
            yield {"quantity": metric, **cell, "before": before.mean(), "after": np.nanmean(after),
                   "shown": np.isfinite(after).mean(), "width": np.nanmean(width)}  # fmt: skip


DICE = {f"mean Dice, {failures:.0%} failures": failures for failures in (0.0, 0.06, 0.15)}


def other_means(runs: int, cells: Cells) -> Iterator[dict]:
    """Quadratic kappa of grades, and the mean of a score like Dice with failures."""
    for patients in (25, 60, 200):
        if not any(cells.want(name, patients=patients) for name in ("kappa", *DICE)):
            continue
        rng = cells.stream("kappa", patients)
        big = _grades(rng, 200_000)
        truth = METRICS.function("kappa")(*big)
        hits = []
        for _ in range(runs):
            y, p = _grades(rng, patients)
            test = TestSet("kappa", y, np.arange(patients), 5)
            low, high = Score(test, {0: test.score([p])}).limits
            hits.append(low <= truth <= high)
        yield {"quantity": "kappa", "patients": patients, "after": np.mean(hits)}
        for name, failures in DICE.items():
            rng = cells.stream("dice", patients, failures)
            draw = lambda n, rng=rng, share=failures: np.where(rng.random(n) < share, 0, rng.beta(20, 3, n))  # noqa: E731
            truth = draw(10**6).mean()
            hits = [low <= truth <= high for low, high in (means.bounded_mean(draw(patients)) for _ in range(runs))]
            yield {"quantity": name, "patients": patients, "after": np.mean(hits)}


def _grades(rng: np.random.Generator, n: int):
    y = rng.choice(5, n, p=[0.4, 0.2, 0.2, 0.15, 0.05])
    grade = np.clip(np.rint(y + rng.normal(0, 0.8, n)), 0, 4).astype(int)
    return y, np.eye(5)[grade]


def paired(runs: int, cells: Cells) -> Iterator[dict]:
    """Type I error of paired differences: two models of one quality on the same cases."""
    for auroc, prevalence, images in ((0.8, 0.3, 1), (0.95, 0.3, 1), (0.8, 0.1, 1), (0.8, 0.3, 3), (0.8, 0.5, 1)):
        population = Population(auroc, prevalence, images)
        for patients in (25, 60, 200):
            rng = cells.stream("paired", auroc, prevalence, images, patients)
            cell = {"AUROC": auroc, "prevalence": prevalence, "images": images, "patients": patients}
            wrong = {metric: [] for metric in METRIC_NAMES if cells.want(f"difference of {metric}", **cell)}
            for _ in range(runs if wrong else 0):
                y, patient, p = population.draw(rng, patients, models=2)
                for metric in wrong:
                    gain = Gain(*(score(metric, y, patient, p[k : k + 1]) for k in (0, 1)))
                    low, high = gain.limits
                    wrong[metric].append(not low <= 0 <= high if np.isfinite(low) else np.nan)
            for metric, found in wrong.items():
                if np.isfinite(found).mean() > 0.2:
                    yield {"quantity": f"difference of {metric}", **cell, "after": np.nanmean(found)}


DIFFER = "level of the test that sites differ"


def several_sites(runs: int, cells: Cells) -> Iterator[dict]:
    """Mean of sites, worst site, and the level of the test that sites differ."""
    for k in (4, 8):
        for name, aurocs in (("equal", [0.85] * k), ("one bad", [0.7] + [0.88] * (k - 1))):
            for patients in (40, 100):
                for metric in ("auroc", "accuracy", "balanced_accuracy", "average_precision", "brier"):
                    cell = {"AUROC": name, "sites": k, "patients": patients}
                    names = (f"mean of sites, {metric}", f"worst site, {metric}", DIFFER if metric == "auroc" else "")
                    if not any(cells.want(each, **cell) for each in names):
                        continue
                    populations = [Population(auroc, 0.25, 1) for auroc in aurocs]
                    truth = [population.truth(metric) for population in populations]
                    rng, found = cells.stream("sites", k, name, patients, metric), []
                    for _ in range(runs):
                        sites = MeanOfSites([score(metric, *one.draw(rng, patients)) for one in populations])
                        worst, (low, high) = sites.worst(metric != "brier"), sites.limits
                        target = max(truth) if metric == "brier" else min(truth)
                        differ = sites.differ < 0.05 if metric == "auroc" else np.nan
                        if np.isfinite(low):
                            found.append((low <= np.mean(truth) <= high, worst.low <= target <= worst.high, differ))
                    mean, bound, differ = np.array(found, float).T
                    yield {"quantity": names[0], **cell, "after": np.nanmean(mean)}
                    yield {"quantity": names[1], **cell, "after": np.nanmean(bound)}
                    if metric == "auroc" and name == "equal":
                        yield {"quantity": DIFFER, **cell, "after": differ.mean()}


def several_seeds(runs: int, cells: Cells) -> Iterator[dict]:
    """Coverage over seeds of training, for the expectation over seeds and cases."""
    for metric in ("auroc", "accuracy"):
        for seeds in (3, 5, 10):
            for spread in (0.0, 0.15, 0.4):
                cell, found = {"seeds": seeds, "spread": spread}, []
                rng = cells.stream("seeds", metric, seeds, spread)
                truth = np.mean([_shifted(metric, rng, spread, 20_000, 1)[0].value for _ in range(200)])
                for _ in range(runs if cells.want(f"mean over seeds, {metric}", **cell) else 0):
                    low, high = _shifted(metric, rng, spread, 100, seeds)[0].limits
                    found.append(low <= truth <= high)
                if found:
                    yield {"quantity": f"mean over seeds, {metric}", **cell, "after": np.mean(found)}
            wrong = []
            for _ in range(runs if cells.want(f"difference over seeds, {metric}", seeds=seeds) else 0):
                low, high = Gain(*_shifted(metric, rng, 0.4, 100, seeds, methods=2)).limits
                wrong.append(not low <= 0 <= high)
            if wrong:
                yield {"quantity": f"difference over seeds, {metric}", "seeds": seeds, "after": np.mean(wrong)}


def _shifted(
    metric: str, rng: np.random.Generator, spread: float, patients: int, seeds: int, methods: int = 1
) -> list[Score]:
    """Scores of methods whose separation varies from seed to seed."""
    y = (rng.random(patients) < 0.3).astype(np.int64)
    common, found = rng.normal(size=patients), []
    for _ in range(methods):
        distance = 1.2 + spread * rng.normal(size=(seeds, 1))
        latent = distance * y + 0.9 * common + np.sqrt(1 - 0.81) * rng.normal(size=(seeds, patients))
        found.append(score(metric, y, np.arange(patients), expit(1.2 * (latent - 0.6) + logit(0.3))))
    return found


def best_of_ten(runs: int, cells: Cells) -> Iterator[dict]:
    """The best of ten methods of one accuracy, picked on the test cases."""
    for n in (100, 600):
        rng, inside, bias = cells.stream("best", n), [], []
        for _ in range(max(50, runs // 4)):
            latent = np.sqrt(0.5) * rng.normal(size=(n, 1)) + np.sqrt(0.5) * rng.normal(size=(n, 10))
            right = (latent < stats.norm.ppf(0.8)) * 1.0
            low, high = repeats.best_accuracy(right, rng, 499)
            inside.append(low <= 0.8 <= high)
            bias.append((right.mean(0).max() - 0.8, repeats.best_out_of_bag(right, rng, 100) - 0.8))
        observed, corrected = np.mean(bias, axis=0)
        yield {"quantity": "best of 10, accuracy", "patients": n, "after": np.mean(inside),
               "bias observed": observed, "bias corrected": corrected}  # fmt: skip


PARTS: dict[str, Callable[[int, Cells], Iterator[dict]]] = {
    "One site: coverage of 95 % intervals": one_site,
    "Kappa and Dice: coverage": other_means,
    "Paired differences: type I error at 5 %": paired,
    "Several sites": several_sites,
    "Several seeds": several_seeds,
    "The best of several methods": best_of_ten,
}


def markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown."""
    rows = [list(frame.columns), ["---"] * frame.shape[1], *frame.astype(str).values.tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


CONSERVATIVE = 0.985  # coverage above which an interval is wider than it need be
MARK = " (conservative)"


def is_rate(quantity: str) -> bool:
    """Whether a cell holds a type I error and no coverage."""
    return "difference" in quantity or "level" in quantity


def marked(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells of a table as printed, with intervals marked that cover more than they need."""
    high = ~cells["quantity"].map(is_rate) & (pd.to_numeric(cells["after"], errors="coerce") > CONSERVATIVE)
    return cells.assign(after=cells["after"].where(~high, cells["after"] + MARK))


def drawn(part: Callable[[int, Cells], Iterator[dict]], repeats: int) -> pd.DataFrame:
    """The cells of a part; those outside their bounds are drawn again with more test sets, and these count."""
    frame = pd.DataFrame(part(repeats, Cells())).assign(repeats=repeats)
    rate = frame["quantity"].map(is_rate)
    missed = frame[np.where(rate, frame["after"] > MOST, frame["after"] < LEAST)]
    if missed.empty:
        return frame
    named = [_name(row) for row in missed.to_dict("records")]
    again = {tuple(_name(row).items()): row["after"] for row in part(AGAIN * repeats, Cells(1, named))}
    for at, row in frame.iterrows():
        key = tuple(_name(dict(row)).items())
        if at in missed.index and key in again:
            frame.loc[at, ["after", "repeats"]] = again[key], AGAIN * repeats
    return frame


def _name(row: dict) -> dict:
    """What identifies a cell."""
    names = ("quantity", "AUROC", "prevalence", "images", "sites", "seeds", "spread", "patients")
    return {name: row[name] for name in names if name in row and row[name] == row[name]}


def summary(title: str, frame: pd.DataFrame) -> list[str]:
    """The extremes of each quantity, and the whole table."""
    lines = [f"## {title}", ""]
    rows = []
    for quantity, group in frame.groupby("quantity", sort=False):
        rate = is_rate(quantity)
        worst = group["after"].max() if rate else group["after"].min()
        row = {"quantity": quantity, "cells": len(group), "highest rate" if rate else "lowest coverage": f"{worst:.3f}"}
        if "before" in group:
            row |= {"lowest before": f"{group['before'].min():.3f}"}
        row |= {"mean": f"{group['after'].mean():.3f}"}
        if not rate:
            row |= {f"conservative cells (above {CONSERVATIVE})": int((group["after"].round(3) > CONSERVATIVE).sum())}
        rows.append(row)
    lines += [markdown(pd.DataFrame(rows).astype(object).fillna("")), ""]
    shown = frame.map(lambda value: f"{value:.3f}" if isinstance(value, float) and np.isfinite(value) else value)
    cells = markdown(marked(shown.astype(object).fillna("")))
    return [*lines, "<details><summary>All cells</summary>", "", cells, "", "</details>", ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=400, help="test sets in each cell")
    parser.add_argument("--part", choices=[part.__name__ for part in PARTS.values()], help="only this part")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/coverage.md"))
    given = parser.parse_args()
    error = np.sqrt(0.95 * 0.05 / given.repeats)
    lines = ["# Do intervals and tests hold their level?", "",
             f"`python benchmarks/coverage.py --repeats {given.repeats}`: {given.repeats} test sets in each cell, so"
             f" that one standard error of a coverage of 0.95 is {error:.3f} and the lowest of many cells lies two to"
             f" three of them below the truth. A coverage below {LEAST} and a type I error above {MOST} are therefore"
             f" drawn again, with {AGAIN} times as many new test sets, and the new number is shown (column repeats)."
             " Before: patients resampled within classes, percentiles.", ""]  # fmt: skip
    for title, part in PARTS.items():
        if given.part in (None, part.__name__):
            begun = time.perf_counter()
            frame = drawn(part, given.repeats)
            lines += summary(title, frame)
            print(f"{title}: {time.perf_counter() - begun:.0f} s", flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
