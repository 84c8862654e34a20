"""Warnings of fedlab, attributed to the line of the user's code that caused them."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
    warning = category(message)
    warning._of_fedlab = True  # type: ignore[attr-defined]
    warnings.warn(warning, stacklevel=level)


@contextmanager
def each_once() -> Iterator[None]:
    """Show each distinct warning of fedlab once, from any line; warnings of others and recorded ones are as before."""
    before = warnings.showwarning
    show_each_once()
    try:
        yield
    finally:
        warnings.showwarning = before


def show_each_once() -> None:
    """From now on, show each distinct warning of fedlab once. (Python forgets what it has shown at every filter.)"""
    before, seen = warnings.showwarning, set[tuple[type[Warning], str]]()

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if getattr(message, "_of_fedlab", False):
            if (category, str(message)) in seen:
                return
            seen.add((category, str(message)))
        before(message, category, *place, **more)

    warnings.showwarning = show
