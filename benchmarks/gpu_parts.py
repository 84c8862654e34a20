"""The parts of `gpu.py`: each measures one claim about GPUs and compares it with its target."""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from machine import machine

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 5  # of the notebooks
DATASETS = {  # how far from the published AUROC and accuracy a mean of three seeds may be
    "pneumoniamnist": (0.015, 0.02),
    "retinamnist": (0.03, 0.03),
    "breastmnist": (0.03, 0.03),
}
SMALL = {"W3": 0.3, "W4": 0.2, "L3": 0.5}  # workload -> the most of the bare graph's time
THREADS = (1, 2, 4, 8, 16)
SITES = (4, 16, 64)
NOTEBOOKS = ("00", "30", "42")


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    line: str
    wanted: str
    measured: str
    verdict: str = ""

    def __str__(self) -> str:
        cells = (self.line, self.wanted, self.measured, self.verdict)
        return f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in cells)} |"


@dataclass(frozen=True)
class Given:
    """Options of all parts.

    quick: tiny sizes, for a trial on a CPU. out: folder of results. precision: of published.py.
    """

    device: str
    quick: bool
    out: Path
    precision: str


Part = Callable[[Given], Iterator[Row]]


def verdict(ok: bool) -> str:
    return "met" if ok else "missed"


def least(line: str, value: float, bound: float, detail: str) -> Row:
    """A row on a ratio with a lower bound."""
    return Row(line, f"at least {bound:g}", f"{value:.2f} ({detail})", verdict(value >= bound))


def most(line: str, value: float, bound: float, detail: str) -> Row:
    """A row on a ratio with an upper bound."""
    return Row(line, f"at most {bound:g}", f"{value:.2f} ({detail})", verdict(value <= bound))


# Rounds


def workload(name: str, given: Given) -> Any:
    """One of `cards.WORKLOADS`, or a few cases for a trial on a CPU."""
    from cards import WORKLOADS
    from rounds import Workload

    sizes = (8, 12) if WORKLOADS[name].model == "resnet18" else (10,) * 6
    return Workload("a few cases", sizes, WORKLOADS[name].model, repeats=1) if given.quick else WORKLOADS[name]


def failed(found: dict[str, Any]) -> str:
    """Which contestants failed, and why; "" for none."""
    return "; ".join(f"{name}: {one.why}" for name, one in found.items() if one.why)


def times(found: dict[str, Any]) -> str:
    """Seconds of each contestant, and the modes that fedlab used."""
    used = {name: f" as {one.used}" if one.used else "" for name, one in found.items()}
    return ", ".join(f"{name} {one.seconds:.4f} s{used[name]}" for name, one in found.items())


def resnet(given: Given) -> Iterator[Row]:
    """ResNet-18 in bf16 against the bare loop, eager and as a CUDA graph, in large and in small batches."""
    from cards import BARE, matrix_rate, race

    rate = matrix_rate(given.device, *((256, 2) if given.quick else ()))
    yield Row("product of two bf16 matrices of 8,192 x 8,192", "", f"{rate / 1e12:,.0f} TFLOP/s")
    for name, batch, graph, eager in (("R256", 256, 0.97, 2.0), ("R32", 32, 0.85, None)):
        work = workload(name, given)
        found = race(work, given.device, "bf16", 8 if given.quick else batch, (*BARE, "auto"))
        line = f"{work.title}, b{batch}, bf16"
        if why := failed(found):
            yield Row(line, "", why, "failed")
            continue
        ours, lean = found["auto"].seconds, found["bare graph, lean"].seconds
        detail = f"{times(found)}; against the lean one {lean / ours:.2f}"
        yield least(f"{line}: bare graph / fedlab", found["bare graph"].seconds / ours, graph, detail)
        if eager is not None:
            yield least(f"{line}: eager loop / fedlab", found["bare"].seconds / ours, eager, "the same times")
        peak = f"{found['auto'].peak / 1e9:.2f} GB, bare graph {found['bare graph'].peak / 1e9:.2f} GB"
        yield Row(f"{line}: peak memory", "", peak)


def small(given: Given) -> Iterator[Row]:
    """Many small sites in float32 against the bare loop as a CUDA graph."""
    from cards import race

    for name, bound in SMALL.items():
        work = workload(name, given)
        found = race(work, given.device, "float32", 32, ("bare graph", "bare graph, lean", "auto"))
        line = f"{name}: {work.title}, b32, float32: fedlab / bare graph"
        if why := failed(found):
            yield Row(line, f"at most {bound}", why, "failed")
            continue
        yield most(line, found["auto"].seconds / found["bare graph"].seconds, bound, times(found))


def seeds(given: Given) -> Iterator[Row]:
    """Twenty seeds of W1 as a grid, evaluated and stored, against one."""
    from waiting import GRID

    import fedlab

    count = 2 if given.quick else 20
    few = {"dataset": "phantoms(cases=300)", "sites": 3, "rounds": 2} if given.quick else {}
    base = fedlab.Experiment(**{**GRID, **few, "device": given.device})
    with tempfile.TemporaryDirectory() as folder:
        wall, trained = [], []
        for number, chosen in enumerate(([1000], [1001], list(range(count)))):  # the first one is warm-up
            begun = time.perf_counter()
            runs = fedlab.grid(base, folder=f"{folder}/{number}", seed=chosen)
            wall.append(time.perf_counter() - begun)
            trained.append(sum(training_seconds(run) for run in runs))
    detail = f"{wall[2]:.1f} / {wall[1]:.2f} s; training alone {trained[2] / trained[1]:.2f}"
    yield most(f"W6: {count} seeds of W1, {base.rounds} rounds, / one seed", wall[2] / wall[1], 6, detail)


def training_seconds(run: Any) -> float:
    """Seconds of local training at all sites."""
    rows = run.rounds[(run.rounds["split"] == "train") & (run.rounds["metric"] == "loss")]
    return float(rows["seconds"].sum())


def determinism(given: Given) -> Iterator[Row]:
    """What deterministic kernels cost, and whether a run repeats bit for bit with them and without."""
    from cards import KERNELS, entrants, turns

    work, batch = workload("R256", given), 8 if given.quick else 256
    names = ("bare graph", "auto")
    each = {choice: entrants(work, given.device, "bf16", batch, names, choice) for choice in KERNELS}
    found = turns({f"{n}, {choice}": one[n] for choice, one in each.items() for n in names}, work.repeats)
    line = f"cost of determinism: {work.title}, b{batch}, bf16"
    if why := failed(found):
        yield Row(line, "", why, "failed")
    else:
        cost = found["auto, repeatable"].seconds / found["auto, default"].seconds - 1
        tuned = found["auto, repeatable"].seconds / found["auto, fastest found"].seconds - 1
        detail = f"{cost:+.1%} against PyTorch's default, {tuned:+.1%} against cudnn.benchmark=True ({times(found)})"
        yield Row(line, "", detail)
    for choice in ("repeatable", "default"):
        for precision in ("float32", "bf16"):
            apart = twice(given, choice, precision)
            detail = "the same bits" if apart == 0 else f"up to {apart:.0e} apart, of the largest weight"
            wanted = "the same bits" if choice == "repeatable" else ""
            line = f"two rounds of ResNet-18 run twice, {precision}, kernels: {choice}"
            yield Row(line, wanted, detail, verdict(apart == 0) if wanted else "")


def twice(given: Given, choice: str, precision: str) -> float:
    """The largest difference between the weights of two equal runs, relative to the largest weight."""
    from cards import kernels, partition, settings

    from fedlab.algorithms import start
    from fedlab.federation import Federation

    work, ends = workload("R32", given), []
    for _ in range(2):
        with kernels(choice):
            training = settings(given.device, precision, 8 if given.quick else 32, "auto")
            run = start("fedavg", Federation(partition(work), work.model, training))
            outcome = [next(run) for _ in range(2)][-1]
            ends.append(outcome.models["global"].vector.double().cpu())
            run.close()
    return float((ends[0] - ends[1]).abs().max() / ends[0].abs().max())


# Use of the GPU and the CPU


def utilisation(given: Given) -> Iterator[Row]:
    """Share of the time in which the GPU computes, while ResNet-18 trains."""
    line, wanted = "GPU utilisation while ResNet-18 trains, b256, bf16", "above 90 %"
    meter = utilisation_meter(given.device)
    samples = [] if meter is None else while_training(given, meter, 0.5 if given.quick else 8.0)
    steady = samples[len(samples) // 5 :]  # the first samples include the time before
    if not steady:
        yield Row(line, wanted, "neither pynvml nor nvidia-smi reports it", "not measured")
        return
    mean = statistics.mean(steady)
    detail = f"mean {mean:.0f} %, lowest {min(steady)} %, {len(steady)} samples"
    yield Row(line, wanted, detail, verdict(mean > 90))


def while_training(given: Given, meter: Callable[[], int], seconds: float) -> list[int]:
    """The values of repeated calls while ResNet-18 trains for so many seconds, after a round of warm-up."""
    from cards import partition, settings, wait

    from fedlab.algorithms import start
    from fedlab.federation import Federation

    work, batch = workload("R256", given), 8 if given.quick else 256
    fed = Federation(partition(work), work.model, settings(given.device, "bf16", batch, "auto"))
    run = start("fedavg", fed)
    next(run)
    wait(fed.device)
    with sampled(meter) as samples:
        begun = time.perf_counter()
        while time.perf_counter() - begun < seconds:
            next(run)
            sum(float(cost.loss) for cost in fed.round_log.costs.values())  # as every run reads them
    return samples


def utilisation_meter(device: str) -> Callable[[], int] | None:
    """A call that returns the GPU's utilisation in percent; None if no tool is installed."""
    if device == "cpu":
        return lambda: 0
    try:
        torch.cuda.utilization()
        return torch.cuda.utilization
    except Exception:  # pynvml is not there, or does not know this card
        pass
    if shutil.which("nvidia-smi") is None:
        return None
    uuid = getattr(torch.cuda.get_device_properties(0), "uuid", None)
    which = ["-i", f"GPU-{uuid}"] if uuid else []
    query = ["nvidia-smi", *which, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]

    def meter() -> int:
        return int(subprocess.run(query, capture_output=True, text=True, encoding="utf-8").stdout.split()[0])

    try:
        meter()
    except (ValueError, IndexError):
        return None
    return meter


@contextmanager
def sampled(meter: Callable[[], int], pause: float = 0.1) -> Iterator[list[int]]:
    """Collect the values of repeated calls while the block runs."""
    over, samples = threading.Event(), []

    def follow() -> None:
        while not over.wait(pause):
            samples.append(meter())

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def memory(given: Given) -> Iterator[Row]:
    """Peak memory of ResNet-18 by the number of sites."""
    from memory import peak

    model, sites = ("small_cnn", (2, 3)) if given.quick else ("resnet18", SITES)
    each = {k: peak(model, k, "auto", given.device)[0] for k in sites}
    detail = ", ".join(f"{k} sites {found / 1e3:.2f} GB" for k, found in each.items())
    *_, before, last = each.values()
    line = f"peak memory of {model} by the number of sites, 10 images each"
    yield Row(line, f"{sites[-1]} sites at most 1.1 times {sites[-2]}", detail, verdict(last <= 1.1 * before))


def threads(given: Given) -> Iterator[Row]:
    """Rounds on this machine's CPU by the number of threads."""
    cores = os.cpu_count() or 1
    for name in ("W1", "W3"):
        work = workload(name, given)
        counts = [count for count in THREADS if count <= cores]
        each = {count: on_threads(work, count, 1 if given.quick else 3) for count in counts}
        detail = ", ".join(f"{count}: {found:.3f} s ({each[1] / found:.1f} x)" for count, found in each.items())
        yield Row(f"CPU, {cores} cores: a round of {name} ({work.title}) by threads", "", detail)


def on_threads(work: Any, count: int, repeats: int) -> float:
    """Seconds per round with this many threads, set as `fedlab.run` sets them."""
    from cards import partition, settings

    from fedlab.algorithms import start
    from fedlab.engine.thread_pool import threads_for
    from fedlab.federation import Federation

    torch.set_num_threads(count)
    fed = Federation(partition(work), work.model, settings("cpu", mode="auto"))
    run, seconds = start("fedavg", fed), []
    with threads_for(fed.layout.parameters, fed.device):
        for _ in range(1 + repeats):
            begun = time.perf_counter()
            next(run)
            seconds.append(time.perf_counter() - begun)
    run.close()
    return statistics.median(seconds[1:])


# Results and notebooks


def tests(given: Given) -> Iterator[Row]:
    """`make gpu`; its output is stored next to the table."""
    log = given.out / f"gpu-{machine()['device']}-tests.txt"
    command = [sys.executable, "-u", str(ROOT / "tests" / "gpu.py"), "--waits"]
    if given.device == "cpu":
        command += ["--device", "cpu", "--minutes", "0.3"]
    begun = time.perf_counter()
    with log.open("w", encoding="utf-8") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT)
    output = log.read_text(encoding="utf-8").strip().splitlines()
    minutes = (time.perf_counter() - begun) / 60
    detail = f"{output[-1] if output else 'no output'} (see {log.name})"
    ok = done.returncode == 0 and minutes <= 4
    yield Row("`make gpu`: methods x modes x precisions, waits, tests", "all green in 4 minutes", detail, verdict(ok))


def published(dataset: str, given: Given) -> Iterator[Row]:
    """The published recipe on a dataset with three seeds, centralized, then over four sites."""
    from published import PUBLISHED, SETTINGS, recipe, scored

    import fedlab

    line = f"benchmarks/published.py, {dataset}, {given.precision}"
    if not has_data(dataset):
        yield Row(line, "", f"{dataset}.npz is in no mirror", "skipped")
        return
    counts = (1, 1) if given.quick else (3, 100)
    best, allowed = PUBLISHED[dataset], DATASETS[dataset]
    for name, changes in SETTINGS.items():
        experiment = recipe(dataset, counts[1]).with_(**changes, device=given.device, precision=given.precision)
        with tempfile.TemporaryDirectory() as folder:
            each = [scored(fedlab.run(experiment.with_(seed=seed), folder=folder)) for seed in range(counts[0])]
        means = [statistics.mean(values) for values in zip(*each, strict=True)]
        detail = f"AUROC {means[0]:.4f}, accuracy {means[1]:.4f}, {len(each)} seeds"
        if name == "centralized":
            wanted = f"AUROC {best[0]:.3f} ± {allowed[0]:.3f}, accuracy {best[1]:.3f} ± {allowed[1]:.3f}"
            yield Row(f"{line}: {name}", wanted, detail, close(means, best, allowed))
        else:
            yield Row(f"{line}: {name}", "", detail)


def close(means: list[float], best: tuple[float, float], allowed: tuple[float, float]) -> str:
    """Whether the means are within the tolerances; "above" if one is better than that and none is worse."""
    off = [(mean - wanted) / most for mean, wanted, most in zip(means, best, allowed, strict=True)]
    return "missed" if min(off) < -1 else "above" if max(off) > 1 else "met"


def notebooks(given: Given, device: str | None = None) -> Iterator[Row]:
    """Notebooks with the GPU preset on real chest X-rays, by papermill."""
    device, dataset = device or given.device, "pneumoniamnist"
    counts = {"00": 1} if given.quick else dict.fromkeys(NOTEBOOKS, ROUNDS)
    for number, count in counts.items():
        line = f"notebook {number}, preset gpu, {dataset}, {count} rounds, on {machine_part(device)}"
        missing = [] if has_data(dataset) else [f"{dataset}.npz is in no mirror"]
        missing += [] if find_spec("papermill") else ["papermill is not installed"]
        if missing:
            yield Row(line, "runs to its end", " and ".join(missing), "skipped")
            continue
        chosen = {"dataset": dataset, "rounds": str(count), "device": device}
        if given.quick:
            chosen |= {"dataset": f"{dataset}(limit=200)", "model": "small_cnn", "precision": "float32"}
        with tempfile.TemporaryDirectory() as folder:
            seconds, why = executed(number, {**chosen, "out": folder}, Path(folder))
        yield Row(line, "runs to its end", why or f"{seconds:.0f} s", verdict(not why))


def machine_part(device: str) -> str:
    return "the GPU" if device == "cuda" else f"{os.cpu_count()} CPU cores"


def executed(number: str, chosen: dict[str, str], folder: Path) -> tuple[float, str]:
    """(seconds, why not) of a notebook with these parameters and the preset."""
    (notebook,) = (ROOT / "notebooks").glob(f"{number}-*.ipynb")
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--kernel", "python3", str(notebook)]
    command += [str(folder / "executed.ipynb"), "-f", str(ROOT / "notebooks" / "presets" / "gpu.yaml")]
    for name, value in chosen.items():
        command += ["-p", name, value]
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, encoding="utf-8")
    last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
    return time.perf_counter() - begun, "" if done.returncode == 0 else f"failed: {' '.join(last)[:200]}"


def has_data(dataset: str) -> bool:
    """Whether the official file is in the cache or in a mirror, so that nothing is downloaded."""
    from data_prep.fetch import locate

    return any(locate({f"{dataset}.npz"}).values())
