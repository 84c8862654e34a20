"""Observers follow runs while they train, such as a live figure in a notebook."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import pandas as pd


@runtime_checkable
class Observer(Protocol):
    """Anything with these five methods can follow `fedlab.run(..., live=observer)`.

    Two more are called where it has them: `plan(rounds)`, before a grid, with the rounds of each of its runs; and
    `finished(run)` with each finished run, also one that was loaded.
    """

    def restart(self, rounds: int, title: str, device: str = "") -> None:
        """Follow a run that begins now; rounds: how many are planned."""

    def update(self, rounds_frame: pd.DataFrame, round: int) -> None:
        """Take note of a finished round; rounds_frame: the rounds so far, as in `run.rounds`."""

    def close(self) -> None:
        """Show the last state of a run that has ended or failed."""

    def tell(self, text: str) -> None:
        """Show one line of progress while several runs train at a time."""

    def conclude(self, text: str) -> None:
        """Show one line at the end of a grid."""


def announce(observer: Observer | None, text: str) -> None:
    """Show what is done before the first round."""
    if observer is not None:
        observer.tell(text)


def plan(observer: Observer | None, rounds: Sequence[int]) -> None:
    """Say how many rounds each run of a grid has, to an observer with a method `plan(rounds)`; others need none."""
    if callable(method := getattr(observer, "plan", None)):
        method(rounds)


def finished(observer: Observer | None, run: Any) -> None:
    """Hand a finished run to an observer with a method `finished(run)`; others need none."""
    if callable(method := getattr(observer, "finished", None)):
        method(run)


_default: list[Callable[[], Observer]] = []


def register_observer(factory: Callable[[], Observer]) -> None:
    """Set the function that makes the observer of `live=True`."""
    _default[:] = [factory]


def find_observer(live: bool | Observer) -> Observer | None:
    """The observer that `live` means: itself, a new one of the default kind for True, none for False."""
    if isinstance(live, bool):
        return _default[0]() if live and _default else None
    if isinstance(live, Observer):
        return live
    raise ValueError(f"live is {live!r}: give True, False, or an object with the methods of `Observer`")
