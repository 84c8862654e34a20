"""What happened in a round and what it cost: losses, drift, a method's own numbers, events, scores between visits."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from fedlab.engine.work import Cost
from fedlab.turnout import Turnout

EVENTS = ["round", "site", "event", "detail"]
VISITS = ["round", "visit", "at", "site", "metric", "value"]


@dataclass
class Journal:
    """Costs, drift and logged numbers are of the present round; events and visits of all rounds.

    costs: by site. updates: how far the sites' updates point apart. numbers: (site, name) -> what a method logged.
    events: who was absent, late, failed, elected, left out. visits: the metric at each site after each visit of a
    travelling model.
    """

    costs: dict[str, Cost] = field(default_factory=dict)
    updates: dict[str, float] = field(default_factory=dict)
    numbers: dict[tuple[str, str], float] = field(default_factory=dict)
    events: list[tuple[int, str, str, str]] = field(default_factory=list)
    visits: list[tuple[int, int, str, str, str, float]] = field(default_factory=list)
    _shared: dict[str, list[Cost]] = field(default_factory=dict)  # by site: trainings of the shared model

    def begin(self) -> None:
        """A new round."""
        self.costs, self.updates, self.numbers, self._shared = {}, {}, {}, {}

    def charge(self, site: str, cost: Cost, private: bool = False) -> None:
        """Add what a training took; the loss is the mean over steps of the shared model, NaN where there were none."""
        before = self.costs.get(site, Cost(np.nan, 0, 0, 0.0))
        shared = self._shared.setdefault(site, [])
        if not private:
            shared.append(cost)
        steps = sum(each.steps for each in shared)
        loss = sum(each.loss * each.steps for each in shared) / steps if steps else np.nan
        samples, seconds = before.samples + cost.samples, before.seconds + cost.seconds
        self.costs[site] = Cost(loss, before.steps + cost.steps, samples, seconds)

    def attend(self, number: int, names: tuple[str, ...], turnout: Turnout) -> None:
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
