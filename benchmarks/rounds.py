"""What does simulating sites cost? Seconds a round of fedlab against a bare PyTorch loop doing the same steps.

The floor is the best careful loop: images preloaded as channels-last floats, the model in channels-last memory,
PyTorch's own optimizer, the same batches; one process on all cores, or one process a core on a share of the sites,
whichever is faster. It neither averages nor evaluates. Floors and fedlab take turns, and ratios of medians count.

    python benchmarks/rounds.py [W1 W3 ...]
    python benchmarks/rounds.py --device cuda --precision bf16 --batch 256 [W3 R256 ...]

prints a table and keeps it under benchmarks/results. On a GPU the bare loops are those of `cards.py`.
"""

import argparse
import itertools
import multiprocessing
import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import fedlab
from fedlab.algorithms import start
from fedlab.data.cases import Cases
from fedlab.federation import Federation
from fedlab.federation.settings import FederationSettings
from fedlab.learning import models

warnings.simplefilter("ignore")  # which site lacks a class does not matter here
HERE = Path(__file__).parent
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Workload:
    """Training cases of each site, model, image dimensions, and how often a round is measured."""

    title: str
    sizes: tuple[int, ...]
    model: str = "small_cnn"
    dimensions: int = 2
    repeats: int = 9
    modes: tuple[str, ...] = ("auto", "sequential", "vmap")


MODES = ("auto", "sequential", "vmap")
SKEWED = (1680, 1280, 992, 768, 592, 448, 352, 288)  # 6,400 cases
WORK = {
    "W1": Workload("8 skewed sites, 6,400 images, small CNN", SKEWED),
    "W2": Workload("8 sites, 1,600 images, ResNet-18", (200,) * 8, "resnet18", repeats=4, modes=("auto",)),
    "W3": Workload("64 sites of 50 images, small CNN", (50,) * 64),
    "W4": Workload("512 sites of 50 images, small CNN", (50,) * 512, repeats=5, modes=("auto",)),
    "W5": Workload("8 sites of 24 volumes of 28^3, small CNN in 3D", (24,) * 8, dimensions=3, repeats=5),
    "L3": Workload("64 sites of 50 images, logistic regression", (50,) * 64, "logistic", repeats=25),
}
SETTINGS = {"batch_size": 32, "lr": 0.05, "momentum": 0.9}


def world(work: Workload, load: Callable[[str], Cases] = fedlab.load) -> fedlab.Partition:
    """Phantoms partitioned into sites of exactly these sizes, with one validation and one test case each."""
    count = sum(work.sizes) + 2 * len(work.sizes)
    cases = load(f"phantoms(cases={max(100, count)}, dimensions={work.dimensions})")
    names = [f"Site {k:03d}" for k in range(len(work.sizes))]
    sites = [*np.repeat(names, work.sizes), *names, *names]
    splits = np.repeat(["train", "val", "test"], [sum(work.sizes), len(names), len(names)])
    table = pd.DataFrame({"case": cases.table["case"][:count], "site": sites, "split": splits})
    return fedlab.Partition.from_sites(cases, table, leakage="allow")


def federation(work: Workload, mode: str = "sequential", device: str = "cpu") -> Federation:
    """One epoch a round."""
    settings = FederationSettings(rounds=10_000, execution=mode, device=device, **SETTINGS)
    return Federation(world(work), work.model, settings)


class Loop:
    """The bare loop: one model, the batches of these sites, nothing else."""

    def __init__(self, work: Workload, sites: list[int], threads: int, batchnorm: str = "avg") -> None:
        torch.set_num_threads(threads)
        part = world(work)
        fed = Federation(part, work.model, FederationSettings(**SETTINGS, device="cpu"))
        kept = [torch.channels_last, torch.channels_last_3d][work.dimensions - 2]
        net = models.build(work.model, part.cases.shape, fed.task.outputs, 0, batchnorm)
        self.net = net.to(memory_format=kept).train()
        self.optimizer = torch.optim.SGD(self.net.parameters(), SETTINGS["lr"], momentum=SETTINGS["momentum"])
        images = torch.from_numpy(np.array(part.cases.images)).float().div_(255)
        self.images, self.labels = images.contiguous(memory_format=kept), torch.tensor(part.cases.labels).float()
        self.sites = [fed.sites[k] for k in sites]
        self.settings = fed.settings

    def round(self, number: int) -> None:
        for site in self.sites:
            steps = site.steps(self.settings)
            for step in range((number - 1) * steps, number * steps):
                index = torch.from_numpy(site.batches.at(step))
                self.optimizer.zero_grad()
                logits = self.net(self.images[index])[:, 0]
                loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, self.labels[index])
                loss.backward()
                self.optimizer.step()


class Floor:
    """A bare loop in each of several processes; each site, the largest first, goes to the one with the fewest cases."""

    def __init__(self, work: Workload, processes: int, batchnorm: str = "avg") -> None:
        shares: list[list[int]] = [[] for _ in range(processes)]
        for k in sorted(range(len(work.sizes)), key=lambda k: -work.sizes[k]):
            min(shares, key=lambda share: sum(work.sizes[i] for i in share)).append(k)
        context = multiprocessing.get_context("spawn")
        pairs = [context.Pipe() for _ in shares]
        self.ends = [end for end, _ in pairs]
        threads = max(1, CORES // processes)
        given = [(other, work, share, threads, batchnorm) for (_, other), share in zip(pairs, shares, strict=True)]
        self.processes = [context.Process(target=_loop, args=each, daemon=True) for each in given]
        for process in self.processes:
            process.start()

    def round(self, number: int) -> None:
        for end in self.ends:
            end.send(number)
        for end in self.ends:
            end.recv()

    def close(self) -> None:
        for end, process in zip(self.ends, self.processes, strict=True):
            end.send(None)
            process.join()


def _loop(end: Any, work: Workload, sites: list[int], threads: int, batchnorm: str) -> None:
    loop = Loop(work, sites, threads, batchnorm)
    for number in iter(end.recv, None):
        loop.round(number)
        end.send(number)


class Ours:
    """fedavg as `fedlab.run` trains it, without evaluation."""

    def __init__(self, work: Workload, mode: str) -> None:
        torch.set_num_threads(CORES)
        self.fed = federation(work, mode)
        self.rounds = start("fedavg", self.fed)
        self.threads = 1 if self.fed.layout.parameters < 1_000_000 else CORES  # as `threads_for` has it

    def round(self, number: int) -> None:
        torch.set_num_threads(self.threads)
        next(self.rounds)

    def close(self) -> None:
        self.rounds.close()


def in_turn(contestants: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each round of each, all in turn, after a round of warm-up."""
    each = {name: make() for name, make in contestants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in each}
    for number, (name, one) in itertools.product(range(1, repeats + 2), each.items()):
        begun = time.perf_counter()
        one.round(number)
        seconds[name].append(time.perf_counter() - begun)
    for one in each.values():
        one.close()
    return {name: values[1:] for name, values in seconds.items()}


def measure(contestants: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Medians of seconds a round."""
    return {name: statistics.median(values) for name, values in in_turn(contestants, repeats).items()}


def race(work: Workload) -> dict[str, float]:
    """Floors of one process and of one a core, and fedlab in each mode."""
    floors = {f"floor, {n} process{'es' * (n > 1)}": (lambda n=n: Floor(work, n)) for n in sorted({1, CORES})}
    return measure({**floors, **{mode: (lambda mode=mode: Ours(work, mode)) for mode in work.modes}}, work.repeats)


def row(name: str, work: Workload, found: dict[str, float]) -> str:
    floors = {what: seconds for what, seconds in found.items() if what.startswith("floor")}
    best = min(floors, key=lambda what: floors[what])
    images = sum(work.sizes)
    modes = [f"{found[m]:.3f} ({found[m] / floors[best]:.3f})" if m in found else "" for m in MODES]
    times = [f"{seconds:.3f}" for seconds in floors.values()]
    return f"| {name} | {work.title} | {' | '.join([*times, *modes])} | {found['auto'] / images * 1e6:.0f} |"


def main() -> None:
    given = arguments()
    if given.device == "cuda":
        import cards  # in this folder

        cards.report(given.workloads, given.precision or "float32", given.batch or SETTINGS["batch_size"])
    else:
        report(given.workloads or list(WORK))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about = f"{', '.join(WORK)}; on a GPU also R32 and R256, ResNet-18 on 1,600 and 16,384 images"
    parser.add_argument("workloads", nargs="*", metavar="W", help=about)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("float32", "bf16"), help="on a GPU (default: float32)")
    parser.add_argument("--batch", type=int, help="cases in a step, on a GPU (default: 32)")
    given = parser.parse_args()
    if given.device == "cpu" and (given.precision or given.batch):
        parser.error("--precision and --batch are for --device cuda; on a CPU the floor is float32 in batches of 32")
    if unknown := set(given.workloads) - {*WORK, *(("R32", "R256") if given.device == "cuda" else ())}:
        parser.error(f"unknown workload {', '.join(sorted(unknown))}: choose from {about}")
    return given


def report(chosen: list[str]) -> None:
    """Print the table of these workloads on the CPU, and keep it."""
    from machine import machine, page  # in this folder

    floors = [f"floor, {n} process{'es' * (n > 1)}" for n in sorted({1, CORES})]
    head = ["", "workload", *floors, *(f"{mode} (of the best floor)" for mode in MODES), "auto, us an image"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    print("\n".join(lines))
    for name in chosen:
        lines.append(row(name, WORK[name], race(WORK[name])))
        print(lines[-1], flush=True)
    text = "Seconds a round of `fedavg`, one epoch, batches of 32.\n\n" + "\n".join(lines)
    page(HERE / "results" / f"rounds-{machine()['device']}.md", "Rounds against the best bare loop", text)


if __name__ == "__main__":
    main()
