"""The network that a run trains: built by name, with weights from a file, and with what is frozen."""

from dataclasses import dataclass

from torch import nn

from fedlab.learning import models, pretrained, trainable
from fedlab.learning.pretrained import WeightsFile
from fedlab.learning.settings import Training


@dataclass(frozen=True)
class Network:
    """A network in training mode on the CPU. left_out: tensors of the last stage that the file did not fit."""

    model: nn.Sequential
    left_out: tuple[str, ...] = ()


def network(
    model: str,
    settings: Training,
    shape: tuple[int, ...],
    outputs: int,
    *,
    seed: int,
    dense: bool = False,
    file: WeightsFile | None = None,
) -> Network:
    """Build the network of a run.

    Parameters
    ----------
    model : str
        A name of `fedlab.MODELS`, with arguments if wanted.
    settings : Training
        Its `batchnorm`, `precision` and `trainable` are used.
    shape : tuple of int
        (channels, height, width[, depth]) of an image.
    outputs : int
        Numbers that the model returns for a case, or for each voxel of it.
    seed : int
        Seed of the initial weights.
    dense : bool, default False
        Whether the model segments.
    file : WeightsFile, optional
        Weights to start from.

    Returns
    -------
    Network

    Raises
    ------
    ValueError
        If the model, the file or what is to be trained do not fit each other.
    """
    built = models.build(model, shape, outputs, seed, settings.batchnorm, dense).to(dtype=settings.dtype)
    left_out = [] if file is None else pretrained.load(built, file)
    trainable.restrict(built, settings.trainable, seed)
    return Network(built, tuple(left_out))
