"""Sites as one batched model: one step of all of them is a handful of large operations instead of many small ones.

`torch.func.vmap` runs the model over stacks of weights and of batches. Nothing is padded, and every site sees the
batches, in the order, that it would see alone (see `lockstep`); results agree with those of one site after another to
rounding.
"""

import copy
import gc
import sys
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, vmap

from fedlab.engine.batchable import Batchable
from fedlab.engine.lockstep import lockstep
from fedlab.engine.serial import EVALUATION_BATCH, Serial
from fedlab.engine.stack import Stack, numbers
from fedlab.engine.work import Job, Named, Trained
from fedlab.layout import Layout
from fedlab.memory import Stopwatch
from fedlab.weights import Weights

Index = NDArray[np.int64]
BESIDE = 16  # models that predict side by side


class Stacked:
    """Trains the models of many sites as one; `serial` has the images, the task and the optimizer.

    obstacle: why its model cannot be trained as a stack; None if it can. width: the most sites at a time.
    """

    def __init__(self, serial: Serial) -> None:
        self.serial, self.model = serial, copy.deepcopy(serial.flat.model)
        self.obstacle, self.width = serial.chance.obstacle, sys.maxsize

    def train(self, jobs: Sequence[Job], named: Named) -> list[Trained]:
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

    def _train(self, jobs: Sequence[Job], named: Named) -> list[Trained]:
        watch = Stopwatch(self.serial.flat.vector.device)
        self.serial.flat.train(self.model)
        stack = Stack(self.serial, self.model, jobs)
        with Batchable():
            for who, batches in lockstep([job.work for job in jobs]):
                with named(jobs[who[0]]):  # what one batch is too small for, all of its size are
                    stack.step(who, batches)
        return stack.results(watch.stop())

    def _narrow(self, width: int, learns: bool) -> None:
        """From now on half as many sites at a time. learns: the method's rule has learnt already and cannot go back."""
        if width == 1 or learns:
            remedy = "set execution='serial'" if learns else "use a smaller batch_size or model"
            raise torch.OutOfMemoryError(f"a stack of {width} sites does not fit into the device's memory: {remedy}")
        self.width = width // 2
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        warnings.warn(
            f"a stack of {width} sites does not fit into the device's memory: {self.width} at a time from now on",
            UserWarning,
            stacklevel=2,
        )

    def predict(self, asked: Sequence[tuple[Weights, Index]]) -> list[Tensor]:
        """Probabilities (n, classes) of each model for its cases; models with as many cases side by side."""
        self.model.eval()
        found: dict[int, Tensor] = {}
        for size in sorted({len(index) for _, index in asked}):
            alike = [i for i, (_, index) in enumerate(asked) if len(index) == size]
            for start in range(0, len(alike), BESIDE):
                part = alike[start : start + BESIDE]
                found |= dict(zip(part, self._predict([asked[i] for i in part]), strict=True))
        return [found[i] for i in range(len(asked))]

    def _predict(self, asked: Sequence[tuple[Weights, Index]]) -> Tensor:
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
