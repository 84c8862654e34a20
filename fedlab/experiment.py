"""`Experiment`: one flat, frozen, validated description of a run; every field is a notebook parameter of that name."""

import hashlib
import json
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from fedlab import datasets
from fedlab.algorithms import METHODS
from fedlab.heterogeneity.coordinates import dose
from fedlab.heterogeneity.prevalence import SCHEMES
from fedlab.heterogeneity.simulation import site_count
from fedlab.models import MODELS
from fedlab.partition import Partition, partition
from fedlab.training import Training


class Experiment(Training):
    """What is learnt, by whom, from which cases, and how.

    Values are JSON; unknown names and values are refused with the nearest that exists.
    """

    dataset: str = "phantoms"  # a name of fedlab.DATASETS, with options "phantoms(cases=3000)", or a folder
    sites: int | str = 4  # number of simulated institutions, or the name of a table column that says whose a case is
    quantity: float | list[float] = 0.0  # 0 equal sizes .. 1 most unequal, or relative sizes
    prevalence: float | str | list[float] = (
        0.0  # 0 alike .. 1 extreme, "dirichlet(0.3)", "shards(2)", "classes(2)", list
    )
    acquisition: float = 0.0  # 0 one scanner .. 1 most different scanners
    splits: Literal["official", "site"] = "official"  # the published train, val and test cases, or new ones a site
    leakage: Literal["together", "drop", "allow"] = "together"  # what becomes of duplicates and patients across splits
    partition_seed: int = Field(0, ge=0)  # which institutions are dealt; `seed` is for training
    model: str = "small_cnn"  # a name of fedlab.MODELS, with options "small_cnn(width=32)"
    method: str = "fedavg"  # a name of fedlab.METHODS, with knobs "fedprox(mu=0.01)"

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ValueError("; ".join(_plain(detail) for detail in error.errors())) from None

    @model_validator(mode="after")
    def _known_choices(self) -> "Experiment":
        for axis in ("quantity", "prevalence", "acquisition"):
            if isinstance(value := getattr(self, axis), float):
                dose(value, axis)
        if isinstance(self.prevalence, str):
            SCHEMES.parse(self.prevalence, given=1)
        if isinstance(self.sites, int):
            site_count(self.sites)
        METHODS.parse(self.method, given=1)
        MODELS.parse(self.model, given=2)
        return self

    def with_(self, **changes: Any) -> "Experiment":
        """A copy with these fields changed, validated anew."""
        return Experiment(**{**self.model_dump(), **changes})

    def deal(self) -> Partition:
        """The cases and sites of this experiment."""
        return partition(
            datasets.load(self.dataset),
            sites=self.sites,
            quantity=self.quantity,
            prevalence=self.prevalence,
            acquisition=self.acquisition,
            seed=self.partition_seed,
            splits=self.splits,
            leakage=self.leakage,
        )

    def identity(self, part: Partition, version: int) -> str:
        """Hash of everything that decides the result: experiment, cases and their sites, format of the run folder."""
        text = json.dumps([self.model_dump(), part.fingerprint, version], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _plain(detail: Any) -> str:
    """One sentence of one pydantic finding."""
    message = detail["msg"].removeprefix("Value error, ")
    place = ".".join(str(part) for part in detail["loc"][:1])
    return f"{place}={detail['input']!r}: {message}" if place else message
