"""Round log: training losses, resource use, update statistics, logged numbers, events, and scores after visits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from fedlab.core.memory import DeferredReads, DeferredValue
from fedlab.engine import update_statistics
from fedlab.engine.local_task import Usage
from fedlab.federation.participation import Participants

EVENTS = ["round", "site", "event", "detail"]
VISITS = ["round", "visit", "at", "site", "metric", "value"]


class DivergedError(RuntimeError):
    """Loss or weights of a local training are not finite; the round was discarded."""


@dataclass(frozen=True)
class Cost:
    """Resource use of a site in a round: mean training loss, optimizer steps, cases with a gradient, seconds."""

    loss: float
    steps: int
    samples: int
    seconds: float


@dataclass(frozen=True)
class _Training:
    """One local training of a round. loss: the sum over its steps. private: its model never leaves the site."""

    usage: Usage
    loss: DeferredValue
    private: bool


class RoundLog:
    """Log of the present round (costs, update statistics, numbers) and of all rounds (events, visits).

    number: the present round. numbers: (site, name) -> what a method logged, read by float(...). events: absent, late,
    failed, elected and excluded sites. visits: metric at each site after each visit of a travelling model. has_visits:
    whether the method has such visits. reads: numbers that are still on the device.
    """

    def __init__(self) -> None:
        self.number = 0
        self.numbers: dict[tuple[str, str], float | DeferredValue] = {}
        self.events: list[tuple[int, str, str, str]] = []
        self.visits: list[tuple[int, int, str, str, str, float]] = []
        self.has_visits = False
        self.reads = DeferredReads()
        self._trainings: dict[str, list[_Training]] = {}  # by site
        self._costs: dict[str, Cost] | None = None
        self._checks: list[Callable[[], None]] = []
        self._updates: Callable[[], dict[str, float]] | None = None

    def begin(self, number: int) -> None:
        """Start the log of a round."""
        self.number = number
        self.numbers, self._trainings, self._costs, self._updates = {}, {}, None, None

    # -- local training ----------------------------------------------------------------------------------------------

    def record_training(self, site: str, usage: Usage, private: bool = False) -> DeferredValue:
        """Add a local training; the sum of its losses."""
        loss = self.reads.scalar(usage.loss)
        self._trainings.setdefault(site, []).append(_Training(usage, loss, private))
        self._costs = None
        return loss

    def record_checked_training(
        self, site: str, usage: Usage, total: Tensor, *, lr: float, private: bool = False
    ) -> None:
        """Add a local training that `check_finite` refuses if its loss or weights are not finite.

        total: sum () of the weights.
        """
        number, loss = self.number, self.record_training(site, usage, private)
        sum_of_weights = self.reads.scalar(total)

        def check() -> None:
            if not (np.isfinite(float(loss)) and np.isfinite(float(sum_of_weights))):
                raise DivergedError(
                    f"{site}, round {number}: training diverged (mean loss {float(loss) / max(1, usage.steps):.3g}) at"
                    f" lr={lr:g}: lower `lr` (try a tenth), or use fewer local steps; the round was discarded"
                )

        self._checks.append(check)

    def check_finite(self) -> None:
        """Raise DivergedError if a training diverged; reads the round's numbers from the device in one transfer."""
        checks, self._checks = self._checks, []
        for check in checks:
            check()

    @property
    def costs(self) -> dict[str, Cost]:
        """By site: the loss is the mean over the steps of the shared model, NaN if there were none."""
        if self._costs is None:
            self._costs = {site: _cost(trainings) for site, trainings in self._trainings.items()}
        return self._costs

    @property
    def trained_sites(self) -> set[str]:
        """Sites that trained in this round."""
        return set(self._trainings)

    # -- updates -----------------------------------------------------------------------------------------------------

    @property
    def has_updates(self) -> bool:
        """Whether statistics of the updates of this round were recorded."""
        return self._updates is not None

    @property
    def updates(self) -> dict[str, float]:
        """Statistics of the updates (`engine.update_statistics`); empty if the sites did not start from one model."""
        return {} if self._updates is None else self._updates()

    def record_updates(self, norms: Tensor, shares: NDArray[np.float64], differing: Tensor | None = None) -> None:
        """Record `update_statistics.squared_norms` of updates; differing: number of starts unlike the first."""
        found = self.reads.numbers(norms)
        elsewhere = None if differing is None else self.reads.numbers(differing)

        def statistics() -> dict[str, float]:
            norms = update_statistics.SquaredNorms.of(found())
            if len(shares) < 2 or not norms.updates.any() or (elsewhere is not None and any(elsewhere())):
                return {}
            return update_statistics.measures(norms, shares)

        self._updates = statistics

    # -- numbers, events and visits ----------------------------------------------------------------------------------

    def record_number(self, name: str, value: float | Tensor, site: str) -> None:
        """Record a number of this round; one on the device is read later."""
        self.numbers[site, name] = self.reads.scalar(value) if isinstance(value, Tensor) else float(value)

    def record_event(self, event: str, detail: str = "", site: str = "") -> None:
        """Record an event of the present round for `run.events`."""
        self.events.append((self.number, site, event, detail))

    def record_participants(self, names: tuple[str, ...], participants: Participants) -> None:
        """Record the sites that do not take part in full."""
        for k in sorted(participants.absent):
            self.record_event("absent", site=names[k])
        for k in participants.available:
            if k in participants.failed:
                self.record_event("failed", "broke off; its work is lost", names[k])
            elif k in participants.late:
                self.record_event("late", "its work came too late and does not count", names[k])
            elif k in participants.work:
                self.record_event("straggled", f"did {participants.work[k]:.0%} of its steps", names[k])

    def record_visit(self, at: str, metric: str, scores: Mapping[str, float]) -> None:
        """Record the metric at each site after a visit of a travelling model; visits of a round count from 1."""
        last = self.visits[-1] if self.visits else (self.number, 0)
        count = 1 + (last[1] if last[0] == self.number else 0)
        self.visits += [(self.number, count, at, site, metric, float(value)) for site, value in scores.items()]

    def event_frame(self) -> pd.DataFrame:
        """Events as a table."""
        return pd.DataFrame(self.events, columns=EVENTS)

    def visit_frame(self) -> pd.DataFrame:
        """Visits as a table."""
        return pd.DataFrame(self.visits, columns=VISITS)


def _cost(trainings: list[_Training]) -> Cost:
    """Resource use of one site."""
    shared = [training for training in trainings if not training.private]
    steps = sum(training.usage.steps for training in shared)
    loss = sum(float(training.loss) for training in shared) / steps if steps else np.nan
    used = [training.usage for training in trainings]
    return Cost(loss, sum(u.steps for u in used), sum(u.samples for u in used), sum(u.seconds() for u in used))
