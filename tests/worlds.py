"""Small worlds that the laws are stated on: a few dozen cases, a few thousand parameters."""

import numpy as np
import pandas as pd
import torch

from fedlab import algorithms
from fedlab.cases import Cases
from fedlab.federation import Federation
from fedlab.partition import Partition
from fedlab.training import Training
from fedlab.weights import Weights

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


def partition(sizes=SIZES, names=None, data: Cases | None = None, held_out: int = 8) -> Partition:
    """Sites with the first `sizes` cases for training and `held_out` cases each for validation and for test."""
    names = names or [f"Site {chr(65 + k)}" for k in range(len(sizes))]
    data = data or cases(sum(sizes) + 2 * held_out * len(sizes))
    sites = [*np.repeat(names, sizes), *np.repeat(names, held_out), *np.repeat(names, held_out)]
    splits = np.repeat(["train", "val", "test"], [sum(sizes), held_out * len(sizes), held_out * len(sizes)])
    table = pd.DataFrame({"case": data.table["case"][: len(sites)], "site": sites, "split": splits})
    return Partition.from_sites(data, table)


def settings(**changes) -> Training:
    given = {"rounds": 2, "local_steps": 3, "batch_size": 8, "lr": 0.05, "device": "cpu", **changes}
    return Training(**given)


def federation(part: Partition | None = None, model: str = CNN, **changes) -> Federation:
    return Federation(part or partition(), model, settings(**changes))


def last(method: str, fed: Federation) -> Weights:
    """The models after the last round."""
    for outcome in algorithms.start(method, fed):
        models = outcome.models
    (model,) = models.values()
    return model


def same(a: Weights, b: Weights) -> bool:
    """Bit for bit."""
    return torch.equal(a.vector, b.vector) and torch.equal(a.counts, b.counts)


def error(a: Weights, b: Weights) -> float:
    """max |a - b| / max |b| over all coordinates."""
    return float((a.vector.double() - b.vector.double()).abs().max() / b.vector.double().abs().max())
