"""The scale on which a regression is trained: targets less a mean, divided by a standard deviation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from fedlab.core.arguments import shown
from fedlab.core.typing import Floats

POOLED, NONE = "pooled", "none"
SENT, RECEIVED = 24, 16  # bytes of a site: count, mean and sum of squares; mean and standard deviation


class Moments(NamedTuple):
    """What a site says of its training targets: their number, mean, and sum of squared deviations from it."""

    cases: int
    mean: float
    squares: float

    @classmethod
    def of(cls, values: Floats) -> "Moments":
        """Those of targets (n,)."""
        mean = float(values.mean()) if len(values) else 0.0
        return cls(len(values), mean, float(((values - mean) ** 2).sum()))


@dataclass(frozen=True)
class TargetScale:
    """Mean and standard deviation by which targets are standardised.

    Called with a model's outputs (n, 1), it gives predictions in the unit of the target.

    Examples
    --------
    >>> import torch
    >>> from fedlab.learning.target_scale import TargetScale
    >>> scale = TargetScale(mean=60.0, deviation=10.0)
    >>> scale(torch.tensor([[0.5]])), scale.standardised(65.0)
    (tensor([[65.]]), 0.5)
    """

    mean: float = 0.0
    deviation: float = 1.0

    def __call__(self, outputs: Tensor) -> Tensor:
        return outputs * self.deviation + self.mean

    def standardised(self, values: Floats) -> Floats:
        """Targets on the scale of the model's outputs."""
        return (values - self.mean) / self.deviation


def check(value: str | Sequence[float]) -> None:
    """Raise ValueError for what is no `target_scale` of an experiment."""
    listed = not isinstance(value, str) and len(value) == 2 and np.isfinite(value).all() and value[1] > 0
    if not listed and value not in (POOLED, NONE):
        raise ValueError(
            f"target_scale={shown(value)}: write 'pooled', 'none', or [mean, standard deviation], with a standard"
            " deviation above 0"
        )


def scale_of(value: str | Sequence[float], sites: Sequence[Moments], target: str | None) -> TargetScale:
    """The scale that a setting names, from what sites say of their training targets.

    The pooled mean and variance (divisor n) of all training cases, from those of the sites (Chan 1983).

    Raises ValueError if all training cases have one target.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.learning.target_scale import Moments, scale_of
    >>> scale_of("pooled", [Moments.of(np.array([40.0, 60.0])), Moments.of(np.array([80.0, 100.0]))], "age")
    TargetScale(mean=70.0, deviation=22.3...)
    >>> scale_of([60, 10], [], "age")
    TargetScale(mean=60.0, deviation=10.0)
    """
    if not isinstance(value, str):
        return TargetScale(float(value[0]), float(value[1]))
    if value == NONE:
        return TargetScale()
    counts, means, squares = (np.array(column, np.float64) for column in zip(*sites, strict=True))
    mean = float(counts @ means / counts.sum())
    variance = float((squares.sum() + counts @ (means - mean) ** 2) / counts.sum())
    if not variance > 0:
        raise ValueError(
            f"all {int(counts.sum())} training cases have {target} {mean:g}, so there is nothing to predict: choose"
            " another target, or target_scale='none'"
        )
    return TargetScale(mean, float(np.sqrt(variance)))
