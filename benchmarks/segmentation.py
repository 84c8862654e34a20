"""Segmentation by six methods: retinal vessels of two clinics, and the hippocampus at four simulated MRI scanners.

Every run has a process of its own, whose largest memory is kept with its time. Finished runs are kept (--runs) and are
not trained again; an interrupted one resumes. The page has Dice and HD95 of the test cases of each site, for the model
of the round chosen on validation, with 95 % intervals over seeds and cases, and gains over local training. The datasets
are prepared first: `python -m data_prep retinal_vessels` and `python -m data_prep hippocampus`.

    python benchmarks/segmentation.py                                           # both, hours on two cores
    python benchmarks/segmentation.py vessels --seeds 1 --rounds 1 --out try.md  # whether it works
    python benchmarks/segmentation.py --runs out/segmentation                   # the page again, from kept runs
"""

import argparse
import hashlib
import json
import multiprocessing
import resource
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
from machine import page

import fedlab
from fedlab.experiments.run_folder import Run

HERE = Path(__file__).parent
METHODS = ("local", "centralized", "fedavg", "fedbn", "cyclic", "split")
METRICS = ("dice", "hd95")
TRAINING = {"optimizer": "adam", "lr": 3e-3, "schedule": "cosine", "loss": "dice_ce"}
FEDERATIONS = {
    "vessels": {
        **TRAINING, "dataset": "retinal_vessels(size=128)", "sites": "site", "batch_size": 4, "rounds": 40,
        "model": "unet(width=16, norm='batch')", "augment": "flip", "evaluate_every": 5,
    },
    "hippocampus": {
        **TRAINING, "dataset": "hippocampus(size=32)", "sites": 4, "batch_size": 8, "rounds": 30,
        "acquisition": ["mri_3t", "mri_old_coil", "mri_echo_planar", "mri_motion"],
        "model": "unet(width=8, norm='batch')", "evaluate_every": 5,
    },
}  # fmt: skip
ABOUT = {
    "vessels": "43 fundus photographs of two clinics (CHASE_DB1, HRF) at 128 x 128 pixels; HD95 in pixels.",
    "hippocampus": "MRI volumes with anterior and posterior hippocampus at four sites; HD95 in mm.",
}


def experiments(name: str, seeds: int, rounds: int | None, limit: int | None) -> list[fedlab.Experiment]:
    """Each method with each seed on one federation."""
    given = dict(FEDERATIONS[name])
    if rounds:
        given |= {"rounds": rounds, "evaluate_every": rounds}
    if limit and name == "hippocampus":
        given["dataset"] = f"hippocampus(size=32, limit={limit})"
    base = fedlab.Experiment(**given)
    return [base.with_(method=method, seed=seed) for method in METHODS for seed in range(seeds)]


def trained(experiment: fedlab.Experiment, folder: Path) -> tuple[str, float, float]:
    """The run's folder, the seconds that it took, and the largest memory of this process in MB.

    NaN for the memory where the run had been finished before and was only read.
    """
    warnings.simplefilter("ignore")
    begun = time.perf_counter()
    run = fedlab.run(experiment, folder=folder)
    took, here = float(fedlab.costs(run)["seconds"].iloc[0]), time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB
    return Path(str(run.folder)).name, took, peak if here > took / 2 else float("nan")


def measured(wanted: list[fedlab.Experiment], folder: Path) -> tuple[list[Run], list[dict[str, float]]]:
    """The runs, and the seconds and memory that each took when it was trained."""
    folder.mkdir(parents=True, exist_ok=True)
    notes = folder / "measured.json"
    kept = json.loads(notes.read_text(encoding="utf-8")) if notes.exists() else {}
    rows = []
    for experiment in wanted:
        key = hashlib.blake2b(experiment.model_dump_json().encode(), digest_size=8).hexdigest()
        if key not in kept or not (folder / kept[key]["folder"]).exists():
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, context) as process:
                name, seconds, peak = process.submit(trained, experiment, folder).result()
            kept[key] = {"folder": name, "seconds": seconds, "peak MB": peak}
            notes.write_text(json.dumps(kept, indent=1), encoding="utf-8")
            print(f"{name}: {seconds:.0f} s, {peak:.0f} MB", flush=True)
        rows.append(kept[key])
    return [fedlab.run(experiment, folder=folder) for experiment in wanted], rows


def score(row: pd.Series, metric: str, name: str = "value") -> str:
    """A value with its interval, or the reason why it has none."""
    low, high = ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")
    digits, sign = (3 if metric == "dice" else 1), "+" if name == "difference" else ""
    if pd.isna(row[name]):
        return "–"
    limits = "" if pd.isna(row[low]) else f" ({row[low]:{sign}.{digits}f} to {row[high]:{sign}.{digits}f})"
    return f"{row[name]:{sign}.{digits}f}{limits}"


def table(runs: list[Run], notes: list[dict[str, float]], metric: str) -> str:
    """A row for each method: sites, their mean, the gain over local, MB sent, seconds and memory of a run."""
    frame = pd.DataFrame(fedlab.compare(runs, list(METRICS)))
    cells = frame[frame["metric"] == metric].set_index(["method", "site"])
    sites = [site for site in frame["site"].unique() if site not in ("pooled", "worst site")]
    head = ["method", *sites, "gain over local", "finding", "MB sent", "seconds", "peak memory, MB"]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join(['---'] * len(head))} |"]
    took = pd.DataFrame(notes).assign(method=[run.method for run in runs]).groupby("method")
    for method in dict.fromkeys(run.method for run in runs):
        mean, cost = cells.loc[(method, "mean of sites")], took.get_group(method)
        gain = [score(mean, metric, "difference"), str(mean["finding"])] if method != "local" else ["–", "–"]
        ends = [f"{mean['megabytes']:.1f}", f"{cost['seconds'].mean():.0f}", f"{cost['peak MB'].max():.0f}"]
        lines.append(
            f"| {' | '.join([f'`{method}`', *(score(cells.loc[(method, s)], metric) for s in sites), *gain, *ends])} |"
        )
    return "\n".join(lines)


def section(name: str, wanted: list[fedlab.Experiment], folder: Path) -> str:
    """The two tables of a federation."""
    runs, notes = measured(wanted, folder)
    first = wanted[0]
    keys = ("dataset", "sites", "acquisition", "model", "rounds", "batch_size", "optimizer", "lr", "schedule", "loss")
    given = ", ".join(f"{key}={getattr(first, key)}" for key in keys)
    text = [f"## {name.capitalize()}", f"{ABOUT[name]} Runs of each method: {len(runs) // len(METHODS)}; {given}."]
    for metric, title in (("dice", "Dice"), ("hd95", "HD95")):
        text += [f"### {title}", table(runs, notes, metric)]
    return "\n\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("federations", nargs="*", default=list(FEDERATIONS), help=f"of {', '.join(FEDERATIONS)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, help="fewer than the federation has, for a trial")
    parser.add_argument("--limit", type=int, help="of hippocampus volumes, for a trial")
    parser.add_argument("--runs", type=Path, default=Path("out/segmentation"), help="where runs are kept")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "segmentation.md")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    parts = [
        section(name, experiments(name, given.seeds, given.rounds, given.limit), given.runs)
        for name in given.federations
    ]
    legend = (
        "Means over seeds, in parentheses 95 % intervals for new seeds and new test cases. Gains are paired, in the"
        " mean of sites; for HD95 less is better. Seconds: of the rounds of a run, with evaluation; memory: the largest"
        " of the process, with PyTorch itself."
    )
    page(given.out, "Segmentation at sites that differ", "\n\n".join([legend, *parts]))


if __name__ == "__main__":
    main()
