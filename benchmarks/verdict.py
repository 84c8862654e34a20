"""Is the verdict of a site right, and do prediction sets cover there? A simulation, and phantoms with strong shift.

python benchmarks/verdict.py [--repeats 400] [--splits 100] [--out benchmarks/results/verdict.md]

The first part draws test sets of a site whose truth is known: two models of known AUROC with calibrated probabilities
that agree in part. The second trains once, and divides the held-out cases of each site at random into validation and
test cases again and again; the mean coverage over such splits is exact for thresholds of the site.
"""

import argparse
import datetime
import tempfile
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from scipy import special, stats
from scipy.special import expit, logit

import fedlab
from fedlab.analysis.joining.rule import CANNOT, JOIN, STAY, decide, statement
from fedlab.analysis.scores import Gain, Score, TestSet
from fedlab.core.rng import stream
from fedlab.learning.mask_metrics import KINDS

AUROC, PREVALENCE, AGREEMENT, MARGIN = 0.85, 0.25, 0.8, 0.02  # of the local model; of noise that models share
EFFECTS = (-0.1, -0.05, 0.0, 0.05, 0.1)  # AUROC of the federated model minus that of the local one
SIZES = (40, 100, 300)
WAYS = {"AUROC": ("auroc",), "Brier score": ("brier",), "AUROC, then Brier": ("auroc", "brier")}
LEVEL = 0.9
DICE, SPREAD, FAILED = 0.8, 0.1, 0.03  # mean and standard deviation of the Dice of cases, and share of failed masks
MAE, DEGREES = 0.5, 5  # of the local model in standard deviations of the target; of Student's t of the errors
OF_TARGET = 15.0  # standard deviation of the target, such as years
MASK_EFFECTS, NUMBER_EFFECTS = (-0.05, -0.02, 0.0, 0.02, 0.05), (-0.2, -0.1, 0.0, 0.1, 0.2)


def drawn(n: int, effect: float, rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]]:
    """Labels (n,) and the probabilities (n, 2) of the local and the federated model."""
    y = (rng.random(n) < PREVALENCE).astype(np.int64)
    shared, models = rng.normal(size=n), []
    for auroc in (AUROC, AUROC + effect):
        distance = np.sqrt(2) * stats.norm.ppf(auroc)
        noise = np.sqrt(AGREEMENT) * shared + np.sqrt(1 - AGREEMENT) * rng.normal(size=n)
        p = expit(distance * (distance * y + noise - distance / 2) + logit(PREVALENCE))
        models.append(np.column_stack([1 - p, p]))
    return y, models


def words(y: np.ndarray, models: list[np.ndarray]) -> dict[str, str]:
    """The verdict by each metric, and by two of them in turn, as `fedlab.verdict` joins them."""
    each = {}
    for metric in ("auroc", "brier"):
        test = TestSet(metric, y, np.arange(len(y)), 2)
        if metric == "auroc" and len(np.unique(y)) < 2:
            each[metric] = CANNOT
            continue
        local, federated = (Score(test, {0: test.score([p])}) for p in models)
        each[metric] = decide(statement(Gain(federated, local), MARGIN), margin=MARGIN)
    return {way: next((each[m] for m in metrics if each[m] != CANNOT), CANNOT) for way, metrics in WAYS.items()}


def agreeing(n: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Standard normal numbers (n,) of two models, whose correlation is AGREEMENT."""
    shared = rng.normal(size=n)
    return [np.sqrt(AGREEMENT) * shared + np.sqrt(1 - AGREEMENT) * rng.normal(size=n) for _ in range(2)]


def masks(n: int, effect: float, rng: np.random.Generator) -> str:
    """The verdict by Dice: a Beta distribution with some failed masks, whose Dice is at most 0.2."""
    models = []
    for z, gain in zip(agreeing(n, rng), (0.0, effect), strict=True):
        mean = DICE + gain / (1 - FAILED)
        size = mean * (1 - mean) / SPREAD**2 - 1
        u = stats.norm.cdf(z)
        good = stats.beta.ppf(np.clip((u - FAILED) / (1 - FAILED), 0, 1), mean * size, (1 - mean) * size)
        dice = np.where(u < FAILED, 0.2 * u / FAILED, good)
        numbers = np.zeros((n, len(KINDS)))
        for kind, value in (("tp", dice), ("fp", 1 - dice), ("fn", 1 - dice)):  # Dice is tp / (tp + fn) then
            numbers[:, KINDS.index(kind)] = 1000 * value
        models.append(numbers)
    return said("dice", np.zeros(n, np.int64), models, MARGIN)


def errors(n: int, effect: float, rng: np.random.Generator) -> str:
    """The verdict by MAE, with heavy-tailed errors; effect: gain in standard deviations of the target."""
    y = rng.normal(50, OF_TARGET, n)
    unit = 2 * np.sqrt(DEGREES) * np.exp(
        special.gammaln((DEGREES + 1) / 2) - special.gammaln(DEGREES / 2)
    ) / (np.sqrt(np.pi) * (DEGREES - 1))  # mean absolute value of Student's t  # fmt: skip
    models = []
    for z, gain in zip(agreeing(n, rng), (0.0, effect), strict=True):
        t = stats.t.ppf(stats.norm.cdf(z), DEGREES)
        models.append((y + (MAE - gain) * OF_TARGET * t / unit)[:, None])
    return said("mae", y, models, float(f"{0.1 * np.std(y):.2g}"))  # as fedlab.analysis.alignment.margin_of


def said(metric: str, y: np.ndarray, models: list[np.ndarray], margin: float) -> str:
    """The verdict of a site by one metric."""
    test = TestSet(metric, y, np.arange(len(y)), 0)
    local, federated = (Score(test, {0: test.score([p])}) for p in models)
    return decide(statement(Gain(federated, local), margin), margin=margin)


OTHERS = {"Dice": (masks, MASK_EFFECTS, ""), "MAE": (errors, NUMBER_EFFECTS, " SD")}


def other_verdicts(repeats: int) -> pd.DataFrame:
    """How often each word is said of segmentation and regression."""
    rows = []
    for name, (draw, effects, unit) in OTHERS.items():
        for n in SIZES:
            for effect in effects:
                rng = stream(0, "verdict", name, n, str(effect))
                share = pd.Series([draw(n, effect, rng) for _ in range(repeats)]).value_counts(normalize=True)
                row = {"by": name, "test patients": n, "true gain": f"{effect:+.2f}{unit}"}
                rows.append(row | {word: share.get(word, 0.0) for word in (JOIN, STAY, CANNOT)})
    return pd.DataFrame(rows)


def verdicts(repeats: int) -> pd.DataFrame:
    """How often each word is said, by size of the test set, true gain and metric."""
    rows = []
    for n in SIZES:
        for effect in EFFECTS:
            rng = stream(0, "verdict", n, str(effect))
            found = pd.DataFrame([words(*drawn(n, effect, rng)) for _ in range(repeats)])
            for way in WAYS:
                share = found[way].value_counts(normalize=True)
                row = {"test patients": n, "true gain in AUROC": f"{effect:+.2f}", "by": way}
                rows.append(row | {word: share.get(word, 0.0) for word in (JOIN, STAY, CANNOT)})
    return pd.DataFrame(rows)


def shifted_run(folder: str):
    """A run on four sites that differ strongly in prevalence, scanner and size; one image of each patient is kept."""
    base = fedlab.Experiment(
        dataset="phantoms(cases=4000, size=16)", sites=4, quantity=0.5, prevalence=0.8, acquisition=0.8, splits="site",
        model="small_cnn(width=4, depth=2)", rounds=5, batch_size=32, method="fedavg",
    )  # fmt: skip
    run = fedlab.run(base, folder=folder)
    kept = run.predictions.query("choice == 'last'").drop_duplicates("unit")
    table = run.partition_table[run.partition_table["case"].isin(kept["case"])]
    facts = {name: getattr(run, name) for name in ("experiment", "method", "task", "classes", "headline", "unseen")}
    return SimpleNamespace(**facts, predictions=kept.reset_index(drop=True), partition_table=table)


def divided(run, number: int):
    """The same predictions, with half of the cases of each site as validation cases, drawn at random."""
    rng = stream(0, "divided", number)
    first = run.predictions.groupby("site")["case"].transform(lambda c: rng.permutation(len(c)) < len(c) // 2)
    split = dict(zip(run.predictions["case"], np.where(first, "val", "test"), strict=True))
    table = run.partition_table.assign(split=run.partition_table["case"].map(split))
    return SimpleNamespace(**{**vars(run), "partition_table": table,
                              "predictions": run.predictions.assign(split=np.where(first, "val", "test"))})  # fmt: skip


def coverages(splits: int) -> pd.DataFrame:
    """Mean coverage and set size of each site over random splits, by way of calibration and score."""
    with tempfile.TemporaryDirectory() as folder:
        run = shifted_run(folder)
    rows = []
    for number in range(splits):
        part = divided(run, number)
        for score in ("lac", "aps"):
            for way in ("pooled", "shrunken", "site"):
                found = fedlab.conformal(part, LEVEL, way, score, choice="last")
                rows.append(pd.DataFrame(found).assign(score=score))
    each = pd.concat(rows).groupby(["score", "calibration", "site"], sort=False)
    table = each.agg(own=("own", "first"), coverage=("coverage", "mean"), sd=("coverage", "std"), size=("size", "mean"))
    table = table.reset_index()
    n = table["own"]
    table["SE"] = table["sd"] / np.sqrt(splits)
    exact = (table["calibration"] == "site") & (table["site"] != "pooled")
    table["expected"] = np.where(exact, np.ceil((n + 1) * LEVEL - 1e-9) / (n + 1), LEVEL)
    table["within 2 SE"] = np.where((table["coverage"] - table["expected"]).abs() <= 2 * table["SE"], "yes", "no")
    columns = ["score", "calibration", "site", "own", "coverage", "SE", "expected", "within 2 SE", "size"]
    return table[columns].rename(columns={"own": "validation cases", "size": "classes in a set"})


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, numbers with three digits."""
    text = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    lines = [list(table), ["---"] * table.shape[1], *text]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:g}" if value == int(value) else f"{value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=400, help="test sets of a cell")
    parser.add_argument("--splits", type=int, default=100, help="random splits into validation and test cases")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/verdict.md"))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    begun = time.perf_counter()
    said = verdicts(given.repeats)
    wrong = said[~said["true gain in AUROC"].isin(["+0.05", "+0.10"])].groupby("by", sort=False)[JOIN].max()
    others = other_verdicts(given.repeats)
    level = others[others["true gain"].str.match(r"[-+]0\.00|-")].groupby("by", sort=False)[JOIN].max()
    also = ", ".join(f"{share:.3f} by {way}" for way, share in level.items())
    covered = coverages(given.splits)
    sites = covered[covered["site"] != "pooled"]
    inside = sites.groupby(["score", "calibration"], sort=False)["within 2 SE"]
    held = inside.apply(lambda said: f"{(said == 'yes').sum()} of {len(said)}")
    holding = "; ".join(f"{score}, {way}: {count}" for (score, way), count in held.items())
    joins = ", ".join(f"{share:.3f} by {way}" for way, share in wrong.items())
    command = f"python benchmarks/verdict.py --repeats {given.repeats} --splits {given.splits}"
    minutes = (time.perf_counter() - begun) / 60
    error = np.sqrt(0.05 * 0.95 / given.repeats)
    page = f"""# Verdicts and prediction sets

`{command}`, {datetime.date.today()},
{minutes:.1f} minutes on two CPU cores.

## Is the verdict right?

A site with a local model of AUROC {AUROC}, prevalence {PREVALENCE}, calibrated models whose noise agrees to
{AGREEMENT}, margin {MARGIN}; {given.repeats} test sets a cell (standard error at 5 %: {error:.3f}).
A "join" is wrong where the true gain is 0 or below. Largest share of wrong joins: {joins}.

{markdown(said)}

## Is it right for segmentation and regression?

Dice: mean {DICE}, standard deviation {SPREAD}, and {100 * FAILED:g} % failed masks (at most 0.2), margin {MARGIN}. MAE:
{MAE} standard deviations of the target, errors of Student's t with {DEGREES} degrees of freedom; the margin is the
usual one, a tenth of the standard deviation of the test cases' targets; gains are in standard deviations. Cases of
the two models correlate by {AGREEMENT}. Largest share of wrong joins: {also}.

{markdown(others)}

## Do prediction sets cover at each site?

Sets of {100 * LEVEL:g} %, four sites of phantoms (quantity 0.5, prevalence 0.8, acquisition 0.8), one `fedavg` model;
means over {given.splits} random splits of the held-out cases of each site. Expected of thresholds of the site:
ceil(0.9 (n + 1)) / (n + 1). Sites within two standard errors: {holding}.

{markdown(covered)}
"""
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
