"""`Experiment`: the description of a run, the partition that it describes, and what identifies it."""

import ast
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_type_hints

import numpy as np
from pydantic import PrivateAttr, ValidationError, ValidationInfo, field_validator, model_validator

from fedlab.algorithms import METHODS, check_secure
from fedlab.algorithms.graphs import TOPOLOGIES
from fedlab.core.arguments import Count, shown, wanted
from fedlab.core.own_code import content
from fedlab.core.registry import Registry
from fedlab.core.site_names import site_names
from fedlab.core.warnings import warn
from fedlab.data import catalogue
from fedlab.experiments import overview
from fedlab.federation import aggregation, attacks, participation
from fedlab.federation.settings import FederationSettings
from fedlab.heterogeneity import (
    annotation,
    geography,
    population,
    presentation,
    prevalence,
    quantity,
)
from fedlab.heterogeneity.acquisition import presets
from fedlab.heterogeneity.axes import AXES
from fedlab.learning import augmentation, losses, patches, pretrained, settings, trainable
from fedlab.learning.models import MODELS
from fedlab.partitioning import holdout
from fedlab.partitioning.build import ARGUMENTS, partition
from fedlab.partitioning.partitions import Partition
from fedlab.partitioning.simulate import site_count

CODE: dict[str, Registry] = {  # field -> the functions that its text may name; a topology is named by a method
    "method": METHODS,
    "topology": TOPOLOGIES,
    "model": MODELS,
    "schedule": settings.SCHEDULES,
    "loss": losses.LOSSES,
    "trainable": trainable.TRAINABLE,
    "participation": participation.SCHEMES,
    "stragglers": participation.STRAGGLING,
    "aggregate": aggregation.RULES,
    "attack": attacks.ATTACKS,
    "augment": augmentation.AUGMENTATIONS,
    "crop": patches.CROPS,
    "quantity": quantity.SIZES,
    "prevalence": prevalence.SCHEMES,
    "presentation": presentation.SCHEMES,
    "population": population.SCHEMES,
    "acquisition": presets.SCHEMES,
    "annotation": annotation.POLICIES,
    "geography": geography.SCHEMES,
}
SEGMENTING = "unet"  # the model by default for a dataset with masks
DESCRIBED = (
    "dataset",
    "target",
    *(name for name in ARGUMENTS if name != "seed"),
    "partition_seed",
)  # fields of a federation


class Experiment(FederationSettings):
    """One flat, frozen and validated description of a run; every field is a notebook parameter of the same name.

    Values are JSON-able. Unknown names and values are refused with the nearest that exists.

    Parameters
    ----------
    dataset : str, default "phantoms"
        A name in `fedlab.DATASETS`, with arguments as in "phantoms(cases=3000)", or a folder.
    target : str, optional
        The column of the cases' table that is predicted (regression), such as "age"; by default the dataset's task.
    sites : int or str, default 4
        Number of simulated sites, 1 or more, or the column of the cases' table that names the real site of each case.
    quantity : float, str or list of float, default 0.0
        Quantity skew, how unequal site sizes are: 0 (equal) to 1, "dirichlet(0.5)", "like(fed_isic2019)", or sizes.
    prevalence : float, str, list of float or list of list of float, default 0.0
        Label shift, how different class shares are: 0 to 1, "dirichlet(0.3)", "shards(2)", or shares of each site.
    presentation : float or str, default 0.0
        Subtype (phenotype) shift within a class: 0 to 1, "subtype(0.5)", "clusters(0.5)".
    population : float or str, default 0.0
        Shift of patient characteristics: 0 to 1, "sex(0.5)", "synthetic(0.5, confounding=1.0)".
    acquisition : float, str or list of str, default 0.0
        Covariate (feature) shift by scanners: 0 (one scanner for all) to 1, "mri(0.5)", or one preset a site.
    annotation : float or str, default 0.0
        Label noise: 0 to 1 (two labels in five at the worst site), "threshold(0.5)".
    geography : float or str, default 0.0
        Correlation of the sites of a region: 0 to 1, "regions(0.5, count=3)".
    unseen : int, str or list of str, default 0
        Held-out (external) sites: how many, or names of sites or regions.
    splits : {"official", "site", "common"}, default "official"
        Published train, val and test cases, new splits of 70/10/20 % within each site, or test cases that are the same
        at every dose, see `fedlab.partition`.
    leakage : {"together", "drop", "allow"}, default "together"
        What is done with patients and identical images in more than one split, see `fedlab.partition`.
    partition_seed : int, default 0
        Seed of the partition, 0 or more; `seed` is that of training.
    model : str, default "small_cnn"
        A name in `fedlab.MODELS`, with arguments as in "small_cnn(width=32)"; "unet" for a segmentation dataset.
    method : str, default "fedavg"
        A name in `fedlab.METHODS`, with arguments as in "fedprox(mu=0.01)".
    rounds : int, default 20
        Communication rounds, 1 or more; a cycle through all sites counts as one.
    patience : int, optional
        Stop after this many evaluations without a better validation mean, 1 or more. By default all rounds are run.
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
        Factor of the L2 term (weight_decay/2) |w|^2, 0 or more; biases and normalisation layers have none.
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
    local_optimizer : {"reset", "keep", "share"}, default "reset"
        Optimizer state of a site between rounds: reset, kept, or averaged.
    participation : str, default "all"
        Sites sampled in a round: "all", "sample(0.3)", "by_size(0.3)", "unbiased(0.3)".
    availability : float or list of float, default 1.0
        Probability, 0 to 1, that a sampled site is available; one for all sites or one for each.
    stragglers : float or str, default 0.0
        Probability, 0 to 1, that a site finishes only a part of its steps; with "drop(0.3)" that part is discarded.
    failures : float, default 0.0
        Probability, 0 to 1, that a site drops out after it has received the model.
    aggregate : str, default "mean"
        How models are merged: "mean", "median", "trimmed(0.2)", "krum(f=1)", "geomedian", ...
    attack : str, default "none"
        What malicious sites send: "signflip(count=1)", "labelflip", "alie(count=2)", ...
    secure_sum : bool, default False
        Merge by a sum of masked messages, so that the server sees no single update.
    watch_visits : bool, default False
        Also evaluate a travelling model after each visit to a site.
    batchnorm : {"avg", "pooled", "silobn", "fedbn", "params_only", "frozen", "group"}, default "avg"
        How batch normalisation is treated across sites.
    weights : str, optional
        File of weights to start from: safetensors, a file of `torch.save`, or a run folder. Its content identifies the
        run. Names and shapes must match the model except for the last stage, which keeps its initial weights where it
        differs.
    trainable : str, default "all"
        What is trained: "all", "head" (the last stage), names of stages and parameters as in "3, 4*, head", or
        "lora(rank=4, alpha=8)". The rest is frozen and never travels: sites are assumed to hold the file of weights.
    normalisation : {"none", "image", "site", "global"}, default "none"
        Statistics that standardise intensities; they decide which scanner differences survive.
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

    Raises
    ------
    ValueError
        If a name or value is unknown, out of range, or contradicts another.

    Examples
    --------
    >>> import fedlab
    >>> base = fedlab.Experiment(prevalence=0.6, method="fedprox(mu=0.01)", rounds=10)
    >>> base.with_(seed=3).seed
    3
    >>> fedlab.Experiment(rounds=0)
    Traceback (most recent call last):
        ...
    ValueError: rounds=0: give a whole number from 1 to 1,000,000
    """

    dataset: str = "phantoms"
    target: str | None = None
    sites: int | str = 4
    quantity: float | str | list[float] = 0.0
    prevalence: float | str | list[float] | list[list[float]] = 0.0
    presentation: float | str = 0.0
    population: float | str = 0.0
    acquisition: float | str | list[str] = 0.0
    annotation: float | str = 0.0
    geography: float | str = 0.0
    unseen: int | str | list[str] = 0
    splits: Literal["official", "site", "common"] = "official"
    leakage: Literal["together", "drop", "allow"] = "together"
    partition_seed: Count = 0
    model: str = "small_cnn"
    method: str = "fedavg"

    _asked: "Experiment | None" = PrivateAttr(None)
    _weights_version: str = PrivateAttr("")

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ValueError("; ".join(_plain(detail) for detail in error.errors())) from None
        if "model" not in values and self.target is None and catalogue.segments(self.dataset):
            self.__dict__["model"] = SEGMENTING

    @classmethod
    def read(cls, name: str, value: Any, hint: Any) -> Any:
        """The value of a field; numbers may be given as text, except where text names sites."""
        if name == "dataset" and isinstance(value, str | Path) and str(value).strip():
            return catalogue.canonical(value)  # one spelling of a path
        found = super().read(name, value, hint)
        if name == "unseen" and isinstance(value, str) and not isinstance(found, str | list):
            raise ValueError(
                f"unseen is the text {value!r}: give the number {found!r} to hold out as many sites, or [{value!r}] for"
                " the site of that name"
            )
        return found

    @classmethod
    def checked_elsewhere(cls) -> tuple[str, ...]:
        return (*AXES, "sites", "unseen")

    @field_validator(*AXES, mode="before")
    @classmethod
    def _possible_shift(cls, value: Any, field: ValidationInfo) -> Any:
        AXES.function(str(field.field_name))(value)
        return value

    @model_validator(mode="after")
    def _known_choices(self) -> "Experiment":
        holdout.check(self.unseen)
        catalogue.check(self.dataset)
        METHODS.parse(self.method, given=1)
        if self.secure_sum:
            check_secure(self.method)
        MODELS.parse(self.model, given=2)
        return self

    @field_validator("sites", mode="before")
    @classmethod
    def _number_or_column(cls, value: Any) -> Any:
        return value if isinstance(value, str) else site_count(value)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        return overview.differing(self.model_dump(), self._defaults()).items()

    def _repr_html_(self) -> str:
        return overview.experiment(self.model_dump(), self._defaults()).html()

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        """The default of each field."""
        return {name: field.default for name, field in cls.model_fields.items()}

    def with_(self, **changes: Any) -> "Experiment":
        """Copy the experiment with some fields changed; the copy is validated.

        Parameters
        ----------
        **changes
            Fields and their new values.

        Returns
        -------
        Experiment

        Examples
        --------
        >>> import fedlab
        >>> fedlab.Experiment(rounds=5).with_(method="local").method
        'local'
        """
        usual = () if "model" in self.model_fields_set else ("model",)  # the default depends on the dataset
        return Experiment(**{**self.model_dump(exclude={*usual}), **changes})

    def make_partition(self) -> Partition:
        """Load the dataset and partition it into sites.

        Returns
        -------
        Partition

        Examples
        --------
        >>> import fedlab
        >>> base = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=3)
        >>> base.make_partition().sites
        ['Site A', 'Site B', 'Site C']
        """
        requested = {name: getattr(self, name) for name in ARGUMENTS if name != "seed"}
        return partition(catalogue.load(self.dataset, self.target), **requested, seed=self.partition_seed)

    def describing(self, part: Partition) -> "Experiment":
        """The experiment with the fields of a federation as they are in a partition that was handed in.

        Sites that were given case by case are only counted; `Partition.spec` says that they were.

        Warns of fields that were set to something else than the partition has.
        """
        if not isinstance(part, Partition):
            raise ValueError(f"partition is {shown(part)}: give what fedlab.partition or Partition.from_sites returns")
        found = self._of(part)
        if self.target not in (None, found["target"]):
            raise ValueError(
                f"target={self.target!r}, and the partition is of a {part.cases.task} task"
                f"{f' with target={part.cases.target!r}' if part.cases.target else ''}: make it of"
                f" fedlab.load({self.dataset!r}, target={self.target!r})"
            )
        for name in DESCRIBED[1:]:
            asked = getattr(self, name)
            if asked not in (type(self).model_fields[name].default, found[name]):
                warn(
                    f"{name}={shown(asked)} has no effect: the partition that was passed has {name}="
                    f"{shown(found[name])}"
                )
        usual = type(self).model_fields["dataset"].default, part.cases.name, found["dataset"]
        if self.dataset not in usual and catalogue.canonical(self.dataset) != found["dataset"]:
            warn(f"dataset={self.dataset!r} has no effect: the partition has the cases of {found['dataset']!r}")
        if part.cases.task == "segmentation" and "model" not in self.model_fields_set:
            found["model"] = SEGMENTING
        described = self.with_(**found)
        described._asked = self
        return described

    def check_sites(self, part: Partition | None = None) -> None:
        """Refuse what does not fit the number of sites, which is known before there is a partition.

        Raises ValueError.
        """
        if part is None and not (isinstance(self.sites, int) and isinstance(self.unseen, int)):
            return
        for axis in ("quantity", "prevalence", "acquisition") if part is None else ():
            value = getattr(self, axis)
            if isinstance(value, list) and len(value) != self.sites:
                raise ValueError(f"{axis} lists {len(value)} values for {self.sites} sites: give one for each site")
        if part is not None:
            names = [name for name in part.sites if name not in part.unseen]
        else:
            names = site_names(int(self.sites))
            holdout.held_out(self.unseen, names, {})
            names = names[: len(names) - int(self.unseen)]  # type: ignore[arg-type]
        aggregation.check(self.aggregate, len(names))
        attacks.Attack.of(self.attack, len(names))
        participation.Participation(tuple(names), np.ones(len(names)), 0, availability=self.availability)

    @property
    def asked(self) -> "Experiment":
        """The experiment as it was written, before a partition was handed in."""
        return self._asked or self

    def _of(self, part: Partition) -> dict[str, Any]:
        """The fields of a federation, as they are in a partition."""
        fields = {name: type(self).model_fields[name].default for name in DESCRIBED}
        fields |= {name: value for name, value in part.spec.items() if name in fields}
        if fields["sites"] == "explicit" or "sites" not in part.spec:
            fields["sites"] = len(part.sites)
        named = fields["unseen"] if isinstance(fields["unseen"], list) else [fields["unseen"]]
        if len(part.unseen) != fields["unseen"] and not set(named) & {*part.sites, *part.regions.values()}:
            fields["unseen"] = list(part.unseen) or 0
        seed = part.spec.get("seed", 0)
        about = {"dataset": catalogue.described(part.cases), "target": part.cases.target}
        return fields | about | {"partition_seed": seed if seed >= 0 else 0}

    def identity(self, part: Partition, version: int) -> str:
        """Hash of all that decides the result: fields, partition, own functions, format of the folder.

        A folder of cases and a file of weights count by their content, not by the place where they lie.
        """
        asked = self.asked.dataset
        return self._hashed(part.cases.name if catalogue.folder_of(asked) else asked, part, version)

    def former_identity(self, part: Partition, version: int) -> str:
        """The identity under which earlier versions of fedlab kept the run of a dataset that is given by its path."""
        return self._hashed(self.asked.dataset, part, version)

    def _hashed(self, dataset: str, part: Partition, version: int) -> str:
        fields = self.asked.model_dump(exclude={"execution"}) | {"dataset": dataset, "model": self.model}
        self._weights_version = pretrained.version(self.weights)
        if self.weights is not None:
            fields["weights"] = self._weights_version
        for name in (
            "target",
            "target_scale",
            "loss",
            "class_weights",
            "weights",
            "trainable",
            "crop",
        ):  # unknown to runs of earlier versions
            if fields[name] == type(self).model_fields[name].default:
                del fields[name]
        if fields["augment"] != "none" and part.cases.task == "segmentation":
            fields["augment"] += " of images and masks"  # earlier versions left the masks as they were
        text = json.dumps([fields, part.fingerprint, version, *self.user_code()], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    @property
    def weights_version(self) -> str:
        """Hash of the file of weights when the run was identified; empty without a file, or before."""
        return self._weights_version

    def user_code(self) -> list[str]:
        """What identifies each user function that a field names, and the content of files that its text names."""
        named = self.user_names()
        texts = [self._text(field) for field in dict.fromkeys(field for field, _ in named)]
        files = [content(text) for text in texts for text in _texts_in(text)]
        return [CODE[field].fingerprint(name) for field, name in named] + [each for each in files if each]

    def code_versions(self) -> dict[str, str]:
        """Name -> hash of each user function that a field names; "files" for files that its text names."""
        versions, names = self.user_code(), [name for _, name in self.user_names()]
        found = dict(zip(names, versions, strict=False))
        if files := versions[len(names) :]:
            found["files"] = "".join(files)
        return {name: hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for name, text in found.items()}

    def user_names(self) -> list[tuple[str, str]]:
        """(field, name) of each user function that a field names."""
        named = [(field, name) for field in CODE for name in re.findall(r"\w+", self._text(field))]
        return [(field, name) for field, name in named if name in CODE[field] and CODE[field].is_own(name)]

    def _text(self, field: str) -> str:
        """The text in which functions of a registry are named."""
        return str(self.method if field == "topology" else getattr(self, field))


def _texts_in(text: str) -> list[str]:
    """The texts among the arguments of functions, such as names of files."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError):
        return []
    return [each.value for each in ast.walk(tree) if isinstance(each, ast.Constant) and isinstance(each.value, str)]


def _plain(detail: Any) -> str:
    """Turn an error of pydantic into one sentence."""
    message = detail["msg"].removeprefix("Value error, ")
    place = ".".join(str(part) for part in detail["loc"][:1])
    if not place:
        return str(message)
    if detail["type"] == "value_error":
        return f"{place}={shown(detail['input'])}: {message}"
    hint = get_type_hints(Experiment, include_extras=True)[place]
    return f"{place}={shown(detail['input'])}: {wanted(hint)}"
