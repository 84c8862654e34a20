"""`Experiment`: one flat, frozen, validated description of a run; every field is a notebook parameter of that name."""

import hashlib
import json
import re
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from fedlab.algorithms import METHODS, check_secure
from fedlab.core.registry import Registry
from fedlab.data import catalogue
from fedlab.federation import aggregation, attacks, participation
from fedlab.heterogeneity import (
    annotation,
    geography,
    population,
    presentation,
    prevalence_schemes,
    quantity,
)
from fedlab.heterogeneity.acquisition import presets
from fedlab.heterogeneity.axes import AXES
from fedlab.learning import augmentation, settings
from fedlab.learning.models import MODELS
from fedlab.learning.settings import Training
from fedlab.partitioning import holdout
from fedlab.partitioning.build import ARGUMENTS, partition
from fedlab.partitioning.partitions import Partition
from fedlab.partitioning.simulate import site_count

CODE: dict[str, Registry] = {  # field -> the functions that its text may name
    "method": METHODS,
    "model": MODELS,
    "schedule": settings.SCHEDULES,
    "participation": participation.SCHEMES,
    "stragglers": participation.STRAGGLING,
    "aggregate": aggregation.RULES,
    "attack": attacks.ATTACKS,
    "augment": augmentation.AUGMENTATIONS,
    "quantity": quantity.SIZES,
    "prevalence": prevalence_schemes.SCHEMES,
    "presentation": presentation.SCHEMES,
    "population": population.SCHEMES,
    "acquisition": presets.SCHEMES,
    "annotation": annotation.POLICIES,
    "geography": geography.SCHEMES,
}


class Experiment(Training):
    """What is learnt, by whom, from which cases, and how.

    Values are JSON; unknown names and values are refused with the nearest that exists.
    """

    dataset: str = "phantoms"  # a name of fedlab.DATASETS, with options "phantoms(cases=3000)", or a folder
    sites: int | str = 4  # number of simulated institutions, or the name of a table column that says whose a case is
    quantity: float | str | list[float] = 0.0  # how unequal in size: 0 .. 1, "dirichlet(0.5)", "like(fed_isic2019)"
    prevalence: float | str | list[float] | list[list[float]] = 0.0  # classes: 0 .. 1, "dirichlet(0.3)", shares a site
    presentation: float | str = 0.0  # kinds of a disease: 0 .. 1, "subtype(0.5)", "clusters(0.5)"
    population: float | str = 0.0  # whom sites treat: 0 .. 1, "sex(0.5)", "synthetic(0.5, confounding=1.0)"
    acquisition: float | str | list[str] = 0.0  # scanners: 0 one for all .. 1 most different, "mri(0.5)", styles
    annotation: float | str = 0.0  # label noise: 0 none .. 1 two labels in five at the worst site, "threshold(0.5)"
    geography: float | str = 0.0  # sites of a region alike: 0 not at all .. 1 entirely, "regions(0.5, count=3)"
    unseen: int | str | list[str] = 0  # whole institutions held out of training: how many, or names of sites or regions
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

    @field_validator(*AXES, mode="before")
    @classmethod
    def _possible_shift(cls, value: Any, field: ValidationInfo) -> Any:
        AXES.function(str(field.field_name))(value)
        return value

    @model_validator(mode="after")
    def _known_choices(self) -> "Experiment":
        holdout.check(self.unseen)
        if isinstance(self.sites, int):
            site_count(self.sites)
        METHODS.parse(self.method, given=1)
        if self.secure_sum:
            check_secure(self.method)
        MODELS.parse(self.model, given=2)
        return self

    def with_(self, **changes: Any) -> "Experiment":
        """A copy with these fields changed, validated anew."""
        return Experiment(**{**self.model_dump(), **changes})

    def deal(self) -> Partition:
        """The cases and sites of this experiment."""
        asked = {name: getattr(self, name) for name in ARGUMENTS if name != "seed"}
        return partition(catalogue.load(self.dataset), **asked, seed=self.partition_seed)

    def identity(self, part: Partition, version: int) -> str:
        """Hash of all that decides the result: experiment, cases and their sites, own code, format of the folder."""
        text = json.dumps(
            [self.model_dump(exclude={"execution"}), part.fingerprint, version, *self.own_code()], sort_keys=True
        )
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    def own_code(self) -> list[str]:
        """The source of each function of the user's own that a field names: an edited one is another experiment."""
        return [CODE[field].fingerprint(name) for field, name in self.own_names()]

    def own_names(self) -> list[tuple[str, str]]:
        """(field, name) of each function of the user's own that a field names."""
        named = [(field, name) for field in CODE for name in re.findall(r"\w+", str(getattr(self, field)))]
        return [(field, name) for field, name in named if name in CODE[field] and CODE[field].fingerprint(name)]


def _plain(detail: Any) -> str:
    """One sentence of one pydantic finding."""
    message = detail["msg"].removeprefix("Value error, ")
    place = ".".join(str(part) for part in detail["loc"][:1])
    return f"{place}={detail['input']!r}: {message}" if place else message
