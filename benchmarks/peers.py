"""How long do other simulators take for the same work? Flower, pfl-research and NVIDIA FLARE beside fedlab.

Same sites, same batches in the same order, same initial weights; final weights are compared, and what they are worth on
2,000 new images. Each peer runs in an environment of its own, since their requirements do not agree with each other:

    make peers

makes them under .peers, from the versions in benchmarks/peers/*.txt, and runs this. Other ones can be named:

    python benchmarks/peers.py --flower /tmp/flower/bin/python W1
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from machine import machine, page
from rounds import SKEWED, Floor, Workload, world

import fedlab
from fedlab import models
from fedlab.algorithms import start
from fedlab.cases import Cases
from fedlab.federation import Federation
from fedlab.metrics import METRICS
from fedlab.training import Training

HERE = Path(__file__).parent
CORES = os.cpu_count() or 1
PEERS = ("flower", "pfl_research", "flare")
NEW = "phantoms(cases=2000, seed=1)"
ATTEMPTS = 2  # processes of torch.distributed now and then abort when they end
ROUNDS = int(os.environ.get("ROUNDS", 12))
THREADS = 8  # of NVIDIA FLARE: with fewer than there are sites it starts them anew in every round
MEMORY = ("default memory format", "channels last")  # as users write it, and as fedlab and the floor have it
WORK = {
    "W1": Workload("8 skewed sites, 6,400 images", SKEWED),
    "W3": Workload("64 sites of 50 images", (50,) * 64),
}
SETTINGS = {"batch_size": 32, "lr": 0.02, "momentum": 0.9, "batchnorm": "group", "device": "cpu"}


def federation(work: Workload) -> Federation:
    return Federation(world(work, by_sex), work.model, Training(rounds=ROUNDS, **SETTINGS))


def by_sex(dataset: str) -> Cases:
    """Phantoms labelled by the patient's sex, which a small network learns in a few rounds."""
    cases = fedlab.load(dataset)
    return Cases(cases.images, cases.table.assign(label=(cases.table["sex"] == "M").astype(int)), cases.card)


def export(work: Workload, folder: Path) -> None:
    """The work as files, see `peers/work.py`."""
    fed = federation(work)
    arrays = {"images": np.array(fed.partition.cases.images), "labels": np.array(fed.partition.cases.labels)}
    for k, site in enumerate(fed.sites):
        steps = site.steps(fed.settings)
        rounds = [[site.batches.at(number * steps + step) for step in range(steps)] for number in range(ROUNDS)]
        arrays[f"order/{k}"] = np.stack([np.concatenate(batches) for batches in rounds])
        arrays[f"cuts/{k}"] = np.cumsum([len(batch) for batch in rounds[0]])[:-1]
    state = fed.layout.state(fed.start)
    arrays |= {f"weights/{name}": tensor.numpy() for name, tensor in state.items()}
    np.savez(folder / "given.npz", **arrays)
    about = {"sites": len(fed.sites), "rounds": ROUNDS, "cases": [site.cases for site in fed.sites]}
    (folder / "given.json").write_text(json.dumps(about))


def ours(work: Workload, folder: Path) -> None:
    """fedlab, in a process of its own like the others."""
    begun = time.time()
    fed, marks = federation(work), []
    torch.set_num_threads(1)
    for outcome in start("fedavg", fed):
        marks.append(time.time())
        last = outcome.models["global"]
    state = fed.layout.state(last)
    np.savez(folder / "found.npz", **{name: tensor.numpy() for name, tensor in state.items()})
    told = {"round": float(np.median(np.diff(marks)[1:])), "wall": time.time() - begun}
    (folder / "found.json").write_text(json.dumps(told))


def floor(work: Workload) -> float:
    """Seconds a round of the best bare loop."""
    found = []
    for processes in sorted({1, CORES}):
        one, seconds = Floor(work, processes, "group"), []
        for number in range(1, ROUNDS + 1):
            begun = time.perf_counter()
            one.round(number)
            seconds.append(time.perf_counter() - begun)
        one.close()
        found.append(float(np.median(seconds[1:])))
    return min(found)


@lru_cache
def new() -> Cases:
    """Images that nobody has trained on."""
    return by_sex(NEW)


def worth(work: Workload, weights: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """(accuracy, AUROC) of final weights on new images."""
    cases, net = new(), models.build(work.model, new().shape, 1, 0, SETTINGS["batchnorm"])
    net.load_state_dict({name: torch.from_numpy(weights[name]) for name in net.state_dict()})
    with torch.inference_mode():
        p = net.eval()(torch.from_numpy(np.array(cases.images)).float().div_(255)).sigmoid().double().numpy()
    both, y = np.concatenate([1 - p, p], 1), np.array(cases.labels)
    return float(METRICS.function("accuracy")(y, both)), float(METRICS.function("auroc")(y, both))


def commands(given: argparse.Namespace, name: str, folder: Path) -> dict[str, list[str]]:
    """What is run."""
    script = {peer: str(HERE / "peers" / f"{peer}.py") for peer in PEERS}
    found = {"fedlab": [sys.executable, __file__, "--ours", name, str(folder)]}
    for memory in MEMORY:
        if given.pfl_research:
            alone = [script["pfl_research"], str(folder)]
            found[f"pfl-research, 1 process, {memory}"] = [given.pfl_research, *alone, f"threads={CORES}"]
            several = ["-m", "torch.distributed.run", f"--nproc_per_node={CORES}"]
            found[f"pfl-research, {CORES} processes, {memory}"] = [given.pfl_research, *several, *alone]
        if given.flower:
            found[f"Flower, {memory}"] = [given.flower, script["flower"], str(folder)]
    if given.flare and len(WORK[name].sizes) <= THREADS:
        found[f"NVIDIA FLARE, {MEMORY[1]}"] = [given.flare, script["flare"], str(folder), f"threads={THREADS}"]
    return found


def finished(command: list[str], log: Path, environment: dict[str, str], folder: Path) -> bool:
    """Whether a contestant came to an end and told what it found."""
    with log.open("w") as out:
        done = subprocess.run(command, stdout=out, stderr=out, env=environment)
    return done.returncode == 0 and (folder / "found.json").exists()


def compare(given: argparse.Namespace, name: str) -> list[str]:
    """A row a contestant; the largest difference between its final weights and ours."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        export(WORK[name], folder)
        best, reference, rows = floor(WORK[name]), None, []
        for who, command in commands(given, name, folder).items():
            log = folder / "log"
            environment = {**os.environ, "MEMORY": who.rpartition(", ")[2]}
            if not any(finished(command, log, environment, folder) for _ in range(ATTEMPTS)):
                rows.append(f"| {name} | {who} | failed | | | | | |")
                print(rows[-1], log.read_text()[-2000:], sep="\n", flush=True)
                continue
            told = json.loads((folder / "found.json").read_text())
            weights = np.load(folder / "found.npz")
            flat = np.concatenate([weights[key].ravel() for key in sorted(weights.files)])
            reference = flat if reference is None else reference
            apart = np.abs(flat - reference).max() / np.abs(reference).max()
            ratio = told["round"] / best
            cells = [name, who, f"{told['round']:.3f}", f"{ratio:.2f}", f"{told['wall']:.1f}"]
            cells += [f"{value:.3f}" for value in worth(WORK[name], weights)] + [f"{apart:.0e}"]
            rows.append(f"| {' | '.join(cells)} |")
            print(rows[-1], flush=True)
            for left in ("found.json", "found.npz"):
                (folder / left).unlink()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", default=list(WORK), metavar="W")
    for peer in PEERS:
        made = HERE.parent / ".peers" / peer / "bin" / "python"
        about = f"the interpreter of an environment with {peer}"
        name = f"--{peer.replace('_', '-')}"
        parser.add_argument(name, metavar="PYTHON", default=str(made) if made.exists() else None, help=about)
    parser.add_argument("--ours", nargs=2, metavar=("W", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ours:
        ours(WORK[given.ours[0]], Path(given.ours[1]))
        return
    head = [
        "",
        "simulator",
        "s a round",
        "of the floor",
        "whole job, s",
        "accuracy",
        "AUROC",
        "weights apart",
    ]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    print("\n".join(lines))
    for name in given.workloads:
        lines += compare(given, name)
    text = (
        f"{ROUNDS} rounds of federated averaging, one epoch, batches of 32, small CNN with group normalisation, which"
        " learns the sex of phantoms.\n\n"
    )
    page(HERE / "results" / f"peers-{machine()['device']}.md", "The same work elsewhere", text + "\n".join(lines))


if __name__ == "__main__":
    main()
