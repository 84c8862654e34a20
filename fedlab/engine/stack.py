"""The models of many sites in training as one: `torch.func.vmap` over stacks of weights and of batches."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedlab.engine.optimizers import Moments
from fedlab.engine.serial import Serial
from fedlab.engine.work import Cost, Job, Trained
from fedlab.stages import sequence
from fedlab.weights import Layout, Weights, in_memory_order

Index = NDArray[np.int64]


@dataclass
class Group:
    """Models in a step together: weights (m, P + Q), counts (m, counters), optimizer state; their places in the stack.

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


class Stack:
    """The models of m jobs that ask for the same kinds of corrections, in training."""

    def __init__(self, serial: Serial, model: nn.Module, jobs: Sequence[Job]) -> None:
        self.serial, self.model, self.jobs, self.layout = serial, model, jobs, serial.flat.layout
        self.work = jobs[0].work  # of what is alike for all
        self.vector = torch.stack([job.start.vector for job in jobs])
        self.counts = torch.stack([job.start.counts for job in jobs])
        self.moments = self._moments()
        frozen = self.work.frozen is not None
        self.rest = (self.vector.clone(), self.moments.vectors.clone()) if frozen else None
        self.pull = self._pull()
        self.shift = None if self.work.shift is None else torch.stack([job.work.shift for job in jobs])  # type: ignore[misc]
        self.losses = self.vector.new_zeros(len(jobs))
        self.steps = np.array([job.work.first for job in jobs])
        self.passes = np.zeros(len(jobs), np.int64)
        self._gathered: tuple[list[Index], Any] = [], None

    def step(self, who: list[int], batches: list[Index]) -> None:
        """One step of these jobs, each on its batch."""
        group, batch = self._take(who), self._augmented(who, self._gather(who, batches))
        loss, gradient = self._differentiate(group.vector, group.counts, who, batch)
        self.losses[group.place] += loss
        w = group.vector[:, : self.layout.parameters]
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

    def results(self, seconds: float) -> list[Trained]:
        """What came of each job; the time is shared out by the cases whose gradient was computed."""
        shares, losses, found = self.passes / max(1, self.passes.sum()), self.losses.tolist(), []
        for i, job in enumerate(self.jobs):
            w = Weights(job.start.layout, self.vector[i], self.counts[i])
            if job.room is not None:
                job.room.vector.copy_(w.vector)
                job.room.counts.copy_(w.counts)
                w = job.room
            if job.keep and self.serial.optimizer.slots:
                clock = self.moments.clock[i, 0].to(torch.int64).cpu()  # type: ignore[index]
                w = replace(w, moments=self.moments.vectors[:, i].clone(), clock=clock)
            loss = losses[i] / max(1, job.work.steps)
            found.append(Trained(w, Cost(loss, job.work.steps, int(self.passes[i]), float(seconds * shares[i]))))
        return found

    def _differentiate(
        self, vector: Tensor, counts: Tensor, who: list[int], batch: Batch, buffers: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Losses (m,) and their gradients (m, P) at weights (m, P + Q), whose normalisation statistics are updated.

        buffers: statistics (m, Q) in the place of those among the weights.
        """
        size = self.layout.parameters
        leaves = {name: view.detach().requires_grad_() for name, view in self.layout.views(vector[:, :size]).items()}
        used = vector[:, size:] if buffers is None else buffers
        apart = {  # in memory of their own, since layers update only contiguous statistics in place
            entry.name: used[:, entry.start - size : entry.stop - size].contiguous().view(-1, *entry.shape)
            for entry in self.layout.entries
            if entry.start >= size
        }
        loss = self._loss(leaves, apart, counts, who, batch)
        found = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True)
        each = [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves.values(), found, strict=True)]
        if apart:
            used.copy_(torch.cat([statistics.flatten(1) for statistics in apart.values()], 1))
        return loss.detach(), torch.cat([in_memory_order(g, 1).reshape(len(vector), -1) for g in each], 1)

    def _loss(
        self, leaves: dict[str, Tensor], buffers: dict[str, Tensor], counts: Tensor, who: list[int], batch: Batch
    ) -> Tensor:
        """Losses (m,)."""
        task, term = self.serial.task, self.work.term is not None
        model = _Pair(self.model) if term else self.model
        prefix = "model." if term else ""
        state = {prefix + name: t for name, t in {**leaves, **buffers, **counters(self.layout, counts)}.items()}

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

    def _by_rule(self, group: Group, gradient: Tensor, who: list[int], batch: Batch) -> Tensor:
        """What the method's rule makes of the gradients at w and elsewhere, on the same batches."""
        w, statistics = group.vector.split([self.layout.parameters, self.layout.size - self.layout.parameters], 1)

        def grad(point: Tensor, own: Tensor | None = None, decay: bool = False) -> Tensor:
            buffers = statistics.clone() if own is None else own
            self.passes[who] += batch.rows.shape[1]
            with torch.enable_grad():
                _, found = self._differentiate(point, group.counts.clone(), who, batch, buffers)
            factor = self.serial.optimizer.coupled
            return found.addcmul_(point, factor) if decay and factor is not None else found

        with torch.no_grad():
            rows = torch.tensor([self.jobs[i].work.row for i in who], device=w.device)
            return self.work.rule(w.clone(), gradient, grad, rows)  # type: ignore[misc]

    def _gather(self, who: list[int], batches: list[Index]) -> Batch:
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

    def _take(self, who: list[int]) -> Group:
        place: slice | Tensor = slice(who[0], who[-1] + 1)
        if who != list(range(who[0], who[-1] + 1)):
            place = torch.tensor(who, device=self.vector.device)
        moments = Moments(self.moments.vectors[:, place], self.moments.clock[place])  # type: ignore[index]
        return Group(self.vector[place], self.counts[place], moments, place)

    def _put(self, group: Group) -> None:
        """The group's models as they are now; what is frozen has its weights and its optimizer's state again."""
        place, frozen = group.place, self.work.frozen
        if self.rest is not None and frozen is not None:
            group.vector.copy_(torch.where(frozen, self.rest[0][place], group.vector))
            rested = torch.where(frozen[: self.layout.parameters], self.rest[1][:, place], group.moments.vectors)
            group.moments.vectors.copy_(rested)
        if isinstance(place, Tensor):
            self.vector[place], self.counts[place] = group.vector, group.counts
            self.moments.vectors[:, place], self.moments.clock[place] = group.moments.vectors, group.moments.clock  # type: ignore[index]

    def _moments(self) -> Moments:
        """The optimizers' state at the starts: vectors (slots, m, P), clock (m, 1)."""
        slots, size = self.serial.optimizer.slots, self.layout.parameters
        clock = self.vector.new_zeros(len(self.jobs), 1, dtype=torch.float64)
        vectors = self.vector.new_zeros(slots, len(self.jobs), size)
        for i, job in enumerate(self.jobs):
            if job.start.moments is not None and job.start.clock is not None:
                vectors[:, i], clock[i] = job.start.moments, float(job.start.clock)
        return Moments(vectors, clock)

    def _pull(self) -> tuple[Tensor, Tensor] | None:
        """mu (m, 1), and anchors (m, P), or the one that all share (P,)."""
        if self.work.pull is None:
            return None
        pulls = [job.work.pull for job in self.jobs]
        mu = torch.tensor([[pull[0]] for pull in pulls], dtype=torch.float64).to(self.vector)  # type: ignore[index]
        anchors = [pull[1] for pull in pulls]  # type: ignore[index]
        alike = all(anchor.data_ptr() == anchors[0].data_ptr() for anchor in anchors)
        return mu, anchors[0] if alike else torch.stack(anchors)


def counters(layout: Layout, counts: Tensor) -> dict[str, Tensor]:
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
