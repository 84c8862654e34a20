"""Random generators named by their purpose; nothing ambient.

Two draws can only be correlated if they carry the same name, so adding a draw anywhere never changes another one, and a
resumed run needs no generator state: it asks for the same names again.
"""

import hashlib

import numpy as np
import torch


def _entropy(seed: int, purpose: tuple[object, ...]) -> int:
    """128 bits that depend on the seed and on every part of the name, alike on every machine."""
    text = "\x1f".join([str(int(seed)), *(f"{type(part).__name__}:{part}" for part in purpose)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")


def stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """The numpy generator of one purpose, e.g. `stream(seed, "batches", site, epoch)`."""
    return np.random.Generator(np.random.Philox(key=_entropy(seed, purpose)))


def torch_stream(seed: int, *purpose: str | int) -> torch.Generator:
    """The torch generator (CPU) of one purpose, e.g. for initial weights."""
    return torch.Generator().manual_seed(_entropy(seed, purpose) % 2**63)
