"""The CUDA graph engine: a training step is captured once and replayed, so that no time passes between its kernels.

A graph reads and writes fixed memory, so what differs from one site to the next (weights, optimizer state, cases,
learning rate, corrections) is copied into the memory of the capture. One graph is captured for each batch size and kind
of correction, and serves all sites and rounds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fedlab.core.memory import to_device
from fedlab.core.weights import Weights
from fedlab.engine.local_task import LocalTask
from fedlab.engine.loop import SequentialEngine
from fedlab.engine.optimizers import Moments, Number
from fedlab.engine.thread_pool import Call, WorkerPool, largest_first
from fedlab.learning import augmentation

Step = Callable[[], Any]
WARM_UP = 3  # steps before a capture, in which libraries choose their kernels and allocate their memory


class CudaGraphEngine(SequentialEngine):
    """The sequential engine with steps that are replayed from captured graphs, if they can be captured.

    Random layers draw the numbers of the step: a replay reads the seed of the graph's generator.
    obstacle: why no step can be captured; None if they can.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.capture = capture_on(self.flat.vector.device)
        self._static: dict[str, Tensor] = {}  # the memory that graphs read
        self._changes: dict[int, dict[str, Tensor]] = {}
        self._graphs: dict[tuple[Any, ...], Step] = {}
        self._optimizer_steps = self.flat.vector.new_zeros((), dtype=torch.float64)  # in Adam's bias correction
        self._total = self.flat.vector.new_zeros(())

    @cached_property
    def obstacle(self) -> str | None:  # type: ignore[override]
        if self.capture is None:
            return "CUDA graphs need a GPU"
        return "its images do not fit into the device's memory" if self.dataset.streamed else None

    def mode_of(self, local_task: LocalTask) -> str:
        """Steps are replayed, except those in which a method runs its own code."""
        captured = self.obstacle is None and local_task.rule is None and local_task.term is None
        return "cuda_graph" if captured else "sequential"

    def _steps(self, start: Weights, local_task: LocalTask, moments: Moments) -> Tensor:
        if self.mode_of(local_task) == "sequential" or not local_task.steps:
            return super()._steps(start, local_task, moments)
        inputs = self._inputs(start, local_task, moments)
        rows = self._rows(local_task)
        for step, cases in enumerate(rows, local_task.first):
            self.check_stopped()
            self._write(f"{len(cases)} rows", cases)
            if self.inputs.augmentation.by_case:
                self._write_batch(local_task, step, cases)
            else:
                self._write_crops(local_task, step, len(cases))
                self._write_augmentation(local_task.rng_key(step), len(cases))
            replay = self._graph(len(cases), inputs)
            with self.layer_rng.at(local_task.batches.site, step):
                replay()
        self._samples = sum(len(cases) for cases in rows)
        moments.steps = int(moments.steps) + local_task.steps
        return self._total.clone()

    def _inputs(self, start: Weights, local_task: LocalTask, moments: Moments) -> "StaticInputs":
        """The memory that captured steps read, with the values of this task."""
        pull, weights, vectors = local_task.pull, start.vector, moments.vectors
        if pull is not None:
            pull = self._write("mu", self._scalar(pull[0])), self._write("anchor", pull[1])
        if local_task.frozen is not None:
            weights, vectors = self._write("weights before", weights), self._write("moments before", vectors)
        self._optimizer_steps.fill_(moments.steps)
        self._total.zero_()
        static = replace(
            local_task,
            lr=self._write("lr", self._scalar(local_task.lr)),
            pull=pull,
            shift=self._write_optional("shift", local_task.shift),
            frozen=self._write_optional("frozen", local_task.frozen),
            weights=self._write_optional("weights", local_task.weights),
        )
        return StaticInputs(static, Moments(moments.vectors, self._optimizer_steps), weights, vectors)

    def _graph(self, size: int, inputs: "StaticInputs") -> Step:
        """The step on a batch of this size, captured on its first use."""
        task = inputs.local_task
        key = (size, task.pull is None, task.shift is None, task.frozen is None, task.weights is None, task.decays)
        if key not in self._graphs:
            assert self.capture is not None
            changed = (self.flat.vector, self.flat.counts, inputs.moments.vectors, self._optimizer_steps, self._total)
            before = [tensor.clone() for tensor in changed]
            with self.layer_rng.at("recording"):
                self._graphs[key] = self.capture(lambda: self._static_step(size, inputs))
            for tensor, value in zip(changed, before, strict=True):
                tensor.copy_(value)
        return self._graphs[key]

    def _static_step(self, size: int, inputs: "StaticInputs") -> None:
        """One step on the memory of the capture."""
        rows, task = self._static[f"{size} rows"], inputs.local_task
        images, targets = self._static_batch(rows, size)
        self._total += self._step(images, targets, rows, task, inputs.moments)
        if task.frozen is not None:
            self._restore_frozen(inputs.weights_before, task.frozen, inputs.moments, inputs.moments_before)

    def _static_batch(self, rows: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """The images and targets of a step, computed from static memory."""
        if self.inputs.augmentation.by_case:
            return self._static[f"{size} images"], self._static[f"{size} targets"]
        images, targets = self.inputs.cut(rows, self._static.get(f"{size} starts"))
        if self.inputs.augmentation.active:
            images, targets = self.inputs.change(images, targets, self._changes[size])
        return images, targets

    def _write_batch(self, local_task: LocalTask, step: int, rows: Tensor) -> None:
        """Make the batch of this step, some of it case by case on the CPU, and copy it into static memory."""
        index, keys = self._cases(local_task, step), [local_task.rng_key(step)]
        images, targets = self.inputs.augment(*self.inputs.gather(rows, index, keys), index, keys)
        self._write(f"{len(rows)} images", images)
        self._write(f"{len(rows)} targets", targets)

    def _write_crops(self, local_task: LocalTask, step: int, size: int) -> None:
        """Draw where the crops of this step begin into static memory."""
        starts = self.inputs.starts(self._cases(local_task, step), [local_task.rng_key(step)])
        if starts is not None:
            self._write(f"{size} starts", to_device(starts, self.flat.vector.device))

    def _write_augmentation(self, key: augmentation.RngKey, size: int) -> None:
        """Draw the augmentation of this step into static memory."""
        if self.inputs.augmentation.active:
            change = self.inputs.augmentation.draw(key, size, self.dataset.window)
            drawn = augmentation.to_tensors([change], self.flat.vector)
            self._changes[size] = {name: self._write(f"{size} {name}", value) for name, value in drawn.items()}

    def _write(self, name: str, value: Tensor) -> Tensor:
        """Copy the value into the static memory of this name, which is allocated on first use."""
        if name in self._static:
            return self._static[name].copy_(value)
        self._static[name] = value.clone()
        return self._static[name]

    def _write_optional(self, name: str, value: Tensor | None) -> Tensor | None:
        return None if value is None else self._write(name, value)

    def _scalar(self, value: Number) -> Tensor:
        return torch.full((), float(value), dtype=torch.float64, device=self.flat.vector.device)


@dataclass(frozen=True)
class StaticInputs:
    """What a captured step reads: the task, the optimizer's state, and the values that frozen coordinates keep."""

    local_task: LocalTask
    moments: Moments
    weights_before: Tensor
    moments_before: Tensor


def capture_on(device: torch.device) -> Callable[[Step], Step] | None:
    """A function that turns a call into its captured graph on this device; None if the device has none."""
    return (lambda call: _capture(call, device)) if device.type == "cuda" else None


def _capture(call: Step, device: torch.device) -> Step:
    """The call's operations as a CUDA graph. The call runs a few times before, with all its side effects."""
    with torch.cuda.device(device):
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            for _ in range(WARM_UP):
                call()
        torch.cuda.current_stream().wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
    return graph.replay


class StreamPool(WorkerPool):
    """Up to `count` engines on one GPU, each on its own CUDA stream."""

    def __init__(self, first: SequentialEngine, make_engine: Callable[[], SequentialEngine], count: int) -> None:
        super().__init__(first, make_engine, count)
        self._streams: list[Any] = []

    def map(
        self, call: Call, items: Sequence[Any], sizes: Sequence[int], then: Callable[..., Any] | None = None
    ) -> list[Any]:
        """As `WorkerPool.map`: the next largest item goes to the engine with the least to do.

        The work of `then` is queued on the caller's stream, so that it sees results in the order of their sizes.
        """
        count = min(self.count, len(items))
        if count < 2:
            return super().map(call, items, sizes, then)
        self._allocate(count)
        caller, queued, found = torch.cuda.current_stream(), [0] * count, {}
        for stream in self._streams[:count]:
            stream.wait_stream(caller)
        try:
            for i in largest_first(sizes):
                least = min(range(count), key=queued.__getitem__)
                queued[least] += max(1, sizes[i])
                engine, stream = self.engines[least], self._streams[least]
                with torch.cuda.stream(stream):
                    found[i] = call(engine, items[i])
                if then is not None:
                    caller.wait_stream(stream)
                    found[i] = then(engine, items[i], found[i])
        finally:
            for stream in self._streams[:count]:
                caller.wait_stream(stream)
        return [found[i] for i in range(len(items))]

    def _allocate(self, count: int) -> None:
        """Make engines and streams for so many items at a time."""
        while len(self.engines) < count:
            self.engines.append(self.make_engine())
        while len(self._streams) < count:
            self._streams.append(torch.cuda.Stream())
