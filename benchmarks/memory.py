"""How much memory does a federation take? Peak megabytes of a process that does two rounds of fedavg.

By the number of sites K and the execution mode; P is the size of the model. The cases are few, so that what grows is
what grows with K. On a CPU it is resident memory, on a GPU what PyTorch allocated there.

    python benchmarks/memory.py
    python benchmarks/memory.py --device cuda
"""

import argparse
import os
import resource
import subprocess
import sys
from pathlib import Path

CASES = 10  # of each site, one batch
SITES = {"small_cnn": (4, 16, 64, 256), "resnet18": (4, 16, 64, 256)}
STACKED = {"small_cnn": 256, "resnet18": 16}  # the most sites that are tried
MODES = {"cpu": ("sequential", "vmap"), "cuda": ("auto", "cuda_graph", "vmap")}
HERE = Path(__file__).parent


def peak(model: str, sites: int, mode: str, device: str = "cpu") -> tuple[float, float]:
    """(peak, that before the federation was built) in megabytes, in another process."""
    command = [sys.executable, __file__, "--device", device, "--one", model, str(sites), mode]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout.split()
    return float(printed[0]), float(printed[1])


def _peak(model: str, sites: int, mode: str, device: str) -> None:
    import torch
    from rounds import Workload, federation  # in this folder

    from fedlab.algorithms import start

    torch.set_num_threads(os.cpu_count() or 1)
    work = Workload("", (CASES,) * sites, model)
    federation(Workload("", (CASES,) * 2, model), mode, device)
    before = high_water(device)
    rounds = start("fedavg", federation(work, mode, device))
    for _ in range(2):
        next(rounds)
    print(high_water(device), before)


def high_water(device: str = "cpu") -> float:
    """Peak megabytes on the GPU, or resident ones of this process (not of the one that started it, as Linux' getrusage
    would say).
    """
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def report(device: str) -> str:
    from rounds import Workload, federation

    modes = MODES[device]
    head = ["model", "P, MB", "sites", *(cell for mode in modes for cell in (f"{mode}, MB", "models"))]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for model, counts in SITES.items():
        size = federation(Workload("", (CASES,) * 2, model)).start.nbytes / 1e6
        for sites in counts:
            cells = [model, f"{size:.1f}", str(sites)]
            for mode in modes:
                if mode == "vmap" and sites > STACKED[model]:
                    cells += ["", ""]
                    continue
                top, before = peak(model, sites, mode, device)
                cells += [f"{top:.0f}", f"{(top - before) / size:.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    import torch
    from machine import machine, page

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=tuple(MODES), default="cpu")
    parser.add_argument("--one", nargs=3, metavar=("MODEL", "SITES", "MODE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("PyTorch finds no GPU here, so nothing was measured.")
        return
    if given.one:
        model, sites, mode = given.one
        _peak(model, int(sites), mode, given.device)
        return
    about = (
        "`models` is the peak above that of a federation of two sites before its first step, in models of that size."
    )
    path = HERE / "results" / f"memory-{machine()['device']}.md"
    page(path, "Memory by the number of sites", f"{about}\n\n{report(given.device)}")


if __name__ == "__main__":
    main()
