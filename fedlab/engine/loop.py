"""The sequential engine: one site after another, trained by a plain loop on the flat model."""

import math
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedlab.core.memory import DeviceTimer
from fedlab.core.stages import as_sequential, representation
from fedlab.core.typing import Floats, Ints
from fedlab.core.weights import Weights
from fedlab.engine.batches import Batches
from fedlab.engine.device_dataset import DeviceDataset
from fedlab.engine.flat_model import FlatModel
from fedlab.engine.layer_rng import LayerRNG
from fedlab.engine.local_task import LocalJob, LocalTask, Trained, Usage
from fedlab.engine.model_check import Needs, autocast
from fedlab.engine.model_inputs import EVALUATION_VOXELS, ModelInputs
from fedlab.engine.optimizers import Moments, Optimizer, add_scaled
from fedlab.learning.settings import Training
from fedlab.learning.tasks import Surfaces, Task

EVALUATION_BATCH = 256


class StoppedError(RuntimeError):
    """Training was stopped because another site's training failed or was interrupted."""


class SequentialEngine:
    """Trains and predicts with one flat model.

    stopped: if set from another thread, a training ends at its next step. obstacle: why a requested execution mode
    cannot be used; None if it can. needs: what the model was found to need.
    """

    stopped = False
    obstacle: str | None = None

    def __init__(
        self,
        flat: FlatModel,
        dataset: DeviceDataset,
        task: Task,
        optimizer: Optimizer,
        settings: Training,
        needs: Needs | None = None,
    ) -> None:
        self.flat, self.dataset, self.task, self.optimizer = flat, dataset, task, optimizer
        self.needs = needs or Needs()
        self.layer_rng = LayerRNG(flat.model, flat.vector.device, settings.seed, self.needs.draws)
        self.inputs = ModelInputs(dataset, settings, task.dense)
        self.settings = settings
        self._state = optimizer.initial_state(flat.parameters).vectors
        self._samples = 0  # cases whose gradient was computed in the present training

    def mode_of(self, local_task: LocalTask) -> str:
        """The execution mode of this task."""
        return "sequential"

    def train(self, job: LocalJob) -> Trained:
        """The model after the job's steps.

        A start with optimizer state continues it, one without resets it.
        """
        timer, self._samples = DeviceTimer(self.flat.vector.device), 0
        self.flat.load(job.start)
        self.flat.train()
        moments = self._moments(job.start)
        loss = self._steps(job.start, job.local_task, moments)
        w = self.flat.read(out=job.out)
        if job.keep_optimizer and self.optimizer.slots:
            w = replace(w, moments=moments.vectors.clone(), steps=np.array(moments.steps))
        return Trained(w, Usage(loss, job.local_task.steps, self._samples, timer.stop()))

    @property
    def evaluation_batch(self) -> int:
        """Cases that are predicted at a time; one if images have unequal sizes."""
        if self.dataset.extents is not None:
            return 1
        if not self.task.dense and not self.inputs.crops:
            return EVALUATION_BATCH
        return max(1, min(EVALUATION_BATCH, EVALUATION_VOXELS // math.prod(self.dataset.space)))

    def predict(
        self, weights: Weights, index: Ints, shares: Floats | None = None, surfaces: Surfaces | None = None
    ) -> Tensor:
        """What is stored (n, columns) of these cases, in evaluation mode, float64 on the device, see `Task.stored`.

        shares: of the models of an ensemble, whose weights are a stack; their probabilities are averaged.
        """
        rows = self.dataset.rows(index)
        if not len(index):  # a model need not know what to do with an empty batch
            return rows.new_empty(0, len(self.task.columns), dtype=torch.float64)
        with torch.no_grad(), self.autocast():  # what a model stores in inference mode could not be trained with
            parts = rows.split(self.evaluation_batch)
            if shares is None:
                self._load_for_evaluation(weights)
                return torch.cat([self._stored(self._probabilities(part), part, surfaces) for part in parts])
            found = []
            for part in parts:
                mean: Tensor | float = 0.0
                for k, share in enumerate(shares):
                    self._load_for_evaluation(weights[k])
                    mean = mean + float(share) * self._probabilities(part)
                assert isinstance(mean, Tensor)
                found.append(self._stored(mean, part, surfaces))
            return torch.cat(found)

    def masks(self, index: Ints) -> Tensor:
        """The masks (n, *space) that the model in `flat` predicts for these cases, on the device.

        Those of images of unequal size are followed by 0.
        """
        self.flat.model.eval()
        with torch.no_grad(), self.autocast():
            parts = self.dataset.rows(index).split(self.evaluation_batch)
            return torch.cat([self._framed(self.task.masks(self._probabilities(part))) for part in parts])

    def _framed(self, masks: Tensor) -> Tensor:
        """Masks of the size of the device dataset; 0 beyond the extent of an image of unequal size."""
        lacking = [whole - edge for whole, edge in zip(self.dataset.space, masks.shape[1:], strict=True)]
        return F.pad(masks, [size for each in reversed(lacking) for size in (0, each)]) if any(lacking) else masks

    def _load_for_evaluation(self, weights: Weights) -> None:
        self.flat.load(weights)
        self.flat.model.eval()

    def _stored(self, probabilities: Tensor, rows: Tensor, surfaces: Surfaces | None) -> Tensor:
        """What is stored of the cases in these rows, (b, columns)."""
        if not self.task.dense:
            return probabilities
        return self.task.stored(probabilities, self.dataset.whole_targets(rows), surfaces)

    def features(self, weights: Weights, index: Ints) -> Tensor:
        """Input of the model's last stage for these cases, (n, d), in evaluation mode, see `representation`."""
        self.flat.load(weights)
        self.flat.model.eval()
        rows = self.dataset.rows(index)
        with torch.no_grad(), self.autocast():
            front, dense = as_sequential(self.flat.model)[:-1], self.task.dense
            each = (self.dataset.images(part) for part in rows.split(self.evaluation_batch))
            found = [self.inputs.over_windows(lambda x: representation(front(x), dense), x, dense=False) for x in each]
            return torch.cat(found).clone()

    def full_loss(
        self, weights: Weights, batches: Batches, gradient: bool = True, number: int = 0
    ) -> tuple[Tensor, Tensor | None, Usage]:
        """Loss () over all of a site's cases, its gradient (P,) if requested, and the usage.

        Batch by batch in the order of the cases, normalised by the statistics of each batch. The L2 term is part of
        both if the optimizer has one. Of crops, one of each case is used, drawn by the number of the round.
        """
        timer, total = DeviceTimer(self.flat.vector.device), torch.zeros_like(self.flat.gradient)
        loss = total.new_zeros((), dtype=torch.float64)
        self.flat.load(weights)
        self.flat.train()
        for index in batches.sweep():
            rows, share = self.dataset.rows(index), len(index) / len(batches.index)
            with self.layer_rng.at(batches.site, "whole"), self.autocast(), torch.set_grad_enabled(gradient):
                images, targets = self.inputs.gather(rows, [index], [(batches.seed, batches.site, -1 - number)])
                value = self.task.loss(self.flat.model(images), targets)
            loss += share * value.detach().double()
            if gradient:
                self.flat.differentiate(value)
                total.add_(self.flat.gradient, alpha=share)
        w, decay = weights.parameters, self.optimizer.l2
        if decay is not None:
            total.addcmul_(w, decay)
            loss += 0.5 * (decay * w * w).sum().double()
        usage = Usage(loss, 0, len(batches.index) * gradient, timer.stop())
        return loss, total if gradient else None, usage

    def recalibrate(self, weights: Weights, batches: list[Ints]) -> Weights:
        """The same parameters with batch statistics estimated on these batches, each batch with the same weight.

        Ioffe & Szegedy 2015, arXiv:1502.03167, section 3.1: a pass without gradients. Of crops, one of each case.
        """
        norms = self.flat.batch_norms()
        if not norms or self.flat.frozen_norm:
            return weights.without_moments()
        self.flat.load(weights)
        self.flat.train()
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
        with self.layer_rng.at("statistics"), torch.no_grad(), self.autocast():
            for number, index in enumerate(batches, 1):
                for norm in norms:
                    norm.momentum = 1 / number  # the plain mean over batches
                key = self.settings.seed, "statistics", number
                self.flat.model(self.inputs.gather(self.dataset.rows(index), [index], [key])[0])
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        found = self.flat.read()
        return Weights(weights.layout, found.vector, weights.counts.clone())

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass: bfloat16 with precision="bf16"."""
        return autocast(self.settings, self.flat.vector.device)

    def check_stopped(self) -> None:
        """Raise StoppedError if training was stopped from another thread."""
        if self.stopped:
            raise StoppedError("training was stopped")

    def _steps(self, start: Weights, local_task: LocalTask, moments: Moments) -> Tensor:
        """Take all steps with the model in `flat`; the sum () of their losses."""
        before = moments.vectors.clone() if local_task.frozen is not None else moments.vectors
        total = torch.zeros((), device=self.flat.vector.device, dtype=self.flat.vector.dtype)
        gathered, last, inputs = None, local_task.first + local_task.steps - 1, self.inputs
        for step, rows in zip(range(local_task.first, last + 1), self._rows(local_task), strict=True):
            self.check_stopped()
            index, key = self._cases(local_task, step), local_task.rng_key(step)
            if inputs.crops or rows is not gathered:  # a full batch of whole images is gathered once
                images, targets = inputs.gather(rows, index, [key])
                gathered = rows
                if self.dataset.streamed and (inputs.crops or local_task.batches.per_epoch > 1) and step < last:
                    inputs.prefetch(local_task.batches.at(step + 1), local_task.rng_key(step + 1))
            given = inputs.augment(images, targets, index, [key])
            with self.layer_rng.at(local_task.batches.site, step):
                total += self._step(*given, rows, local_task, moments)
            if local_task.frozen is not None:
                self._restore_frozen(start.vector, local_task.frozen, moments, before)
        return total

    def _cases(self, local_task: LocalTask, step: int) -> list[Ints]:
        """The cases of a step's batch, where its images depend on them; else none."""
        return [local_task.batches.at(step)] if self.inputs.by_case else []

    def _rows(self, local_task: LocalTask) -> list[Tensor]:
        """The rows of each step's batch; the same tensor in each if all cases of the site are one batch."""
        steps = range(local_task.first, local_task.first + local_task.steps)
        if local_task.batches.per_epoch == 1:
            return [self.dataset.rows(local_task.batches.at(local_task.first))] * len(steps)
        batches = [local_task.batches.at(step) for step in steps]
        joined = np.concatenate(batches) if batches else np.zeros(0, np.int64)
        return list(self.dataset.rows(joined).split([len(batch) for batch in batches]))

    def _step(self, images: Tensor, targets: Tensor, rows: Tensor, local_task: LocalTask, moments: Moments) -> Tensor:
        """One optimizer step with the method's corrections; the loss ()."""
        flat = self.flat
        loss = self._loss(images, targets, rows, local_task)
        flat.differentiate(loss)
        self._samples += len(rows)
        if local_task.rule is not None:
            flat.gradient.copy_(self._apply_rule(images, targets, rows, local_task))
        with torch.no_grad():
            w = flat.parameters
            if local_task.pull is not None:
                mu, anchor = local_task.pull
                add_scaled(flat.gradient, w - anchor, mu)
            if local_task.shift is not None:
                flat.gradient.add_(local_task.shift)
            self.optimizer.step(w, flat.gradient, moments, local_task.lr, local_task.decays)
        return loss.detach()

    def _loss(self, images: Tensor, targets: Tensor, rows: Tensor, local_task: LocalTask) -> Tensor:
        """The loss () of a batch, with the method's term."""
        with self.autocast():
            if local_task.term is None:
                logits, term = self.flat.model(images), None
            else:
                stages = as_sequential(self.flat.model)
                z = stages[:-1](images)
                logits, term = stages[-1](z), local_task.term(representation(z, self.task.dense), rows)
            weights = None if local_task.weights is None else local_task.weights[rows]
            loss = self.task.weighted_loss(logits, targets, weights)
            return loss if term is None else loss + term

    def _apply_rule(self, images: Tensor, targets: Tensor, rows: Tensor, local_task: LocalTask) -> Tensor:
        """The gradient (P,) that the method's rule makes of the one at w and of those at other points of the batch.

        Normalisation statistics are those of the pass at w. Passes at other points do not change them; they update the
        statistics that the rule passes as `own`.
        """
        flat, row = self.flat, torch.full((1,), local_task.row, device=self.flat.vector.device)
        before, counts = flat.vector.clone(), flat.counts.clone()
        w, buffers = before[: flat.layout.trained], before[flat.layout.trained :]

        def grad(point: Tensor, own: Tensor | None = None, decay: bool = False) -> Tensor:
            flat.parameters.copy_(point[0])
            if own is not None:
                flat.buffers.copy_(own[0])
            flat.differentiate(self._loss(images, targets, rows, local_task))
            self._samples += len(rows)
            if own is not None:
                own[0].copy_(flat.buffers)
            flat.buffers.copy_(buffers)
            found, factor = flat.gradient.clone(), self.optimizer.l2
            return (found.addcmul_(point[0], factor) if decay and factor is not None else found)[None]

        assert local_task.rule is not None
        with torch.no_grad():
            step = local_task.rule(w[None], flat.gradient.clone()[None], torch.enable_grad()(grad), row)
            flat.vector.copy_(before)
            flat.counts.copy_(counts)
        return step[0]

    def _restore_frozen(self, start: Tensor, frozen: Tensor, moments: Moments, before: Tensor) -> None:
        """Reset frozen coordinates to their starting weights and optimizer state."""
        self.flat.vector.copy_(torch.where(frozen, start, self.flat.vector))
        moments.vectors.copy_(torch.where(frozen[: self.flat.layout.trained], before, moments.vectors))

    def _moments(self, start: Weights) -> Moments:
        """The optimizer's state at the start, in memory that all sites share."""
        moments = Moments(self._state)
        if start.moments is None or start.steps is None:
            moments.vectors.zero_()
        else:
            moments.vectors.copy_(start.moments)
            moments.steps = int(start.steps)
        return moments

    def _probabilities(self, rows: Tensor) -> Tensor:
        def predict(images: Tensor) -> Tensor:
            return self.task.probabilities(self.flat.model(images).double())

        return self.inputs.over_windows(predict, self.dataset.images(rows), self.task.dense)
