"""Draw the figures of the documentation into docs/img: fedlab on phantoms, one function a figure."""

import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import fedlab

matplotlib.use("agg")

ROOT = Path(__file__).parents[1]
IMAGES, RUNS = ROOT / "docs" / "img", ROOT / "out" / "docs"
SITES: dict[str, Any] = {"sites": 4, "quantity": 0.5, "prevalence": 0.5, "acquisition": 0.2}
BASE = fedlab.Experiment(**SITES, dataset="phantoms(cases=1500)", rounds=8, batch_size=16, schedule="cosine")
FLOW = {"weights": "#0072B2", "activations": "#D55E00", "gradients": "#D55E00", "labels": "#D55E00"}


def site() -> Figure:
    """Who holds which cases."""
    return fedlab.plots.partition(fedlab.partition(fedlab.load("phantoms"), **SITES)).figure


def shift() -> Figure:
    """The realised shift of every axis with its null interval."""
    return fedlab.plots.shift(fedlab.partition(fedlab.load("phantoms"), **SITES)).figure


def dose() -> Figure:
    """The realised shift over the requested dose."""
    cases, doses = fedlab.load("phantoms(cases=1500)"), (0, 0.25, 0.5, 0.75, 1)
    axes = ["quantity", "prevalence", "presentation", "acquisition"]
    return fedlab.plots.doses(fedlab.dose_response(cases, axes, doses, seeds=range(3))).figure


def axis() -> Figure:
    """One axis at a time: which measures leave their null interval."""
    axes = ["quantity", "prevalence", "presentation", "population", "acquisition"]
    found = fedlab.dose_response(fedlab.load("phantoms(cases=1500)"), axes, (0.8,), seeds=range(3))
    found = found.assign(distance=(found["value"] - found["null"]) / (found["null_high"] - found["null"]))
    table = found.groupby(["axis", "measured"])["distance"].median().unstack().loc[axes, axes]
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    grid = figure.add_subplot()
    grid.imshow(table.clip(0, 10), cmap="Blues", vmin=0, vmax=20, aspect="auto")
    for row, column in ((r, c) for r in range(len(axes)) for c in range(len(axes))):
        value = table.iloc[row, column]
        outside = value > 1
        text = "not measured" if math.isnan(value) else f"{value:.1f}"
        grid.text(column, row, text, ha="center", va="center", weight="bold" if outside else "normal")
    grid.set(xlabel="measured shift", ylabel="axis at dose 0.8, all others at 0")
    grid.set_xticks(range(len(axes)), axes)
    grid.set_yticks(range(len(axes)), axes)
    grid.set_title("Distance from the null, in half-widths of its interval (above 1: outside)", loc="left", fontsize=9)
    grid.spines[:].set_visible(False)
    grid.tick_params(length=0)
    return figure


def artefacts() -> Figure:
    """Named scanners of MRI with artefacts, on phantoms."""
    names = ["plain", "mri_old_coil", "mri_echo_planar", "mri_motion", "mri_spikes"]
    cases = fedlab.load("phantoms(cases=200, size=64)")
    cases = replace(cases, card=cases.card | {"modality": "mri"})
    return fedlab.plots.samples(fedlab.partition(cases, len(names), acquisition=names)).figure


def topology() -> Figure:
    """Who sends what to whom in a round, from the ledger of a run."""
    methods = ["fedavg", "cyclic", "split", "splitfed", "swarm", "gossip"]
    runs = fedlab.grid(BASE.with_(rounds=1), method=methods, folder=RUNS)
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    for run, ax in zip(runs, figure.subplots(2, 3).flat, strict=True):
        _flows(ax, run.ledger.query("round == 1"), int(BASE.sites))
        sent = run.ledger.query("round == 1")["bytes"].sum() / 1e6
        ax.set_title(f"{run.method}: {sent:.2g} MB in round 1", fontsize=10)
    handles = [matplotlib.lines.Line2D([], [], color=FLOW[what]) for what in ("weights", "activations")]
    names = ["model weights", "activations, their gradients and labels"]
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _flows(ax: Axes, ledger: pd.DataFrame, sites: int) -> None:
    names = [f"Site {chr(65 + k)}" for k in range(sites)]
    places = {name: (math.sin(math.tau * (k + 0.5) / len(names)), math.cos(math.tau * (k + 0.5) / len(names)))
              for k, name in enumerate(names)}  # fmt: skip
    if "server" in set(ledger["other"]):
        places["server"] = (0.0, 0.0)
    for row in ledger.itertuples():
        ends = (row.site, row.other) if row.direction == "up" else (row.other, row.site)
        bend = 0.14 if row.what in ("weights", "gradients") else 0.28
        look = {"arrowstyle": "-|>", "color": FLOW[row.what], "lw": 1.4, "shrinkA": 13, "shrinkB": 13}
        ax.annotate("", places[ends[1]], places[ends[0]], arrowprops=look | {"connectionstyle": f"arc3,rad={bend}"})
    for name, (x, y) in places.items():
        ax.text(x, y, name.removeprefix("Site "), ha="center", va="center", fontsize=9,
                bbox={"boxstyle": "circle" if name != "server" else "round", "fc": "white", "ec": "0.4"})  # fmt: skip
    ax.set(xlim=(-1.25, 1.25), ylim=(-1.15, 1.15), aspect="equal")
    ax.axis("off")


def budget() -> Figure:
    """Performance over what each method sends, at the same optimizer steps."""
    methods = ["local", "centralized", "fedavg", "cyclic", "split", "swarm"]
    return fedlab.plots.communication_cost(fedlab.grid(BASE, method=methods, folder=RUNS)).figure


def intervals() -> Figure:
    """Every site's performance under every method, with intervals."""
    methods = ["local", "centralized", "fedavg", "cyclic"]
    return fedlab.plots.local_vs_global(fedlab.grid(BASE, method=methods, folder=RUNS)).figure


FIGURES: list[Callable[[], Figure]] = [site, axis, artefacts, dose, shift, topology, budget, intervals]


def main(chosen: list[str]) -> None:
    warnings.simplefilter("ignore")
    for draw in FIGURES:
        if not chosen or draw.__name__ in chosen:
            fedlab.plots.save(draw(), IMAGES, draw.__name__)


if __name__ == "__main__":
    main(sys.argv[1:])
