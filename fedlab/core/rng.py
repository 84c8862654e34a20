"""Random generators named by their purpose; there is no global state.

Two draws are independent unless they have the same name, so a new draw never changes another one, and a resumed run
needs no generator state: it uses the same names again.
"""

import hashlib

import numpy as np
import torch


def _entropy(seed: int, purpose: tuple[object, ...]) -> int:
    """128 bits that depend on the seed and on every part of the name, the same on every machine."""
    text = "\x1f".join([str(int(seed)), *(f"{type(part).__name__}:{part}" for part in purpose)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")


def stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """The numpy generator of one purpose.

    Parameters
    ----------
    seed : int
        Seed of the experiment or partition.
    *purpose : str or int
        Name of the draw, such as "batches", site, epoch.

    Returns
    -------
    numpy.random.Generator
        Philox, keyed by a hash of seed and purpose.

    Examples
    --------
    >>> from fedlab.core.rng import stream
    >>> stream(0, "batches", "Site A", 1).permutation(5)
    array([1, 2, 0, 4, 3])
    """
    return np.random.Generator(np.random.Philox(key=_entropy(seed, purpose)))


def torch_stream(seed: int, *purpose: str | int) -> torch.Generator:
    """The torch generator (CPU) of one purpose, such as "initial weights"."""
    return torch.Generator().manual_seed(_entropy(seed, purpose) % 2**63)


def seed_global(seed: int, device: torch.device | None = None) -> None:
    """Seed the generator that PyTorch's layers draw from on this device, by default the CPU.

    On a CPU this is `torch.manual_seed` without its preparations for GPUs, which take longer than a step of a small
    network.
    """
    if device is None or device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
