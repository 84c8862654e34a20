"""What a model needs, found out before training with a few made-up images of the real shape, type and device.

A network from elsewhere may call `view`, which channels-last memory does not allow, overwrite its input, or draw random
numbers that none of its layers announces: the engine prepares for that. What no preparation helps is refused, with the
name of the model and what to change.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedlab.core.rng import seed_global
from fedlab.core.warnings import warn
from fedlab.engine.flat_model import FlatModel
from fedlab.learning.settings import Training
from fedlab.learning.tasks import Task

BATCH = 3  # images in a trial: an odd number
ROUNDING = {"float64": 1e-6, "float32": 1e-3, "bf16": 0.1}  # relative, between kernels for other batch sizes
_KNOWN: dict[Any, tuple[Any, "Needs"]] = {}  # the function of each model tried before, and what was found


@dataclass(frozen=True)
class Needs:
    """What the engine does for a model.

    channels_last: images and kernels are in channels-last memory; if False in plain memory, as `view` needs it.
    overwrites: it changes its input, so it gets a copy. draws: it draws random numbers in training. seeded: what it
    holds besides its weights depends on the seed, so that runs of other seeds cannot share it. single: why it cannot
    train on a batch of one case; "" if it can, or never has to.
    """

    channels_last: bool = True
    overwrites: bool = False
    draws: bool = False
    seeded: bool = False
    single: str = ""

    def prepare(self, model: nn.Module) -> None:
        """Let the first stage of a new model copy its input, if that is needed."""
        if self.channels_last and not self.overwrites:
            return
        first = model[0] if isinstance(model, nn.Sequential) and len(model) else model
        first.register_forward_pre_hook(_copy_input if self.channels_last else _copy_input_plainly)


def _copy_input(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Copy the input."""
    return given[0].clone(), *given[1:]


def _copy_input_plainly(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Copy the input into plain memory."""
    return given[0].clone(memory_format=torch.contiguous_format), *given[1:]


@dataclass(frozen=True)
class ModelCheck:
    """How a model is tried.

    name: as the user wrote it. function: that builds it. make: (seed, needs) -> a new model with the initial weights of
    the seed. start: what identifies its file of weights and what is frozen. frozen: whether something may be. shape: of
    an image. single: whether some batch in training has one case.
    """

    name: str
    function: Callable[..., Any]
    make: Callable[[int, Needs], FlatModel]
    start: tuple[str, ...]
    frozen: bool
    shape: tuple[int, ...]
    task: Task
    settings: Training
    device: torch.device
    single: bool

    def needs(self) -> Needs:
        """What the model needs; ValueError if it cannot be trained or cannot predict. Each model is tried once."""
        s, task = self.settings, self.task
        model = id(self.function), self.name, self.shape, task.name, task.outputs
        key = model, self.start, self.single, self.device, s.precision, s.batchnorm, s.loss, task.dense
        if key not in _KNOWN:
            _KNOWN[key] = self.function, self._find_needs()
        return _KNOWN[key][1]

    def _find_needs(self) -> Needs:
        try:
            needs = self._try(Needs())
        except ValueError as error:
            try:
                needs = self._try(Needs(channels_last=False))
            except ValueError:
                raise error from None
        if self.frozen or not str(self.function.__module__).startswith("fedlab."):
            needs = replace(needs, seeded=self._depends_on_seed(needs))
        return needs

    # -- the trials --------------------------------------------------------------------------------------------------

    def _try(self, needs: Needs) -> Needs:
        """The needs found with a new model."""
        flat = self.make(self.settings.seed, needs)
        images = self._images(flat)
        with self._own_random_numbers(flat):
            needs = self._try_training(flat, images, needs)
            return self._try_prediction(flat, images, needs)

    def _try_training(self, flat: FlatModel, images: Tensor, needs: Needs) -> Needs:
        """Two steps on the same images, then one on a single image if there are such batches."""
        start, constants = flat.read(), self._constants(flat)
        flat.train()
        found = []
        for _ in range(2):
            flat.load(start)
            seed_global(0, flat.vector.device)
            before, given = _random_state(flat), images.clone()
            found.append(self._logits(flat, given, "in training"))
            draws = not torch.equal(before, _random_state(flat))
            overwrites = not torch.equal(given, images)
            needs = replace(needs, draws=draws, overwrites=needs.overwrites or overwrites)
            self._differentiate(flat, found[-1])
        if not self._agree(*found):
            raise self._refusal(
                "gives other outputs in training when it gets the same images, weights and random numbers of PyTorch",
                "let it draw with torch, and keep what changes in buffers",
            )
        for name, tensor in self._constants(flat).items():
            if not torch.equal(tensor, constants[name]):
                frozen = tensor.is_floating_point()
                raise self._refusal(
                    f"changes {'the frozen' if frozen else 'its buffer'} {name!r} of {_kind(tensor)} in training,"
                    f" which {'nothing may change' if frozen else 'sites cannot average'}",
                    "train the module that holds it, or let it change nothing in evaluation mode"
                    if frozen
                    else "keep what changes in buffers of floats",
                )
        if self.single:
            flat.load(start)
            try:
                self._differentiate(flat, self._logits(flat, images[:1].clone(), "in training"))
            except ValueError as error:
                why = str(error.__cause__ or error).partition("\n")[0]
                needs = replace(needs, single=f"model {self.name!r} cannot train on one case ({why})")
        return needs

    def _try_prediction(self, flat: FlatModel, images: Tensor, needs: Needs) -> Needs:
        """Predict two images together, and the first one alone, twice."""
        flat.model.eval()
        with torch.no_grad():
            given = [images[:count].clone() for count in (2, 1, 1)]
            both, one, again = (self._logits(flat, batch, "in evaluation") for batch in given)
        if not self._agree(one, again):
            raise self._refusal(
                "predicts something else when it is asked again, so that no result could be repeated",
                "let it draw random numbers in training only (F.dropout needs training=self.training), and keep nothing"
                " from one batch to the next",
            )
        if not self._agree(both[:1], one):
            raise self._refusal(
                "predicts something else for an image that is alone in its batch than for the same image next to"
                " another",
                "let no layer compute over the cases of a batch in evaluation (batch normalisation needs"
                " track_running_stats=True)",
            )
        self._warn_of_probabilities(flat, both)
        return replace(needs, overwrites=needs.overwrites or not torch.equal(given[0], images[:2]))

    def _depends_on_seed(self, needs: Needs) -> bool:
        """Whether what the model holds besides its weights depends on the seed; refuse a model that is not new."""
        seed = self.settings.seed
        first, second, other = (self.make(number, needs) for number in (seed, seed, seed + 1))
        if {id(p) for p in first.model.parameters()} & {id(p) for p in second.model.parameters()}:
            raise self._refusal(
                "is the same network each time it is built, so that runs would train each other's weights",
                "create all of its layers inside the function",
            )
        start = first.read()
        same = torch.equal(start.vector, second.vector) and torch.equal(start.counts, second.counts)
        outputs = []
        for flat in (first, second, other):
            flat.load(start)
            flat.model.eval()
            with torch.no_grad():
                outputs.append(self._logits(flat, self._images(flat)[:1], "in evaluation"))
        if not same or not self._agree(outputs[0], outputs[1]):
            raise self._refusal(
                "is built differently each time from the same seed",
                "let it draw its weights and constants with torch, which is seeded, instead of NumPy or random",
            )
        return not self._agree(outputs[0], outputs[2])

    # -- parts of a trial --------------------------------------------------------------------------------------------

    def _images(self, flat: FlatModel) -> Tensor:
        """Random images (BATCH, channels, height, width[, depth]) in channels-last memory, as training gets them."""
        channels, *space = self.shape
        pixels = torch.rand(BATCH, *space, channels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return pixels.to(flat.vector).movedim(-1, 1)

    def _own_random_numbers(self, flat: FlatModel) -> AbstractContextManager[None]:
        """A context after which PyTorch's generators are as they were before."""
        return torch.random.fork_rng(devices=[flat.vector.device] if flat.vector.is_cuda else [])

    def _constants(self, flat: FlatModel) -> dict[str, Tensor]:
        """Copies of the tensors that are no part of the weights: frozen ones, and tables of integers."""
        known = {entry.name for entry in flat.layout.entries} | {*flat.layout.counters}
        tensors = {**dict(flat.model.named_parameters()), **dict(flat.model.named_buffers())}
        return {name: tensor.detach().clone() for name, tensor in tensors.items() if name not in known}

    def _logits(self, flat: FlatModel, images: Tensor, mode: str) -> Tensor:
        """The model's outputs (b, outputs); ValueError if it returns something else."""
        count = len(images)
        batch = f"a batch of {count} image{'s' * (count > 1)} of shape {self.shape} {mode}"
        try:
            with autocast(self.settings, self.device):
                found = flat.model(images)
        except Exception as error:
            remedy = "check its layers for this image size"
            if count == 1:
                remedy = "keep the dimension of the batch, as by .flatten(1) instead of .squeeze()"
            if "more than 1" in str(error):
                remedy = "let no layer normalise a single number, so place it before the pooling"
            raise self._refusal(f"fails on {batch} ({reason(error)})", remedy) from error
        if not isinstance(found, Tensor):
            raise self._refusal(
                f"returns a {type(found).__name__} for {batch}", "return the logits alone, a tensor (cases, outputs)"
            )
        wanted = (count, self.task.outputs, *(self.shape[1:] if self.task.dense else ()))
        if found.shape != wanted:
            raise self._refusal(
                f"returns a tensor of shape {tuple(found.shape)} for {batch}, wanted is {wanted}",
                "fix its last stage; keep the dimension of the batch, as by .flatten(1) instead of .squeeze()",
            )
        if not found.is_floating_point():
            raise self._refusal(f"returns {_kind(found)} for {batch}", "return logits, without argmax")
        return found

    def _differentiate(self, flat: FlatModel, logits: Tensor) -> None:
        """Compute the gradient of the loss."""
        labels = np.zeros(len(logits), np.int64)
        targets = torch.from_numpy(np.ascontiguousarray(self.task.targets(labels))).to(logits.device)
        if self.task.dense:
            targets = torch.zeros((len(logits), *logits.shape[2:]), dtype=torch.uint8, device=logits.device)
        if not logits.requires_grad:
            raise self._refusal(
                "has outputs that depend on none of its parameters", "check for detach, argmax and torch.no_grad"
            )
        try:
            with autocast(self.settings, self.device):
                loss = self.task.loss(logits, targets)
            flat.differentiate(loss)
        except Exception as error:
            raise self._refusal(
                f"has no gradient ({reason(error)})", "check its layers for in-place operations"
            ) from error
        finally:
            flat.gradient.zero_()

    def _agree(self, a: Tensor, b: Tensor) -> bool:
        """Whether two outputs are equal up to rounding."""
        a, b = a.detach().double(), b.detach().double()
        rounding = ROUNDING[self.settings.precision]
        return torch.allclose(a, b, rtol=0, atol=rounding * (1 + float(a.abs().max())), equal_nan=True)

    def _warn_of_probabilities(self, flat: FlatModel, outputs: Tensor) -> None:
        """Warn of a model that ends with a softmax or sigmoid, since the loss computes its own."""
        last = [module for module in flat.model.modules() if not any(module.children())][-1]
        sums = outputs.double().sum(1)
        softmax = outputs.shape[1] > 1 and bool((outputs >= 0).all()) and bool(((sums - 1).abs() < 1e-2).all())
        if softmax or isinstance(last, nn.Sigmoid):
            warn(
                f"model {self.name!r} returns probabilities, but the loss computes them from logits: remove the"
                f" {'softmax' if softmax else 'sigmoid'} at its end"
            )

    def _refusal(self, what: str, remedy: str) -> ValueError:
        return ValueError(f"model {self.name!r} {what}: {remedy}")


def autocast(settings: Training, device: torch.device) -> AbstractContextManager[object]:
    """The context of a forward pass: bfloat16 with precision="bf16"."""
    return torch.autocast(device.type, torch.bfloat16) if settings.precision == "bf16" else nullcontext()


def reason(error: Exception) -> str:
    """Name an error and the first line of its text."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _random_state(flat: FlatModel) -> Tensor:
    """The state of the generator that the model's layers draw from."""
    return torch.cuda.get_rng_state(flat.vector.device) if flat.vector.is_cuda else torch.get_rng_state()


def _kind(tensor: Tensor) -> str:
    """The type of a tensor's numbers, in words."""
    return str(tensor.dtype).removeprefix("torch.")
