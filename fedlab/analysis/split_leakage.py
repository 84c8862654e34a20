"""Leakage of split learning: how much of the images can be reconstructed from the activations at a cut layer.

Two measures: the distance correlation of images and activations, and how well an attacker reconstructs the images who
has the first stages of the model and other images of the same kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fedlab.algorithms.split_training import check_cut
from fedlab.core.rng import stream
from fedlab.core.typing import Floats
from fedlab.experiments.experiment import Experiment
from fedlab.experiments.run_folder import Run
from fedlab.federation import Federation
from fedlab.heterogeneity.shift.divergences import distance_correlation, distance_correlation_null
from fedlab.partitioning.partitions import Partition

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)  # of the mean squared length of activations, chosen on held-out cases
SHOWN = 6  # images kept for figures
PERMUTATIONS = 40


@dataclass(frozen=True)
class Leakage:
    """Leakage at each cut layer, with examples.

    Attributes
    ----------
    table : pandas.DataFrame
        A row a cut, see `leakage`.
    images : numpy.ndarray
        Test images that the attacker never saw, shape (n, channels, height, width[, depth]).
    reconstructed : dict
        Cut -> the attacker's reconstructions of these images, of the same shape.
    """

    table: pd.DataFrame
    images: Floats = field(repr=False)
    reconstructed: dict[int, Floats] = field(repr=False)


def leakage(
    run: Run | Experiment,
    cuts: Sequence[int] | None = None,
    *,
    partition: Partition | None = None,
    known: int = 400,
    cases: int = 100,
    model: str = "global",
    choice: str = "last",
) -> Leakage:
    """Measure how much of the images can be reconstructed from the activations sent at each cut layer.

    The attacker fits a ridge regression from activations to pixels on its own images.

    Parameters
    ----------
    run : Run or Experiment
        A finished run, or an experiment for its untrained model.
    cuts : sequence of int, optional
        Cut layers, as numbers of stages before the cut, from 1; all by default.
    partition : Partition, optional
        The explicit partition of the run, if it had one.
    known : int, default 400
        Number of training images that the attacker has.
    cases : int, default 100
        Number of test images to reconstruct.
    model : str, default "global"
        Which model of the run: "global" or the name of a site.
    choice : {"last", "best"}, default "last"
        The model of the last round, or of the round that is best on validation cases.

    Returns
    -------
    Leakage
        Its `table` has a row a cut with columns cut, stage (type of the last layer before the cut), floats and
        kilobytes (of one case in one direction), correlation (distance correlation [1]_ of images and activations),
        null_high (97.5 % quantile over shuffled pairs), and unexplained (share of the pixels' variance that
        reconstructions miss, 0 for a perfect reconstruction).

    Raises
    ------
    ValueError
        If a cut is out of range, there are no training or test cases, or the run was trained on another partition.

    References
    ----------
    .. [1] G. J. Szekely, M. L. Rizzo, N. K. Bakirov, "Measuring and testing dependence by correlation of distances",
       2007, doi:10.1214/009053607000000505.

    Examples
    --------
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="small_cnn(width=4)")
    >>> found = fedlab.leakage(base, cuts=[1, 3], known=40, cases=20)
    >>> found.table[["cut", "floats"]].to_dict("list")
    {'cut': [1, 3], 'floats': [256, 64]}
    """
    experiment = run.experiment if isinstance(run, Run) else run
    fed = Federation(_partition_of(run, partition), experiment.model, experiment)
    net = fed.execution.engine.flat.model.eval()
    if isinstance(run, Run):
        net.load_state_dict(run.weights(model, choice))
    chosen = list(range(1, len(net))) if cuts is None else list(cuts)
    for cut in chosen:
        check_cut(cut, 0, len(net))
    target, own = _images(fed, "test", cases, experiment.seed), _images(fed, "train", known, experiment.seed)
    pixels, own_pixels = (images.flatten(1).double().numpy() for images in (target, own))
    rows, reconstructed = [], {}
    for cut in chosen:
        sent, own_activations = (_activations(fed, images, cut) for images in (target, own))
        found = reconstruct(own_activations, own_pixels, sent)
        rows.append(
            {"cut": cut, "stage": type(list(net[cut - 1].modules())[-1]).__name__, "floats": sent.shape[1]}
            | {"kilobytes": 4e-3 * sent.shape[1]}
            | _correlation_with_null(pixels, sent, experiment.seed)
            | {"unexplained": float(((found - pixels) ** 2).mean() / pixels.var(0).mean())}
        )
        reconstructed[cut] = found[:SHOWN].reshape(target[:SHOWN].shape)
    return Leakage(pd.DataFrame(rows), target[:SHOWN].double().numpy(), reconstructed)


def _partition_of(run: Run | Experiment, partition: Partition | None) -> Partition:
    """The partition of a run or experiment; ValueError if it is not the one on which the run was trained."""
    if isinstance(run, Experiment):
        return partition or run.make_partition()
    try:
        part = partition or run.experiment.make_partition()
    except (ValueError, OSError) as error:
        raise ValueError(f"the partition of {run} is not known ({error}): pass its `partition`") from error
    if run.partition_fingerprint != part.fingerprint:
        remedy = "this partition: pass its own" if partition else "its experiment describes: pass its `partition`"
        raise ValueError(f"{run} was trained on other cases, sites or scanners than {remedy}")
    return part


def reconstruct(own: Floats, pixels: Floats, sent: Floats) -> Floats:
    """Pixels (m, p) for activations `sent` (m, q), by ridge regression from `own` (n, q) to `pixels` (n, p).

    In its dual form, since there are fewer cases than activations; the strength is chosen on every fourth case.
    """
    held = np.arange(len(own)) % 4 == 0
    errors = [((_ridge(own[~held], pixels[~held], own[held], r) - pixels[held]) ** 2).mean() for r in RIDGES]
    return _ridge(own, pixels, sent, RIDGES[int(np.argmin(errors))])


def _ridge(x: Floats, y: Floats, new: Floats, ridge: float) -> Floats:
    centre, mean = x.mean(0), y.mean(0)
    x, new = x - centre, new - centre
    gram = x @ x.T
    strength = ridge * max(np.trace(gram), 1e-12)
    return mean + new @ x.T @ np.linalg.solve(gram + strength * np.eye(len(x)), y - mean)


def _correlation_with_null(pixels: Floats, sent: Floats, seed: int) -> dict[str, float]:
    """Return the distance correlation and the 97.5 % quantile of its permutation null."""
    null = distance_correlation_null(pixels, sent, PERMUTATIONS, stream(seed, "shuffled pairs"))
    return {"correlation": distance_correlation(pixels, sent), "null_high": float(np.quantile(null, 0.975))}


def _images(fed: Federation, split: str, most: int, seed: int) -> torch.Tensor:
    """At most so many images of all training sites, as their scanners show them; crops if these are trained on."""
    index = np.concatenate([fed.partition.index(name, split) for name in fed.names])
    if not len(index):
        raise ValueError(f"no site has a {split} case, so that nothing can be reconstructed: give it some")
    picked = stream(seed, "images to rebuild", split).permutation(index)[:most]
    rows = fed.execution.dataset.rows(picked)
    return fed.execution.engine.inputs.gather(rows, [picked], [(seed, split, 0)])[0].float().cpu()


def _activations(fed: Federation, images: torch.Tensor, cut: int) -> Floats:
    """The activations sent at the cut, (n, floats)."""
    front = fed.execution.engine.flat.model[:cut]
    kind = fed.start.vector
    with torch.inference_mode():
        parts = [_joined(front(part.to(kind.device, kind.dtype))) for part in images.split(64)]
    return torch.cat(parts).double().cpu().numpy()


def _joined(smashed: Tensor | tuple[Tensor, ...]) -> Tensor:
    """All that a site sends of each case, (b, numbers): the activations and the skip connections that cross the cut."""
    each = (smashed,) if isinstance(smashed, Tensor) else smashed
    return torch.cat([tensor.flatten(1) for tensor in each], 1)
