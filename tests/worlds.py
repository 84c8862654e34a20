"""Small worlds that the laws are stated on: a few dozen cases, a few thousand parameters."""

from functools import cache

import numpy as np
import pandas as pd
import torch

from fedlab import algorithms
from fedlab.core.weights import Weights
from fedlab.data.cases import Cases
from fedlab.federation import Ensemble, Federation, Localised
from fedlab.federation.run_state import localised
from fedlab.federation.settings import FederationSettings
from fedlab.partitioning.partitions import Partition

SIZES = (24, 40, 16, 8)
CNN = "small_cnn(width=4, depth=2)"


def cases(n: int = 128, shape=(1, 12, 12), classes: int = 2, seed: int = 0, **columns) -> Cases:
    """Random images with a brighter centre for higher classes; every fourth case is test, every eighth validation."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    images = rng.integers(0, 160, (n, *shape)).astype(np.uint8)
    centre = tuple(slice(s // 3, 2 * s // 3) for s in shape[1:])
    images[(slice(None), slice(None), *centre)] += (
        (labels * (60 // classes)).astype(np.uint8).reshape(-1, *[1] * len(shape))
    )
    table = pd.DataFrame({"case": [f"case-{i:04d}" for i in range(n)], "label": labels, **columns})
    task = "binary" if classes == 2 else "multiclass"
    card = {"name": "world", "task": task, "classes": [f"class {c}" for c in range(classes)]}
    return Cases(images, table, card)


def masked_cases(n: int = 128, shape=(1, 16, 16), structures: int = 2, seed: int = 0, **columns) -> Cases:
    """Random images with brighter blocks, one for each structure, and the masks of these blocks."""
    rng = np.random.default_rng(seed)
    images, masks = rng.integers(0, 60, (n, *shape)).astype(np.uint8), np.zeros((n, *shape[1:]), np.uint8)
    for case in range(n):
        for structure in range(1, structures):
            at = tuple(slice(low, low + edge // 3) for edge in shape[1:] for low in [rng.integers(0, edge // 2)])
            images[(case, slice(None), *at)] += np.uint8(130 * structure // (structures - 1))
            masks[(case, *at)] = structure
    table = pd.DataFrame({"case": [f"case-{i:04d}" for i in range(n)], "label": 0, **columns})
    names = ["background", *(f"structure {number}" for number in range(1, structures))]
    card = {"name": "masked", "task": "segmentation", "classes": ["case"], "structures": names}
    return Cases(images, table, card, masks)


def partition(sizes=SIZES, names=None, data: Cases | None = None, held_out: int = 8) -> Partition:
    """Sites with the first `sizes` cases for training and `held_out` cases each for validation and for test."""
    names = names or [f"Site {chr(65 + k)}" for k in range(len(sizes))]
    data = data or cases(sum(sizes) + 2 * held_out * len(sizes))
    sites = [*np.repeat(names, sizes), *np.repeat(names, held_out), *np.repeat(names, held_out)]
    splits = np.repeat(["train", "val", "test"], [sum(sizes), held_out * len(sizes), held_out * len(sizes)])
    table = pd.DataFrame({"case": data.table["case"][: len(sites)], "site": sites, "split": splits})
    return Partition.from_sites(data, table)


@cache
def usual_partition() -> Partition:
    """One for all federations: to make it takes as long as a round of training."""
    return partition()


def settings(**changes) -> FederationSettings:
    given = {"rounds": 2, "local_steps": 3, "batch_size": 8, "lr": 0.05, "device": "cpu", **changes}
    return FederationSettings(**given)


def federation(part: Partition | None = None, model: str = CNN, **changes) -> Federation:
    return Federation(part or usual_partition(), model, settings(**changes))


def ends(method: str, fed: Federation) -> dict:
    """All models after the last round: "global", "local" or both."""
    for outcome in algorithms.start(method, fed):
        models = outcome.models
    return models


def last(method: str, fed: Federation):
    """The shared model after the last round, or the sites' own where there is none; without optimizer state."""
    models = ends(method, fed)
    model = models.get("global", models.get("local"))
    return model.without_moments() if isinstance(model, Weights) else model


def at_sites(method: str, fed: Federation) -> Weights:
    """What each site uses after the last round: its own model, or its view of the shared one, (K, ...)."""
    models = ends(method, fed)
    if "local" in models:
        return models["local"].without_moments()
    seen = localised(fed, models["global"])
    return seen.sites if isinstance(seen, Localised) else seen.expand(len(fed.sites))


def parameters(models: dict) -> list[torch.Tensor]:
    """The trainable parameters of every model."""
    each = [model.models if isinstance(model, Ensemble) else model for model in models.values()]
    return [model.parameters for model in each]


def repeated(data: Cases, sites: int) -> Partition:
    """Sites that hold the same images, as cases of different names."""
    n = len(data)
    table = pd.concat([data.table.assign(case=data.table["case"] + f"-{k}") for k in range(sites)], ignore_index=True)
    copies = Cases(np.tile(data.images, (sites, *[1] * (data.images.ndim - 1))), table, data.card)
    split = np.tile(np.array(["train", "train", "train", "val", "test"])[np.arange(n) % 5], sites)
    who = np.repeat([f"Site {chr(65 + k)}" for k in range(sites)], n)
    return Partition.from_sites(copies, pd.DataFrame({"case": table["case"], "site": who, "split": split}))


def same(a: Weights, b: Weights) -> bool:
    """Bit for bit."""
    return torch.equal(a.vector, b.vector) and torch.equal(a.counts, b.counts)


def error(a: Weights, b: Weights) -> float:
    """max |a - b| / max |b| over all coordinates."""
    return float((a.vector.double() - b.vector.double()).abs().max() / b.vector.double().abs().max())
