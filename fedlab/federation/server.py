"""The server's step: the rule by which models are merged, in the clear or as a secure sum, and who counted for what."""

from collections.abc import Callable, Sequence

from torch import Tensor

from fedlab.core.typing import Floats
from fedlab.core.weights import Weights, toward
from fedlab.federation import aggregation, secure_aggregation
from fedlab.federation.round_log import RoundLog
from fedlab.learning.settings import Training

SUMMANDS = 2  # fewer hide nothing in a secure sum


class Aggregator:
    """Merges stacks of models by the rule of the settings; `used` tells whether a method ever asked for it."""

    def __init__(self, settings: Training, names: tuple[str, ...], journal: RoundLog) -> None:
        aggregation.check(settings.aggregate, len(names))
        if settings.secure_sum and len(names) < SUMMANDS:
            raise ValueError("secure_sum=True with one site: a sum of one update is that update, so use more sites")
        self.settings, self.names, self.journal = settings, names, journal
        self.used, self._latest = False, (0, 0)

    def turn(self, number: int) -> int:
        """How many merges there were in round `number` so far."""
        return self._latest[1] if self._latest[0] == number else 0

    def least(self, rule: str | None = None) -> int:
        """The fewest models that can be merged."""
        needed = aggregation.least(rule or self.settings.aggregate)
        return max(needed, SUMMANDS if self.settings.secure_sum else 1)

    def enough(self, back: Weights, number: int, rule: str | None = None) -> Weights:
        """The models that came back; none of them where they are fewer than the rule can work with, which is noted."""
        needed = self.least(rule)
        if len(back) >= needed:
            return back
        self.journal.note(number, "", "nothing merged", f"{len(back)} models came back, {needed} are needed")
        return back.only(())

    def merge(
        self, w: Weights, back: Weights, coefficients: Floats, number: int, rule: str | None = None,
        show: Callable[[int, Tensor, Weights], None] | None = None,
    ) -> Weights:  # fmt: skip
        """w + C (merged - w), where C is the sum of the coefficients and merged is by their shares of it.

        rule: in the place of that of the settings. Where nothing came back it is w. show: is given each site's message
        of a secure sum, with all models.
        """
        self.used = True
        if not len(back) or not len(self.enough(back, number, rule)):
            return w.bare()
        text, turn = rule or self.settings.aggregate, self.turn(number)
        shares = coefficients / coefficients.sum()
        if self.settings.secure_sum:
            merged, influence = (
                secure_aggregation.mean(back, shares, w, (self.settings.seed, number, turn), show),
                shares,
            )
        else:
            merged, influence = aggregation.rule(text)(back, shares, w)
        return self.settle(w, merged, back.owners, influence, float(coefficients.sum()), number)

    def settle(
        self, w: Weights, merged: Weights, who: Sequence[int], influence: Floats, total: float, number: int
    ) -> Weights:
        """w + total (merged - w); who counted for how much is noted."""
        self.used, self._latest = True, (number, self.turn(number) + 1)
        for k, counted in zip(who, influence, strict=True):
            self.journal.numbers[self.names[k], "influence"] = float(counted)
        return toward(w, merged, 1.0 if abs(total - 1) < 1e-9 else total)

    @property
    def sees_all(self) -> bool:
        """Whether models are needed side by side: for a rule that is no mean, a secure sum, variances of the union."""
        return aggregation.RULES.parse(self.settings.aggregate, given=3)[0] is not aggregation.mean or (
            self.settings.secure_sum or self.settings.batchnorm == "pooled"
        )
