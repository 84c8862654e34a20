"""How much memory does a federation take? Peak resident megabytes of a process that does two rounds of fedavg.

By the number of sites K, one after another on each core and as one batched model; P is the size of the model. The
cases are few, so that what grows is what grows with K.

    python benchmarks/memory.py
"""

import os
import resource
import subprocess
import sys
from pathlib import Path

CASES = 10  # of each site, one batch
SITES = {"small_cnn": (4, 16, 64, 256), "resnet18": (4, 16, 64, 256)}
STACKED = {"small_cnn": 256, "resnet18": 16}  # the most sites that are tried
HERE = Path(__file__).parent


def peak(model: str, sites: int, mode: str) -> tuple[float, float]:
    """(peak, that before the federation was put together) in megabytes, in a process of its own."""
    command = [sys.executable, __file__, model, str(sites), mode]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(told[0]), float(told[1])


def _peak(model: str, sites: int, mode: str) -> None:
    import torch
    from rounds import Workload, federation  # beside this file

    from fedlab.algorithms import start

    torch.set_num_threads(os.cpu_count() or 1)
    work = Workload("", (CASES,) * sites, model)
    federation(Workload("", (CASES,) * 2, model), mode)
    before = high_water()
    rounds = start("fedavg", federation(work, mode))
    for _ in range(2):
        next(rounds)
    print(high_water(), before)


def high_water() -> float:
    """Peak resident megabytes of this process (not of the one that started it, as Linux' getrusage would say)."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def report() -> str:
    from rounds import Workload, federation

    lines = ["| model | P, MB | sites | serial, MB | models | stacked, MB | models |", "| --- " * 7 + "|"]
    for model, counts in SITES.items():
        size = federation(Workload("", (CASES,) * 2, model)).start.nbytes / 1e6
        for sites in counts:
            cells = [model, f"{size:.1f}", str(sites)]
            for mode in ("serial", "stacked"):
                if mode == "stacked" and sites > STACKED[model]:
                    cells += ["", ""]
                    continue
                top, before = peak(model, sites, mode)
                cells += [f"{top:.0f}", f"{(top - before) / size:.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    from machine import machine, page

    if len(sys.argv) == 4:
        _peak(sys.argv[1], int(sys.argv[2]), sys.argv[3])
        return
    about = (
        "`models` is the peak above that of a federation of two sites before its first step, in models of that size."
    )
    page(
        HERE / "results" / f"memory-{machine()['device']}.md", "Memory by the number of sites", f"{about}\n\n{report()}"
    )


if __name__ == "__main__":
    main()
