"""Rounds and memory: who takes part in which, and what a killed run needs to go on."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from fedlab.federation.channel import Path
from fedlab.federation.participation import everybody
from fedlab.federation.setup import Assembly
from fedlab.federation.sites import RoundContext, Site

Part = tuple[int, int] | tuple[float, float]  # of a round's steps: from .. to, counted or as shares


class Rounds(Assembly):
    """An assembled federation whose rounds can be counted, stored and resumed.

    together: whether sites meet in rounds.
    """

    together = True

    def memory(self, **initial: Any) -> SimpleNamespace:
        """What a checkpoint must hold: the values given, or those of the round at which a killed run stopped."""
        self._memory = SimpleNamespace(**{"round": 0, **initial, **self._restored})
        return self._memory

    def rounds(self, memory: SimpleNamespace, *, together: bool = True) -> Iterator[RoundContext]:
        """The rounds still to do. together: sites meet, so that it matters who is absent, slow or fails."""
        self.together = together
        while memory.round < self.settings.rounds and not self.halted:
            memory.round += 1
            self.journal.begin()
            self.wire.path = Path()
            self.turnout = self.attendance.at(memory.round) if together else everybody(len(self.sites))
            self.journal.attend(memory.round, self.names, self.turnout)
            self.clock = RoundContext(memory.round, self.settings.lr_at(memory.round), self.turnout)
            yield self.clock

    def span(self, r: RoundContext, site: Site, k: int | None, steps: int | None, part: Part | None) -> Any:
        """The first step of a site's batches and the one after the last, counted over all rounds."""
        total = steps or site.steps(self.settings)
        share = 1.0 if k is None else r.turnout.work.get(k, 1.0)
        most = total if share == 1 else max(1, int(total * share))
        first, last = (int(end * most + 1e-9) if isinstance(end, float) else end for end in part or (0, total))
        base = ((r.turn or r.number) - 1) * total
        return base + min(first, most), base + min(last, most)

    @property
    def round(self) -> int:
        """The number of the round that was begun last."""
        return int(self._memory.round)

    @property
    def due(self) -> bool:
        """Whether the present round is evaluated."""
        return self.round % self.settings.evaluate_every == 0 or self.round == self.settings.rounds

    def halt(self) -> None:
        """Let the present round be the last one."""
        self.halted = True

    def snapshot(self) -> dict[str, Any]:
        """Everything a resumed run needs: the algorithm's memory, what stays at the sites, who holds the model."""
        held = {"_own": self.staying.own, "_trained": self.staying.trained, "_holder": self.holder}
        return {**vars(self._memory), **held, "_optimizers": self.optimizers.held}

    def restore(self, memory: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self.staying.own, self.staying.trained = memory.pop("_own"), memory.pop("_trained")
        self.optimizers.held = memory.pop("_optimizers")
        self.holder, self._restored = memory.pop("_holder"), memory

    def settle(self) -> None:
        """Refuse what diverged; reads the round's numbers from the device, once."""
        self.journal.settle()

    def note(self, event: str, detail: str = "", site: str = "") -> None:
        """Something that a reader of the results must be able to find: it stands in `run.events`."""
        self.journal.note(self.round, site, event, detail)

    def log(self, name: str, value: float | Tensor, site: str | None = None) -> None:
        """A number of the present round for `run.rounds`, of one site or of all; one on the device is read later."""
        number = self.journal.reads.later(value) if isinstance(value, Tensor) else float(value)
        self.journal.numbers[site or self.union.name, name] = number
