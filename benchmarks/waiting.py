"""How long does a researcher wait? From `import fedlab` to the first step, and for a grid of twenty seeds.

python benchmarks/waiting.py
"""

import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

HERE = Path(__file__).parent
DATASETS = ("phantoms", "pneumoniamnist")
FIRST_STEP = """
import sys, time
begun = time.perf_counter()
import fedlab
imported = time.perf_counter()
from fedlab.engine.loop import SequentialEngine

class Begun(BaseException):
    pass

def step(*given):
    raise Begun

SequentialEngine._step = step
try:
    fedlab.run(fedlab.Experiment(dataset=sys.argv[1], rounds=1), folder=sys.argv[2])
except Begun:
    print(imported - begun, time.perf_counter() - begun)
"""
GRID = {"dataset": "phantoms(cases=9200)", "sites": 8, "quantity": 0.5, "rounds": 5, "device": "cpu"}
DENSE = {"dataset": "phantoms(cases=2400)", "sites": 4, "model": "logistic", "rounds": 20, "device": "cpu"}
SEEDS = 20


def first_step(dataset: str, repeats: int = 5) -> tuple[float, float]:
    """(seconds to import, seconds to the first step), medians over fresh processes; the dataset is prepared."""
    found = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-W", "ignore", "-c", FIRST_STEP, dataset, folder]
            printed = subprocess.run(
                command, check=True, capture_output=True, text=True, encoding="utf-8"
            ).stdout.split()
        found.append((float(printed[0]), float(printed[1])))
    return statistics.median(a for a, _ in found), statistics.median(b for _, b in found)


def grid(settings: dict, workers: int = 1) -> float:
    """Seconds for twenty seeds of fedavg."""
    import fedlab

    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        fedlab.grid(fedlab.Experiment(**settings), folder=folder, workers=workers, seed=list(range(SEEDS)))
        return time.perf_counter() - begun


def main() -> None:
    from machine import machine, page

    import fedlab

    warnings.simplefilter("ignore")
    lines = ["| dataset | import, s | to the first step, s |", "| --- | --- | --- |"]
    for dataset in DATASETS:
        fedlab.load(dataset)  # prepared
        imported, begun = first_step(dataset)
        lines.append(f"| {dataset} | {imported:.2f} | {begun:.2f} |")
        print(lines[-1], flush=True)
    lines += ["", f"{SEEDS} seeds of fedavg, 8 sites, 6,400 images, {GRID['rounds']} rounds, evaluated and stored:", ""]
    lines += ["| workers | s | s a run |", "| --- | --- | --- |"]
    for workers in (1, 2):
        seconds = grid(GRID, workers)
        lines.append(f"| {workers} | {seconds:.1f} | {seconds / SEEDS:.2f} |")
        print(lines[-1], flush=True)
    lines += ["", f"{SEEDS} seeds of a logistic regression, 4 sites, 20 rounds, evaluated and stored:", ""]
    lines += ["| execution | s | s a run |", "| --- | --- | --- |"]
    for mode, text in (("sequential", "one after another"), ("auto", "in lock-step, 80 models as one")):
        seconds = statistics.median(grid({**DENSE, "execution": mode}) for _ in range(3))
        lines.append(f"| {text} | {seconds:.1f} | {seconds / SEEDS:.2f} |")
        print(lines[-1], flush=True)
    page(HERE / "results" / f"waiting-{machine()['device']}.md", "Waiting times", "\n".join(lines))


if __name__ == "__main__":
    main()
