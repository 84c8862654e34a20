"""The vmap engine: models of many sites train as one, by `torch.func.vmap` over stacked weights and batches."""

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedlab.core.layout import Layout
from fedlab.core.memory import DeviceTimer, aligned_counters, aligned_zeros, to_device
from fedlab.core.stages import as_sequential, representation
from fedlab.core.typing import Ints
from fedlab.core.warnings import warn
from fedlab.core.weights import Weights
from fedlab.engine.batchable_norms import BatchableNorms
from fedlab.engine.flat_model import share_frozen
from fedlab.engine.local_task import ErrorContext, LocalJob, Trained, Usage
from fedlab.engine.lockstep import lockstep
from fedlab.engine.loop import SequentialEngine
from fedlab.engine.model_check import reason
from fedlab.engine.model_inputs import Keys
from fedlab.engine.optimizers import Moments

PREDICTED_MODELS = 16  # models that predict in one batch


@dataclass
class StepGroup:
    """The models of one step: weights (m, size), counts (m, counters), optimizer state; their rows in the stack.

    Views of the stack's memory if the rows are consecutive, else copies that are written back.
    """

    vector: Tensor
    counts: Tensor
    moments: Moments
    rows: slice | Tensor


@dataclass(frozen=True)
class Batch:
    """Images (m, b, ...), targets (m, b), rows of the device dataset (m, b), and case weights (m, b) if there are."""

    images: Tensor
    targets: Tensor
    rows: Tensor
    weights: Tensor | None


class ModelStack:
    """The models of m jobs with the same kinds of corrections, in training."""

    def __init__(self, engine: SequentialEngine, model: nn.Module, jobs: Sequence[LocalJob]) -> None:
        self.engine, self.model, self.jobs, self.layout = engine, model, jobs, engine.flat.layout
        self.tasks = [job.local_task for job in jobs]
        self.shared = self.tasks[0]  # for the fields that are equal in all tasks
        device = engine.flat.vector.device
        self.vector = aligned_zeros(len(jobs), self.layout.size, dtype=engine.flat.vector.dtype, device=device)
        self.counts = aligned_counters(len(jobs), len(self.layout.counters), device=device)
        self.vector.copy_(_stacked([job.start.vector for job in jobs]))
        self.counts.copy_(_stacked([job.start.counts for job in jobs]))
        self.moments = self._moments()
        frozen = self.shared.frozen is not None
        self.before = (self.vector.clone(), self.moments.vectors.clone()) if frozen else None
        self.pull = self._pull()
        self.shift = None if self.shared.shift is None else torch.stack([task.shift for task in self.tasks])  # type: ignore[misc]
        self.losses = self.vector.new_zeros(len(jobs))
        self.steps = np.array([task.first for task in self.tasks])
        self.samples = np.zeros(len(jobs), np.int64)
        self._gathered: tuple[list[Ints], Any] = [], None

    def step(self, members: list[int], batches: list[Ints]) -> None:
        """One step of these jobs, each on its batch."""
        keys = [self.tasks[i].rng_key(int(self.steps[i])) for i in members]
        group, batch = self._take(members), self._gather(members, batches, keys)
        batch = self._augmented(batch, batches, keys)
        self.steps[members] += 1
        loss, gradient = self._differentiate(group.vector, group.counts, members, batch)
        self.losses[group.rows] += loss
        w = group.vector[:, : self.layout.trained]
        if self.shared.rule is not None:
            gradient = self._apply_rule(group, gradient, members, batch)
        with torch.no_grad():
            if self.pull is not None:
                mu, anchor = self.pull
                gradient = gradient + mu[group.rows] * (w - (anchor if anchor.ndim == 1 else anchor[group.rows]))
            if self.shift is not None:
                gradient = gradient + self.shift[group.rows]
            self.engine.optimizer.step(w, gradient, group.moments, self.shared.lr, self.shared.decays)
            self._put(group)

    def results(self, seconds: Callable[[], float]) -> list[Trained]:
        """The result of each job; time is divided in proportion to the cases whose gradient was computed."""
        shares, totals = self.samples / max(1, self.samples.sum()), self.vector.sum(1)
        models = [
            Weights(self.jobs[i].start.layout, *row) for i, row in enumerate(zip(self.vector, self.counts, strict=True))
        ]
        self._copy_out(models)
        found = []
        for i, (job, w) in enumerate(zip(self.jobs, models, strict=True)):
            w, steps = w if job.out is None else job.out, job.local_task.steps
            if job.keep_optimizer and self.engine.optimizer.slots:
                taken = np.array((0 if job.start.steps is None else int(job.start.steps)) + steps)
                w = replace(w, moments=self.moments.vectors[:, i].clone(), steps=taken)
            usage = Usage(self.losses[i], steps, int(self.samples[i]), _share(float(shares[i]), seconds))
            found.append(Trained(w, usage, totals[i]))
        return found

    def _copy_out(self, models: list[Weights]) -> None:
        """Copy the models of jobs with an `out` there, with a few kernels for all."""
        pairs = [(job.out, w) for job, w in zip(self.jobs, models, strict=True) if job.out is not None]
        for name in ("vector", "counts") if pairs else ():
            outs, values = zip(*((getattr(out, name), getattr(w, name)) for out, w in pairs), strict=True)
            torch._foreach_copy_(list(outs), list(values))

    def _differentiate(
        self, vector: Tensor, counts: Tensor, members: list[int], batch: Batch, buffers: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Losses (m,) and their gradients (m, trained) at weights (m, size), whose statistics are updated.

        buffers: statistics to use and update instead of those in the weights.
        """
        size = self.layout.trained
        leaves = {name: view.detach().requires_grad_() for name, view in self.layout.views(vector[:, :size]).items()}
        used, statistics = vector[:, size:] if buffers is None else buffers, self.layout.entries[len(leaves) :]
        own = [used[:, e.start - size : e.stop - size].view(-1, *e.shape) for e in statistics]
        copies = {  # leaves share memory with `own`
            e.name: view.clone() for e, view in zip(statistics, own, strict=True)
        }
        loss = self._loss(leaves, copies, counts, members, batch)
        found = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True)
        gradient = torch.zeros_like(vector[:, :size])
        slots = zip(self.layout.views(gradient).values(), found, strict=True)
        reached = [(slot, g) for slot, g in slots if g is not None]
        if reached:
            torch._foreach_copy_([slot for slot, _ in reached], [g for _, g in reached])
        if copies:
            torch._foreach_copy_(list(own), list(copies.values()))
        return loss.detach(), gradient

    def _loss(
        self, leaves: dict[str, Tensor], buffers: dict[str, Tensor], counts: Tensor, members: list[int], batch: Batch
    ) -> Tensor:
        """Losses (m,)."""
        task, has_term = self.engine.task, self.shared.term is not None
        model = _WithFeatures(self.model) if has_term else self.model
        prefix = "model." if has_term else ""
        tensors = {**leaves, **buffers, **_counters(self.layout, counts)}
        state = {prefix + name: tensor for name, tensor in tensors.items()}

        def one(state: dict[str, Tensor], images: Tensor, targets: Tensor, weights: Tensor | None) -> Any:
            out = functional_call(model, state, (images,))
            logits = out[0] if has_term else out
            loss = task.weighted_loss(logits, targets, weights)
            return (loss, representation(out[1], task.dense)) if has_term else loss

        axes = (0, 0, 0, None if batch.weights is None else 0)
        with self.engine.autocast():
            found = vmap(one, in_dims=axes)(state, batch.images, batch.targets, batch.weights)
            if not has_term:
                return found
            loss, z = found
            terms = zip((self.tasks[i].term for i in members), z, batch.rows, strict=True)
            return loss + torch.stack([term(features, rows) for term, features, rows in terms])  # type: ignore[misc]

    def _apply_rule(self, group: StepGroup, gradient: Tensor, members: list[int], batch: Batch) -> Tensor:
        """The gradients (m, trained) that the method's rule makes of those at w and at other points of the batches."""
        w, statistics = group.vector.tensor_split((self.layout.trained,), 1)

        def grad(point: Tensor, own: Tensor | None = None, decay: bool = False) -> Tensor:
            buffers = statistics.clone() if own is None else own
            self.samples[members] += batch.rows.shape[1]
            with torch.enable_grad():
                _, found = self._differentiate(point, group.counts.clone(), members, batch, buffers)
            factor = self.engine.optimizer.l2
            return found.addcmul_(point, factor) if decay and factor is not None else found

        assert self.shared.rule is not None
        with torch.no_grad():
            rows = to_device([self.tasks[i].row for i in members], w.device)
            return self.shared.rule(w.clone(), gradient, grad, rows)

    def _gather(self, members: list[int], batches: list[Ints], keys: Keys) -> Batch:
        """The batches on the device; whole images are not gathered again if they are those of the step before."""
        self.samples[members] += len(batches[0])
        inputs, (before, batch) = self.engine.inputs, self._gathered
        same = len(before) == len(batches) and all(a is b for a, b in zip(before, batches, strict=True))
        if same and not inputs.crops:
            return batch
        size, weights = (len(members), len(batches[0])), None
        rows = self.engine.dataset.rows(np.concatenate(batches))
        images, targets = inputs.gather(rows, batches, keys)
        if self.shared.weights is not None:
            weights = torch.stack([self.tasks[i].weights[at] for i, at in zip(members, rows.view(size), strict=True)])  # type: ignore[index]
        self._gathered = batches, Batch(images.unflatten(0, size), targets.unflatten(0, size), rows.view(size), weights)
        return self._gathered[1]

    def _augmented(self, batch: Batch, index: list[Ints], keys: Keys) -> Batch:
        """The batch with augmented images and masks."""
        if not self.engine.inputs.augmentation.active:
            return batch
        flat = batch.images.flatten(0, 1), batch.targets.flatten(0, 1)
        found = self.engine.inputs.augment(*flat, index, keys)
        images, targets = (each.unflatten(0, batch.rows.shape) for each in found)
        return replace(batch, images=images, targets=targets)

    def _take(self, members: list[int]) -> StepGroup:
        """The models of these jobs out of the stack."""
        rows: slice | Tensor = slice(members[0], members[-1] + 1)
        if members != list(range(members[0], members[-1] + 1)):
            rows = to_device(members, self.vector.device)
        moments = Moments(self.moments.vectors[:, rows], self.moments.steps[rows])  # type: ignore[index]
        return StepGroup(self.vector[rows], self.counts[rows], moments, rows)

    def _put(self, group: StepGroup) -> None:
        """Write the group's models into the stack; frozen coordinates get their weights and optimizer state back."""
        rows, frozen = group.rows, self.shared.frozen
        if self.before is not None and frozen is not None:
            group.vector.copy_(torch.where(frozen, self.before[0][rows], group.vector))
            vectors = torch.where(frozen[: self.layout.trained], self.before[1][:, rows], group.moments.vectors)
            group.moments.vectors.copy_(vectors)
        if isinstance(rows, Tensor):
            self.vector[rows], self.counts[rows] = group.vector, group.counts
            self.moments.vectors[:, rows], self.moments.steps[rows] = group.moments.vectors, group.moments.steps  # type: ignore[index]

    def _moments(self) -> Moments:
        """The optimizers' state at the starts: vectors (slots, m, trained), steps (m, 1)."""
        moments = self.engine.optimizer.initial_state(self.vector[:, : self.layout.trained])
        steps = np.zeros((len(self.jobs), 1))
        for i, job in enumerate(self.jobs):
            if job.start.moments is not None and job.start.steps is not None:
                moments.vectors[:, i], steps[i] = job.start.moments, float(job.start.steps)
        moments.steps = to_device(steps, self.vector.device)
        return moments

    def _pull(self) -> tuple[Tensor, Tensor] | None:
        """mu (m, 1), and anchors (m, trained), or the single anchor (trained,) of all."""
        if self.shared.pull is None:
            return None
        pulls = [task.pull for task in self.tasks]
        mu = to_device(np.array([[pull[0]] for pull in pulls]), self.vector.device).to(self.vector.dtype)  # type: ignore[index]
        anchors = [pull[1] for pull in pulls]  # type: ignore[index]
        same = all(anchor.data_ptr() == anchors[0].data_ptr() for anchor in anchors)
        return mu, anchors[0] if same else torch.stack(anchors)


def _share(share: float, seconds: Callable[[], float]) -> Callable[[], float]:
    """A function that returns this share of the seconds."""
    return lambda: share * seconds()


def _stacked(tensors: list[Tensor]) -> Tensor:
    """Tensors as rows, without a copy if all are the same memory, as the rows of a broadcast model are."""
    first = tensors[0]
    same = all(tensor.data_ptr() == first.data_ptr() for tensor in tensors)
    return first.expand(len(tensors), *first.shape) if same else torch.stack(tensors)


def _counters(layout: Layout, counts: Tensor) -> dict[str, Tensor]:
    """Name -> that integer buffer of each model, from counts (m, counters)."""
    return {name: counts[:, i] for i, name in enumerate(layout.counters)}


class _WithFeatures(nn.Module):
    """A model that also returns the input of its last stage."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        stages = as_sequential(self.model)
        z = stages[:-1](x)
        return stages[-1](z), z


class VmapEngine:
    """Trains the models of many sites as one. `engine` provides the images, the learning task and the optimizer.

    obstacle: why its model cannot be batched; None if it can. max_sites: how many sites train in one stack.
    """

    def __init__(self, engine: SequentialEngine) -> None:
        self.engine, self.model, self.max_sites = engine, engine.flat.model, sys.maxsize
        self.obstacle = engine.layer_rng.obstacle or self._find_obstacle()

    def train(self, jobs: Sequence[LocalJob], error_context: ErrorContext) -> list[Trained]:
        """The result of each job, in their order; in smaller stacks if memory is short.

        error_context(job): the context in which an error is raised with the job's site.
        """
        order = sorted(range(len(jobs)), key=lambda i: -jobs[i].local_task.steps)  # lock-step groups are consecutive
        found: list[Trained] = []
        while len(found) < len(jobs):
            part = [jobs[i] for i in order[len(found) :][: self.max_sites]]
            try:
                found += self._train(part, error_context)
                continue
            except torch.OutOfMemoryError:
                pass  # the stack is freed when this handler ends
            self._halve(len(part), part[0].local_task.rule is not None)
        return [trained for _, trained in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]

    def _find_obstacle(self) -> str | None:
        """Why copies of the model cannot step or predict as one, found by trying; None if they can."""
        flat = self.engine.flat
        images = self.engine.inputs.example(4, flat.vector.device).unflatten(0, (2, 2))
        w = flat.read()
        layout, vector, counts = w.layout, torch.stack([w.vector, w.vector]), torch.stack([w.counts, w.counts])
        try:
            self.model = copy.deepcopy(flat.model)
            share_frozen(flat.model, self.model)
            run = vmap(lambda state, images: functional_call(self.model, state, (images,)))
            for training in (True, False):
                if training:
                    flat.train(self.model)
                else:
                    self.model.eval()
                state = {name: view.clone() for name, view in layout.views(vector).items()}
                with torch.set_grad_enabled(training), self.engine.autocast(), BatchableNorms():
                    leaves = [state[name].requires_grad_(training) for name in layout.views(flat.gradient)]
                    logits = run(state | _counters(layout, counts.clone()), images)
                if training:
                    torch.autograd.grad(logits.sum(), leaves, allow_unused=True)
        except Exception as error:
            return f"its layers cannot be batched over sites ({reason(error)})"
        return None

    def _train(self, jobs: Sequence[LocalJob], error_context: ErrorContext) -> list[Trained]:
        timer = DeviceTimer(self.engine.flat.vector.device)
        self.engine.flat.train(self.model)
        stack = ModelStack(self.engine, self.model, jobs)
        with BatchableNorms():
            for members, batches in lockstep([job.local_task for job in jobs]):
                self.engine.check_stopped()
                with error_context(jobs[members[0]]):  # an error about the batch size holds for the whole group
                    stack.step(members, batches)
        return stack.results(timer.stop())

    def _halve(self, sites: int, has_rule: bool) -> None:
        """Halve the stacks from now on. has_rule: the method's rule has changed its state and cannot start again."""
        if sites == 1 or has_rule:
            remedy = "set execution='sequential'" if has_rule else "use a smaller batch_size or model"
            raise torch.OutOfMemoryError(f"a stack of {sites} sites does not fit into the device's memory: {remedy}")
        self.max_sites = sites // 2
        warn(f"a stack of {sites} sites does not fit into the device's memory: {self.max_sites} at a time from now on")

    def predict(self, requests: Sequence[tuple[Weights, Ints]]) -> list[Tensor]:
        """What is stored (n, columns) of each model's cases; models with equally many cases in one batch."""
        self.model.eval()
        columns = len(self.engine.task.columns)
        found = {
            i: self.engine.flat.vector.new_empty(0, columns, dtype=torch.float64)
            for i, (_, index) in enumerate(requests)
            if not len(index)
        }
        for size in sorted({len(index) for _, index in requests} - {0}):
            same = [i for i, (_, index) in enumerate(requests) if len(index) == size]
            for start in range(0, len(same), PREDICTED_MODELS):
                part = same[start : start + PREDICTED_MODELS]
                found |= dict(zip(part, self._predict([requests[i] for i in part]), strict=True))
        return [found[i] for i in range(len(requests))]

    def _predict(self, requests: Sequence[tuple[Weights, Ints]]) -> Tensor:
        """What is stored (m, n, columns)."""
        layout = self.engine.flat.layout
        vector = torch.stack([w.vector for w, _ in requests])
        counts = torch.stack([w.counts for w, _ in requests])
        rows = self.engine.dataset.rows(np.stack([index for _, index in requests]))
        state = {name: view.contiguous() for name, view in layout.views(vector).items()} | _counters(layout, counts)
        run = vmap(lambda state, images: functional_call(self.model, state, (images,)))
        found, step, task = [], self.engine.evaluation_batch, self.engine.task
        if task.dense or self.engine.inputs.crops:
            step = max(1, step // len(requests))
        with torch.no_grad(), self.engine.autocast(), BatchableNorms():
            for part in rows.split(step, 1):

                def predict(images: Tensor, models: int = len(part)) -> Tensor:  # windows of each image together
                    stacked = images.unflatten(0, (-1, *part.shape)).movedim(1, 0).flatten(1, 2)  # noqa: B023
                    found = task.probabilities(run(state, stacked).double().flatten(0, 1))
                    return found.unflatten(0, (models, -1, part.shape[1])).movedim(1, 0).flatten(0, 2)  # noqa: B023

                images = self.engine.dataset.images(part.flatten())
                probabilities = self.engine.inputs.over_windows(predict, images, task.dense)
                found.append(self.engine._stored(probabilities, part.flatten(), None).unflatten(0, part.shape))
        return torch.cat(found, 1)
