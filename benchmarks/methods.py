"""All methods compared, where sites differ strongly in prevalence and size: one table a federation.

Every method may choose one of six settings on the validation cases of seed 0: three values of its arguments with two
learning rates, or six learning rates where it has no argument. The chosen one is then run with all seeds. Twelve sites
take what was chosen at four. A seed that diverges is left out and counted. The tables and the scores of every site are
kept under benchmarks/results.

    python benchmarks/methods.py                       # everything, some hours on two cores
    python benchmarks/methods.py phantoms-4 --seeds 2  # one federation, quickly
"""

import argparse
import os
import warnings
from concurrent.futures import ProcessPoolExecutor
from datetime import date
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


def run(changes: dict) -> Run | None:
    """One experiment in a process with one thread; None where it diverges."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        return fedlab.run(fedlab.Experiment(**changes), folder=RUNS)
    except DivergedError:
        return None


def tried(changes: dict) -> float:
    """The validation score of one setting; below all others where it diverges."""
    found = run(changes)
    return validation(found) if found else -np.inf


def validation(found: Run) -> float:
    """The mean over sites of the headline metric on validation cases, of the model that each site uses, at its best."""
    rows = found.rounds[found.rounds["split"].eq("val") & found.rounds["metric"].eq(found.headline)]
    rows = rows[rows["model"].eq("local")] if "local" in set(rows["model"]) else rows
    score = rows.groupby("round")["value"].mean().max()
    return float(score) if np.isfinite(score) else -np.inf


def chosen(pool: ProcessPoolExecutor, base: dict) -> dict[str, dict]:
    """Method -> the setting with the best validation score of seed 0."""
    wanted = {method: options(method) for method in fedlab.METHODS}
    flat = [{**base, **changes, "seed": 0} for each in wanted.values() for changes in each]
    scores = iter(list(pool.map(tried, flat)))
    return {method: max(each, key=lambda _: next(scores)) for method, each in wanted.items()}


def label(changes: dict) -> str:
    """The chosen setting as text."""
    return f"{changes['method']}, lr={changes['lr']}"


def study(name: str, seeds: int) -> pd.DataFrame:
    """The comparison of all methods on one federation, every site a row, with costs."""
    base = {**COMMON, **FEDERATIONS[name]}
    with ProcessPoolExecutor() as pool:
        settings = chosen(pool, {**COMMON, **FEDERATIONS[CHOSEN_ON.get(name, name)]})
        flat = [{**base, **changes, "seed": seed} for changes in settings.values() for seed in range(seeds)]
        found = list(pool.map(run, flat))
    of = {method: found[n * seeds : (n + 1) * seeds] for n, method in enumerate(settings)}
    frames = [compared_to_local(of["local"], of[method], changes) for method, changes in settings.items()]
    return pd.concat(frames, ignore_index=True)


def compared_to_local(local: list[Run | None], mine: list[Run | None], changes: dict) -> pd.DataFrame:
    """One method's rows: its scores, gains over the same seeds of `local`, costs, and how many seeds diverged."""
    both = [pair for pair in zip(local, mine, strict=True) if all(pair)]
    if not both:
        return pd.DataFrame()
    local, kept = (list(each) for each in zip(*both, strict=True))
    frame = fedlab.compare(kept if kept == local else [*local, *kept], reference=local[0].method)
    frame = frame[frame["method"] == kept[0].method].assign(method=changes["method"].partition("(")[0])
    last = fedlab.compare(kept, choice="last", reference=kept[0].method)["value"].to_numpy()
    path = fedlab.costs(kept)["sequential steps"].mean()
    diverged = len(mine) - len(kept)
    return frame.assign(setting=label(changes), last=last, diverged=diverged, **{"sequential steps": path})


def page(name: str, frame: pd.DataFrame, seeds: int) -> str:
    """A table in Markdown: one row a method, from the best mean of sites to the worst."""
    sites = [site for site in frame["site"].unique() if site.startswith("Site ")]
    shown = ["mean of sites", "pooled", "worst site", *(sites if len(sites) <= 4 else [])]
    cells = frame.set_index(["method", "site"])
    order = cells.xs("mean of sites", level="site")["value"].sort_values(ascending=False).index
    head = ["method", *shown, "mean, last round", "gain over local", "MB", "steps", "sequential"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for method in order:
        mean = cells.loc[(method, "mean of sites")]
        star = "*" if method in OWN else ""
        star += f" ({mean['diverged']} of {seeds} seeds diverged)" if mean["diverged"] else ""
        row = [f"`{mean['setting']}`{star}", *(interval(cells.loc[(method, site)]) for site in shown)]
        row += [f"{mean['last']:.3f}", interval(mean, "difference"), f"{mean['megabytes']:.1f}"]
        row += [f"{mean['steps']:.0f}", f"{mean['sequential steps']:.0f}"]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join([*introduction(name, frame, seeds), *lines]) + "\n"


def interval(row: pd.Series, name: str = "value") -> str:
    low, high = ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")
    sign = "" if name == "value" else "+"
    limits = f"{row[low]:{sign}.3f} to {row[high]:{sign}.3f}" if np.isfinite(row[low]) else ""
    if not np.isfinite(row[name]):
        return limits or "–"
    return f"{row[name]:{sign}.3f}" + (f" ({limits})" if limits else "")


LEGEND = """\
Mean with 95 % intervals over seeds and patients, on one partition. Every method chose one of six settings on the
validation cases of seed 0{where}. * marks methods by which sites end with models of their own: their pooled value
mixes models and is no single model's. Gains are paired, over `local`. MB: all that crossed borders. Steps: of all
sites. Sequential: on the critical path. Every site's numbers are in the CSV file next to this page."""


def introduction(name: str, frame: pd.DataFrame, seeds: int) -> list[str]:
    settings = ", ".join(f"{key}={value}" for key, value in {**COMMON, **FEDERATIONS[name]}.items())
    return [
        *(f"# All methods on {name}, {date.today()}", "", f"`python benchmarks/methods.py {name} --seeds {seeds}`", ""),
        f"AUROC of the model chosen on validation, {seeds} seeds; {settings}.",
        *("", LEGEND.format(where=f" of {CHOSEN_ON[name]}" if name in CHOSEN_ON else ""), ""),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("federations", nargs="*", default=list(FEDERATIONS), help=f"of {', '.join(FEDERATIONS)}")
    parser.add_argument("--seeds", type=int, default=10)
    given = parser.parse_args()
    for name in given.federations:
        frame = study(name, given.seeds)
        frame.round(5).to_csv(HERE / "results" / f"methods-{name}.csv", index=False)
        (HERE / "results" / f"methods-{name}.md").write_text(page(name, frame, given.seeds), encoding="utf-8")
        print(f"kept in benchmarks/results/methods-{name}.md", flush=True)


if __name__ == "__main__":
    main()
