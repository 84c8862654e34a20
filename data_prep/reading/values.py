"""Grey values: percentiles, scaling to 8 bits, and the numbers of structures in a mask."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

TAILS = (0.5, 99.5)  # percentiles of a picture of more than 8 bits, or of a volume, that become black and white


def window(values: NDArray[Any], name: str, tails: tuple[float, float] = TAILS) -> tuple[float, float]:
    """Two percentiles of the finite values, or their least and largest one if the percentiles are the same."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError(f"{name} holds no finite value among its {values.size:,}: use the original file")
    low, high = np.percentile(finite, tails)
    return (low, high) if high > low else (float(finite.min()), float(finite.max()))


def share(values: NDArray[Any], low: float, high: float) -> NDArray[Any]:
    """Values from low to high as 0 to 1; lower ones and NaN are 0, higher ones 1, all 0 if low is high."""
    span: Any = max(high - low, np.finfo(np.float32).tiny)
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.asarray(values - low)
        found = np.divide(found, span, out=found if found.dtype.kind == "f" else None)
        gaps = np.isnan(found.sum())
    if gaps:
        found[np.isnan(found)] = 0
    return np.clip(found, 0, 1, out=found)


def scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Values from low to high as 0..255, rounded; lower ones and NaN are 0, higher ones 255, all 0 if low is high."""
    return np.rint(share(values, low, high) * 255).astype(np.uint8)


def labels(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """The values of a mask as uint8; ValueError if one is no whole number from 0 to 255."""
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.uint8)
    wrong = values[whole != values]
    if wrong.size:
        raise ValueError(
            f"{name} holds {wrong[0]:g} in {wrong.size:,} voxels: a mask numbers its structures 0, 1, ... up to 255"
        )
    return whole
