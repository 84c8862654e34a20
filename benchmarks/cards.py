"""Rounds on a GPU: bare PyTorch loops, eager and as CUDA graphs, against fedlab's execution modes.

The floor is the best careful loop on one GPU: images preloaded as channels-last floats, the model in channels-last
memory, PyTorch's fused SGD, the same batches, chosen by index on the GPU; each step replayed from a CUDA graph that was
captured once for each batch size. It neither averages nor evaluates. All contestants take turns, and ratios of
medians count.
"""

import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from rounds import HERE, SETTINGS, WORK, Workload, measure, world
from torch import Tensor

from fedlab.algorithms import start
from fedlab.federation import Federation
from fedlab.federation.settings import FederationSettings
from fedlab.learning import models

warnings.simplefilter("ignore")  # that a site lacks a class does not matter here
MODES = ("auto", "sequential", "cuda_graph", "vmap")
BARE = ("bare", "bare graph", "bare graph, lean")
KERNELS = {  # name -> cudnn.deterministic, cudnn.benchmark, TF32 in float32 convolutions
    "repeatable": (True, False, False),  # as `fedlab.run` has it
    "default": (False, False, True),  # as PyTorch has it
    "fastest found": (False, True, True),
}
LARGE = {
    "R32": Workload("8 sites of 200 images, ResNet-18", (200,) * 8, "resnet18", repeats=5),
    "R256": Workload("8 sites of 2,048 images, ResNet-18", (2048,) * 8, "resnet18", repeats=3),
}
WORKLOADS = WORK | LARGE
LEGEND = """\
Seconds a round of `fedavg`, one epoch, batches of {batch}, {precision}; in brackets times the bare graph's, then peak
GPU memory. Bare: a loop of plain PyTorch, which neither averages nor evaluates; graph: its step replayed from a CUDA
graph; lean: gradients are overwritten in each step instead of zeroed and added to. All run with the kernels that
`fedlab.run` chooses (deterministic, no TF32), in turn, in one process per row."""


@lru_cache(maxsize=1)
def partition(work: Workload) -> Any:
    """The workload's cases at their sites, shared by several federations."""
    return world(work)


def settings(device: str, precision: str = "float32", batch: int = 32, mode: str = "sequential") -> FederationSettings:
    """One epoch a round, for as many rounds as the caller wants."""
    given = {**SETTINGS, "batch_size": batch, "precision": precision, "execution": mode, "device": device}
    return FederationSettings(rounds=1_000_000, **given)


@contextmanager
def kernels(name: str) -> Iterator[None]:
    """Let PyTorch choose kernels in one of the ways of `KERNELS`."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32
    cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = KERNELS[name]
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = before


def wait(device: torch.device) -> None:
    """Wait until the GPU has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Bare:
    """The bare loop.

    graphed: replay the steps from CUDA graphs. lean: let each step overwrite the gradients of the one before; otherwise
    they are zeroed and added to.
    """

    def __init__(self, work: Workload, training: FederationSettings, graphed: bool = False, lean: bool = False) -> None:
        part, self.graphed, self.lean = partition(work), graphed, lean
        self.device, self.bf16 = torch.device(training.device), training.precision == "bf16"
        fed = Federation(part, work.model, training.model_copy(update={"device": "cpu", "execution": "sequential"}))
        self.sites, self.settings = fed.sites, training
        kept = [torch.channels_last, torch.channels_last_3d][work.dimensions - 2]
        net = models.build(work.model, part.cases.shape, fed.task.outputs, 0, "avg").to(self.device)
        self.net = net.to(memory_format=kept).train()
        self.optimizer = torch.optim.SGD(self.net.parameters(), training.lr, momentum=training.momentum, fused=True)
        images = torch.from_numpy(np.array(part.cases.images)).float().div_(255).to(self.device)
        self.images = images.contiguous(memory_format=kept)
        self.labels = torch.tensor(part.cases.labels).float().to(self.device)
        self.captured: dict[int, tuple[Tensor, Callable[[], Any]]] = {}

    def step(self, index: Tensor) -> None:
        """One optimizer step on the cases of these rows."""
        if self.lean:
            self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.net(self.images[index])[:, 0]
        torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), self.labels[index]).backward()
        self.optimizer.step()
        if not self.lean:
            self.optimizer.zero_grad(set_to_none=not self.graphed)

    def replay(self, index: Tensor) -> None:
        """The same step, replayed from a capture for this number of cases."""
        if len(index) not in self.captured:
            held = index.clone()
            self.captured[len(index)] = held, captured(lambda: self.step(held), self.device)
        held, call = self.captured[len(index)]
        held.copy_(index)
        call()

    def round(self, number: int) -> None:
        one = self.replay if self.graphed else self.step
        for site in self.sites:
            steps = site.steps(self.settings)
            rows = [site.batches.at(step) for step in range((number - 1) * steps, number * steps)]
            whole = torch.from_numpy(np.concatenate(rows)).to(self.device)
            for index in whole.split([len(each) for each in rows]):
                one(index)

    def close(self) -> None:
        self.captured.clear()


def captured(call: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    """The call's operations as a CUDA graph, after three calls of warm-up; on a CPU the call itself."""
    if device.type == "cpu":
        return call
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


class Simulated:
    """`fedavg` as fedlab trains it, without evaluation."""

    def __init__(self, work: Workload, training: FederationSettings) -> None:
        self.fed = Federation(partition(work), work.model, training)
        self.rounds = start("fedavg", self.fed)

    @property
    def used(self) -> str:
        """The modes in which its sites were trained."""
        return " + ".join(sorted(self.fed.execution.used))

    def round(self, number: int) -> None:
        next(self.rounds)

    def close(self) -> None:
        self.rounds.close()


class Contestant:
    """One that takes turns with others.

    peak: memory in bytes that it added. used: execution modes. why: its error, after which it is left out.
    """

    def __init__(self, make: Callable[[], Any], device: str, choice: str = "repeatable") -> None:
        self._make, self.device, self.choice = make, torch.device(device), choice
        self._one: Any = None
        self._held = self.peak = 0
        self.used = self.why = ""

    def build(self) -> "Contestant":
        """Build it. Memory is measured here and in the first round, in which graphs are captured."""
        with self._watched():
            self._try(lambda: setattr(self, "_one", self._make()))
        return self

    def round(self, number: int) -> None:
        with self._watched() if number == 1 else nullcontext():
            if not self.why:
                self._try(lambda: self._one.round(number))

    def close(self) -> None:
        if self._one is not None:
            self.used = getattr(self._one, "used", "")
            self._one.close()
            self._one = None

    def _try(self, call: Callable[[], Any]) -> None:
        """Run the call with this contestant's kernels."""
        try:
            with kernels(self.choice):
                call()
                wait(self.device)
        except Exception as error:
            if "CUDA error" in str(error):  # the device is lost, for all in this process
                raise
            self.why = f"{type(error).__name__}: {brief(error)}"

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Measure what is added to the memory that the others hold already."""
        if self.device.type != "cuda":
            yield
            return
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        yield
        self.peak = max(self.peak, self._held + torch.cuda.max_memory_allocated(self.device) - before)
        self._held += torch.cuda.memory_allocated(self.device) - before


def brief(error: Exception) -> str:
    """The beginning of an error message, fit for a table."""
    return " ".join(str(error).replace("|", "/").split())[:160]


@dataclass(frozen=True)
class Found:
    """Median seconds a round, peak memory in bytes, the modes used, and why there is no number."""

    seconds: float
    peak: int
    used: str = ""
    why: str = ""


def turns(each: dict[str, Contestant], repeats: int) -> dict[str, Found]:
    """Let the contestants take turns, after a round of warm-up."""
    seconds = measure({name: one.build for name, one in each.items()}, repeats)
    return {
        name: Found(float("nan") if one.why else seconds[name], one.peak, one.used, one.why)
        for name, one in each.items()
    }


def entrants(
    work: Workload, device: str, precision: str, batch: int, names: tuple[str, ...], choice: str = "repeatable"
) -> dict[str, Contestant]:
    """Those of `BARE` and of `MODES` that are named."""

    def of(name: str) -> Contestant:
        training = settings(device, precision, batch, name if name in MODES else "sequential")
        if name in MODES:
            return Contestant(lambda: Simulated(work, training), device, choice)
        return Contestant(lambda: Bare(work, training, "graph" in name, "lean" in name), device, choice)

    return {name: of(name) for name in names}


def race(
    work: Workload, device: str, precision: str, batch: int, names: tuple[str, ...], repeats: int | None = None
) -> dict[str, Found]:
    """Time bare loops and fedlab's modes, which take turns."""
    return turns(entrants(work, device, precision, batch, names), repeats or work.repeats)


def matrix_rate(device: str = "cuda", size: int = 8192, repeats: int = 20) -> float:
    """Floating point operations a second of a product of two bf16 matrices."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(5 + repeats):
        begun = time.perf_counter()
        a @ b
        wait(torch.device(device))
        seconds.append(time.perf_counter() - begun)
    return 2 * size**3 / statistics.median(seconds[5:])


def row(name: str, work: Workload, found: dict[str, Found]) -> str:
    """A row of the table; a contestant that failed has its error in place of a time."""
    best, cells = found["bare graph"].seconds, [name, work.title]
    for what in (*BARE, *MODES):
        one = found.get(what)
        if one is None or one.why:
            cells.append(one.why if one else "")
            continue
        ratio = f" ({one.seconds / best:.2f})" if what in MODES else ""
        used = f" as {one.used}" if what == "auto" else ""
        cells.append(f"{one.seconds:.3f}{ratio}, {one.peak / 1e6:,.0f} MB{used}")
    cells.append(f"{found['auto'].seconds / sum(work.sizes) * 1e6:.1f}")
    return f"| {' | '.join(cells)} |"


def alone(call: Callable[..., Any], *given: Any) -> Any:
    """The call's result, or its exception, from another process, since a lost device ends the process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(call, *given).result()
        except (BrokenProcessPool, RuntimeError) as error:
            return error


def report(names: list[str], precision: str, batch: int, device: str = "cuda") -> None:
    """Print and store the table of these workloads; without a GPU say so."""
    from machine import machine, page  # in this folder

    if device == "cuda" and not torch.cuda.is_available():
        print("PyTorch finds no GPU here, so nothing was measured.")
        return
    head = ["", "workload", *BARE, *MODES, "auto, us an image"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    print("\n".join(lines))
    for name in names or WORKLOADS:
        work = WORKLOADS[name]
        chosen = tuple(what for what in (*BARE, *MODES) if (what, work.model) != ("vmap", "resnet18"))
        found = alone(race, work, device, precision, batch, chosen)
        failed = isinstance(found, Exception)
        lines.append(f"| {name} | {work.title} | failed: {brief(found)} |" if failed else row(name, work, found))
        print(lines[-1], flush=True)
    rate = f"Product of two bf16 matrices of 8,192 x 8,192: {matrix_rate(device) / 1e12:,.0f} TFLOP/s."
    text = "\n".join([LEGEND.format(batch=batch, precision=precision), "", *lines, "", rate])
    path = HERE / "results" / f"rounds-{machine()['device']}-{precision}-b{batch}.md"
    print(rate)
    page(path, "Rounds on a GPU against bare loops", text)
