"""Warnings of fedlab, attributed to the line of the caller's code that they are about."""

import sys
import warnings
from pathlib import Path

PACKAGES = tuple(str(Path(__file__).parents[2] / name) for name in ("fedlab", "data_prep"))


class HeterogeneityWarning(UserWarning):
    """The partition can be used, but a requested heterogeneity was not reached or cannot be measured at every site."""


class LeakageWarning(UserWarning):
    """Duplicates or patients would stand on both sides of a split, or cases were moved or dropped to prevent it."""


class ProtocolWarning(UserWarning):
    """The experiment can run, but its evaluation misses something that readers will expect."""


class MinorityWarning(UserWarning):
    """A robust rule may reject a site because its cases differ, not because it is malicious."""


class UnstableWarning(UserWarning):
    """The chosen strength of a correction makes local steps overshoot."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the first line outside fedlab that led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGES):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
