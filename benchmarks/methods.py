"""All methods compared, where sites differ strongly in prevalence and size: one table a federation.

Every method may choose one of six settings on the validation cases of seed 0: three values of its arguments with two
learning rates, or six learning rates where it has no argument. The chosen one is then run with all seeds. Twelve sites
take what was chosen at four. A seed that diverges is left out and counted. The tables and the scores of every site are
kept under benchmarks/results. Finished runs are kept (--runs) and are not trained again.

    python benchmarks/methods.py                       # everything, some hours on two cores
    python benchmarks/methods.py phantoms-4 --seeds 2  # one federation, quickly
    python benchmarks/methods.py phantoms-4 --stored   # with the settings that its table has, without choosing again
    python benchmarks/methods.py --pages               # only write the pages again from the tables
"""

import argparse
import os
import warnings
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import fedlab
from fedlab.experiments.run_folder import Run
from fedlab.federation import DivergedError

HERE = Path(__file__).parent
RUNS = Path(os.environ.get("FEDLAB_RUNS", "out/runs"))
FEDERATIONS = {
    "phantoms-4": {"dataset": "phantoms", "sites": 4, "quantity": 0.5, "batch_size": 16},
    "phantoms-12": {"dataset": "phantoms", "sites": 12, "quantity": 0.25, "batch_size": 16},
    "pneumoniamnist-4": {"dataset": "pneumoniamnist", "sites": 4, "quantity": 0.5, "batch_size": 32},
    "pneumoniamnist-12": {"dataset": "pneumoniamnist", "sites": 12, "quantity": 0.25, "batch_size": 32},
}
CHOSEN_ON = {"phantoms-12": "phantoms-4", "pneumoniamnist-12": "pneumoniamnist-4"}  # whose settings it takes
COMMON = {"prevalence": 0.7, "rounds": 15, "lr": 0.05, "schedule": "cosine", "evaluate_every": 3}
RATES = (0.02, 0.035, 0.05, 0.07, 0.1, 0.14)  # the choice of methods without an argument
TWO_RATES = (0.05, 0.1)  # and of those with one
ARGUMENTS = {  # method -> its three settings
    "fedavgm": [f"fedavgm(beta={b}, server_lr={lr})" for b, lr in ((0.5, 1.0), (0.9, 0.3), (0.9, 1.0))],
    **{m: [f"{m}(server_lr={lr})" for lr in (0.003, 0.01, 0.03)] for m in ("fedadam", "fedyogi", "fedadagrad")},
    "fedprox": [f"fedprox(mu={mu})" for mu in (0.01, 0.1, 1.0)],
    "scaffold": ["scaffold", "scaffold(option=1)", "scaffold(weighting='uniform')"],
    "feddyn": [f"feddyn(alpha={alpha})" for alpha in (0.01, 0.1, 1.0)],
    "moon": [f"moon(mu={mu})" for mu in (0.1, 1.0, 5.0)],
    "fedsam": [f"fedsam(rho={rho})" for rho in (0.01, 0.05, 0.1)],
    "qfedavg": [f"qfedavg(q={q})" for q in (0.1, 0.5, 1.0)],
    "afl": [f"afl(lambda_lr={lr}, release='last')" for lr in (0.01, 0.1, 0.5)],
    "ditto": [f"ditto(lam={lam})" for lam in (0.1, 1.0, 5.0)],
    "apfl": [f"apfl(alpha={alpha})" for alpha in (0.25, 0.5, 0.75)],
    "pfedme": [f"pfedme(lam={lam})" for lam in (5.0, 15.0, 30.0)],
    "finetune": [f"finetune(steps={steps})" for steps in (5, 20, 40)],
    "fedper": [f"fedper(personal={n})" for n in (1, 2, 3)],
    "lg_fedavg": [f"lg_fedavg(cut={n})" for n in (1, 2, 3)],
    "fedrep": [f"fedrep(head_epochs={n})" for n in (1, 3, 10)],
    "gossip": [f"gossip({graph!r})" for graph in ("ring", "matching", "complete")],
    "swarm": ["swarm", "swarm(weighting='cases')", "swarm(merge='geomedian')"],
    "cyclic": ["cyclic", "cyclic(order='shuffled')", "cyclic(optimizer='reset', recalibrate=True)"],
    "single_pass": ["single_pass", "single_pass(order='by_size')", "single_pass(order='reversed')"],
    "split": ["split", "split(order='shuffled')", "split(turns='batch')"],
    "splitfed": [f"splitfed(version={version})" for version in (1, 2, 3)],
    "ensemble": ["ensemble", "ensemble(weighting='cases')", "ensemble"],
}
OWN = {"local", "finetune", "fedbn", "fedper", "lg_fedavg", "fedrep", "ditto", "apfl", "pfedme", "gossip"}


def options(method: str) -> list[dict]:
    """The six settings among which a method may choose."""
    if method in ARGUMENTS:
        return [{"method": text, "lr": lr} for text in ARGUMENTS[method] for lr in TWO_RATES]
    return [{"method": method, "lr": lr} for lr in RATES]


def federation(name: str) -> dict:
    """The settings that all runs of a federation share."""
    return {**COMMON, **FEDERATIONS[name]}


def stored_settings(name: str) -> dict[str, dict]:
    """Method -> the setting that it chose when the table was made."""
    table = pd.read_csv(HERE / "results" / f"methods-{name}.csv").drop_duplicates("method").set_index("method")
    pairs = {method: text.rpartition(", lr=") for method, text in table["setting"].items()}
    return {str(method): {"method": text, "lr": float(rate)} for method, (text, _, rate) in pairs.items()}


def run(changes: dict, folder: Path = RUNS) -> Run | None:
    """One experiment in a process with one thread; None where it diverges."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        return fedlab.run(fedlab.Experiment(**changes), folder=folder)
    except DivergedError:
        return None


def tried(changes: dict, folder: Path = RUNS) -> float:
    """The validation score of one setting; below all others where it diverges."""
    found = run(changes, folder)
    return validation(found) if found else -np.inf


def validation(found: Run) -> float:
    """The mean over sites of the headline metric on validation cases, of the model that each site uses, at its best."""
    rows = found.rounds[found.rounds["split"].eq("val") & found.rounds["metric"].eq(found.headline)]
    rows = rows[rows["model"].eq("local")] if "local" in set(rows["model"]) else rows
    score = rows.groupby("round")["value"].mean().max()
    return float(score) if np.isfinite(score) else -np.inf


def chosen(pool: ProcessPoolExecutor, base: dict, folder: Path) -> dict[str, dict]:
    """Method -> the setting with the best validation score of seed 0."""
    wanted = {method: options(method) for method in fedlab.METHODS}
    flat = [{**base, **changes, "seed": 0} for each in wanted.values() for changes in each]
    scores = iter(list(pool.map(partial(tried, folder=folder), flat)))
    return {method: max(each, key=lambda _: next(scores)) for method, each in wanted.items()}


def label(changes: dict) -> str:
    """The chosen setting as text."""
    return f"{changes['method']}, lr={changes['lr']}"


def study(name: str, seeds: int, folder: Path, stored: bool) -> pd.DataFrame:
    """The comparison of all methods on one federation, every site a row, with costs."""
    with ProcessPoolExecutor() as pool:
        of = federation(CHOSEN_ON.get(name, name))
        settings = stored_settings(name) if stored else chosen(pool, of, folder)
        flat = [{**federation(name), **changes, "seed": seed} for changes in settings.values() for seed in range(seeds)]
        found = list(pool.map(partial(run, folder=folder), flat))
    groups = {method: found[n * seeds : (n + 1) * seeds] for n, method in enumerate(settings)}
    groups = {method: [one for one in group if one] for method, group in groups.items() if any(group)}
    every = [one for group in groups.values() for one in group]
    frame, last = (fedlab.compare(every, choice=choice) for choice in ("best", "last"))
    about = pd.DataFrame([described(method, group, settings[method], seeds) for method, group in groups.items()])
    frame = pd.DataFrame(frame).assign(last=last["value"]).rename(columns={"method": "run"})
    return frame.merge(about, on="run").drop(columns="run").assign(date=str(date.today()))


def described(method: str, group: list[Run], changes: dict, seeds: int) -> dict:
    """What the table says of a method besides its scores."""
    return {
        "run": group[0].method,
        "method": method,
        "setting": label(changes),
        "validation": np.mean([validation(one) for one in group]),
        "diverged": seeds - len(group),
        "sequential steps": fedlab.costs(group)["sequential steps"].mean(),
    }


def page(name: str, frame: pd.DataFrame) -> str:
    """A table in Markdown: one row a method, in the order of `fedlab.METHODS`, which is no ranking."""
    current = "interval" in frame  # else its intervals were those of the former statistics, and are left out
    sites = [site for site in frame["site"].unique() if site.startswith("Site ")]
    shown = ["mean of sites", "pooled", *["worst site"] * current, *(sites if len(sites) <= 4 else [])]
    cells, rows = frame.set_index(["method", "site"]), frame.drop_duplicates("method").set_index("method")
    head = ["method", *["validation"] * current, *shown, "mean, last round", "gain over local", *["finding"] * current]
    head += ["MB", "steps", "sequential"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for method in [name for name in fedlab.METHODS if name in rows.index]:
        mean = cells.loc[(method, "mean of sites")]
        star = "*" if method in OWN else ""
        star += f" ({mean['diverged']} seeds diverged)" if mean["diverged"] else ""
        row = [f"`{mean['setting']}`{star}", *[f"{mean.get('validation', np.nan):.3f}"] * current]
        row += [interval(cells.loc[(method, site)]) for site in shown]
        row += [f"{mean['last']:.3f}", interval(mean, "difference"), *[str(mean.get("finding", ""))] * current]
        row += [f"{mean['megabytes']:.1f}", f"{mean['steps']:.0f}", f"{mean['sequential steps']:.0f}"]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join([*introduction(name, frame, current), *lines]) + "\n"


def interval(row: pd.Series, name: str = "value") -> str:
    low, high = ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")
    sign = "" if name == "value" else "+"
    limits = f"{row[low]:{sign}.3f} to {row[high]:{sign}.3f}" if np.isfinite(row.get(low, np.nan)) else ""
    if not np.isfinite(row[name]):
        return limits or "–"
    return f"{row[name]:{sign}.3f}" + (f" ({limits})" if limits else "")


LEGEND = """\
{intervals} Every method chose one of six settings on the
validation cases of seed 0{where}. * marks methods by which sites end with models of their own: their pooled value
mixes models and is no single model's. MB: all that crossed borders. Steps: of all sites. Sequential: on the critical
path. Every site's numbers are in the CSV file next to this page.

Rows are in the order of `fedlab.METHODS`. The method with the highest number here was picked on test cases and is
therefore flattered: with 30 methods of equal quality the best looks better than it is. Pick on validation."""

INTERVALS = """\
Mean over seeds with 95 % intervals for new seeds and new test cases, on one partition. Gains are paired, over `local`,
in the mean of sites; what is found of them ("gains", "loses", "no different" within 0.02, "cannot tell") is not
adjusted for the number of methods, `p_holm` in the CSV file is. The worst site has an interval and no value, since the
lowest of several observed values is biased. Validation: AUROC on validation cases, mean of sites and seeds, at its best
round."""
NO_INTERVALS = """\
Mean over seeds, on one partition. These runs are older than the present statistics. Their intervals came from a
bootstrap within classes that does not hold its level, and were taken off this page with the observed worst site;
`python benchmarks/methods.py {name} --stored --seeds {seeds}` repeats them. Differences between two numbers of this
page are not tested. Gains are over `local`, in the mean of sites."""


def introduction(name: str, frame: pd.DataFrame, current: bool) -> list[str]:
    settings, seeds = ", ".join(f"{key}={value}" for key, value in federation(name).items()), frame["seeds"].max()
    intervals = INTERVALS if current else NO_INTERVALS.format(name=name, seeds=seeds)
    legend = LEGEND.format(intervals=intervals, where=f" of {CHOSEN_ON[name]}" if name in CHOSEN_ON else "")
    return [
        *(f"# All methods on {name}, {frame['date'][0]}", ""),
        *(f"`python benchmarks/methods.py {name} --seeds {seeds}`", ""),
        f"AUROC of the model chosen on validation, {seeds} seeds; {settings}.",
        *("", legend, ""),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("federations", nargs="*", default=list(FEDERATIONS), help=f"of {', '.join(FEDERATIONS)}")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--runs", type=Path, default=RUNS, help="where run folders are kept")
    parser.add_argument("--stored", action="store_true", help="take the settings from the table, choose none again")
    parser.add_argument("--pages", action="store_true", help="only write the pages again from the tables")
    given = parser.parse_args()
    for name in given.federations:
        table = HERE / "results" / f"methods-{name}.csv"
        if not given.pages:
            study(name, given.seeds, given.runs, given.stored).round(5).to_csv(table, index=False)
        table.with_suffix(".md").write_text(page(name, pd.read_csv(table)), encoding="utf-8")
        print(f"kept in benchmarks/results/methods-{name}.md", flush=True)


if __name__ == "__main__":
    main()
