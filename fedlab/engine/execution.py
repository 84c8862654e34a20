"""How the work of many sites is carried out: which engine does what, so that neither methods nor engines know."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedlab.engine.lanes import Lanes
from fedlab.engine.serial import EVALUATION_BATCH, Serial
from fedlab.engine.stacked import Stacked
from fedlab.engine.work import Job, Trained
from fedlab.weights import Weights

Index = NDArray[np.int64]
Named = Callable[[Job], AbstractContextManager]


class Execution:
    """Trains and predicts; results do not depend on how many processor cores take part.

    mode: "serial" (one site after another, on each core), "stacked" (sites as one batched model) or "auto".
    """

    def __init__(self, serial: Serial, another: Callable[[], Serial], mode: str) -> None:
        cores = torch.get_num_threads() if serial.flat.vector.device.type == "cpu" else 1
        self.serial, self.lanes, self.mode = serial, Lanes(serial, another, cores), mode

    def train(self, jobs: Sequence[Job], named: Named) -> list[Trained]:
        """What each job came to, in their order. named(job): the context in which a refusal is told of its site."""
        if self.mode == "stacked" and len(jobs) > 1:
            return self.stacked.train(jobs)

        def call(engine: Serial, job: Job) -> Trained:
            with named(job):
                return engine.train(job)

        return self.lanes.each(call, jobs, [job.work.steps for job in jobs])

    @cached_property
    def stacked(self) -> Stacked:
        """The engine that trains sites as one batched model."""
        return Stacked(self.serial)

    def each(self, call: Callable[[Serial, Any], Any], asked: Sequence[tuple[Weights, Any]]) -> list[Any]:
        """call(engine, (model, cases or batches)) of each, in their order."""
        return self.lanes.each(call, asked, [1] * len(asked))

    def predict(self, asked: Sequence[tuple[Weights, Index]]) -> list[NDArray[np.float64]]:
        """Probabilities (n, classes) of each model for its cases."""
        pieces = [(i, w, part) for i, (w, index) in enumerate(asked) for part in self._pieces(index)]
        sizes = [len(part) for _, _, part in pieces]
        found = self.lanes.each(lambda engine, piece: engine.predict(*piece[1:]), pieces, sizes)
        each = [[p for (owner, *_), p in zip(pieces, found, strict=True) if owner == i] for i in range(len(asked))]
        return [np.concatenate(parts) for parts in each]

    def _pieces(self, index: Index) -> list[Index]:
        """Cases in as many pieces as there are lanes, cut where batches end, so that batches are what they were."""
        batches = max(1, -(-len(index) // EVALUATION_BATCH))
        step = -(-batches // self.lanes.count) * EVALUATION_BATCH
        return [index[start : start + step] for start in range(0, len(index), step)] or [index]
