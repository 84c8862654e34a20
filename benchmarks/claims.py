"""Claims of the literature on topologies, each with its experiment, its decision rule, and what these runs say.

    python benchmarks/claims.py                # all of them; two and a half hours of one core to train
    python benchmarks/claims.py orders normal  # some
    python benchmarks/claims.py --seeds 5      # sooner, with wider intervals
    python benchmarks/claims.py --kept         # train nothing, from the finished runs alone

Finished runs are kept under --runs and are never trained again, so that a second call only computes the statistics. All
of them come from `fedlab.compare`: paired differences on the same test cases, with intervals over cases and seeds. The
page is kept as benchmarks/results/claims.md.
"""

import argparse
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from methods import HERE, federation, run, stored_settings, validation

import fedlab
from fedlab.analysis.alignment import align, probabilities
from fedlab.analysis.scores import Gain, MeanOfSites, Score
from fedlab.core.warnings import ProtocolWarning
from fedlab.evaluation.intervals.decisions import holm
from fedlab.evaluation.intervals.interval import Interval
from fedlab.evaluation.intervals.rank_correlation import spearman
from fedlab.evaluation.intervals.sites import weighted_sum
from fedlab.experiments.run_folder import Run

BASE = {"dataset": "phantoms", "sites": 4, "batch_size": 16, "rounds": 15, "lr": 0.05, "evaluate_every": 5}
RUNS = Path(os.environ.get("FEDLAB_RUNS", Path.home() / ".cache" / "fedlab" / "claims"))
TEN, FIVE = 10, 5  # seeds
MARGIN = 0.02  # the largest difference of two AUROCs that would not matter
LEVEL = 0.05
DECAY = 0.01  # AUROC that may be lost where the number of sites grows by the factor e
YES, NO, UNKNOWN = "holds", "does not hold", "undecided"
FEDERATIONS = ("phantoms-4",)  # of `benchmarks/methods.py`, on which the last two claims are tried

PREVIOUS = {  # what the page of 2026-11-26 said, by orderings of means and tests over seeds alone
    "normal": "yes",
    "sizes": "in 2 of 3",
    "labels": "no",
    "orders": "yes",
    "ladder": "yes",
    "many": "yes",
    "benefit": "yes",
    "scanners": "yes",
    "servers": "yes",
    "fairness": "in 2 of 8",
}


class Verdict(NamedTuple):
    """A line of the page: what is claimed, how it was tried, when it is accepted, what came out."""

    claim: str
    experiment: str
    rule: str
    found: str
    holds: str


class Part(NamedTuple):
    """A difference that a claim says is above 0, or above or below 0: with its interval, p value and finding."""

    name: str
    value: float
    low: float
    high: float
    p: float
    finding: str
    either: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.value:+.3f} ({self.low:+.3f} to {self.high:+.3f})"

    def decided(self, adjusted: float) -> str:
        """Whether the difference is what is claimed; adjusted: its p value after Holm."""
        if adjusted < LEVEL and self.finding in ("gains", "loses"):
            return YES if self.either or self.finding == "gains" else NO
        return NO if self.finding == "no different" else UNKNOWN


class Runs:
    """The runs of an experiment for several seeds; what is not in the folder is trained, or left out with `kept`."""

    def __init__(self, pool: ProcessPoolExecutor, folder: Path, seeds: int, kept: bool) -> None:
        self.pool, self.folder, self.seeds, self.kept = pool, folder, seeds, kept
        self.finished = {identity(found.experiment): found for found in fedlab.runs.find(folder)} if kept else {}

    def __call__(self, seeds: int, base: dict = BASE, **changes) -> list[Run]:
        settings = [{**base, **changes, "seed": seed} for seed in range(min(seeds, self.seeds))]
        if self.kept:
            each = [self.finished.get(identity(fedlab.Experiment(**setting))) for setting in settings]
        else:
            each = list(self.pool.map(partial(run, folder=self.folder), settings))
        return [found for found in each if found]


def identity(experiment: fedlab.Experiment) -> str:
    """All settings of an experiment but how it is executed, which changes no result."""
    return str(sorted(experiment.model_dump(exclude={"execution"}).items()))


Claim = Callable[[Runs], Verdict]
CLAIMS: dict[str, Claim] = {}


def claim(function: Claim) -> Claim:
    CLAIMS[function.__name__] = function
    return function


def difference(name: str, runs: Sequence[Run], method: str, over: str, site: str = "pooled", **options) -> Part:
    """The difference of two methods on the same test cases, for new seeds and cases."""
    either = options.pop("either", False)
    frame = fedlab.compare(runs, reference=over, margin=MARGIN, **options)
    row = frame.set_index(["method", "site"]).loc[(method, site)]
    limits = (row[column] for column in ("difference", "difference_low", "difference_high", "p_value", "finding"))
    return Part(name, *limits, either)


def value(runs: Sequence[Run], site: str = "pooled", **options) -> tuple[float, Interval]:
    """The AUROC of one method with its interval for new seeds and cases."""
    frame = fedlab.compare(runs, reference=runs[0].method, **options).set_index("site")
    return float(frame["value"][site]), Interval(*frame.loc[site, ["low", "high"]])


def text(found: tuple[float, Interval]) -> str:
    return f"{found[0]:.3f} ({found[1].low:.3f} to {found[1].high:.3f})"


def decided(parts: Sequence[Part]) -> list[str]:
    """What is said of each difference, p values adjusted by Holm over all of them."""
    adjusted = holm([part.p for part in parts])
    return [part.decided(p) for part, p in zip(parts, adjusted, strict=True)]


def together(*words: str) -> str:
    """A claim holds if all its parts do, does not if one does not, and is undecided otherwise."""
    if set(words) == {YES}:
        return YES
    return NO if NO in words else UNKNOWN


def counted(words: Sequence[str]) -> str:
    """The verdict, and of how many parts each is said."""
    each = [f"{word} in {words.count(word)}" for word in (YES, NO, UNKNOWN) if word in words]
    return together(*words) + (f" ({', '.join(each)} of {len(words)})" if len(each) > 1 else "")


def listed(parts: Sequence[Part], words: Sequence[str]) -> str:
    adjusted = holm([part.p for part in parts])
    return "; ".join(f"{part}, p {p:.2g}: {word}" for part, p, word in zip(parts, adjusted, words, strict=True))


def above(limits: Interval, bound: float) -> str:
    """Whether an estimate lies above a bound."""
    if np.isnan(limits.low) or limits.low <= bound <= limits.high:
        return UNKNOWN
    return YES if limits.low > bound else NO


GAIN = f"each difference above 0, Holm p < {LEVEL}"


@claim
def normal(runs: Runs) -> Verdict:
    """Cyclic transfer between IID sites."""
    central = runs(TEN, method="centralized", rounds=20, evaluate_every=1)
    visits = {e: runs(TEN, method="cyclic", rounds=20 // e, local_epochs=e, evaluate_every=1) for e in (1, 5, 20)}
    gap = difference("1 epoch a visit less centralized", [*central, *visits[1]], "cyclic", "centralized")
    named, by = "cyclic (local_epochs={})".format, {"by": "local_epochs"}
    parts = [
        difference(f"{e} less {long} epochs a visit", [*visits[e], *visits[long]], named(e), named(long), **by)
        for e, long in ((1, 5), (5, 20))
    ]
    words = [above(Interval(gap.low, gap.high), -MARGIN), *decided(parts)]
    return Verdict(
        "On IID sites cyclic transfer is as good as centralized training, the more often it transfers (Chang 2018)",
        f"phantoms, 4 IID sites, 20 epochs in visits of 1, 5, 20; pooled AUROC, {len(central)} seeds",
        f"1 epoch a visit less centralized above -{MARGIN} (95 % interval); shorter visits over longer ones: {GAIN}",
        f"{gap}: {words[0]}; {listed(parts, words[1:])}",
        counted(words),
    )


@claim
def sizes(runs: Runs) -> Verdict:
    """Steps in proportion to cases."""
    remedy = "cyclic('fixed', 'travel', 'iterations')"
    pairs = {
        dose: [
            found
            for method in ("cyclic", remedy)
            for found in runs(TEN, method=method, quantity=dose, local_steps=10, rounds=30)
        ]
        for dose in (0.2, 0.5, 0.8)
    }
    parts = [difference(f"quantity {dose}:", pair, remedy, "cyclic") for dose, pair in pairs.items()]
    words = decided(parts)
    return Verdict(
        "Cyclic transfer suffers from unequal sizes, steps in proportion to cases repair it (Balachandar 2020)",
        f"phantoms, 4 sites, 10 steps a visit on average, 30 cycles; pooled AUROC, {len(pairs[0.2]) // 2} seeds",
        f"with less without the remedy: {GAIN}",
        listed(parts, words),
        counted(words),
    )


@claim
def labels(runs: Runs) -> Verdict:
    """Weighted sampling and weighted loss."""
    parts, seeds = [], 0
    for dose in (0.2, 0.5, 0.9):
        plain = runs(TEN, method="cyclic", prevalence=dose)
        seeds = len(plain)
        for remedy in ("sampling", "loss"):
            method = f"cyclic('fixed', 'travel', {remedy!r})"
            pair = [*plain, *runs(TEN, method=method, prevalence=dose)]
            for metric in ("auroc", "balanced_accuracy"):
                name = f"{remedy}, prevalence {dose}, {metric}:"
                parts.append(difference(name, pair, method, "cyclic", metric=metric))
    words = decided(parts)
    return Verdict(
        "Cyclic transfer suffers from unequal prevalence, weighted sampling or loss repairs it (Balachandar 2020)",
        f"phantoms, 4 sites, prevalence doses .2, .5, .9; pooled AUROC and balanced accuracy, {seeds} seeds",
        f"with less without the remedy: {GAIN}",
        listed(parts, words),
        counted(words),
    )


@claim
def orders(runs: Runs) -> Verdict:
    """The last site is remembered."""
    back = "cyclic('reversed')"
    averaged, forward, backward = (
        runs(TEN, method=method, prevalence=0.7, evaluate_every=15) for method in ("fedavg", "cyclic", back)
    )
    both, last = [*forward, *backward], {"choice": "last"}
    sites = sorted(site for site in fedlab.compare(both, **last)["site"].unique() if site.startswith("Site "))
    parts = [
        difference("pooled, one order less the other", both, "cyclic", back, either=True, **last),
        difference(f"{sites[-1]}, last less first", both, "cyclic", back, sites[-1], **last),
        difference(f"{sites[0]}, last less first", both, back, "cyclic", sites[0], **last),
    ]
    words = decided(parts)
    spread = {
        name: np.std([value([one], **last)[0] for one in group], ddof=1)
        for name, group in (("fedavg", averaged), ("cyclic", forward), ("reversed", backward))
    }
    return Verdict(
        "Averaging is more stable than cyclic transfer under label skew, which remembers its last site",
        f"phantoms, 4 sites, prevalence .7; AUROC of the last round in both orders, {len(forward)} seeds",
        f"averaging has no order; the orders of cyclic transfer differ on the pool, and each is better at the site"
        f" that it visits last: {GAIN} (on the pool on either side of it)",
        f"{listed(parts, words)}; seed SD, pooled: {', '.join(f'{name} {sd:.3f}' for name, sd in spread.items())}",
        counted(words),
    )


@claim
def ladder(runs: Runs) -> Verdict:
    """From voting to centralized."""
    mixed = {"quantity": 0.3, "prevalence": 0.3, "acquisition": 0.3}
    steps = (("ensemble", "single_pass"), ("cyclic", "fedavg"), ("centralized",))
    found = {method: runs(TEN, method=method, **mixed) for step in steps for method in step}
    parts = [
        difference(f"{high} less {low}", [*found[low], *found[high]], high, low)
        for lower, higher in pairwise(steps)
        for low in lower
        for high in higher
    ]
    words = decided(parts)
    values = ", ".join(f"{method} {text(value(group))}" for method, group in found.items())
    return Verdict(
        "Ensembles and a single pass stay below cyclic transfer and averaging, these below centralized training",
        f"phantoms, 4 sites, quantity, prevalence and acquisition .3; pooled AUROC, {len(found['cyclic'])} seeds",
        GAIN,
        f"{listed(parts, words)}. {values}",
        counted(words),
    )


@claim
def many(runs: Runs) -> Verdict:
    """Split learning and the number of sites."""
    counts = (1, 2, 5, 10, 25, 50)
    found = {m: {k: runs(FIVE, method=m, sites=k) for k in counts} for m in ("split", "local")}
    values = {method: [value(group) for group in each.values()] for method, each in found.items()}
    weights = np.log(counts) - np.mean(np.log(counts))
    weights /= weights @ weights  # of the AUROC at each number of sites in the least-squares slope
    slopes = {
        method: (float(weights @ [a for a, _ in each]), weighted_sum(*zip(*each, strict=True), weights))
        for method, each in values.items()
    }
    falls = above(slopes["local"][1], -DECAY)
    words = [above(slopes["split"][1], -DECAY), {YES: NO, NO: YES}.get(falls, UNKNOWN)]
    rows = "; ".join(
        f"{k} sites: {text(split)} against {text(local)}"
        for k, split, local in zip(counts, values["split"], values["local"], strict=True)
    )
    shown = ", ".join(
        f"{name} {slope:+.3f} ({low:+.3f} to {high:+.3f})" for name, (slope, (low, high)) in slopes.items()
    )
    return Verdict(
        "Split learning does not depend on the number of sites, local training decays (Poirot 2019)",
        f"phantoms partitioned once into each of 1 .. 50 IID sites; pooled AUROC, {len(found['split'][1])} seeds",
        f"95 % interval of the slope over log K, by MOVER from the intervals at each K: of split learning above"
        f" -{DECAY}, of local training below it",
        f"slopes: {shown}; split against local: {rows}",
        counted(words),
    )


@claim
def benefit(runs: Runs) -> Verdict:
    """Which sites federation helps."""
    eight = {"sites": 8, "quantity": 0.3, "acquisition": 0.5}
    local, shared = (runs(TEN, method=method, **eight) for method in ("local", "fedavg"))
    frame = fedlab.compare([*local, *shared])
    sites = frame[(frame["method"] == "fedavg") & frame["site"].str.startswith("Site ")].set_index("site")["difference"]
    size = local[0].partition_table.query("split == 'train'")["site"].value_counts()
    found = spearman(size[sites.index], sites)
    smaller = {YES: NO, NO: YES}.get(above(Interval(found.low, found.high), 0), UNKNOWN)
    home = own_less_other_sites(local)
    words = [smaller, above(home.limits, 0)]
    return Verdict(
        "Federation helps small sites and generalisation most (Roth 2020)",
        f"phantoms, 8 sites, quantity .3 and acquisition .5; AUROC, {len(local)} seeds",
        "95 % interval of the rank correlation of gain and size below 0; that of the gain over the local models of"
        " other sites less that over the local model of the own site, mean of sites, above 0",
        f"rank correlation {found.rho:+.2f} ({found.low:+.2f} to {found.high:+.2f}): {words[0]}; gain at other sites"
        f" less that at the own {home.value:+.3f} ({home.limits.low:+.3f} to {home.limits.high:+.3f}): {words[1]}",
        counted(words),
    )


def own_less_other_sites(local: Sequence[Run]) -> MeanOfSites:
    """The AUROC of a site's own local model less the mean of those of other sites on its cases, mean of sites.

    The shared model is the same in both gains and cancels.
    """
    inside, _ = align(local, None, "best", "test", "true")
    predicted = {run.experiment.seed: {s: probabilities(run, inside, s)[0] for s in inside.sites} for run in local}
    gains = []
    for site in inside.scored:
        test, rows = inside.test_set(site), inside.spans[site]
        own = {seed: test.score([each[site][rows]]) for seed, each in predicted.items()}
        others = {
            seed: test.score([p[rows] for name, p in each.items() if name != site]) for seed, each in predicted.items()
        }
        gains.append(Gain(Score(test, own), Score(test, others)))
    return MeanOfSites(gains)


@claim
def scanners(runs: Runs) -> Verdict:
    """Normalisation under acquisition shift."""
    doses, policies = (0.0, 0.25, 0.5, 0.75, 1.0), ("fedbn", "silobn", "group")
    parts, seeds = {}, 0
    for dose in doses:
        group = {p: runs(FIVE, method="fedavg", acquisition=dose, batchnorm=p) for p in ("avg", *policies)}
        if not all(group.values()):
            continue
        seeds = len(group["avg"])
        for policy in policies:
            both, named = [*group["avg"], *group[policy]], "fedavg (batchnorm={})".format
            parts[dose, policy] = difference(
                f"{policy}, {dose}:", both, named(policy), named("avg"), "mean of sites", by="batchnorm"
            )
    tried = [parts[1.0, policy] for policy in ("fedbn", "silobn")]
    words = decided(tried)
    rest = "; ".join(str(part) for part in parts.values() if part not in tried)
    return Verdict(
        "Under acquisition shift local normalisation (FedBN, SiloBN) beats averaging on a site's own cases",
        f"phantoms, 4 sites, acquisition 0 .. 1, fedavg; mean of sites of AUROC, {seeds} seeds",
        f"FedBN and SiloBN less averaged normalisation at dose 1: {GAIN}; other doses are only reported",
        f"{listed(tried, words)}. Not tested: {rest}",
        counted(words),
    )


def of_methods(runs: Runs, name: str, methods: Sequence[str]) -> dict[str, list[Run]]:
    """Runs of methods on a federation of `benchmarks/methods.py`, with the settings that they chose on validation."""
    chosen = stored_settings(name)
    return {method: runs(TEN, federation(name), **chosen[method]) for method in methods}


@claim
def servers(runs: Runs) -> Verdict:
    """Server optimizers against the proximal term."""
    parts, rows = [], []
    for name in FEDERATIONS:
        found = of_methods(runs, name, ("fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "fedadagrad"))
        scores = {m: np.mean([validation(one) for one in group]) for m, group in found.items()}
        best = max(("fedavgm", "fedadam", "fedyogi", "fedadagrad"), key=scores.__getitem__)
        pair = [*found[best], *found["fedprox"]]
        parts.append(
            difference(f"{name}, {best} less fedprox", pair, found[best][0].method, found["fedprox"][0].method)
        )
        over = [
            difference(f"{m} less fedavg", [*found[m], *found["fedavg"]], found[m][0].method, "fedavg")
            for m in (best, "fedprox")
        ]
        rows.append("; ".join(map(str, over)))
    words = decided(parts)
    return Verdict(
        "Momentum or adaptivity at the server helps more than a proximal term",
        f"{', '.join(FEDERATIONS)} of the tables of methods; pooled AUROC, {len(found['fedavg'])} seeds",
        f"the server optimizer with the best validation AUROC less fedprox: {GAIN}",
        f"{listed(parts, words)}. Not tested: {'; '.join(rows)}",
        counted(words),
    )


@claim
def fairness(runs: Runs) -> Verdict:
    """The worst site."""
    parts = []
    for name in FEDERATIONS:
        found = of_methods(runs, name, ("fedavg", "qfedavg", "afl"))
        at = fedlab.compare(found["fedavg"], reference="fedavg", split="val").set_index("site")["value"]
        worst = at[at.index.str.startswith("Site ")].idxmin()
        for method in ("qfedavg", "afl"):
            named, both = found[method][0].method, [*found["fedavg"], *found[method]]
            parts += [
                difference(f"{name}, {method} less fedavg at {worst}", both, named, "fedavg", worst),
                difference(f"{name}, fedavg less {method}, mean of sites", both, "fedavg", named, "mean of sites"),
            ]
    words = decided(parts)
    return Verdict(
        "q-FedAvg and agnostic learning lift the worst site at a cost in the mean",
        f"{', '.join(FEDERATIONS)} of the tables of methods; AUROC, {len(found['fedavg'])} seeds",
        f"gain at the site where fedavg is worst on validation cases, loss in the mean of sites: {GAIN}",
        listed(parts, words),
        counted(words),
    )


INTRODUCTION = """\
As found, also where they do not hold. Unless said otherwise {settings}. Models are chosen on validation cases.

Every number is a difference on the same test cases of one partition, with a 95 % interval for new seeds of training and
new test cases, from `fedlab.compare`; p is adjusted by Holm over the differences of a claim. A difference that is
claimed to be above 0 *holds* if p < {level} and its interval lies above 0. It *does not hold* if p < {level} and its
interval lies below 0, or if its 90 % interval lies within ±{margin} ("no different", each at 5 %). Otherwise it is
*undecided* by these runs. A claim holds if all of its parts do, and does not hold if one does not. Nothing is said of
other partitions.

The column "2026-11-26" has what was found before: by the ordering of means, and by tests over seeds of training, which
all had the same test cases."""


def page(verdicts: dict[str, Verdict], command: str) -> str:
    settings = ", ".join(f"{name}={value}" for name, value in BASE.items())
    head = [
        *(f"# Claims of the literature on topologies, {date.today()}", "", f"`{command}`", ""),
        INTRODUCTION.format(settings=settings, level=LEVEL, margin=MARGIN),
        *("", "| claim | experiment | accepted if | found | 2026-11-26 | now |", "| --- " * 6 + "|"),
    ]
    rows = [f"| {' | '.join([*verdict[:4], PREVIOUS[name], verdict.holds])} |" for name, verdict in verdicts.items()]
    return "\n".join([*head, *rows]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claims", nargs="*", default=list(CLAIMS), help=f"of {', '.join(CLAIMS)}")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where run folders are kept")
    parser.add_argument("--seeds", type=int, default=TEN, help="at most so many seeds")
    parser.add_argument("--workers", type=int, help="processes, by default one a core")
    parser.add_argument("--kept", action="store_true", help="train nothing, take the finished runs that are there")
    given = parser.parse_args()
    warnings.simplefilter("ignore", ProtocolWarning)  # unequal budgets and bad thresholds are not what is claimed
    verdicts = {}
    with ProcessPoolExecutor(given.workers) as pool:
        runs = Runs(pool, given.runs, given.seeds, given.kept)
        for name in given.claims:
            verdicts[name] = CLAIMS[name](runs)
            print(f"{name}: {verdicts[name].holds}: {verdicts[name].found}", flush=True)
    if given.claims == list(CLAIMS):
        command = "python benchmarks/claims.py" + (f" --seeds {given.seeds}" if given.seeds != TEN else "")
        command += " --kept" * given.kept
        (HERE / "results" / "claims.md").write_text(page(verdicts, command), encoding="utf-8")


if __name__ == "__main__":
    main()
