"""Warnings of arguments that make a method unstable; impossible ones are refused by its signature."""

from typing import Literal

from fedlab.core.warnings import UnstableWarning, warn
from fedlab.federation import Federation

Weighting = Literal["cases", "uniform"]  # n_k / N, or 1 / K for every site


def stable(fed: Federation, argument: str, strength: float) -> None:
    """Warn if a step overshoots: w <- w - lr * strength * (w - anchor).

    Stable while lr * (curvature + strength) < 2 (1 + momentum); the curvature of the loss is not known beforehand.
    """
    settings = fed.settings
    bound = 2 * (1 + settings.momentum)
    if settings.optimizer == "sgd" and settings.lr * strength >= bound:
        warn(
            f"{argument}={strength:g} with lr={settings.lr:g} overshoots: lr * {argument} is"
            f" {settings.lr * strength:.3g}, and steps only settle below {bound:g}; keep {argument} under"
            f" {bound / settings.lr:.3g}, or lower lr",
            UnstableWarning,
        )


def plain_sgd(fed: Federation, method: str, why: str, *, momentum: bool = False) -> None:
    """Warn if the derivation of a method does not cover the local optimizer; momentum: whether it covers momentum."""
    settings = fed.settings
    if settings.momentum and settings.local_optimizer != "reset":
        warn(f"{method} with local_optimizer={settings.local_optimizer!r}: it assumes that momentum starts at 0")
    used = settings.optimizer if settings.optimizer != "sgd" else f"momentum={settings.momentum:g}"
    if settings.optimizer != "sgd" or (settings.momentum and not momentum):
        warn(f"{method} with {used}: {why}")
