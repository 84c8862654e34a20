"""What a method's knobs may be: refused with what would do, or warned of with the bound that they pass."""

import math
from typing import Any

from fedlab.core.warnings import UnstableWarning, warn
from fedlab.federation import Federation


def at_least(knob: str, value: Any, least: float, *, strictly: bool = False) -> None:
    """Refuse what is no number, or one below the least."""
    fits = is_number(value) and (value > least if strictly else value >= least)
    if not fits:
        raise ValueError(f"{knob}={value!r}: give a number {'above' if strictly else 'of at least'} {least:g}")


def within(knob: str, value: Any, low: float, high: float, *, open_above: bool = False) -> None:
    """Refuse what is no number between the bounds."""
    if not (is_number(value) and low <= value and (value < high if open_above else value <= high)):
        raise ValueError(f"{knob}={value!r}: give a number from {low:g} to {'below ' * open_above}{high:g}")


def whole(knob: str, value: Any, least: int) -> None:
    """Refuse what is no whole number, or one below the least."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{knob}={value!r}: give a whole number of at least {least}")


def is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)


def stable(fed: Federation, knob: str, strength: Any) -> None:
    """Refuse a negative pull, warn of one that a step overshoots: w <- w - lr * strength * (w - anchor).

    Stable while lr * (curvature + strength) < 2 (1 + momentum); the curvature of the loss is not known beforehand.
    """
    at_least(knob, strength, 0)
    settings = fed.settings
    bound = 2 * (1 + settings.momentum)
    if settings.optimizer == "sgd" and settings.lr * strength >= bound:
        warn(
            f"{knob}={strength:g} with lr={settings.lr:g} overshoots: lr * {knob} is {settings.lr * strength:.3g}, and"
            f" steps only settle below {bound:g}; keep {knob} under {bound / settings.lr:.3g}, or lower lr",
            UnstableWarning,
        )


def plain_sgd(fed: Federation, method: str, why: str, *, momentum: bool = False) -> None:
    """Warn where the derivation of a method does not cover the local optimizer."""
    settings = fed.settings
    if settings.momentum and settings.local_optimizer != "reset":
        told = f"{method} with local_optimizer={settings.local_optimizer!r}: it counts on a momentum that begins at 0"
        warn(told)
    used = settings.optimizer if settings.optimizer != "sgd" else f"momentum={settings.momentum:g}"
    if settings.optimizer != "sgd" or (settings.momentum and not momentum):
        warn(f"{method} with {used}: {why}")
