"""Checks of a method's arguments: refuse impossible values, warn of unstable ones with the bound that they exceed."""

import math
from typing import Any

from fedlab.core.warnings import UnstableWarning, warn
from fedlab.federation import Federation


def at_least(argument: str, value: Any, least: float, *, strictly: bool = False) -> None:
    """Refuse a value that is not a number or below the least."""
    fits = is_number(value) and (value > least if strictly else value >= least)
    if not fits:
        raise ValueError(f"{argument}={value!r}: give a number {'above' if strictly else 'of at least'} {least:g}")


def within(argument: str, value: Any, low: float, high: float, *, open_above: bool = False) -> None:
    """Refuse a value that is not a number between the bounds."""
    if not (is_number(value) and low <= value and (value < high if open_above else value <= high)):
        raise ValueError(f"{argument}={value!r}: give a number from {low:g} to {'below ' * open_above}{high:g}")


def whole(argument: str, value: Any, least: int) -> None:
    """Refuse a value that is not a whole number or below the least."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{argument}={value!r}: give a whole number of at least {least}")


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and not a bool."""
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)


def stable(fed: Federation, argument: str, strength: Any) -> None:
    """Refuse a negative pull, warn if a step overshoots: w <- w - lr * strength * (w - anchor).

    Stable while lr * (curvature + strength) < 2 (1 + momentum); the curvature of the loss is not known beforehand.
    """
    at_least(argument, strength, 0)
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
