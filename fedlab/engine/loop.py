"""The plain execution mode: one site after another on the flat model."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlab.core.memory import Stopwatch
from fedlab.core.stages import sequence
from fedlab.core.weights import Weights
from fedlab.engine.batches import Batches
from fedlab.engine.device_dataset import DeviceDataset
from fedlab.engine.flat_model import FlatModel
from fedlab.engine.layer_rng import LayerRNG
from fedlab.engine.local_task import LocalJob, LocalTask, Trained, Usage
from fedlab.engine.optimizers import Moments, Optimizer, add
from fedlab.learning import augmentation
from fedlab.learning.settings import Training
from fedlab.learning.tasks import Task

EVALUATION_BATCH = 256


class StoppedError(RuntimeError):
    """Work was given up because work beside it failed or was interrupted."""


class SequentialEngine:
    """Trains and predicts with one flat model.

    stopped: set from outside, ends a training at its next step. obstacle: why another way of training that was asked
    for is not taken.
    """

    stopped = False
    obstacle: str | None = None

    def __init__(
        self, flat: FlatModel, store: DeviceDataset, task: Task, optimizer: Optimizer, settings: Training
    ) -> None:
        self.flat, self.store, self.task, self.optimizer = flat, store, task, optimizer
        self.chance = LayerRNG(flat.model, flat.vector.device, settings.seed)
        self.augmentation = augmentation.Augmentation(settings.augment)
        self.mixed_precision = settings.precision == "bf16"
        self._state = optimizer.fresh(flat.parameters).vectors
        self._passes = 0  # cases whose gradient was computed since the start of a fit

    def mode_of(self, work: LocalTask) -> str:
        """The name of the way in which this work is carried out."""
        return "sequential"

    def train(self, job: LocalJob) -> Trained:
        """The model after the job's steps, in its room or in memory of its own.

        A start with optimizer state continues it, one without resets it.
        """
        watch, self._passes = Stopwatch(self.flat.vector.device), 0
        self.flat.load(job.start)
        self.flat.train()
        moments = self._moments(job.start)
        loss = self._steps(job.start, job.work, moments)
        w = self.flat.read(into=job.room)
        if job.keep and self.optimizer.slots:
            w = replace(w, moments=moments.vectors.clone(), clock=np.array(moments.clock))
        return Trained(w, Usage(loss, job.work.steps, self._passes, watch.stop()))

    def predict(self, weights: Weights, index: NDArray[np.int64]) -> Tensor:
        """Probabilities (n, classes) for these cases, in evaluation mode, float64 on the device."""
        self.flat.load(weights)
        self.flat.model.eval()
        rows = self.store.rows(index)
        with torch.inference_mode(), self.autocast():
            parts = [self._probabilities(part) for part in rows.split(EVALUATION_BATCH)]
        return torch.cat(parts) if parts else rows.new_empty(0, len(self.task.classes), dtype=torch.float64)

    def features(self, weights: Weights, index: NDArray[np.int64]) -> Tensor:
        """What enters the model's last stage for these cases, (n, d), in evaluation mode."""
        self.flat.load(weights)
        self.flat.model.eval()
        rows = self.store.rows(index)
        with torch.inference_mode(), self.autocast():
            front = sequence(self.flat.model)[:-1]
            parts = [front(self.store.images(part)) for part in rows.split(EVALUATION_BATCH)]
        return torch.cat(parts).flatten(1).clone()

    def whole(self, weights: Weights, batches: Batches, gradient: bool = True) -> tuple[Tensor, Tensor | None, Usage]:
        """Loss () over all of a site's cases, its gradient (P,) if wanted, and what that took.

        Batch by batch in the order of the cases, normalised by the statistics of each batch. The L2 term is part of
        both where the optimizer has one.
        """
        watch, total = Stopwatch(self.flat.vector.device), torch.zeros_like(self.flat.gradient)
        loss = total.new_zeros((), dtype=torch.float64)
        self.flat.load(weights)
        self.flat.train()
        for index in batches.sweep():
            rows, share = self.store.rows(index), len(index) / len(batches.index)
            with self.chance.at(batches.site, "whole"), self.autocast(), torch.set_grad_enabled(gradient):
                value = self.task.loss(self.flat.model(self.store.images(rows)), self.store.targets[rows])
            loss += share * value.detach().double()
            if gradient:
                self.flat.differentiate(value)
                total.add_(self.flat.gradient, alpha=share)
        w, decay = weights.parameters, self.optimizer.coupled
        if decay is not None:
            total.addcmul_(w, decay)
            loss += 0.5 * (decay * w * w).sum().double()
        usage = Usage(loss, 0, len(batches.index) * gradient, watch.stop())
        return loss, total if gradient else None, usage

    def recalibrate(self, weights: Weights, batches: list[NDArray[np.int64]]) -> Weights:
        """The same parameters with batch statistics as they are met over these batches, each batch counted alike.

        Ioffe & Szegedy 2015, arXiv:1502.03167, section 3.1: a pass without gradients.
        """
        norms = self.flat.norms()
        if not norms or self.flat.frozen_norm:
            return weights.bare()
        self.flat.load(weights)
        self.flat.train()
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
        with self.chance.at("statistics"), torch.no_grad(), self.autocast():
            for number, index in enumerate(batches, 1):
                for norm in norms:
                    norm.momentum = 1 / number  # the plain mean over batches
                self.flat.model(self.store.images(self.store.rows(index)))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        found = self.flat.read()
        return Weights(weights.layout, found.vector, weights.counts.clone())

    def _steps(self, start: Weights, work: LocalTask, moments: Moments) -> Tensor:
        """All steps, of the model in `flat`; the sum () of their losses."""
        rested = moments.vectors.clone() if work.frozen is not None else moments.vectors
        total = torch.zeros((), device=self.flat.vector.device, dtype=self.flat.vector.dtype)
        before, last = None, work.first + work.steps - 1
        for step, rows in zip(range(work.first, last + 1), self._rows(work), strict=True):
            self.go_on()
            if rows is not before:  # a full batch is gathered once
                gathered, targets, before = self.store.images(rows), self.store.targets[rows], rows
                if self.store.pixels.streamed and work.batches.per_epoch > 1 and step < last:
                    self.store.announce(work.batches.at(step + 1))
            images = self.augmented(gathered, [work.place(step)])
            with self.chance.at(work.batches.site, step):
                total += self._step(images, targets, rows, work, moments)
            if work.frozen is not None:
                self._restore(start.vector, work.frozen, moments, rested)
        return total

    def _rows(self, work: LocalTask) -> list[Tensor]:
        """The rows of each step's batch; the same tensor in each where all of a site's cases are one batch."""
        steps = range(work.first, work.first + work.steps)
        if work.batches.per_epoch == 1:
            return [self.store.rows(work.batches.at(work.first))] * len(steps)
        batches = [work.batches.at(step) for step in steps]
        whole = np.concatenate(batches) if batches else np.zeros(0, np.int64)
        return list(self.store.rows(whole).split([len(batch) for batch in batches]))

    def go_on(self) -> None:
        """Raise StoppedError where work was stopped from outside."""
        if self.stopped:
            raise StoppedError("training was stopped")

    def augmented(self, images: Tensor, places: Sequence[augmentation.Place]) -> Tensor:
        """The images of several sites' steps, as many of each, as a network sees them in training."""
        if not self.augmentation.any:
            return images
        count, shape = len(images) // len(places), tuple(images.shape[2:])
        changes = [self.augmentation.draw(place, count, shape) for place in places]
        return augmentation.apply(images, augmentation.tensors(changes, images))

    def _step(self, images: Tensor, targets: Tensor, rows: Tensor, work: LocalTask, moments: Moments) -> Tensor:
        flat = self.flat
        loss = self._loss(images, targets, rows, work)
        flat.differentiate(loss)
        self._passes += len(rows)
        if work.rule is not None:
            flat.gradient.copy_(self._by_rule(images, targets, rows, work))
        with torch.no_grad():
            w = flat.parameters
            if work.pull is not None:
                mu, anchor = work.pull
                add(flat.gradient, w - anchor, mu)
            if work.shift is not None:
                flat.gradient.add_(work.shift)
            self.optimizer.step(w, flat.gradient, moments, work.lr, work.decays)
        return loss.detach()

    def _loss(self, images: Tensor, targets: Tensor, rows: Tensor, work: LocalTask) -> Tensor:
        with self.autocast():
            if work.term is None:
                logits, beside = self.flat.model(images), None
            else:
                stages = sequence(self.flat.model)
                z = stages[:-1](images)
                logits, beside = stages[-1](z), work.term(z.flatten(1), rows)
            loss = self.task.weighed(logits, targets, None if work.weights is None else work.weights[rows])
            return loss if beside is None else loss + beside

    def _by_rule(self, images: Tensor, targets: Tensor, rows: Tensor, work: LocalTask) -> Tensor:
        """What the method's rule makes of the gradient at w and of gradients at other points, on the same batch.

        Normalisation statistics are those of the pass at w; other passes leave them, unless given buffers of their own,
        which they update.
        """
        flat, row = self.flat, torch.full((1,), work.row, device=self.flat.vector.device)
        before, counts = flat.vector.clone(), flat.counts.clone()
        w, buffers = before[: flat.layout.trained], before[flat.layout.trained :]

        def grad(point: Tensor, own: Tensor | None = None, decay: bool = False) -> Tensor:
            flat.parameters.copy_(point[0])
            if own is not None:
                flat.buffers.copy_(own[0])
            flat.differentiate(self._loss(images, targets, rows, work))
            self._passes += len(rows)
            if own is not None:
                own[0].copy_(flat.buffers)
            flat.buffers.copy_(buffers)
            found, factor = flat.gradient.clone(), self.optimizer.coupled
            return (found.addcmul_(point[0], factor) if decay and factor is not None else found)[None]

        with torch.no_grad():
            step = work.rule(w[None], flat.gradient.clone()[None], torch.enable_grad()(grad), row)  # type: ignore[misc]
            flat.vector.copy_(before)
            flat.counts.copy_(counts)
        return step[0]

    def _restore(self, start: Tensor, frozen: Tensor, moments: Moments, rested: Tensor) -> None:
        """What is frozen has its weights and its optimizer's state again."""
        self.flat.vector.copy_(torch.where(frozen, start, self.flat.vector))
        moments.vectors.copy_(torch.where(frozen[: self.flat.layout.trained], rested, moments.vectors))

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

    def autocast(self) -> contextlib.AbstractContextManager:
        if not self.mixed_precision:
            return contextlib.nullcontext()
        return torch.autocast(self.flat.vector.device.type, torch.bfloat16)
