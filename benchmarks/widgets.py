"""How long after a slider is released does the panel show the new sites? Milliseconds a redraw for 10,000 cases.

One redraw is everything from the slider's value to the picture that is sent: partitioning the cases, measuring the
shift of every axis with its null, drawing, compressing. `make bench` prints a table and keeps it under
benchmarks/results.
"""

import json
import os
import platform
import statistics
import time
import warnings
from datetime import date
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # what a slider waits for is measured on one core

import torch

import fedlab
from fedlab import widgets

CASES, LIMIT, REPEATS = 10_000, 200.0, 24  # LIMIT: milliseconds
START = {"quantity": 0.3, "prevalence": 0.3, "acquisition": 0.3}
MOVED = ("quantity", "prevalence", "presentation", "population", "acquisition", "annotation", "geography")
SITES = (4, 8)
HERE = Path(__file__).parent
warnings.simplefilter("ignore")


def redraws(cases: fedlab.data.cases.Cases, sites: int, axis: str) -> tuple[list[float], list[float]]:
    """Milliseconds of each redraw while one slider is moved, the others at START: wall time, processor time."""
    shown = widgets.sites(cases, sites=sites, **START)
    slider, wall, busy = shown.settings.controls[axis], [], []
    for step in range(REPEATS + 2):
        begun, worked = time.perf_counter(), time.process_time()
        slider.value = 0.2 + 0.05 * (step % 11)
        wall.append(1000 * (time.perf_counter() - begun))
        busy.append(1000 * (time.process_time() - worked))
        assert not shown.notice.widget.value.count("fedlab-error"), shown.notice.widget.value
    return wall[2:], busy[2:]  # the first ones load what is loaded once


def report() -> str:
    cases = fedlab.load(f"phantoms(cases={CASES})")
    lines = ["| slider moved | sites | median ms | 90 % of redraws within ms | processor ms |", "| --- " * 5 + "|"]
    for sites in SITES:
        for axis in MOVED:
            wall, busy = redraws(cases, sites, axis)
            middle, slow = statistics.median(wall), statistics.quantiles(wall, n=10)[-1]
            lines.append(f"| {axis} | {sites} | {middle:.0f} | {slow:.0f} | {statistics.median(busy):.0f} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    torch.set_num_threads(1)
    machine = {"python": platform.python_version(), "machine": platform.machine(), "threads": torch.get_num_threads()}
    about = f"{CASES:,} cases, 28 x 28; wanted: {LIMIT:.0f} ms"
    page = f"# Redraws of the panel, {date.today()}\n\n{about}. `make bench` with {json.dumps(machine)}\n\n{report()}\n"
    path = HERE / "results" / "widgets-cpu.md"
    path.write_text(page, encoding="utf-8")
    print(f"\nkept in {path.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
