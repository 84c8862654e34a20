"""Claims of the literature on topologies, each with its experiment, its decision rule, and what was found.

    python benchmarks/claims.py                # all of them, about an hour on two cores
    python benchmarks/claims.py orders normal  # some

The last two are read from the tables of `benchmarks/methods.py`. The page is kept as benchmarks/results/claims.md.
"""

import argparse
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from typing import NamedTuple

import numpy as np
import pandas as pd
from methods import FEDERATIONS, HERE, run
from scipy import stats

import fedlab
from fedlab.analysis.comparison import transfer
from fedlab.experiments.run_folder import Run

BASE = {"dataset": "phantoms", "sites": 4, "batch_size": 16, "rounds": 15, "lr": 0.05, "evaluate_every": 5}
SEEDS, FEW = range(10), range(5)


class Verdict(NamedTuple):
    """A line of the page: what is claimed, how it was tried, when it is accepted, what came out."""

    claim: str
    experiment: str
    rule: str
    found: str
    holds: str


Claim = Callable[[ProcessPoolExecutor], Verdict]
CLAIMS: dict[str, Claim] = {}


def claim(function: Claim) -> Claim:
    CLAIMS[function.__name__] = function
    return function


def scores(pool: ProcessPoolExecutor, seeds: range, site: str, metric: str | None = None, **changes) -> np.ndarray:
    """The metric of the model chosen on validation, for each seed."""
    found = list(pool.map(run, [{**BASE, **changes, "seed": seed} for seed in seeds]))
    return np.array([value(one, site, metric) for one in found])


def value(found: Run, site: str, metric: str | None = None, choice: str = "best") -> float:
    frame = fedlab.compare([found], metric, choice=choice, reference=found.method).set_index("site")
    return float(frame["value"][site])


def with_interval(values: np.ndarray) -> str:
    """Mean with a 95 % interval over seeds."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.3f} ± {half:.3f}"


def holm(p: list[float]) -> list[float]:
    """Adjusted p values (Holm 1979)."""
    order, adjusted, worst = np.argsort(p), np.empty(len(p)), 0.0
    for rank, place in enumerate(order):
        worst = max(worst, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = worst
    return adjusted.tolist()


def gains(pairs: dict[str, tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[str, np.ndarray, float]]:
    """(name, paired differences over seeds, Holm-adjusted p of Wilcoxon's signed ranks)."""
    differences = {name: after - before for name, (before, after) in pairs.items()}
    p = [float(stats.wilcoxon(d).pvalue) if np.any(d) else 1.0 for d in differences.values()]
    yield from zip(differences, differences.values(), holm(p), strict=True)


def verdict(*holds: bool) -> str:
    """Whether all conditions hold, or how many of them."""
    count = sum(bool(each) for each in holds)
    return {0: "no", len(holds): "yes"}.get(count, f"in {count} of {len(holds)}")


def repaired(pairs: dict[str, tuple[np.ndarray, np.ndarray]], claim: str, experiment: str, rule: str) -> Verdict:
    """Whether a remedy gains clearly, in each pair of scores without and with it."""
    found = list(gains(pairs))
    rows = "; ".join(f"{name}: {with_interval(d)} (p {p:.3f})" for name, d, p in found)
    return Verdict(claim, experiment, rule, rows, verdict(*(d.mean() > 0 and p < 0.05 for _, d, p in found)))


@claim
def normal(pool: ProcessPoolExecutor) -> Verdict:
    """Cyclic transfer between IID sites."""
    same = {"evaluate_every": 1}
    central = scores(pool, SEEDS, "pooled", method="centralized", rounds=20, **same)
    visits = {
        e: scores(pool, SEEDS, "pooled", method="cyclic", rounds=20 // e, local_epochs=e, **same) for e in (1, 5, 20)
    }
    gap = central - visits[1]
    upper = gap.mean() + stats.t.ppf(0.95, len(gap) - 1) * gap.std(ddof=1) / np.sqrt(len(gap))
    means = [each.mean() for each in visits.values()]
    found = ", ".join(f"{e} epoch{'s' * (e > 1)} a visit {with_interval(each)}" for e, each in visits.items())
    return Verdict(
        "On IID sites cyclic transfer is as good as centralized training, the more often it transfers (Chang 2018)",
        "phantoms, 4 IID sites, 20 epochs in visits of 1, 5, 20; pooled AUROC, 10 seeds",
        "gap to centralized at most 0.02 (upper end of its one-sided 95 % interval); monotone in the length of a visit",
        f"centralized {with_interval(central)}; {found}; upper end of the gap {upper:+.3f}",
        verdict(upper < 0.02, means == sorted(means, reverse=True)),
    )


@claim
def sizes(pool: ProcessPoolExecutor) -> Verdict:
    """Steps in proportion to cases."""
    steps = {"local_steps": 10, "rounds": 30}
    pairs = {}
    for h in (0.2, 0.5, 0.8):
        each = [
            scores(pool, SEEDS, "pooled", method=m, quantity=h, **steps)
            for m in ("cyclic", "cyclic('fixed', 'travel', 'iterations')")
        ]
        pairs[f"quantity {h}"] = (each[0], each[1])
    return repaired(
        pairs,
        "Cyclic transfer suffers from unequal sizes, steps in proportion to cases repair it (Balachandar 2020)",
        "phantoms, 4 sites, 10 steps a visit on average, 30 cycles; pooled AUROC, 10 seeds",
        "paired gain above 0, Holm p < .05, at each dose",
    )


@claim
def labels(pool: ProcessPoolExecutor) -> Verdict:
    """Weighted sampling and weighted loss."""
    pairs = {}
    for h in (0.2, 0.5, 0.9):
        for metric in ("auroc", "balanced_accuracy"):
            plain = scores(pool, SEEDS, "pooled", metric, method="cyclic", prevalence=h)
            for remedy in ("sampling", "loss"):
                better = scores(
                    pool, SEEDS, "pooled", metric, method=f"cyclic('fixed', 'travel', {remedy!r})", prevalence=h
                )
                pairs[f"{remedy}, prevalence {h}, {metric}"] = (plain, better)
    return repaired(
        pairs,
        "Cyclic transfer suffers from unequal prevalence, weighted sampling or loss repairs it (Balachandar 2020)",
        "phantoms, 4 sites, prevalence doses .2, .5, .9; pooled AUROC and balanced accuracy, 10 seeds",
        "paired gain above 0, Holm p < .05",
    )


@claim
def orders(pool: ProcessPoolExecutor) -> Verdict:
    """The last site is remembered."""
    skew = {"prevalence": 0.7, "evaluate_every": 15}
    averaged, *travelled = (
        list(pool.map(run, [{**BASE, **skew, "method": m, "seed": s} for s in SEEDS]))
        for m in ("fedavg", "cyclic", "cyclic('reversed')")
    )
    forward, backward = (np.array([value(one, "pooled", choice="last") for one in each]) for each in travelled)
    spread = float(np.std([value(one, "pooled", choice="last") for one in averaged], ddof=1))
    gap = np.abs(forward - backward)
    return Verdict(
        "Averaging is more stable than cyclic transfer under label skew, which remembers its last site",
        "phantoms, 4 sites, prevalence .7; pooled AUROC of the last round in both orders, 10 seeds",
        "mean distance between the orders of cyclic transfer above the seed SD of fedavg",
        f"between orders {with_interval(gap)}, seed SD of fedavg {spread:.3f}",
        verdict(gap.mean() > spread),
    )


@claim
def ladder(pool: ProcessPoolExecutor) -> Verdict:
    """From voting to centralized."""
    mixed = {"quantity": 0.3, "prevalence": 0.3, "acquisition": 0.3}
    names = ("ensemble", "single_pass", "cyclic", "fedavg", "centralized")
    found = {m: scores(pool, SEEDS, "pooled", method=m, **mixed) for m in names}
    mean = {m: each.mean() for m, each in found.items()}
    low, middle = max(mean["ensemble"], mean["single_pass"]), (mean["cyclic"], mean["fedavg"])
    return Verdict(
        "Ensembles and a single pass stay below cyclic transfer and averaging, these below centralized training",
        "phantoms, 4 sites, quantity, prevalence and acquisition .3; pooled AUROC, 10 seeds",
        "ordering of the means",
        ", ".join(f"{m} {with_interval(each)}" for m, each in found.items()),
        verdict(low < min(middle), max(middle) < mean["centralized"]),
    )


@claim
def many(pool: ProcessPoolExecutor) -> Verdict:
    """Split learning and the number of sites."""
    counts = (1, 2, 5, 10, 25, 50)
    split, local = ({k: scores(pool, FEW, "pooled", method=m, sites=k) for k in counts} for m in ("split", "local"))
    slope = {
        name: stats.linregress(np.log(np.repeat(counts, len(FEW))), np.concatenate(list(each.values()))).slope
        for name, each in (("split", split), ("local", local))
    }
    rows = ", ".join(f"K={k}: {split[k].mean():.3f} against {local[k].mean():.3f}" for k in counts)
    return Verdict(
        "Split learning does not depend on the number of sites, local training decays (Poirot 2019)",
        "phantoms partitioned into 1 .. 50 IID sites; pooled AUROC, 5 seeds",
        "slope of split learning over log K not below -0.01, that of local training below it",
        f"slopes {slope['split']:+.4f} (split) and {slope['local']:+.4f} (local); split against local: {rows}",
        verdict(slope["split"] >= -0.01, slope["local"] < -0.01),
    )


@claim
def benefit(pool: ProcessPoolExecutor) -> Verdict:
    """Which sites federation helps."""
    eight = {"sites": 8, "quantity": 0.3, "acquisition": 0.5}
    local, shared = (
        list(pool.map(run, [{**BASE, **eight, "method": m, "seed": s} for s in SEEDS])) for m in ("local", "fedavg")
    )
    frame = fedlab.compare([*local, *shared])
    sites = frame[(frame["method"] == "fedavg") & frame["site"].str.startswith("Site ")].set_index("site")["difference"]
    size = local[0].partition_table.query("split == 'train'")["site"].value_counts()
    rho = float(stats.spearmanr(size[sites.index], sites).statistic)
    at = transfer([*local, *shared]).pivot(index="trained_at", columns="tested_on", values="value")
    own = at.loc[at.columns]
    home = float((at.loc["fedavg"] - np.diag(own)).mean())
    away = float((at.loc["fedavg"] - own.mask(np.eye(len(own), dtype=bool))).stack().mean())
    return Verdict(
        "Federation helps small sites and generalisation most (Roth 2020)",
        "phantoms, 8 sites, quantity .3 and acquisition .5; AUROC, 10 seeds",
        "rank correlation of gain and size below 0; gain over local models at other sites above that at the own site",
        f"rank correlation {rho:+.2f}; cross-site gain {away:+.3f}, at the own site {home:+.3f}",
        verdict(rho < 0, away > home),
    )


@claim
def scanners(pool: ProcessPoolExecutor) -> Verdict:
    """Normalisation under acquisition shift."""
    doses, policies = (0.0, 0.25, 0.5, 0.75, 1.0), ("avg", "fedbn", "silobn", "group")
    found = {
        (h, policy): scores(pool, FEW, "mean of sites", method="fedavg", acquisition=h, batchnorm=policy).mean()
        for h in doses
        for policy in policies
    }
    crossing = {policy: next((h for h in doses if found[h, policy] > found[h, "avg"]), None) for policy in policies[1:]}
    rows = "; ".join(f"{h}: " + ", ".join(f"{p} {found[h, p]:.3f}" for p in policies) for h in doses)
    beats = [found[1.0, policy] > found[1.0, "avg"] for policy in ("fedbn", "silobn")]
    return Verdict(
        "Under acquisition shift local normalisation (FedBN, SiloBN) beats averaging on a site's own cases",
        "phantoms, 4 sites, acquisition 0 .. 1, fedavg; mean of sites of AUROC, 5 seeds",
        "both above averaged normalisation at dose 1; the crossing point is reported",
        f"first dose above avg: {', '.join(f'{p} {c}' for p, c in crossing.items())}; {rows}",
        verdict(*beats),
    )


def tables() -> dict[str, pd.DataFrame]:
    """Federation -> scores of all methods, as far as `benchmarks/methods.py` has made them."""
    paths = {name: HERE / "results" / f"methods-{name}.csv" for name in FEDERATIONS}
    return {name: pd.read_csv(path).set_index(["site", "method"]) for name, path in paths.items() if path.exists()}


@claim
def servers(pool: ProcessPoolExecutor) -> Verdict:
    """Server optimizers against the proximal term."""
    rows, wins = [], []
    for name, frame in tables().items():
        mean = frame.loc["pooled"]["value"]
        gain = {m: mean[m] - mean["fedavg"] for m in ("fedprox", "fedavgm", "fedadam", "fedyogi", "fedadagrad")}
        best = max(value for method, value in gain.items() if method != "fedprox")
        wins.append(best > gain["fedprox"])
        rows.append(f"{name}: " + ", ".join(f"{m} {g:+.3f}" for m, g in gain.items()))
    return Verdict(
        "Momentum or adaptivity at the server helps more than a proximal term",
        "all federations of the tables of methods; pooled AUROC less that of fedavg",
        "the best server optimizer gains more than fedprox",
        "; ".join(rows),
        verdict(*wins),
    )


@claim
def fairness(pool: ProcessPoolExecutor) -> Verdict:
    """The worst site."""
    rows, wins = [], []
    for name, frame in tables().items():
        at_sites = frame[frame.index.get_level_values("site").str.startswith("Site ")]["value"]
        worst, mean = at_sites.groupby("method").min(), frame.loc["mean of sites"]["value"]  # observed, not estimated
        for method in ("qfedavg", "afl"):
            up, cost = worst[method] - worst["fedavg"], mean[method] - mean["fedavg"]
            wins.append(up > 0 and cost <= 0)
            rows.append(f"{name}, {method}: worst {up:+.3f}, mean {cost:+.3f}")
    return Verdict(
        "q-FedAvg and agnostic learning lift the worst site at a cost in the mean",
        "all federations of the tables of methods; AUROC less that of fedavg",
        "worst site up, mean down or equal",
        "; ".join(rows),
        verdict(*wins),
    )


def page(verdicts: list[Verdict]) -> str:
    settings = ", ".join(f"{name}={value}" for name, value in BASE.items())
    head = [
        *(f"# Claims of the literature on topologies, {date.today()}", "", "`python benchmarks/claims.py`", ""),
        f"As found, also where they do not hold. Unless said otherwise {settings}. ± is a 95 % interval over seeds; p"
        " is of Wilcoxon's signed ranks over seeds, adjusted by Holm.",
        *("", "| claim | experiment | accepted if | found | holds |", "| --- " * 5 + "|"),
    ]
    return "\n".join([*head, *(f"| {' | '.join(verdict_)} |" for verdict_ in verdicts)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claims", nargs="*", default=list(CLAIMS), help=f"of {', '.join(CLAIMS)}")
    wanted = parser.parse_args().claims
    verdicts = []
    with ProcessPoolExecutor() as pool:
        for name in wanted:
            verdicts.append(CLAIMS[name](pool))
            print(f"{name}: {verdicts[-1].holds}: {verdicts[-1].found}", flush=True)
    if wanted == list(CLAIMS):
        (HERE / "results" / "claims.md").write_text(page(verdicts), encoding="utf-8")


if __name__ == "__main__":
    main()
