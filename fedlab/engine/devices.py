"""Devices: the one that a run uses, the GPU of each process of a grid, and settings that leave a GPU idle."""

from __future__ import annotations

import gc
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from fedlab.learning.settings import Training

SUPPORTED = "'auto', 'cpu', 'cuda' or 'cuda:1'"

# Measured on an H100: a step on 32 images of 28 x 28 (25,000 pixels) occupies a few of the 132 multiprocessors, and
# steps whose kernels are launched one by one take 2 to 10 times as long as CUDA graphs for up to 500,000 pixels a step.
FEW_PIXELS = 2**14  # in the batches of all sites
LAUNCH_BOUND = 2**19  # pixels in the batch of one site
LARGE_MODEL = 1_000_000  # parameters of a model whose steps are bound by arithmetic in float64


def find_device(name: str) -> torch.device:
    """The torch device of a name: "auto" is the GPU if there is one, "cuda" this thread's current GPU.

    Parameters
    ----------
    name : str
        "auto", "cpu", "cuda" or "cuda:N".

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        `name` is no device, has a type that fedlab does not support, or is not on this machine.

    Examples
    --------
    >>> find_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if not re.fullmatch(r"cuda(:\d+)?", name):
        raise ValueError(_refusal(name))
    if not torch.cuda.is_available():
        raise ValueError(f"device={name!r}, but PyTorch finds no CUDA here: use device='cpu' or 'auto'")
    if _index(name) >= (count := torch.cuda.device_count()):
        raise ValueError(f"device={name!r}, but PyTorch finds {count} GPU(s) here: count from cuda:0")
    return torch.device(name)


def _refusal(name: str) -> str:
    """Why a device that is neither a CPU nor a CUDA GPU is refused, and what to write."""
    try:
        kind = torch.device(name).type
    except RuntimeError:
        kind = "cpu"
    if kind == "mps":
        return (
            f"device={name!r} is an Apple GPU, which has neither CUDA graphs nor float64, in which fedlab merges and"
            " evaluates models, and nothing is tested on it: use device='cpu'"
        )
    if kind not in ("cpu", "cuda"):
        return f"device={name!r} has the type {kind!r}, on which fedlab is not tested: write {SUPPORTED}"
    return f"unknown device {name!r}: write {SUPPORTED}"


def _index(name: str) -> int:
    """The number in "cuda:1"; 0 for "cuda". (torch.device counts modulo 256 and reads "cuda:256" as "cuda:0".)"""
    return int(name.partition(":")[2] or 0)


def device_name(device: torch.device) -> str:
    """The name shown to users: "cpu", or the name that the GPU's driver reports."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def duration(seconds: float) -> str:
    """Format seconds: "0.42 s", "12 s", "3 min", "1 h 20 min"."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def throughput(rate: float) -> str:
    """Images a second, as progress lines show them.

    >>> throughput(1234.5)
    '1,234 images/s'
    """
    return f"{rate:,.0f} images/s" if rate >= 10 else f"{rate:.2g} images/s"


def assign_gpus(names: Sequence[str], count: int) -> list[int | None]:
    """The GPU of each task of a grid, round robin over `count` GPUs in the order of tasks; None: no GPU.

    names: the `device` of each task that is not finished. A task that names its GPU ("cuda:1") gets that one, a task on
    the CPU gets none, and neither takes a turn. If all tasks take equally long, no two share a GPU unless more run at a
    time than there are GPUs; if one takes longer, one GPU may have two tasks and another none.

    Tested without a second GPU: this function alone, and a grid on two processes in which `torch.cuda.is_available`,
    `device_count` and `set_device` are fakes (tests/engine/test_devices.py). Kernels on two GPUs were never run.

    >>> assign_gpus(["auto", "cpu", "cuda:1", "auto"], 2)
    [0, None, 1, 1]
    """
    turns = itertools.count()

    def gpu(name: str) -> int | None:
        if name == "cpu" or not count:
            return None
        return _index(name) if ":" in name else next(turns) % count

    return [gpu(name) for name in names]


@contextmanager
def on_gpu(index: int | None) -> Iterator[None]:
    """Make this GPU the current one of this thread; None does nothing.

    Afterwards PyTorch's cached memory is freed, since the process's next task may use another GPU.
    """
    if index is None:
        yield
        return
    torch.cuda.set_device(index)
    try:
        yield
    finally:
        gc.collect()  # a federation is a reference cycle, which keeps its tensors until the next collection
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class Load:
    """The work that a run has for a device.

    parameters: of the model. shape: of an image, (height, width[, depth]). batch: cases in the largest batch of a site.
    joint_batch: cases in the batches of all sites, the most that can train at a time. streamed: images are read from
    disk, because they do not fit into the device's memory.
    """

    parameters: int
    shape: tuple[int, ...]
    batch: int
    joint_batch: int
    streamed: bool


def idle_gpu(settings: Training, device: torch.device, load: Load) -> str | None:
    """One sentence on settings that leave a GPU idle for much of a run, and what to change; None if there are none."""
    found = list(_idle(settings, load)) if device.type == "cuda" else []
    return f"the GPU idles for much of this run: {'; '.join(found)}" if found else None


def _idle(settings: Training, load: Load) -> Iterator[str]:
    """The settings that leave any GPU idle for certain; no method and no default is among them."""
    pixels = math.prod(load.shape)
    if settings.execution == "sequential" and load.batch * pixels <= LAUNCH_BOUND:
        yield (
            "execution='sequential' launches the kernels of each step one by one, which takes 2 to 10 times as long as"
            " a CUDA graph (use execution='auto')"
        )
    if load.joint_batch * pixels <= FEW_PIXELS:
        size = " x ".join(str(length) for length in load.shape)
        yield (
            f"with batch_size={settings.batch_size} the batches of all sites have {load.joint_batch} images of"
            f" {size} pixels in total, too few to occupy a GPU (use a larger batch_size, or device='cpu')"
        )
    if settings.precision == "float64" and load.parameters >= LARGE_MODEL:
        yield (
            "precision='float64' does not use the float32 units, of which a GPU has 2 to 64 times as many (use"
            " precision='float32' or 'bf16')"
        )
    if load.streamed:
        yield (
            "the images do not fit into its free memory and are read from disk in every step (use smaller images, fewer"
            " cases, or a GPU with more free memory)"
        )
