"""A training step recorded once as a CUDA graph and played again: no time is spent between its operations.

A graph reads and writes fixed memory, so what differs from one site to the next (weights, optimizer state, cases,
learning rate, corrections) is copied into the memory that the graph was recorded with. One graph is recorded for each
batch size and kind of correction, and serves all sites and rounds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fedlab.core.weights import Weights
from fedlab.engine.local_task import LocalTask
from fedlab.engine.loop import SequentialEngine
from fedlab.engine.optimizers import Moments, Number
from fedlab.engine.thread_pool import Call, WorkerPool, by_size
from fedlab.learning import augmentation

Step = Callable[[], Any]
WARM = 3  # steps before a recording, in which libraries choose their kernels and take their memory


class CudaGraphEngine(SequentialEngine):
    """The serial engine with steps that are played from recordings, where they can be.

    Layers that draw random numbers draw those of the step: a graph takes the seed of its generator when it is played.
    obstacle: why none of its steps can be recorded; None if they can.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.record = recorder(self.flat.vector.device)
        self._held: dict[str, Tensor] = {}
        self._changes: dict[int, dict[str, Tensor]] = {}
        self._played: dict[tuple[Any, ...], Step] = {}
        self._clock = self.flat.vector.new_zeros((), dtype=torch.float64)  # of the optimizer, in Adam's formulas
        self._total = self.flat.vector.new_zeros(())

    @cached_property
    def obstacle(self) -> str | None:  # type: ignore[override]
        if self.record is None:
            return "CUDA graphs need a GPU"
        return "its images do not fit into the device's memory" if self.store.pixels.streamed else None

    def mode_of(self, work: LocalTask) -> str:
        """Steps are played from a recording, except those in which a method runs code of its own."""
        plays = self.obstacle is None and work.rule is None and work.term is None
        return "cuda_graph" if plays else "sequential"

    def _steps(self, start: Weights, work: LocalTask, moments: Moments) -> Tensor:
        if self.mode_of(work) == "sequential" or not work.steps:
            return super()._steps(start, work, moments)
        given = self._given(start, work, moments)
        rows = self._rows(work)
        for step, cases in enumerate(rows, work.first):
            self.go_on()
            self._hold(f"{len(cases)} rows", cases)
            self._hold_change(work.place(step), len(cases))
            play = self._play(len(cases), given)
            with self.chance.at(work.batches.site, step):
                play()
        self._passes = sum(len(cases) for cases in rows)
        moments.clock = int(moments.clock) + work.steps
        return self._total.clone()

    def _given(self, start: Weights, work: LocalTask, moments: Moments) -> "Given":
        """What the recorded steps read, set to what this work asks for."""
        pull, rest, rested = work.pull, start.vector, moments.vectors
        if pull is not None:
            pull = self._hold("mu", self._number(pull[0])), self._hold("anchor", pull[1])
        if work.frozen is not None:
            rest, rested = self._hold("rest", rest), self._hold("rested", rested)
        self._clock.fill_(moments.clock)
        self._total.zero_()
        held = replace(
            work,
            lr=self._hold("lr", self._number(work.lr)),
            pull=pull,
            shift=self._held_if("shift", work.shift),
            frozen=self._held_if("frozen", work.frozen),
            weights=self._held_if("weights", work.weights),
        )
        return Given(held, Moments(moments.vectors, self._clock), rest, rested)

    def _play(self, size: int, given: "Given") -> Step:
        """The step on so many cases, from memory or recorded now."""
        work = given.work
        key = (size, work.pull is None, work.shift is None, work.frozen is None, work.weights is None, work.decays)
        if key not in self._played:
            changes = (self.flat.vector, self.flat.counts, given.moments.vectors, self._clock, self._total)
            before = [tensor.clone() for tensor in changes]
            with self.chance.at("recording"):
                self._played[key] = self.record(lambda: self._once(size, given))  # type: ignore[misc]
            for tensor, value in zip(changes, before, strict=True):
                tensor.copy_(value)
        return self._played[key]

    def _once(self, size: int, given: "Given") -> None:
        rows, work = self._held[f"{size} rows"], given.work
        images = self.store.images(rows)
        if self.augmentation.any:
            images = augmentation.apply(images, self._changes[size])
        self._total += self._step(images, self.store.targets[rows], rows, work, given.moments)
        if work.frozen is not None:
            self._restore(given.rest, work.frozen, given.moments, given.rested)

    def _hold_change(self, place: augmentation.Place, size: int) -> None:
        """What becomes of the images of this step."""
        if self.augmentation.any:
            change = self.augmentation.draw(place, size, self.store.space)
            drawn = augmentation.tensors([change], self.flat.vector)
            self._changes[size] = {name: self._hold(f"{size} {name}", value) for name, value in drawn.items()}

    def _hold(self, name: str, value: Tensor) -> Tensor:
        """Memory of that name that recordings may read, with this value."""
        if name in self._held:
            return self._held[name].copy_(value)
        self._held[name] = value.clone()
        return self._held[name]

    def _held_if(self, name: str, value: Tensor | None) -> Tensor | None:
        return None if value is None else self._hold(name, value)

    def _number(self, value: Number) -> Tensor:
        return torch.full((), float(value), dtype=torch.float64, device=self.flat.vector.device)


@dataclass(frozen=True)
class Given:
    """What a recorded step reads: the work, the optimizer's state, and what frozen coordinates go back to."""

    work: LocalTask
    moments: Moments
    rest: Tensor
    rested: Tensor


def recorder(device: torch.device) -> Callable[[Step], Step] | None:
    """What turns a call into its recording on this device; None where nothing does."""
    return (lambda call: _recording(call, device)) if device.type == "cuda" else None


def _recording(call: Step, device: torch.device) -> Step:
    """The call's operations as a CUDA graph. It runs a few times before, and changes what it changes."""
    with torch.cuda.device(device):
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM):
                call()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
    return graph.replay


class StreamPool(WorkerPool):
    """Up to `count` engines on one GPU."""

    def __init__(self, first: SequentialEngine, another: Callable[[], SequentialEngine], count: int) -> None:
        super().__init__(first, another, count)
        self._streams: list[Any] = []

    def each(
        self, call: Call, items: Sequence[Any], sizes: Sequence[int], then: Callable[..., Any] | None = None
    ) -> list[Any]:
        """As `WorkerPool.each`: the next largest item goes to the engine with the least to do.

        What `then` does is queued on the caller's stream, so that it sees results in the order of their sizes.
        """
        count = min(self.count, len(items))
        if count < 2:
            return super().each(call, items, sizes, then)
        self._prepare(count)
        here, queued, found = torch.cuda.current_stream(), [0] * count, {}
        for stream in self._streams[:count]:
            stream.wait_stream(here)
        try:
            for i in by_size(sizes):
                place = min(range(count), key=queued.__getitem__)
                queued[place] += max(1, sizes[i])
                engine, stream = self.engines[place], self._streams[place]
                with torch.cuda.stream(stream):
                    found[i] = call(engine, items[i])
                if then is not None:
                    here.wait_stream(stream)
                    found[i] = then(engine, items[i], found[i])
        finally:
            for stream in self._streams[:count]:
                here.wait_stream(stream)
        return [found[i] for i in range(len(items))]

    def _prepare(self, count: int) -> None:
        while len(self.engines) < count:
            self.engines.append(self._another())
        while len(self._streams) < count:
            self._streams.append(torch.cuda.Stream())
