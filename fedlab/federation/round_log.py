"""What happened in a round and what it cost: losses, drift, a method's own numbers, events, scores between visits."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from fedlab.core.memory import Later, Reads
from fedlab.engine import update_statistics
from fedlab.engine.local_task import Usage
from fedlab.federation.participation import Participants

EVENTS = ["round", "site", "event", "detail"]
VISITS = ["round", "visit", "at", "site", "metric", "value"]


@dataclass(frozen=True)
class Cost:
    """What a round took at a site: mean training loss, optimizer steps, cases whose gradient was computed, seconds."""

    loss: float
    steps: int
    samples: int
    seconds: float


@dataclass(frozen=True)
class Charge:
    """A training of a round. loss: the sum over its steps. private: of a model that never leaves its site."""

    usage: Usage
    loss: Later
    private: bool


@dataclass
class RoundLog:
    """Costs, drift and logged numbers are of the present round; events and visits of all rounds.

    numbers: (site, name) -> what a method logged, known by float(...). events: sites that were absent, late, failed,
    elected, excluded. visits: the metric at each site after each visit of a travelling model. reads: numbers that are
    still on the device.
    """

    numbers: dict[tuple[str, str], float | Later] = field(default_factory=dict)
    events: list[tuple[int, str, str, str]] = field(default_factory=list)
    visits: list[tuple[int, int, str, str, str, float]] = field(default_factory=list)
    reads: Reads = field(default_factory=Reads)
    _charges: dict[str, list[Charge]] = field(default_factory=dict)  # by site
    _costs: dict[str, Cost] | None = None
    _checks: list[Callable[[], None]] = field(default_factory=list)
    _updates: Callable[[], dict[str, float]] | None = None

    def begin(self) -> None:
        """A new round."""
        self.numbers, self._charges, self._costs, self._updates = {}, {}, None, None

    def charge(self, site: str, usage: Usage, private: bool = False) -> Later:
        """Add what a training took; the sum of its losses."""
        loss = self.reads.later(usage.loss)
        self._charges.setdefault(site, []).append(Charge(usage, loss, private))
        self._costs = None
        return loss

    def check(self, call: Callable[[], None]) -> None:
        """Call this once numbers are read: it may refuse what was trained."""
        self._checks.append(call)

    def settle(self) -> None:
        """Do the checks that are due; raises what they raise."""
        checks, self._checks = self._checks, []
        for call in checks:
            call()

    @property
    def costs(self) -> dict[str, Cost]:
        """By site: the loss is the mean over the steps of the shared model, NaN where there were none."""
        if self._costs is None:
            self._costs = {site: _cost(charges) for site, charges in self._charges.items()}
        return self._costs

    @property
    def charged(self) -> set[str]:
        """Sites that trained in this round."""
        return set(self._charges)

    @property
    def measured(self) -> bool:
        """Whether the updates of this round were measured."""
        return self._updates is not None

    @property
    def updates(self) -> dict[str, float]:
        """How far the sites' updates point apart (see `engine.update_statistics`); empty where that means nothing."""
        return {} if self._updates is None else self._updates()

    def measure(self, numbers: Tensor, shares: NDArray[np.float64], differing: Tensor | None = None) -> None:
        """Note the lengths of updates, see `updates.lengths`; differing: how many of them began elsewhere."""
        found = self.reads.all(numbers)
        elsewhere = None if differing is None else self.reads.all(differing)

        def values() -> dict[str, float]:
            lengths = update_statistics.Lengths.of(found())
            if len(shares) < 2 or not lengths.each.any() or (elsewhere is not None and any(elsewhere())):
                return {}
            return update_statistics.measures(lengths, shares)

        self._updates = values

    def attend(self, number: int, names: tuple[str, ...], turnout: Participants) -> None:
        """Who does not take part in full."""
        for k in sorted(turnout.absent):
            self.note(number, names[k], "absent")
        for k in turnout.present:
            if k in turnout.failed:
                self.note(number, names[k], "failed", "broke off; its work is lost")
            elif k in turnout.late:
                self.note(number, names[k], "late", "its work came too late and does not count")
            elif k in turnout.work:
                self.note(number, names[k], "straggled", f"did {turnout.work[k]:.0%} of its steps")

    def note(self, number: int, site: str, event: str, detail: str = "") -> None:
        """Something that a reader of the results must be able to find."""
        self.events.append((number, site, event, detail))

    def visit(self, number: int, at: str, metric: str, scores: dict[str, float]) -> None:
        """How a travelling model does at each site after a visit at one; visits of a round are counted from 1."""
        last = self.visits[-1] if self.visits else (number, 0)
        count = 1 + (last[1] if last[0] == number else 0)
        self.visits += [(number, count, at, site, metric, float(value)) for site, value in scores.items()]

    def event_frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.events, columns=EVENTS)

    def visit_frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.visits, columns=VISITS)


def _cost(charges: list[Charge]) -> Cost:
    """Of one site."""
    shared = [charge for charge in charges if not charge.private]
    steps = sum(charge.usage.steps for charge in shared)
    loss = sum(float(charge.loss) for charge in shared) / steps if steps else np.nan
    used = [charge.usage for charge in charges]
    return Cost(loss, sum(u.steps for u in used), sum(u.samples for u in used), sum(u.seconds() for u in used))
