"""What does simulating institutions cost? Seconds a round of fedlab against a bare PyTorch loop doing the same steps.

The floor is a careful loop: images preloaded as channels-last floats on the device, the model in channels-last memory,
PyTorch's own optimizer, the same batches, the same threads. Floor and fedlab take turns, and the ratio of medians is
what counts. `make bench` prints a table and keeps it under benchmarks/results.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from datetime import date
from pathlib import Path

import numpy as np
import torch

import fedlab
from fedlab import models
from fedlab.algorithms import start
from fedlab.federation import Federation
from fedlab.training import Training

WORK = {  # name: model, cases, sites, rounds measured
    "small CNN, 8 sites, 4,500 cases": ("small_cnn", 6400, 8, 25),
    "ResNet-18, 4 sites, 690 cases": ("resnet18", 960, 4, 6),
}
METHODS = ("fedavg", "centralized")
warnings.simplefilter("ignore")  # which site lacks a class does not matter here
HERE = Path(__file__).parent


def federation(model: str, cases: int, sites: int, rounds: int) -> Federation:
    """Sites of unequal size, one epoch a round, batches of 32."""
    part = fedlab.partition(fedlab.load(f"phantoms(cases={cases})"), sites, quantity=0.2, prevalence=0.3)
    return Federation(part, model, Training(rounds=rounds, batch_size=32, lr=0.05, momentum=0.9))


class Floor:
    """The bare loop: one model, the batches of `sites`, nothing else."""

    def __init__(self, fed: Federation, model: str, sites: list) -> None:
        cases = fed.partition.cases
        net = models.build(model, cases.shape, fed.task.outputs, seed=0).to(fed.device)
        self.net = net.to(memory_format=torch.channels_last).train()
        self.optimizer = torch.optim.SGD(self.net.parameters(), 0.05, momentum=0.9)
        images = torch.from_numpy(np.array(cases.images)).float().div_(255).to(fed.device)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.tensor(cases.labels).float().to(fed.device)
        self.sites, self.settings = sites, fed.settings

    def round(self, number: int) -> None:
        for site in self.sites:
            steps = site.steps(self.settings)
            for step in range((number - 1) * steps, number * steps):
                index = torch.from_numpy(site.batches.at(step)).to(self.images.device)
                self.optimizer.zero_grad()
                logits = self.net(self.images[index])[:, 0]
                loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, self.labels[index])
                loss.backward()
                self.optimizer.step()
        if self.images.device.type == "cuda":
            torch.cuda.synchronize()


def measure(model: str, cases: int, sites: int, repeats: int, method: str) -> dict[str, float]:
    """Medians of seconds a round, floor and fedlab in turn, after one round of warm-up."""
    fed = federation(model, cases, sites, repeats + 1)
    floor = Floor(fed, model, [fed.union] if method == "centralized" else fed.sites)
    ours = start(method, fed)
    seconds: dict[str, list[float]] = {"floor": [], "fedlab": []}
    for number in range(1, repeats + 2):
        for name, work in (("floor", lambda n=number: floor.round(n)), ("fedlab", lambda n=number: next(ours))):
            begun = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return {**medians, "ratio": medians["fedlab"] / medians["floor"]}


def peak(kind: str, model: str, cases: int, sites: int) -> float:
    """Peak resident megabytes of a process that does two rounds of the floor or of fedavg."""
    command = [sys.executable, __file__, "--peak", kind, model, str(cases), str(sites)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _peak(kind: str, model: str, cases: int, sites: int) -> None:
    fed = federation(model, cases, sites, 2)
    if kind == "floor":
        floor = Floor(fed, model, fed.sites)
        for number in (1, 2):
            floor.round(number)
    else:
        list(start("fedavg", fed))
    print(_high_water())


def _high_water() -> float:
    """Peak resident megabytes of this process (not of the one that started it, as Linux' getrusage would say)."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def report() -> str:
    lines = [
        "| workload | method | floor s/round | fedlab s/round | ratio |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, (model, cases, sites, repeats) in WORK.items():
        for method in METHODS:
            m = measure(model, cases, sites, repeats, method)
            lines.append(f"| {name} | {method} | {m['floor']:.3f} | {m['fedlab']:.3f} | {m['ratio']:.3f} |")
            print(lines[-1], flush=True)
    lines += ["", "| workload | peak MB floor | peak MB fedavg | difference MB | model MB |", "| --- " * 5 + "|"]
    for name, (model, cases, sites, _) in WORK.items():
        floor, ours = (peak(kind, model, cases, sites) for kind in ("floor", "fedavg"))
        weight = federation(model, 100, sites, 1).start.nbytes / 1e6
        lines.append(f"| {name} | {floor:.0f} | {ours:.0f} | {ours - floor:.0f} | {weight:.1f} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peak", nargs=4, metavar=("KIND", "MODEL", "CASES", "SITES"))
    given = parser.parse_args().peak
    if given:
        _peak(given[0], given[1], int(given[2]), int(given[3]))
        return
    machine = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "machine": platform.machine(),
    }
    page = f"# Rounds against a bare loop, {date.today()}\n\n`make bench` with {json.dumps(machine)}\n\n{report()}\n"
    path = HERE / "results" / f"rounds-{machine['device'].replace(' ', '-').lower()}.md"
    path.write_text(page)
    print(f"\nkept in {path.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
