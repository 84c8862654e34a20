"""Warnings of fedlab, attributed to the line of the user's code that caused them."""

import sys
import warnings
from pathlib import Path

PACKAGES = tuple(str(Path(__file__).parents[2] / name) for name in ("fedlab", "data_prep"))


class HeterogeneityWarning(UserWarning):
    """A requested heterogeneity was not reached, or cannot be measured at every site."""


class LeakageWarning(UserWarning):
    """Duplicates or patients are in more than one split, or cases were moved or dropped to prevent that."""


class ProtocolWarning(UserWarning):
    """The evaluation of an experiment lacks something that readers will expect."""


class MinorityWarning(UserWarning):
    """A robust aggregation rule may reject a site because its cases differ, not because it is malicious."""


class UnstableWarning(UserWarning):
    """The strength of a correction makes local steps overshoot."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Emit a warning at the innermost line outside fedlab and data_prep."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGES):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
