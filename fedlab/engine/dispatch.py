"""How the sites of a round are trained: which engine does what, so that neither methods nor engines know.

What "auto" chooses on a processor was measured (benchmarks/README.md): sites one after another on each core are faster
than one batched model wherever there are convolutions; a small network without any is bound by the overhead of its
operations, so from some sites on it is stacked, there and on a GPU. The steps of other networks are played from CUDA
graphs on a GPU, which was measured; those of small networks on several streams at once, which was not.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.conv import _ConvNd

from fedlab.core.memory import on_this_stream
from fedlab.core.typing import Ints
from fedlab.core.weights import Weights
from fedlab.engine.cuda_graph import StreamPool
from fedlab.engine.local_task import LocalJob, Named, Trained
from fedlab.engine.lockstep import together
from fedlab.engine.loop import EVALUATION_BATCH, SequentialEngine
from fedlab.engine.thread_pool import WorkerPool
from fedlab.engine.threads import SMALL
from fedlab.engine.vmap import VmapEngine

ENOUGH = {"cuda": 2}  # sites in lock-step on average from which on stacks are faster
OTHERWISE = 6
STREAMS = 8  # sites of a small network that train at the same time on a GPU; a guess until it is measured
OBSTACLES = {  # mode -> why a method has no place for it, where the model has
    "vmap": "its sites train one at a time",
    "cuda_graph": "its steps run code of the method's own",
}


Done = Callable[
    [LocalJob, Trained, Callable[[], None]], Trained
]  # (job, what it came to, go on?) -> what is kept of it


def always() -> None:
    """Nothing stops what is done already."""


class Beside(Protocol):
    """Other runs, with which work is shared, see `fedlab.engine.seed_batching`."""

    def train(self, execution: "Execution", jobs: Sequence[LocalJob], named: Named, done: Done) -> list[Trained]: ...

    def predict(self, execution: "Execution", asked: Sequence[tuple[Weights, Ints]]) -> list[NDArray[np.float64]]: ...


def small(model: nn.Module) -> bool:
    """Whether one step of the network leaves most of a GPU, or of several cores, unused."""
    return sum(parameter.numel() for parameter in model.parameters()) < SMALL


def dense(model: nn.Module) -> bool:
    """Whether a step of the network is bound by the overhead of its operations: it is small, without convolutions."""
    return small(model) and not any(isinstance(module, _ConvNd) for module in model.modules())


class Execution:
    """Trains and predicts; what sites side by side come to does not depend on how many cores take part.

    mode: "sequential" (one site after another, on each core), "vmap" (sites as one batched model), "cuda_graph" (steps
    played from CUDA graphs), or "auto", which chooses. dense: see `dense`. used: modes in which sites were trained.
    """

    def __init__(
        self,
        serial: SequentialEngine,
        another: Callable[[], SequentialEngine],
        mode: str,
        beside: "Beside | None" = None,
    ) -> None:
        """beside: the run's place among others that go on in step."""
        self.device, self.parameters = serial.flat.vector.device, serial.flat.layout.parameters
        self.dense, self.beside = dense(serial.flat.model), beside
        self.serial, self.mode, self.lanes = serial, mode, self._lanes(serial, another, mode)
        self.used: set[str] = set()

    def _lanes(self, serial: SequentialEngine, another: Callable[[], SequentialEngine], mode: str) -> WorkerPool:
        """The engines that train sites at the same time; layers that draw random numbers share one generator."""
        if self.device.type == "cuda":
            several = mode in ("auto", "cuda_graph") and small(serial.flat.model) and serial.chance.layer is None
            return StreamPool(serial, another, STREAMS if several else 1)
        alone = self.dense or self.device.type != "cpu" or serial.chance.layer
        return WorkerPool(serial, another, 1 if alone else torch.get_num_threads())

    def train(self, jobs: Sequence[LocalJob], named: Named, done: Done) -> list[Trained]:
        """What each job came to, in their order.

        named(job): the context in which a refusal is told of its site. done: may refuse what came of a job, or keep
        less of it.
        """
        if self.beside is not None:
            return self.beside.train(self, jobs, named, done)
        return self.carry_out(jobs, named, done)

    def carry_out(self, jobs: Sequence[LocalJob], named: Named, done: Done) -> list[Trained]:
        """The same, whatever goes on beside."""
        if self.stacks(jobs):
            self.used.add("vmap")
            found = self.stacked.train(jobs, named)
            return [done(job, trained, always) for job, trained in zip(jobs, found, strict=True)]

        def call(engine: SequentialEngine, job: LocalJob) -> Trained:
            with named(job):
                return engine.train(job)

        def then(engine: SequentialEngine, job: LocalJob, trained: Trained) -> Trained:
            on_this_stream(*trained.weights.tensors().values())
            return done(job, trained, engine.go_on)

        found = self.lanes.each(call, jobs, [job.work.steps for job in jobs], then)
        self.used |= {self.serial.mode_of(job.work) for job in jobs}
        return found

    @cached_property
    def stacked(self) -> VmapEngine:
        """The engine that trains sites as one batched model."""
        return VmapEngine(self.serial)

    def stacks(self, jobs: Sequence[LocalJob]) -> bool:
        """Whether these sites train as one model."""
        if len(jobs) < 2 or not self.stackable:
            return False
        return self.mode == "vmap" or together([job.work for job in jobs]) >= ENOUGH.get(self.device.type, OTHERWISE)

    @cached_property
    def stackable(self) -> bool:
        """Whether sites may be stacked at all."""
        if not (self.mode == "vmap" or (self.mode == "auto" and self.dense)):
            return False
        return self.stacked.obstacle is None

    def fallback(self) -> str | None:
        """Why the mode that was asked for was never used; None where it was."""
        if self.mode not in OBSTACLES or self.mode in self.used:
            return None
        engine = self.stacked if self.mode == "vmap" else self.serial
        return engine.obstacle or OBSTACLES[self.mode]

    def each(self, call: Callable[[SequentialEngine, Any], Any], asked: Sequence[tuple[Weights, Any]]) -> list[Any]:
        """call(engine, (model, cases or batches)) of each, in their order."""
        return self.lanes.each(call, asked, [1] * len(asked))

    def predict(self, asked: Sequence[tuple[Weights, Ints]]) -> list[NDArray[np.float64]]:
        """Probabilities (n, classes) of each model for its cases."""
        return self.foretell(asked) if self.beside is None else self.beside.predict(self, asked)

    def foretell(self, asked: Sequence[tuple[Weights, Ints]]) -> list[NDArray[np.float64]]:
        """The same for this run alone; read from the device in one transfer."""
        pieces = [(i, part) for i, (_, index) in enumerate(asked) for part in self._pieces(index)]
        wanted = [(asked[i][0], part) for i, part in pieces]
        if len(asked) > 1 and self.stackable:
            found = self.stacked.predict(wanted)
        else:
            sizes = [len(part) for _, part in wanted]
            found = self.lanes.each(lambda engine, one: engine.predict(*one), wanted, sizes)
        ends = np.cumsum([len(index) for _, index in asked])  # pieces are in the order of what was asked
        return np.split(torch.cat(found).cpu().numpy(), ends[:-1]) if asked else []

    def _pieces(self, index: Ints) -> list[Ints]:
        """Cases in as many pieces as there are lanes, cut where batches end, so that batches are what they were."""
        batches = max(1, -(-len(index) // EVALUATION_BATCH))
        step = -(-batches // self.lanes.count) * EVALUATION_BATCH
        return [index[start : start + step] for start in range(0, len(index), step)] or [index]
