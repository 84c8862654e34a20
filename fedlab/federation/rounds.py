"""Rounds: what a method yields after each, its memory between them, and which rounds are still to run."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.weights import Weights
from fedlab.federation.participation import Participants, Participation, all_sites
from fedlab.federation.settings import FederationSettings


@dataclass(frozen=True)
class Ensemble:
    """Models whose prediction is the weighted mean of their probabilities."""

    models: Weights
    shares: NDArray[np.float64]


@dataclass(frozen=True)
class Localised:
    """A shared model and, as a stack (K, ...), the model of each site with its private parameters."""

    shared: Weights
    sites: Weights


Model = Weights | Ensemble | Localised


@dataclass(frozen=True)
class Round:
    """What a method yields after a round.

    Parameters
    ----------
    models : dict of str to Weights or Ensemble
        "global": one model or ensemble for all sites; "local": each site's own model, a stack (K, ...). At least one
        of them. A site uses its local model if it has one, else the global one.

    Examples
    --------
    A method ends each of its rounds with `yield Round({"global": s.w})`, see `fedlab.algorithms.algorithm`.
    """

    models: dict[str, Weights | Ensemble]


@dataclass(frozen=True)
class RoundContext:
    """The present round: its number, counted from 1, its learning rate, and which sites take part.

    data_round: the round whose batches are used, if it is another one.
    """

    number: int
    lr: float
    participants: Participants
    data_round: int | None = None

    @property
    def available(self) -> tuple[int, ...]:
        """Positions of the sites that receive the model, ascending."""
        return self.participants.available

    @property
    def reporting(self) -> tuple[int, ...]:
        """Positions of the sites whose update counts, ascending."""
        return self.participants.reporting


class Schedule:
    """Runs the rounds that are left and owns the memory of the method.

    state: the method's memory, which a checkpoint holds. context: the present round. synchronous: whether sites take
    part in common rounds, so that absent, late and failing ones matter. stopped: whether the present round is the last.
    """

    def __init__(self, settings: FederationSettings, participation: Participation) -> None:
        self.settings, self.participation = settings, participation
        self.state = SimpleNamespace(round=0)
        self.context: RoundContext | None = None
        self.synchronous, self.stopped = True, False
        self._restored: dict[str, Any] = {}

    def memory(self, **initial: Any) -> SimpleNamespace:
        """The initial state of a method, or the restored state of an interrupted run."""
        self.state = SimpleNamespace(**{"round": 0, **initial, **self._restored})
        return self.state

    def rounds(self, state: SimpleNamespace, synchronous: bool = True) -> Iterator[RoundContext]:
        """Count `state.round` up to the last round."""
        self.synchronous = synchronous
        while state.round < self.settings.rounds and not self.stopped:
            state.round += 1
            sites = len(self.participation.names)
            present = self.participation.at(state.round) if synchronous else all_sites(sites)
            self.context = RoundContext(state.round, self.settings.lr_at(state.round), present)
            yield self.context

    @property
    def participants(self) -> Participants:
        """Participants of the present round; all sites before the first one."""
        if self.context is None:
            return all_sites(len(self.participation.names))
        return self.context.participants

    @property
    def number(self) -> int:
        """Number of the present round; 0 before the first one."""
        return int(self.state.round)

    @property
    def evaluated(self) -> bool:
        """Whether the present round is evaluated."""
        return self.number % self.settings.evaluate_every == 0 or self.number == self.settings.rounds

    def stop(self) -> None:
        """Make the present round the last one."""
        self.stopped = True

    def restore(self, state: dict[str, Any]) -> None:
        """Use this state when the method asks for its memory."""
        self._restored = state
