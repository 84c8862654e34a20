"""How every site trains: the settings that all methods share, so that methods are compared under one budget."""

import math
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedlab.core.registry import Registry, nearest
from fedlab.federation import aggregation
from fedlab.federation.attacks import Attack
from fedlab.federation.participation import check_participation, fraction, straggling
from fedlab.learning import augmentation

__all__ = ["SCHEDULES", "Training", "constant", "cosine", "step"]

SCHEDULES = Registry("schedule")
FORMER_MODES = {"serial": "sequential", "stacked": "vmap", "graphed": "cuda_graph"}  # as in older run folders


@SCHEDULES.add
def constant(progress: float) -> float:
    """The same learning rate in every round."""
    return 1.0


@SCHEDULES.add
def cosine(progress: float, final: float = 0.01) -> float:
    """From the learning rate to `final` times it along half a cosine, over all rounds."""
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


@SCHEDULES.add
def step(progress: float, factor: float = 0.1) -> float:
    """Times `factor` after half of the rounds and again after three quarters."""
    return factor ** ((progress >= 0.5) + (progress >= 0.75))


class Training(BaseModel):
    """One site's local work in a round, and how rounds follow each other. Frozen; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    rounds: int = Field(20, ge=1)  # rounds of communication; a cycle through all sites counts as one
    patience: int | None = Field(None, ge=1)  # stop after so many evaluations without a better validation mean
    local_epochs: int = Field(1, ge=1)  # passes over a site's training cases in a round
    local_steps: int | None = Field(None, ge=1)  # optimizer steps in a round, in the place of epochs
    batch_size: int | None = Field(32, ge=1)  # cases in a step; None: all of a site's cases at once
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = Field(0.05, ge=0)  # learning rate of a local step
    momentum: float = Field(0.0, ge=0, lt=1)  # of "sgd"
    weight_decay: float = Field(0.0, ge=0)  # L2 term (lambda/2)|w|^2 on weights; biases and normalisation left alone
    schedule: str = "constant"  # learning rate over rounds: "constant", "cosine(final=0.01)", "step(factor=0.1)"
    local_optimizer: Literal["reset", "keep", "share"] = (
        "reset"  # of sites side by side, between rounds: afresh, own, or averaged
    )
    participation: str = "all"  # sites drawn in a round: "all", "sample(0.3)", "by_size(0.3)", "unbiased(0.3)"
    availability: float | list[float] = 1.0  # probability that a drawn site is there; one for all or one a site
    stragglers: float | str = 0.0  # probability that a site does part of its work; "drop(0.3)": it then does not count
    failures: float = 0.0  # probability that a site breaks off after it got the model
    aggregate: str = "mean"  # how models are merged: "mean", "median", "trimmed(0.2)", "krum(f=1)", "geomedian", ...
    attack: str = "none"  # what hostile sites send: "signflip(count=1)", "labelflip", "alie(count=2)", ...
    secure_sum: bool = False  # merge by a sum of masked messages, so that no single update is seen
    watch_visits: bool = False  # evaluate also between the visits of a travelling model
    batchnorm: Literal["avg", "pooled", "silobn", "fedbn", "params_only", "frozen", "group"] = "avg"
    normalisation: Literal["none", "image", "site", "global"] = "none"  # decides what of scanners' differences survives
    augment: str = "none"  # random changes of training images: "flip", "rotate(10) + shift(0.05) + light(0.1)"
    precision: Literal["float32", "float64", "bf16"] = "float32"
    device: str = "auto"  # "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1"
    execution: Literal["auto", "sequential", "vmap", "cuda_graph"] = "auto"  # changes speed, not results
    seed: int = Field(0, ge=0)  # initial weights and order of batches
    evaluate_every: int = Field(1, ge=1)  # rounds between evaluations; the last round is always evaluated

    @model_validator(mode="before")
    @classmethod
    def _known_names(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for name in values:
            if name not in cls.model_fields:
                raise ValueError(f"unknown parameter {name!r}: {nearest(name, cls.model_fields)}")
        if values.get("execution") in FORMER_MODES:
            return {**values, "execution": FORMER_MODES[values["execution"]]}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> "Training":
        SCHEDULES.parse(self.schedule, given=1)
        augmentation.parse(self.augment)
        if self.optimizer != "sgd" and self.momentum:
            raise ValueError(
                f"momentum={self.momentum} belongs to optimizer='sgd', found {self.optimizer!r}: remove it"
            )
        self._check_participation()
        self._check_merging()
        return self

    def _check_participation(self) -> None:
        check_participation(self.participation)
        straggling(self.stragglers)
        fraction("failures", self.failures)
        for chance in self.availability if isinstance(self.availability, list) else [self.availability]:
            fraction("availability", chance)

    def _check_merging(self) -> None:
        """A secure sum shows no single update, so nothing may look at one or miss one."""
        aggregation.least(self.aggregate)
        Attack.of(self.attack, 0)
        rule = aggregation.RULES.parse(self.aggregate, given=3)[0]
        if self.batchnorm == "pooled" and rule in (aggregation.median, aggregation.trimmed):
            raise ValueError(
                f"aggregate={self.aggregate!r} goes by coordinates and cannot tell the variance of the union: use"
                " another rule, or another batchnorm than 'pooled'"
            )
        if not self.secure_sum:
            return
        dropped = straggling(self.stragglers)[1] or self.failures > 0
        if rule is not aggregation.mean:
            raise ValueError(
                f"secure_sum=True hides single models, which aggregate={self.aggregate!r} must see: choose one of them"
            )
        if self.batchnorm == "pooled":
            raise ValueError(
                "secure_sum=True adds up models, from which batchnorm='pooled' cannot tell the variance of the union:"
                " use 'avg', 'fedbn' or 'group'"
            )
        if self.local_optimizer == "share":
            raise ValueError(
                "secure_sum=True hides single updates, which the moments of local_optimizer='share' would show: choose"
                " one of them"
            )
        if dropped:
            raise ValueError(
                "secure_sum=True cannot unmask a sum that a site dropped out of after masks were agreed: set failures=0"
                " and no stragglers='drop(...)'; absent sites (availability) are no obstacle"
            )

    def lr_at(self, number: int) -> float:
        """The learning rate of round `number`, counted from 1."""
        function, args, knobs = SCHEDULES.parse(self.schedule, given=1)
        return self.lr * float(function((number - 1) / self.rounds, *args, **knobs))

    @property
    def dtype(self) -> torch.dtype:
        """Of the stored weights; bf16 keeps float32 weights and computes layers in bfloat16."""
        return torch.float64 if self.precision == "float64" else torch.float32
