"""What leaves the building in split learning: how much of an image can be told from the activations at a cut.

Two measures: the distance correlation of images and activations, and how well an attacker rebuilds the images who has
the institution's first stages and other images of the kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from fedlab.core.rng import stream
from fedlab.core.typing import Floats
from fedlab.experiments.experiment import Experiment
from fedlab.experiments.run_folder import Run
from fedlab.federation import Federation
from fedlab.federation.split_training import check_cut
from fedlab.partitioning.partitions import Partition

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)  # of the mean squared length of activations, chosen on cases held out
SHOWN = 6  # images kept to be looked at


@dataclass(frozen=True)
class Leakage:
    """table: a row a cut. images: (n, channels, height, width[, depth]) of cases that the attacker never saw. rebuilt:
    cut -> the same cases as the attacker rebuilds them."""

    table: pd.DataFrame
    images: Floats = field(repr=False)
    rebuilt: dict[int, Floats] = field(repr=False)


def leakage(
    run: Run | Experiment, cuts: Sequence[int] | None = None, *, partition: Partition | None = None,
    known: int = 400, cases: int = 100, model: str = "global", choice: str = "last",
) -> Leakage:  # fmt: skip
    """How much of the images can be told from what crosses at each cut of a run's model, or of an untrained one.

    cuts: all by default. partition: the one of the run, where the experiment does not describe it. known: images of the
    attacker, from training cases; cases: test cases to rebuild. Columns: cut, stage (what it ends with), floats and
    kilobytes of a case in one direction, correlation (distance correlation, Szekely 2007,
    doi:10.1214/009053607000000505) with its null_high (97.5 % of shuffled pairs), and unexplained: the share of the
    pixels' variance that the rebuilt images miss, by ridge regression from activations to pixels.
    """
    experiment = run.experiment if isinstance(run, Run) else run
    fed = Federation(partition or experiment.deal(), experiment.model, experiment)
    net = fed._engine.flat.model.eval()
    if isinstance(run, Run):
        net.load_state_dict(run.weights(model, choice))
    chosen = list(range(1, len(net))) if cuts is None else list(cuts)
    for cut in chosen:
        check_cut(cut, 0, len(net))
    mine, theirs = _images(fed, "test", cases, experiment.seed), _images(fed, "train", known, experiment.seed)
    rows, rebuilt = [], {}
    for cut in chosen:
        seen, learnt = (_activations(fed, images, cut) for images in (mine, theirs))
        guessed = rebuild(learnt, theirs.flatten(1).double().numpy(), seen)
        pixels = mine.flatten(1).double().numpy()
        rows.append(
            {"cut": cut, "stage": type(list(net[cut - 1].modules())[-1]).__name__, "floats": seen.shape[1]}
            | {"kilobytes": 4e-3 * seen.shape[1]}
            | _told(pixels, seen, experiment.seed)
            | {"unexplained": float(((guessed - pixels) ** 2).mean() / pixels.var(0).mean())}
        )
        rebuilt[cut] = guessed[:SHOWN].reshape(mine[:SHOWN].shape)
    return Leakage(pd.DataFrame(rows), mine[:SHOWN].double().numpy(), rebuilt)


def distance_correlation(x: Floats, y: Floats) -> float:
    """0 for independent, 1 for linearly related rows of x (n, p) and y (n, q), as n grows (Szekely 2007)."""
    a, b = _centred(x), _centred(y)
    spread = np.sqrt((a * a).mean() * (b * b).mean())
    return float(np.sqrt(max(0.0, (a * b).mean() / spread))) if spread > 0 else 0.0


def rebuild(learnt: Floats, pixels: Floats, seen: Floats) -> Floats:
    """Pixels (m, p) for activations `seen` (m, q), by ridge regression from `learnt` (n, q) to `pixels` (n, p).

    In its dual form, since there are fewer cases than activations; the strength is chosen on every fourth case.
    """
    held = np.arange(len(learnt)) % 4 == 0
    errors = [((_ridge(learnt[~held], pixels[~held], learnt[held], r) - pixels[held]) ** 2).mean() for r in RIDGES]
    return _ridge(learnt, pixels, seen, RIDGES[int(np.argmin(errors))])


def _ridge(x: Floats, y: Floats, new: Floats, ridge: float) -> Floats:
    centre, mean = x.mean(0), y.mean(0)
    x, new = x - centre, new - centre
    gram = x @ x.T
    strength = ridge * max(np.trace(gram), 1e-12)
    return mean + new @ x.T @ np.linalg.solve(gram + strength * np.eye(len(x)), y - mean)


def _told(pixels: Floats, seen: Floats, seed: int, shuffles: int = 40) -> dict[str, float]:
    """The distance correlation and what chance would make of it, these many numbers a case."""
    a, b = _centred(pixels), _centred(seen)
    spread = max(np.sqrt((a * a).mean() * (b * b).mean()), 1e-300)
    rng, found = stream(seed, "shuffled pairs"), []
    for turn in range(shuffles + 1):
        order = np.arange(len(b)) if turn == 0 else rng.permutation(len(b))
        found.append(np.sqrt(max(0.0, float((a * b[np.ix_(order, order)]).mean()) / spread)))
    return {"correlation": found[0], "null_high": float(np.quantile(found[1:], 0.975))}


def _centred(x: Floats) -> Floats:
    """Distances between rows, less the means of row and column, plus the mean of all."""
    squares = (x * x).sum(1)
    apart = np.sqrt(np.maximum(squares[:, None] + squares - 2 * x @ x.T, 0))
    np.fill_diagonal(apart, 0)
    return apart - apart.mean(0) - apart.mean(1, keepdims=True) + apart.mean()


def _images(fed: Federation, split: str, most: int, seed: int) -> torch.Tensor:
    """Images as sites see them, of all sites that train, at most so many."""
    index = np.concatenate([fed.partition.index(name, split) for name in fed.names])
    if not len(index):
        raise ValueError(f"no site has a {split} case, so that nothing can be rebuilt: deal some")
    picked = stream(seed, "images to rebuild", split).permutation(index)[:most]
    return fed._engine.store.images(fed._engine.store.rows(picked)).float().cpu()


def _activations(fed: Federation, images: torch.Tensor, cut: int) -> Floats:
    """What would cross at the cut, (n, floats)."""
    front = fed._engine.flat.model[:cut]
    kind = fed.start.vector
    with torch.inference_mode():
        parts = [front(part.to(kind.device, kind.dtype)).flatten(1) for part in images.split(64)]
    return torch.cat(parts).double().cpu().numpy()
