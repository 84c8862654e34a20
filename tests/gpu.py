"""Every method, execution mode and precision on a GPU, each compared with the CPU's float64 result: `make gpu`.

    python tests/gpu.py                               # where fedlab is installed
    PYTHONPATH=.:tests python3 tests/gpu.py           # from a checkout alone

Without a GPU it says so and ends with exit code 0. With one it runs, in parallel and within four minutes:

* the matrix: 30 methods x 4 modes x 3 precisions, two rounds each at four sites of unequal size with momentum and
  weight decay. Each mode has its own process, because a CUDA error ends the process; it is then started again with
  the next cell.
* waits: how often the host waits for the GPU in a round of each method in mode "auto", after a round of warm-up. More
  sites or more steps must not mean more waits, because the GPU's queue runs dry in each.
* the tests under `tests/` that have "gpu" in their names, by pytest.

It prints a line for each failure and one table, and its exit code is 1 if anything failed.

What is compared: the distance (L2 norm) between the model on the GPU and the CPU's float64 model, divided by the
distance that the CPU's model moved from its start; once for the parameters and once for the statistics of batch
normalisation, of which the larger value counts. Integer buffers must be equal. In float64 the bytes that crossed
between sites must be equal too, so that padding is never counted. The tolerances:

float64: at most 1e-9. Rounding is 1e-16, and 14 steps leave 1e-14 to 1e-12 where sums are taken in another order.
float32: at most 2e-4. The CPU's own float32 result is 2e-6 to 8e-6 away (30 methods); a GPU sums in another order, and
    25 times that is allowed. TF32, which fedlab turns off, rounds 8,000 times as coarsely and would not pass.
bf16: from 1e-3 to 0.15. The CPU's own bf16 result is 0.03 to 0.07 away, since bfloat16 has 8 bits; twice that is
    allowed. A wrong result is further away: 0.31 to 0.77 with a round too few, 0.15 to 0.66 with batches of 11 instead
    of 12, 0.22 to 0.46 without momentum (except `fedrep`, 0.05). A result that is nearer than 1e-3 was not computed in
    bfloat16. What is too small to be seen here (no weight decay: 0.08 to 0.2) is seen in float32.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

HERE = Path(__file__).resolve().parent
MODES = ("sequential", "cuda_graph", "vmap", "auto")
TOLERANCES = {"float64": (0.0, 1e-9), "float32": (0.0, 2e-4), "bf16": (1e-3, 0.15)}  # at least, at most
SETTINGS = {"rounds": 2, "local_steps": None, "batch_size": 12, "momentum": 0.5, "weight_decay": 0.01}
WITHOUT = {  # mode -> methods that cannot use it: their sites take turns, or their steps run the method's own code
    "vmap": {"centralized", "cyclic", "single_pass", "split", "splitfed"},
    "cuda_graph": {"apfl", "fedsam", "moon", "pfedme", "split", "splitfed"},
    "sequential": {"split", "splitfed"},
}
FEDERATIONS = ((4, 2), (8, 2), (4, 8))  # sites and steps a round in which waits are counted
HOST_READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal")  # operations that wait for a GPU
MINUTES = 4.0
RESTARTS = 4  # of a process that lost the device


# The matrix


def cells() -> list[tuple[str, str]]:
    """(precision, method) in the order in which they are run."""
    import fedlab

    return [(precision, method) for precision in TOLERANCES for method in sorted(fedlab.METHODS)]


def run_matrix(mode: str, device: str, first: int) -> None:
    """Print a line of JSON for each cell from `first` on: what is wrong with it ("" if nothing) and the modes used."""
    repeatable()
    for number, (precision, method) in list(enumerate(cells()))[first:]:
        found: dict[str, Any] = {"number": number, "why": "", "used": []}
        try:
            found["why"], found["used"] = compare(method, mode, precision, device)
        except Exception as error:
            found["why"] = f"{type(error).__name__}: {brief(error)}"
        print(json.dumps(found), flush=True)
        if "CUDA error" in found["why"]:
            sys.exit(3)


def compare(method: str, mode: str, precision: str, device: str) -> tuple[str, list[str]]:
    """What is wrong with this method's result, and the modes in which its sites were trained."""
    from worlds import ends, federation

    here = federation(**SETTINGS, device="cpu", precision="float64", execution="sequential")
    there = federation(**SETTINGS, device=device, precision=precision, execution=mode)
    expected, found = ends(method, here), ends(method, there)
    used = sorted(there.execution.used)
    problems = list(differences(here, expected, found, precision))
    if precision == "float64" and here.ledger.rows != there.ledger.rows:
        problems.append("other bytes crossed than on the CPU")
    if mode != "auto" and mode not in used and method not in WITHOUT[mode] and (device, mode) != ("cpu", "cuda_graph"):
        problems.append(f"mode {mode!r} was not used: {there.execution.fallback()}")
    return "; ".join(problems), used


def differences(fed: Any, expected: dict, found: dict, precision: str) -> Iterator[str]:
    """What differs between two outcomes, by model ("global", "local") and by kind of tensor."""
    if expected.keys() != found.keys():
        yield f"models {sorted(found)} instead of {sorted(expected)}"
        return
    low, high = TOLERANCES[precision]
    for name in expected:
        right, ours = weights(expected[name]), weights(found[name])
        if not torch.equal(right.counts.cpu(), ours.counts.cpu()):
            yield f"{name}: integer buffers differ"
        apart = max(distances(fed.start, right, ours))
        if not low <= apart <= high:
            yield f"{name}: {apart:.1e} of the distance moved, allowed {low:g} to {high:g}"


def weights(model: Any) -> Any:
    """The weights of a model, or of all models of an ensemble."""
    return getattr(model, "models", model)


def distances(start: Any, expected: Any, found: Any) -> Iterator[float]:
    """|found - expected| / |expected - start| of the parameters, and of the statistics of batch normalisation."""
    statistics = {entry.name for entry in expected.layout.entries if entry.kind in ("mean", "variance", "buffer")}
    for chosen in (False, True):
        begin, right, ours = (flat(w, statistics, chosen) for w in (start, expected, found))
        apart, moved = float((ours - right).norm()), float((right - begin).norm())
        yield apart / moved if moved else float("inf") if apart else 0.0


def flat(w: Any, statistics: set[str], chosen: bool) -> torch.Tensor:
    """The tensors whose names are among the statistics (chosen), or the others, as float64 vectors (..., n)."""
    named = w.layout.views(w.vector).items()
    rows = w.vector.shape[:-1]
    parts = [tensor.reshape(*rows, -1) for name, tensor in named if (name in statistics) == chosen]
    return torch.cat(parts, -1).double().cpu() if parts else torch.zeros(1)


def repeatable() -> None:
    """One thread, and kernels as `fedlab.run` wants them: deterministic, float32 without TF32."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = True, False, False, False


def brief(error: Exception) -> str:
    """The first lines of what an error says."""
    return " ".join(str(error).split())[:240]


# Waits


def run_waits(device: str) -> None:
    """Print a line of JSON for each method: waits a round in each federation, the places that grow, modes used."""
    import fedlab

    repeatable()
    for method in sorted(fedlab.METHODS):
        found: dict[str, Any] = {"method": method, "why": "", "counts": [], "used": []}
        try:
            each = [waits(method, sites, steps, device) for sites, steps in FEDERATIONS]
            found["counts"] = [sum(places.values()) / 2 for places, _ in each]
            found["used"] = each[0][1]
            found["why"] = growth([places for places, _ in each])
        except Exception as error:
            found["why"] = f"{type(error).__name__}: {brief(error)}"
        print(json.dumps(found), flush=True)
        if "CUDA error" in found["why"]:
            sys.exit(3)


def waits(method: str, sites: int, steps: int, device: str) -> tuple[Counter[str], list[str]]:
    """Where the host waits for the device in two rounds after a first one, with how often; the modes used."""
    from worlds import federation, partition

    from fedlab import algorithms

    part = partition((32,) * sites)
    fed = federation(part, rounds=3, local_steps=steps, batch_size=8, device=device, execution="auto")
    run = algorithms.start(method, fed)
    next(run)
    with counting(device) as places:
        for _ in run:
            sum(float(cost.loss) for cost in fed.round_log.costs.values())  # as every run reads them
    return places, sorted(fed.execution.used)


def growth(each: list[Counter[str]]) -> str:
    """Which places wait more often with more sites or steps; "" where none does."""
    few, *many = each
    for (sites, steps), places in zip(FEDERATIONS[1:], many, strict=True):
        if sum(places.values()) > sum(few.values()):
            more = ", ".join(f"{place} (+{count / 2:g})" for place, count in (places - few).most_common(4))
            before = "{} sites x {} steps".format(*FEDERATIONS[0])
            rise = f"{sum(few.values()) / 2:g} a round with {before}, {sum(places.values()) / 2:g} with"
            return f"waits {rise} {sites} sites x {steps} steps: {more}"
    return ""


@contextmanager
def counting(device: str) -> Iterator[Counter[str]]:
    """Count the operations that wait for the device, by the line of fedlab that calls them."""
    places: Counter[str] = Counter()
    if device == "cpu":
        with _Reads(places):
            yield places
        return

    def show(message: Any, *about: Any, **more: Any) -> None:
        if "synchronizing" in str(message):
            places[place()] += 1

    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = show
            yield places
    finally:
        torch.cuda.set_sync_debug_mode("default")


class _Reads(TorchDispatchMode):
    """Counts on a CPU the operations that would wait for a GPU."""

    def __init__(self, places: Counter[str]) -> None:
        super().__init__()
        self.places = places

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if function.overloadpacket.__name__ in HOST_READS:
            self.places[place()] += 1
        return function(*args, **(kwargs or {}))


def place() -> str:
    """The innermost line of fedlab on the stack."""
    import fedlab

    frame, package = sys._getframe(), Path(fedlab.__file__).parent
    while frame.f_back is not None:
        path = Path(frame.f_code.co_filename)
        if package in path.parents:
            return f"{path.parent.name}/{path.name}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


# Everything in parallel


@dataclass
class Report:
    """Failures and counts of all parts."""

    failures: list[str] = field(default_factory=list)
    passed: Counter[tuple[str, str]] = field(default_factory=Counter)  # (mode, precision)
    used: dict[str, Counter[str]] = field(default_factory=dict)  # requested mode -> modes used
    seconds: dict[str, float] = field(default_factory=dict)
    waits: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def fail(self, text: str) -> None:
        self.failures.append(text)
        print(f"FAILED {text}", flush=True)


def lines(command: list[str], deadline: float, say: Callable[[str], None]) -> Iterator[str]:
    """The lines that a process prints until it ends or time is up; `say` gets the reason if it fails."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=HERE.parent, encoding="utf-8"
    ) as process:
        watch = threading.Timer(max(0.0, deadline - time.monotonic()), process.kill)
        output: list[str] = []
        errors = threading.Thread(target=lambda: output.extend(process.stderr or ()))
        watch.start()
        errors.start()
        yield from process.stdout or ()
        process.wait()
        watch.cancel()
        errors.join()
    if time.monotonic() >= deadline:
        say("stopped: time is up")
    elif process.returncode not in (0, 3):  # 3: the device was lost, as its last line says
        last = [line.strip() for line in output if line.strip()][-1:]
        say(f"the process ended with exit code {process.returncode}: {' '.join(last)[:240]}")


def part(name: str, device: str, *more: str) -> list[str]:
    """The command that runs a part of this script in another process."""
    return [sys.executable, str(Path(__file__).resolve()), "--part", name, "--device", device, *more]


def matrix(mode: str, device: str, deadline: float, report: Report) -> None:
    """Run all cells of one mode, with a new process after each crash."""
    begun, wanted, first = time.monotonic(), cells(), 0
    report.used[mode] = Counter()
    for _ in range(1 + RESTARTS):
        problems: list[str] = []
        for line in lines(part("matrix", device, "--mode", mode, "--first", str(first)), deadline, problems.append):
            found, first = json.loads(line), first + 1
            precision, method = wanted[found["number"]]
            if found["why"]:
                report.fail(f"{mode} {precision} {method}: {found['why']}")
            else:
                report.passed[mode, precision] += 1
                report.used[mode][" + ".join(found["used"]) or "own loop"] += 1
        if problems:
            cell = " ".join(wanted[first]) if first < len(wanted) else "all done"
            report.fail(f"{mode} {cell}: {problems[0]}")
            first += 1
        if first >= len(wanted) or time.monotonic() >= deadline:
            break
    if first < len(wanted):
        report.fail(f"{mode}: {len(wanted) - first} of {len(wanted)} cells were not run")
    report.seconds[mode] = time.monotonic() - begun


def count_waits(device: str, deadline: float, report: Report) -> None:
    """Count the waits of all methods, in another process."""
    begun = time.monotonic()
    for line in lines(part("waits", device), deadline, lambda why: report.fail(f"waits: {why}")):
        found = json.loads(line)
        report.waits[found["method"]] = found
        if found["why"]:
            report.fail(f"auto {found['method']}: {found['why']}")
    report.seconds["waits"] = time.monotonic() - begun


def pytest_gpu(deadline: float, report: Report) -> None:
    """Run the tests with "gpu" in their names, if their imports are installed."""
    begun, texts = (
        time.monotonic(),
        {path: path.read_text(encoding="utf-8") for path in sorted(HERE.rglob("test_*.py"))},
    )
    files = [path for path, text in texts.items() if re.search(r"def test_\w*gpu", text)]
    for library in ("pytest", "hypothesis"):
        if find_spec(library) is None:
            left = [path for path in files if library == "pytest" or library in texts[path]]
            files = [path for path in files if path not in left]
            report.notes.append(f"{library} is not installed: left out {', '.join(path.name for path in left)}")
    if files:
        options = ["-rfE", "--tb=line", "-p", "no:cacheprovider", "-k", "gpu"]
        command = [sys.executable, "-m", "pytest", *options, *map(str, files)]
        output = [line.strip() for line in lines(command, deadline, lambda why: report.fail(f"pytest: {why}"))]
        for line in output:
            if line.startswith(("FAILED", "ERROR")):
                report.fail(f"pytest: {line[:300]}")
        report.notes.append(f"pytest -k gpu: {output[-1] if output else 'no output'}")
    report.seconds["pytest"] = time.monotonic() - begun


def table(report: Report) -> str:
    """Cells that passed, by mode and precision."""
    count = len(cells()) // len(TOLERANCES)
    head = ["mode", *TOLERANCES, "modes used", "s"]
    rows = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for mode in MODES:
        passed = [f"{report.passed[mode, precision]} of {count}" for precision in TOLERANCES]
        used = ", ".join(f"{name} {n}" for name, n in report.used.get(mode, Counter()).most_common())
        rows.append(f"| {' | '.join([mode, *passed, used, f'{report.seconds.get(mode, 0):.0f}'])} |")
    return "\n".join(rows)


def waits_table(report: Report) -> str:
    """Waits a round of each method, in each federation."""
    head = ["waits a round", *(f"{sites} sites x {steps} steps" for sites, steps in FEDERATIONS), "modes used"]
    rows = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for method, found in report.waits.items():
        counts = [f"{count:g}" for count in found["counts"]] or [""] * len(FEDERATIONS)
        rows.append(f"| {' | '.join([method, *counts, ' + '.join(found['used']) or 'own loop'])} |")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="what is not done by then has failed")
    parser.add_argument("--waits", action="store_true", help="print the waits of every method, not only a summary")
    for hidden in ("--part", "--mode"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)  # "cpu" tries this script itself
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part == "matrix":
        run_matrix(given.mode, given.device, given.first)
    elif given.part == "waits":
        run_waits(given.device)
    elif given.device == "cuda" and not torch.cuda.is_available():
        print("PyTorch finds no GPU here, so nothing was tested.")
    else:
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder))
            return everything(given)
    return 0


def prepare(folder: Path) -> None:
    """Set PYTHONPATH for the parts: the checkout, its tests and, where fedlab is not installed, its version."""
    sys.path += [str(HERE.parent), str(HERE.parent / "benchmarks")]
    from machine import describe_checkout

    paths = [str(Path(path).absolute()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    paths = [str(HERE.parent), str(HERE), *describe_checkout(folder), *paths]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)


def everything(given: argparse.Namespace) -> int:
    """All parts in parallel, then the tables; the exit code."""
    begun, report = time.monotonic(), Report()
    deadline, device = begun + 60 * given.minutes, given.device
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{name}, PyTorch {torch.__version__}", flush=True)
    with ThreadPoolExecutor(len(MODES) + 2) as pool:
        parts = [pool.submit(matrix, mode, device, deadline, report) for mode in MODES]
        parts += [pool.submit(count_waits, device, deadline, report), pool.submit(pytest_gpu, deadline, report)]
    for done in parts:
        done.result()
    print(f"\n{table(report)}")
    if given.waits:
        print(f"\n{waits_table(report)}")
    each = [max(found["counts"]) for found in report.waits.values() if found["counts"]]
    constant = sum(not found["why"] for found in report.waits.values())
    if each:
        print(f"\nWaits a round: {min(each):g} to {max(each):g}; no more with more sites or steps: {constant} methods")
    print("\n".join(report.notes))
    print(f"{len(report.failures)} failures, {time.monotonic() - begun:.0f} s")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
