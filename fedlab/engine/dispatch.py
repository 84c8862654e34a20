"""Dispatch: which engine trains the sites of a round, so that neither methods nor engines need to know.

What "auto" chooses on a CPU was measured (benchmarks/README.md): sites one after another on each core are faster than
one batched model if there are convolutions; a small network without convolutions is bound by the overhead of its
operations, so from some number of sites on vmap is faster, there and on a GPU. The steps of other networks are replayed
from CUDA graphs on a GPU, which was measured; those of small networks on several streams in parallel, which was not.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from fedlab.core.memory import record_stream
from fedlab.core.typing import Floats, Ints
from fedlab.core.weights import Weights
from fedlab.engine.cuda_graph import StreamPool
from fedlab.engine.device_dataset import DeviceDataset
from fedlab.engine.flat_model import SMALL_MODEL, parameter_count
from fedlab.engine.local_task import ErrorContext, LocalJob, OnTrained, Trained
from fedlab.engine.lockstep import mean_group_size
from fedlab.engine.loop import SequentialEngine
from fedlab.engine.thread_pool import WorkerPool
from fedlab.engine.vmap import VmapEngine
from fedlab.learning.tasks import Surfaces

VMAP_SITES = {"cpu": 6, "cuda": 2}  # sites that step together, on average, from which on vmap is faster
STREAMS = 8  # sites of a small network that train in parallel on a GPU; a guess until it is measured
OBSTACLES = {  # mode -> why a method cannot use it, if the model can
    "vmap": "its sites train one at a time",
    "cuda_graph": "its steps run code of the method's own",
}


def never_stopped() -> None:
    """Check nothing, for work that is already done."""


class SeedBatch(Protocol):
    """Runs of other seeds that train and predict in the same batches, see `fedlab.engine.seed_batching`."""

    def train(
        self, execution: "Execution", jobs: Sequence[LocalJob], error_context: ErrorContext, on_trained: OnTrained
    ) -> list[Trained]: ...

    def predict(self, execution: "Execution", requests: Sequence[tuple[Weights, Ints]]) -> list[Floats]: ...


def is_small(model: nn.Module) -> bool:
    """Whether one step of the network leaves most of a GPU, or of several cores, unused."""
    return parameter_count(model) < SMALL_MODEL


def is_dense(model: nn.Module) -> bool:
    """Whether a step is bound by the overhead of its operations: a small network without convolutions."""
    return is_small(model) and not any(isinstance(module, _ConvNd) for module in model.modules())


class Execution:
    """Trains models at their sites, and predicts. Results do not depend on the number of cores.

    engine: the first engine, with the model and the device dataset. pool: the engines that train sites in parallel.
    mode: the requested mode: "sequential" (one site after another, on each core), "vmap" (sites as one batched model),
    "cuda_graph" (steps replayed from CUDA graphs), or "auto", which chooses. used: modes in which sites were trained.
    """

    def __init__(
        self,
        engine: SequentialEngine,
        make_engine: Callable[[], SequentialEngine],
        mode: str,
        seed_batch: "SeedBatch | None" = None,
    ) -> None:
        """make_engine: one more engine on the same device dataset. seed_batch: runs in lock-step with this one."""
        self.device, self.parameters = engine.flat.vector.device, parameter_count(engine.flat.model)
        self.dense, self.seed_batch = is_dense(engine.flat.model), seed_batch
        self.engine, self.mode, self.pool = engine, mode, self._make_pool(engine, make_engine, mode)
        self.used: set[str] = set()

    @property
    def dataset(self) -> DeviceDataset:
        """The device dataset that all engines share."""
        return self.engine.dataset

    @property
    def workers(self) -> int:
        """How many sites train in parallel, at most."""
        return self.pool.count

    @property
    def batches_sites(self) -> bool:
        """Whether the models of several sites may train as one batch, so that all are in memory together."""
        return self.seed_batch is not None or self.vmap_possible

    def train(self, jobs: Sequence[LocalJob], error_context: ErrorContext, on_trained: OnTrained) -> list[Trained]:
        """The result of each job, in their order; in one batch with the jobs of other seeds if there are any.

        error_context(job): the context in which an error is raised with the job's site. on_trained: called with each
        result; it may refuse the result, or keep less of it.
        """
        if self.seed_batch is not None:
            return self.seed_batch.train(self, jobs, error_context, on_trained)
        return self.train_now(jobs, error_context, on_trained)

    def train_now(self, jobs: Sequence[LocalJob], error_context: ErrorContext, on_trained: OnTrained) -> list[Trained]:
        """As `train`, without waiting for other seeds."""
        if self.uses_vmap(jobs):
            self.used.add("vmap")
            found = self.vmap_engine.train(jobs, error_context)
            return [on_trained(job, trained, never_stopped) for job, trained in zip(jobs, found, strict=True)]

        def call(engine: SequentialEngine, job: LocalJob) -> Trained:
            with error_context(job):
                return engine.train(job)

        def then(engine: SequentialEngine, job: LocalJob, trained: Trained) -> Trained:
            record_stream(*trained.weights.tensors().values())
            return on_trained(job, trained, engine.check_stopped)

        found = self.pool.map(call, jobs, [job.local_task.steps for job in jobs], then)
        self.used |= {self.engine.mode_of(job.local_task) for job in jobs}
        return found

    def predict(self, requests: Sequence[tuple[Weights, Ints]]) -> list[Floats]:
        """What is stored (n, columns) of each model's cases: probabilities, or counts of voxels."""
        if self.seed_batch is not None:
            return self.seed_batch.predict(self, requests)
        return self.predict_now(requests)

    def predict_masks(
        self, requests: Sequence[tuple[Weights, Ints, Floats | None]], surfaces: Surfaces | None
    ) -> list[Floats]:
        """Numbers (n, columns) of segmented cases, without waiting for other seeds, see `SequentialEngine.predict`."""
        split = [(w, part, shares) for w, index, shares in requests for part in self._parts(index)]
        sizes = [len(part) for _, part, _ in split]
        found = self.pool.map(lambda engine, one: engine.predict(one[0], one[1], one[2], surfaces), split, sizes)
        ends = np.cumsum([len(index) for _, index, _ in requests])
        return np.split(torch.cat(found).cpu().numpy(), ends[:-1]) if requests else []

    def predict_now(self, requests: Sequence[tuple[Weights, Ints]]) -> list[Floats]:
        """As `predict`, without waiting for other seeds; read from the device in one transfer."""
        split = [(w, part) for w, index in requests for part in self._parts(index)]
        if len(requests) > 1 and self.dataset.extents is None and self.vmap_possible:
            found = self.vmap_engine.predict(split)
        else:
            sizes = [len(part) for _, part in split]
            found = self.pool.map(lambda engine, request: engine.predict(*request), split, sizes)
        ends = np.cumsum([len(index) for _, index in requests])  # parts are in the order of the requests
        return np.split(torch.cat(found).cpu().numpy(), ends[:-1]) if requests else []

    def map(self, call: Callable[[SequentialEngine, Any], Any], items: Sequence[tuple[Weights, Any]]) -> list[Any]:
        """call(engine, (model, cases or batches)) of each item, in their order, in parallel."""
        return self.pool.map(call, items, [1] * len(items))

    def uses_vmap(self, jobs: Sequence[LocalJob]) -> bool:
        """Whether these sites train as one batched model."""
        if len(jobs) < 2 or not self.vmap_possible:
            return False
        return self.mode == "vmap" or mean_group_size([job.local_task for job in jobs]) >= VMAP_SITES[self.device.type]

    def fallback(self) -> str | None:
        """Why the requested mode was never used; None if it was."""
        if self.mode not in OBSTACLES or self.mode in self.used:
            return None
        engine = self.vmap_engine if self.mode == "vmap" else self.engine
        return engine.obstacle or OBSTACLES[self.mode]

    @cached_property
    def vmap_engine(self) -> VmapEngine:
        """The engine that trains sites as one batched model."""
        return VmapEngine(self.engine)

    @cached_property
    def vmap_possible(self) -> bool:
        """Whether the mode and the model allow sites to train as one batched model."""
        if not (self.mode == "vmap" or (self.mode == "auto" and self.dense)):
            return False
        return self.vmap_engine.obstacle is None

    def _make_pool(
        self, engine: SequentialEngine, make_engine: Callable[[], SequentialEngine], mode: str
    ) -> WorkerPool:
        """The pool; of one engine if layers draw random numbers, since they share one generator."""
        if self.device.type == "cuda":
            parallel = mode in ("auto", "cuda_graph") and is_small(engine.flat.model) and engine.layer_rng.layer is None
            return StreamPool(engine, make_engine, STREAMS if parallel else 1)
        single = self.dense or self.device.type != "cpu" or engine.layer_rng.layer
        return WorkerPool(engine, make_engine, 1 if single else torch.get_num_threads())

    def _parts(self, index: Ints) -> list[Ints]:
        """Cases in one part per engine, split where evaluation batches end, so that batches stay the same."""
        size = self.engine.evaluation_batch
        batches = max(1, -(-len(index) // size))
        step = -(-batches // self.pool.count) * size
        return [index[start : start + step] for start in range(0, len(index), step)] or [index]
