"""Secure aggregation with pairwise masks that cancel in the sum (Bonawitz 2017, doi:10.1145/3133956.3133982).

Each site encodes its weighted update as integers of a ring, adds a mask shared with every later site and subtracts the
one shared with every earlier site. Each message is noise; their sum modulo 2^bits is the exact sum of the encodings.
Difference from the paper: masks come from named random streams instead of a key agreement, whose bytes are not counted,
and there is no recovery of sites that drop out after the masks are agreed. Integer buffers are sent without masks.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlab.core.memory import to_device
from fedlab.core.rng import torch_stream
from fedlab.core.weights import Weights

Once = tuple[int, int, int]  # seed of the run, round, merge in the round
FRACTION = {torch.float32: (32, 20), torch.float64: (64, 40)}  # dtype -> bits of the ring, bits after the point


def mean(
    models: Weights, shares: NDArray[np.float64], w: Weights, once: Once,
    show: Callable[[int, Tensor, Weights], None] | None = None,
) -> Weights:  # fmt: skip
    """w + sum of shares[k] (w_k - w) by masked messages; error at most K 2^-(s+1) with s bits after the point.

    once: identifies the merge; masks must not be used twice, since the difference of two messages would show. show: is
    called with every site, its message, and the models. Raises OverflowError if an update is too large for the ring.
    """
    bits, after = FRACTION[models.vector.dtype]
    total = torch.zeros_like(models.vector[0], dtype=torch.int64)
    for k, message in zip(models.owners, messages(models, shares, w, once), strict=True):
        total.add_(message)
        if show is not None:
            show(k, message, models)
    moved = centred(total, bits).double() / 2.0**after
    vector = (w.vector.double() + moved).to(models.vector.dtype)
    return Weights(models.layout, vector, models.counts.amax(0))


def messages(models: Weights, shares: NDArray[np.float64], w: Weights, once: Once) -> list[Tensor]:
    """What the server sees of each site: integers (size,) in [0, 2^bits), each message alone uniform noise."""
    bits, after = FRACTION[models.vector.dtype]
    updates = [
        float(share) * (row.double() - w.vector.double()) for share, row in zip(shares, models.vector, strict=True)
    ]
    check(updates, bits, after)
    sent = []
    for i, update in enumerate(updates):
        encoded = encode(update, after)
        for j in range(len(models)):
            if i != j:
                pair = models.owners[min(i, j)], models.owners[max(i, j)]
                mask = to_device(_mask(len(encoded), bits, once, *pair), encoded.device)
                encoded = encoded + mask if i < j else encoded - mask
        sent.append(_ring(encoded, bits))
    return sent


def check(updates: Sequence[Tensor], bits: int, after: int) -> None:
    """Raise OverflowError if a sum of updates of this size could leave the ring."""
    most, sites = 2.0 ** (bits - 1 - after) / len(updates), len(updates)
    found = float(torch.stack([update.abs().max() for update in updates]).max()) if len(updates[0]) else 0.0
    if found >= most:
        raise OverflowError(
            f"an update reaches {found:.3g}, a secure sum of {sites} sites holds {most:.3g}: lower `lr`, or use"
            " precision='float64', whose ring is larger"
        )


def encode(values: Tensor, after: int) -> Tensor:
    """Encode as fixed-point numbers with `after` bits after the point, int64."""
    return (values * 2.0**after).round().to(torch.int64)


def centred(total: Tensor, bits: int) -> Tensor:
    """Two's complement of a number of the ring, -2^(bits-1) .. 2^(bits-1) - 1."""
    if bits == 64:
        return total
    wrapped = _ring(total, bits)
    return torch.where(wrapped >= 2 ** (bits - 1), wrapped - 2**bits, wrapped)


def _ring(values: Tensor, bits: int) -> Tensor:
    """Modulo 2^bits; int64 arithmetic wraps at 64 bits."""
    return values if bits == 64 else values & (2**bits - 1)


def _mask(size: int, bits: int, once: Once, first: int, second: int) -> Tensor:
    """The mask that two sites share in a merge."""
    seed, number, turn = once
    generator = torch_stream(seed, "pairwise mask", first, second, number, turn)
    low, high = (0, 2**bits) if bits < 64 else (-(2**63), 2**63 - 1)
    return torch.randint(low, high, (size,), generator=generator, dtype=torch.int64)
