"""Settings of local training: every method trains under the same ones, so that methods are compared fairly."""

import ast
import math
import os
from functools import cache
from typing import Annotated, Any, Literal, Self, get_origin, get_type_hints

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, model_validator

from fedlab.core import arguments
from fedlab.core.arguments import Bounds, Count, Fraction, NotNegative
from fedlab.core.registry import LONGEST, Registry, nearest
from fedlab.learning import augmentation, losses, patches, target_scale, trainable
from fedlab.learning import regression_losses as _losses_of_numbers  # noqa: F401 (registers them)

__all__ = ["SCHEDULES", "Training", "constant", "cosine", "step"]

SCHEDULES = Registry("schedule")
SPELT = {"true": True, "false": False, "none": None, "null": None}  # as YAML and command lines write them
FORMER_MODES = {"serial": "sequential", "stacked": "vmap", "graphed": "cuda_graph"}  # as in older run folders


@SCHEDULES.add
def constant(progress: float) -> float:
    """The same learning rate in every round."""
    return 1.0


@SCHEDULES.add
def cosine(progress: float, final: NotNegative = 0.01) -> float:
    """From the learning rate to `final` times it along half a cosine, over all rounds."""
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


@SCHEDULES.add
def step(progress: float, factor: NotNegative = 0.1) -> float:
    """Times `factor` after half of the rounds and again after three quarters."""
    return factor ** ((progress >= 0.5) + (progress >= 0.75))


Rounds = Annotated[int, Bounds(1, 1_000_000)]
Steps = Annotated[int, Bounds(1, 1_000_000_000)]


class Training(BaseModel):
    """Settings of one site's local training in a round, and of the rounds. Frozen; unknown names are refused.

    Parameters
    ----------
    rounds : int, default 20
        Communication rounds, 1 or more; a cycle through all sites counts as one.
    patience : int, optional
        Stop after this many evaluations without a better validation mean. By default all rounds are run.
    local_epochs : int, default 1
        Passes over a site's training cases in a round, 1 or more.
    local_steps : int, optional
        Optimizer steps of each site in a round, 1 or more. Replaces `local_epochs` if given.
    batch_size : int or None, default 32
        Cases in a step, 1 or more; None takes all of a site's cases at once (full batch).
    optimizer : {"sgd", "adam", "adamw"}, default "sgd"
        Local optimizer.
    lr : float, default 0.05
        Learning rate of a local step, 0 or more.
    momentum : float, default 0.0
        Momentum of "sgd", 0 to below 1.
    weight_decay : float, default 0.0
        Factor of the L2 term (weight_decay/2) |w|^2, 0 or more. It leaves biases and normalisation layers alone.
    schedule : str, default "constant"
        Learning rate over rounds: "constant", "cosine(final=0.01)", "step(factor=0.1)".
    loss : str, default "auto"
        "cross_entropy", "focal(gamma=2)", "ordinal" for grades, with masks "dice_ce", "dice" or "tversky(alpha=0.3,
        beta=0.7)", of numbers "mse", "mae" or "huber(delta=1)"; "auto" is cross-entropy in classification, "dice_ce" in
        segmentation and "mse" in regression.
    target_scale : "pooled", "none" or list of float, default "pooled"
        How the target of a regression is standardised: by mean and standard deviation of all sites' training cases,
        which these exchange, not at all, or by [mean, standard deviation] that are known beforehand.
    class_weights : "none", "balanced" or list of float, default "none"
        Weights of classes in the loss, of structures (background first) in segmentation. "balanced" weighs each
        inversely to its share of all sites' training cases, or voxels.
    batchnorm : {"avg", "pooled", "silobn", "fedbn", "params_only", "frozen", "group"}, default "avg"
        Batch normalisation across sites: statistics averaged, pooled as those of the union, kept at the sites
        ("silobn", "params_only"), kept with scale and offset ("fedbn"), frozen, or group normalisation instead.
    weights : str, optional
        File of weights to start from: safetensors, a file of `torch.save`, or a run folder. Names and shapes must match
        the model except for the last stage, which keeps its initial weights where it differs.
    trainable : str, default "all"
        What is trained: "all", "head" (the last stage), names of stages and parameters as in "3, 4*, head", or
        "lora(rank=4, alpha=8)". The rest is frozen and never travels: sites are assumed to hold the file of weights.
    normalisation : {"none", "image", "site", "global"}, default "none"
        Statistics that standardise intensities: of each image, of each site, or of all sites. It decides which
        scanner differences survive.
    augment : str, default "none"
        Random changes of training images: "flip", "rotate(10) + light(0.1) + noise(0.05)",
        "monai(RandGaussianNoise(prob=0.5))"; masks move with their images.
    crop : str, default "none"
        Crops that are trained on instead of whole images: "random(64)", "random((64, 64, 32), foreground=0.5)"; whole
        images are then predicted by a sliding window. Images of unequal size need it.
    precision : {"float32", "float64", "bf16"}, default "float32"
        Number format; "bf16" keeps float32 weights and computes layers in bfloat16.
    device : str, default "auto"
        "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1".
    execution : {"auto", "sequential", "vmap", "cuda_graph"}, default "auto"
        How sites are trained on the device; changes speed, not results.
    seed : int, default 0
        Seed of the initial weights and of the order of batches, 0 or more.
    evaluate_every : int, default 1
        Rounds between evaluations, 1 or more; the last round is always evaluated.

    Examples
    --------
    >>> from fedlab.learning.settings import Training
    >>> Training(rounds=8, lr=1.0, schedule="step").lr_at(5)
    0.1
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    rounds: Rounds = 20
    patience: Steps | None = None
    local_epochs: Rounds = 1
    local_steps: Steps | None = None
    batch_size: Steps | None = 32
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: NotNegative = 0.05
    momentum: Fraction = 0.0
    weight_decay: NotNegative = 0.0
    schedule: str = "constant"
    loss: str = "auto"
    target_scale: str | list[float] = "pooled"
    class_weights: str | list[float] = "none"
    batchnorm: Literal["avg", "pooled", "silobn", "fedbn", "params_only", "frozen", "group"] = "avg"
    weights: str | None = None
    trainable: str = "all"
    normalisation: Literal["none", "image", "site", "global"] = "none"
    augment: str = "none"
    crop: str = "none"
    precision: Literal["float32", "float64", "bf16"] = "float32"
    device: str = "auto"
    execution: Literal["auto", "sequential", "vmap", "cuda_graph"] = "auto"
    seed: Count = 0
    evaluate_every: Steps = 1

    @model_validator(mode="before")
    @classmethod
    def _declared(cls, values: Any) -> Any:
        """Refuse unknown names and values of another type; read numbers that are given as text."""
        if not isinstance(values, dict):
            return values
        for name in values:
            if name not in cls.model_fields:
                raise ValueError(f"unknown parameter {name!r}: {nearest(name, cls.model_fields)}")
        hints = _hints(cls)
        read = {name: cls.read(name, value, hints[name]) for name, value in values.items()}
        if isinstance(read.get("execution"), str):
            read["execution"] = FORMER_MODES.get(read["execution"], read["execution"])
        for name, value in read.items():
            _check_size(name, value)
            if name not in cls.checked_elsewhere():
                arguments.check(name, value, hints[name])
        return read

    @classmethod
    def read(cls, name: str, value: Any, hint: Any) -> Any:
        """The value of a field; numbers may be given as text, and as NumPy holds them."""
        value = _plain(value)
        if name == "trainable" and isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
            return ", ".join(value)
        if name == "weights" and isinstance(value, str):
            return None if SPELT.get(value.strip().lower(), "") is None else value
        if isinstance(value, str) and hint is not str and get_origin(hint) is not Literal:
            value = _literal(value, hint)
        whole = isinstance(value, float) and value.is_integer() and not arguments.fits(value, hint)
        return int(value) if whole and arguments.fits(int(value), hint) else value

    @classmethod
    def checked_elsewhere(cls) -> tuple[str, ...]:
        """Fields whose types have checks of their own."""
        return ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        SCHEDULES.parse(self.schedule, given=1)
        augmentation.parse(self.augment)
        trainable.check(self.trainable)
        patches.check(self.crop)
        target_scale.check(self.target_scale)
        weights = self.class_weights
        if isinstance(weights, str) and weights not in ("none", "balanced"):
            raise ValueError(
                f"class_weights={weights!r}: write 'none', 'balanced' or a list of numbers, one for each class"
            )
        listed = None if isinstance(weights, str) else tuple(weights)
        losses.Loss("cross_entropy" if self.loss == "auto" else self.loss, listed)
        if self.optimizer != "sgd" and self.momentum:
            raise ValueError(
                f"momentum={self.momentum} belongs to optimizer='sgd', found {self.optimizer!r}: remove it"
            )
        return self

    def lr_at(self, number: int) -> float:
        """The learning rate of round `number`, counted from 1."""
        function, args, named = SCHEDULES.parse(self.schedule, given=1)
        factor = function((number - 1) / self.rounds, *args, **named)
        try:
            usable = arguments.fits(float(factor), NotNegative)
        except (TypeError, ValueError):
            usable = False
        if not usable:
            raise ValueError(
                f"schedule={self.schedule!r} returned {factor!r} in round {number}: return the factor of the learning"
                " rate, a number of at least 0"
            )
        return self.lr * float(factor)

    @property
    def dtype(self) -> torch.dtype:
        """Of the stored weights; bf16 keeps float32 weights and computes layers in bfloat16."""
        return torch.float64 if self.precision == "float64" else torch.float32


def _check_size(name: str, value: Any) -> None:
    """Refuse bytes, and what is too long or too large for any field."""
    if isinstance(value, bytes | bytearray):
        raise ValueError(f"{name}={arguments.shown(value)}: give text instead of bytes")
    if isinstance(value, str | list | tuple) and len(value) > LONGEST:
        raise ValueError(f"{name}={arguments.shown(value)}: give at most {LONGEST:,} characters or values")
    if isinstance(value, int) and abs(value) > arguments.MOST:
        arguments.check(name, value, int)


@cache
def _hints(cls: type) -> dict[str, Any]:
    """The types of the fields of a class."""
    return get_type_hints(cls, include_extras=True)


def _plain(value: Any) -> Any:
    """A value of NumPy or a path as Python has it."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _literal(text: str, hint: Any) -> Any:
    """The number, list, bool or None that a text spells, as command lines and quoted YAML do; else the text."""
    if text.strip().lower() in SPELT:
        found = SPELT[text.strip().lower()]
        return found if arguments.fits(found, hint) else text
    try:
        found = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text
    return found if isinstance(found, int | float | list) and not isinstance(found, bool) else text
