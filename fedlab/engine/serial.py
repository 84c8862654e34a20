"""The plain execution mode: one site after another on the flat model."""

import contextlib
import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlab.engine.batches import Batches
from fedlab.engine.flat import FlatModel
from fedlab.engine.optimizers import Moments, Optimizer
from fedlab.engine.store import Store
from fedlab.tasks import Task
from fedlab.training import Training
from fedlab.weights import Weights

EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Work:
    """What one site does in one round: steps `first`, `first + 1`, ... of its batches, and the corrections."""

    batches: Batches
    first: int
    steps: int
    lr: float
    pull: tuple[float, Tensor] | None = None  # (mu, anchor (P,)): adds mu (w - anchor) to the gradient
    shift: Tensor | None = None  # (P,): is added to the gradient


@dataclass(frozen=True)
class Cost:
    """What it took: mean training loss, optimizer steps, cases seen, seconds."""

    loss: float
    steps: int
    samples: int
    seconds: float


@dataclass(frozen=True)
class Result:
    """What came of it, beside the trained weights in the flat model: the optimizer's state if kept, and the cost."""

    moments: Moments | None
    cost: Cost


class Serial:
    """Trains and predicts with one flat model."""

    def __init__(self, flat: FlatModel, store: Store, task: Task, optimizer: Optimizer, settings: Training) -> None:
        self.flat, self.store, self.task, self.optimizer = flat, store, task, optimizer
        self.mixed_precision = settings.precision == "bf16"
        self._state = optimizer.fresh(flat.parameters).vectors

    def fit(self, start: Weights, work: Work, keep: bool = False) -> Result:
        """Local training from `start`, which leaves the trained weights in `flat`.

        A start with optimizer state continues it, one without begins afresh; `keep` returns it.
        """
        begun = time.perf_counter()
        self.flat.load(start)
        self.flat.train()
        moments = self._moments(start)
        total = torch.zeros((), device=self.flat.vector.device, dtype=self.flat.vector.dtype)
        samples = 0
        for step in range(work.first, work.first + work.steps):
            if step == work.first or work.batches.per_epoch > 1:  # a full batch is gathered once
                rows = self.store.rows(work.batches.at(step))
                images, targets = self.store.images(rows), self.store.targets[rows]
            total += self._step(images, targets, work, moments)
            samples += len(rows)
        loss = float(total) / max(1, work.steps)  # waits for the device, so that the seconds are true
        kept = Moments(moments.vectors.clone(), moments.clock) if keep and self.optimizer.slots else None
        return Result(kept, Cost(loss, work.steps, samples, time.perf_counter() - begun))

    def predict(self, weights: Weights, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Probabilities (n, classes) for these cases, in evaluation mode."""
        self.flat.load(weights)
        self.flat.model.eval()
        rows = self.store.rows(index)
        with torch.inference_mode(), self._autocast():
            parts = [self._probabilities(part) for part in rows.split(EVALUATION_BATCH)]
        return torch.cat(parts).cpu().numpy() if parts else np.empty((0, len(self.task.classes)))

    def _step(self, images: Tensor, targets: Tensor, work: Work, moments: Moments) -> Tensor:
        flat = self.flat
        with self._autocast():
            loss = self.task.loss(flat.model(images), targets)
        flat.differentiate(loss)
        with torch.no_grad():
            w = flat.parameters
            if work.pull is not None:
                mu, anchor = work.pull
                flat.gradient.add_(w - anchor, alpha=mu)
            if work.shift is not None:
                flat.gradient.add_(work.shift)
            self.optimizer.step(w, flat.gradient, moments, work.lr)
        return loss.detach()

    def _moments(self, start: Weights) -> Moments:
        """The optimizer's state at the start, in memory that is used again for every site."""
        moments = Moments(self._state)
        if start.moments is None or start.clock is None:
            moments.vectors.zero_()
        else:
            moments.vectors.copy_(start.moments)
            moments.clock = int(start.clock)
        return moments

    def _probabilities(self, rows: Tensor) -> Tensor:
        logits = self.flat.model(self.store.images(rows))
        return self.task.probabilities(logits.double())

    def _autocast(self) -> contextlib.AbstractContextManager:
        if not self.mixed_precision:
            return contextlib.nullcontext()
        return torch.autocast(self.flat.vector.device.type, torch.bfloat16)
