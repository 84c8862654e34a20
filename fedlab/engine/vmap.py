"""The models of many sites in training as one: `torch.func.vmap` over stacks of weights and of batches."""

import copy
import gc
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedlab.core.layout import Layout
from fedlab.core.memory import Stopwatch, aligned, counters, to_device
from fedlab.core.stages import sequence
from fedlab.core.typing import Ints
from fedlab.core.warnings import warn
from fedlab.core.weights import Weights
from fedlab.engine.batchable_norms import Batchable
from fedlab.engine.local_task import LocalJob, Named, Trained, Usage
from fedlab.engine.lockstep import lockstep
from fedlab.engine.loop import EVALUATION_BATCH, SequentialEngine
from fedlab.engine.optimizers import Moments


@dataclass
class StepGroup:
    """Models in a step together: weights (m, size), counts (m, counters), optimizer state; their places in the stack.

    Views of the whole stack's memory where it is consecutive, else copies that are brought back.
    """

    vector: Tensor
    counts: Tensor
    moments: Moments
    place: slice | Tensor


@dataclass(frozen=True)
class Batch:
    """Images (m, b, ...), targets (m, b), rows in the store (m, b), and class weights (m, b) if cases are weighed."""

    images: Tensor
    targets: Tensor
    rows: Tensor
    weights: Tensor | None


class ModelStack:
    """The models of m jobs that ask for the same kinds of corrections, in training."""

    def __init__(self, serial: SequentialEngine, model: nn.Module, jobs: Sequence[LocalJob]) -> None:
        self.serial, self.model, self.jobs, self.layout = serial, model, jobs, serial.flat.layout
        self.work = jobs[0].work  # of what is alike for all
        device = serial.flat.vector.device
        self.vector = aligned(len(jobs), self.layout.size, dtype=serial.flat.vector.dtype, device=device)
        self.counts = counters(len(jobs), len(self.layout.counters), device=device)
        self.vector.copy_(_rows([job.start.vector for job in jobs]))
        self.counts.copy_(_rows([job.start.counts for job in jobs]))
        self.moments = self._moments()
        frozen = self.work.frozen is not None
        self.rest = (self.vector.clone(), self.moments.vectors.clone()) if frozen else None
        self.pull = self._pull()
        self.shift = None if self.work.shift is None else torch.stack([job.work.shift for job in jobs])  # type: ignore[misc]
        self.losses = self.vector.new_zeros(len(jobs))
        self.steps = np.array([job.work.first for job in jobs])
        self.passes = np.zeros(len(jobs), np.int64)
        self._gathered: tuple[list[Ints], Any] = [], None

    def step(self, who: list[int], batches: list[Ints]) -> None:
        """One step of these jobs, each on its batch."""
        group, batch = self._take(who), self._augmented(who, self._gather(who, batches))
        loss, gradient = self._differentiate(group.vector, group.counts, who, batch)
        self.losses[group.place] += loss
        w = group.vector[:, : self.layout.trained]
        if self.work.rule is not None:
            gradient = self._by_rule(group, gradient, who, batch)
        with torch.no_grad():
            if self.pull is not None:
                mu, anchor = self.pull
                gradient = gradient + mu[group.place] * (w - (anchor if anchor.ndim == 1 else anchor[group.place]))
            if self.shift is not None:
                gradient = gradient + self.shift[group.place]
            self.serial.optimizer.step(w, gradient, group.moments, self.work.lr, self.work.decays)
            self._put(group)

    def results(self, seconds: Callable[[], float]) -> list[Trained]:
        """The result of each job; the time is shared out by the cases whose gradient was computed."""
        shares, totals = self.passes / max(1, self.passes.sum()), self.vector.sum(1)
        models = [
            Weights(self.jobs[i].start.layout, *row) for i, row in enumerate(zip(self.vector, self.counts, strict=True))
        ]
        self._to_rooms(models)
        found = []
        for i, (job, w) in enumerate(zip(self.jobs, models, strict=True)):
            w = w if job.room is None else job.room
            if job.keep and self.serial.optimizer.slots:
                clock = np.array((0 if job.start.clock is None else int(job.start.clock)) + job.work.steps)
                w = replace(w, moments=self.moments.vectors[:, i].clone(), clock=clock)
            share = float(shares[i])
            usage = Usage(self.losses[i], job.work.steps, int(self.passes[i]), lambda share=share: share * seconds())  # type: ignore[misc]
            found.append(Trained(w, usage, totals[i]))
        return found

    def _to_rooms(self, models: list[Weights]) -> None:
        """Copy the models of jobs that have a room there, with a few kernels for all."""
        pairs = [(job.room, w) for job, w in zip(self.jobs, models, strict=True) if job.room is not None]
        for name in ("vector", "counts") if pairs else ():
            rooms, values = zip(*((getattr(room, name), getattr(w, name)) for room, w in pairs), strict=True)
            torch._foreach_copy_(list(rooms), list(values))

    def _differentiate(
        self, vector: Tensor, counts: Tensor, who: list[int], batch: Batch, buffers: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Losses (m,) and their gradients (m, trained) at weights (m, size), whose statistics are updated.

        buffers: statistics in the place of those among the weights.
        """
        size = self.layout.trained
        leaves = {name: view.detach().requires_grad_() for name, view in self.layout.views(vector[:, :size]).items()}
        used, statistics = vector[:, size:] if buffers is None else buffers, self.layout.entries[len(leaves) :]
        own = [used[:, e.start - size : e.stop - size].view(-1, *e.shape) for e in statistics]
        apart = {
            e.name: view.clone() for e, view in zip(statistics, own, strict=True)
        }  # leaves share memory with `own`
        loss = self._loss(leaves, apart, counts, who, batch)
        found = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True)
        gradient = torch.zeros_like(vector[:, :size])
        slots = zip(self.layout.views(gradient).values(), found, strict=True)
        reached = [(slot, g) for slot, g in slots if g is not None]
        if reached:
            torch._foreach_copy_([slot for slot, _ in reached], [g for _, g in reached])
        if apart:
            torch._foreach_copy_(list(own), list(apart.values()))
        return loss.detach(), gradient

    def _loss(
        self, leaves: dict[str, Tensor], buffers: dict[str, Tensor], counts: Tensor, who: list[int], batch: Batch
    ) -> Tensor:
        """Losses (m,)."""
        task, term = self.serial.task, self.work.term is not None
        model = _Pair(self.model) if term else self.model
        prefix = "model." if term else ""
        state = {prefix + name: t for name, t in {**leaves, **buffers, **numbers(self.layout, counts)}.items()}

        def one(state: dict[str, Tensor], images: Tensor, targets: Tensor, weights: Tensor | None) -> Any:
            out = functional_call(model, state, (images,))
            logits = out[0] if term else out
            loss = task.weighed(logits, targets, weights)
            return (loss, out[1].flatten(1)) if term else loss

        axes = (0, 0, 0, None if batch.weights is None else 0)
        with self.serial.autocast():
            found = vmap(one, in_dims=axes)(state, batch.images, batch.targets, batch.weights)
            if not term:
                return found
            loss, z = found
            terms = zip((self.jobs[i].work.term for i in who), z, batch.rows, strict=True)
            return loss + torch.stack([beside(rep, rows) for beside, rep, rows in terms])  # type: ignore[misc]

    def _by_rule(self, group: StepGroup, gradient: Tensor, who: list[int], batch: Batch) -> Tensor:
        """What the method's rule makes of the gradients at w and elsewhere, on the same batches."""
        w, statistics = group.vector.tensor_split((self.layout.trained,), 1)

        def grad(point: Tensor, own: Tensor | None = None, decay: bool = False) -> Tensor:
            buffers = statistics.clone() if own is None else own
            self.passes[who] += batch.rows.shape[1]
            with torch.enable_grad():
                _, found = self._differentiate(point, group.counts.clone(), who, batch, buffers)
            factor = self.serial.optimizer.coupled
            return found.addcmul_(point, factor) if decay and factor is not None else found

        with torch.no_grad():
            rows = to_device([self.jobs[i].work.row for i in who], w.device)
            return self.work.rule(w.clone(), gradient, grad, rows)  # type: ignore[misc]

    def _gather(self, who: list[int], batches: list[Ints]) -> Batch:
        """The batches on the device; where they are those of the step before, they are there already."""
        self.passes[who] += len(batches[0])
        before, batch = self._gathered
        if len(before) == len(batches) and all(a is b for a, b in zip(before, batches, strict=True)):
            return batch
        store, size = self.serial.store, (len(who), len(batches[0]))
        rows = store.rows(np.concatenate(batches))
        images, targets, weights = store.images(rows), store.targets[rows], None
        if self.work.weights is not None:
            weights = torch.stack([self.jobs[i].work.weights[at] for i, at in zip(who, rows.view(size), strict=True)])  # type: ignore[index]
        self._gathered = batches, Batch(images.unflatten(0, size), targets.unflatten(0, size), rows.view(size), weights)
        return self._gathered[1]

    def _augmented(self, who: list[int], batch: Batch) -> Batch:
        """The batch as networks see it in training."""
        if not self.serial.augmentation.any:
            return batch
        places = [self.jobs[i].work.place(int(self.steps[i])) for i in who]
        self.steps[who] += 1
        images = self.serial.augmented(batch.images.flatten(0, 1), places)
        return replace(batch, images=images.unflatten(0, batch.rows.shape))

    def _take(self, who: list[int]) -> StepGroup:
        place: slice | Tensor = slice(who[0], who[-1] + 1)
        if who != list(range(who[0], who[-1] + 1)):
            place = to_device(who, self.vector.device)
        moments = Moments(self.moments.vectors[:, place], self.moments.clock[place])  # type: ignore[index]
        return StepGroup(self.vector[place], self.counts[place], moments, place)

    def _put(self, group: StepGroup) -> None:
        """The group's models as they are now; what is frozen has its weights and its optimizer's state again."""
        place, frozen = group.place, self.work.frozen
        if self.rest is not None and frozen is not None:
            group.vector.copy_(torch.where(frozen, self.rest[0][place], group.vector))
            rested = torch.where(frozen[: self.layout.trained], self.rest[1][:, place], group.moments.vectors)
            group.moments.vectors.copy_(rested)
        if isinstance(place, Tensor):
            self.vector[place], self.counts[place] = group.vector, group.counts
            self.moments.vectors[:, place], self.moments.clock[place] = group.moments.vectors, group.moments.clock  # type: ignore[index]

    def _moments(self) -> Moments:
        """The optimizers' state at the starts: vectors (slots, m, trained), clock (m, 1)."""
        moments, clock = (
            self.serial.optimizer.fresh(self.vector[:, : self.layout.trained]),
            np.zeros((len(self.jobs), 1)),
        )
        for i, job in enumerate(self.jobs):
            if job.start.moments is not None and job.start.clock is not None:
                moments.vectors[:, i], clock[i] = job.start.moments, float(job.start.clock)
        moments.clock = to_device(clock, self.vector.device)
        return moments

    def _pull(self) -> tuple[Tensor, Tensor] | None:
        """mu (m, 1), and anchors (m, trained), or the one that all share (trained,)."""
        if self.work.pull is None:
            return None
        pulls = [job.work.pull for job in self.jobs]
        mu = to_device(np.array([[pull[0]] for pull in pulls]), self.vector.device).to(self.vector.dtype)  # type: ignore[index]
        anchors = [pull[1] for pull in pulls]  # type: ignore[index]
        alike = all(anchor.data_ptr() == anchors[0].data_ptr() for anchor in anchors)
        return mu, anchors[0] if alike else torch.stack(anchors)


def _rows(tensors: list[Tensor]) -> Tensor:
    """Tensors as the rows of one; without a copy where all are the same memory, as those of a model sent to all are."""
    first = tensors[0]
    same = all(tensor.data_ptr() == first.data_ptr() for tensor in tensors)
    return first.expand(len(tensors), *first.shape) if same else torch.stack(tensors)


def numbers(layout: Layout, counts: Tensor) -> dict[str, Tensor]:
    """Name -> that integer buffer of each model, out of counts (m, counters)."""
    return {name: counts[:, i] for i, name in enumerate(layout.counters)}


class _Pair(nn.Module):
    """A model that also tells what enters its last stage."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        stages = sequence(self.model)
        z = stages[:-1](x)
        return stages[-1](z), z


BESIDE = 16  # models that predict side by side


class VmapEngine:
    """Trains the models of many sites as one; `serial` has the images, the task and the optimizer.

    obstacle: why its model cannot be trained as a stack; None if it can. width: the most sites at a time.
    """

    def __init__(self, serial: SequentialEngine) -> None:
        self.serial, self.model = serial, copy.deepcopy(serial.flat.model)
        self.obstacle, self.width = serial.chance.obstacle, sys.maxsize

    def train(self, jobs: Sequence[LocalJob], named: Named) -> list[Trained]:
        """What each of these jobs came to, in their order; in smaller stacks where memory is short.

        named(job): the context in which a refusal is told of its site.
        """
        order = sorted(range(len(jobs)), key=lambda i: -jobs[i].work.steps)  # so that those in step are neighbours
        found: list[Trained] = []
        while len(found) < len(jobs):
            part = [jobs[i] for i in order[len(found) :][: self.width]]
            try:
                found += self._train(part, named)
            except torch.OutOfMemoryError:
                self._narrow(len(part), part[0].work.rule is not None)
        return [trained for _, trained in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]

    def _train(self, jobs: Sequence[LocalJob], named: Named) -> list[Trained]:
        watch = Stopwatch(self.serial.flat.vector.device)
        self.serial.flat.train(self.model)
        stack = ModelStack(self.serial, self.model, jobs)
        with Batchable():
            for who, batches in lockstep([job.work for job in jobs]):
                with named(jobs[who[0]]):  # what one batch is too small for, all of its size are
                    stack.step(who, batches)
        return stack.results(watch.stop())

    def _narrow(self, width: int, learns: bool) -> None:
        """From now on half as many sites at a time. learns: the method's rule has learnt already and cannot go back."""
        if width == 1 or learns:
            remedy = "set execution='sequential'" if learns else "use a smaller batch_size or model"
            raise torch.OutOfMemoryError(f"a stack of {width} sites does not fit into the device's memory: {remedy}")
        self.width = width // 2
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        warn(f"a stack of {width} sites does not fit into the device's memory: {self.width} at a time from now on")

    def predict(self, asked: Sequence[tuple[Weights, Ints]]) -> list[Tensor]:
        """Probabilities (n, classes) of each model for its cases; models with as many cases side by side."""
        self.model.eval()
        found: dict[int, Tensor] = {}
        for size in sorted({len(index) for _, index in asked}):
            alike = [i for i, (_, index) in enumerate(asked) if len(index) == size]
            for start in range(0, len(alike), BESIDE):
                part = alike[start : start + BESIDE]
                found |= dict(zip(part, self._predict([asked[i] for i in part]), strict=True))
        return [found[i] for i in range(len(asked))]

    def _predict(self, asked: Sequence[tuple[Weights, Ints]]) -> Tensor:
        vector = torch.stack([w.vector for w, _ in asked])
        counts = torch.stack([w.counts for w, _ in asked])
        rows = self.serial.store.rows(np.stack([index for _, index in asked]))
        state = _named(self.serial.flat.layout, vector, counts)
        run = vmap(lambda state, images: functional_call(self.model, state, (images,)))
        each = []
        with torch.no_grad(), self.serial.autocast(), Batchable():
            for part in rows.split(EVALUATION_BATCH, 1):
                images = self.serial.store.images(part.flatten()).unflatten(0, part.shape)
                logits = run(state, images).double()
                each.append(self.serial.task.probabilities(logits.flatten(0, 1)).unflatten(0, part.shape))
        return torch.cat(each, 1)


def _named(layout: Layout, vector: Tensor, counts: Tensor) -> dict[str, Tensor]:
    """Name -> stack of that tensor, out of weights (m, size)."""
    return {name: view.contiguous() for name, view in layout.views(vector).items()} | numbers(layout, counts)
