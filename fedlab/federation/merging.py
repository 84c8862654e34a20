"""The server's step: the rule by which models are merged, in the clear or as a secure sum, and who counted for what."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedlab import aggregation, secure
from fedlab.federation.journal import Journal
from fedlab.training import Training
from fedlab.weights import Weights, toward

Floats = NDArray[np.float64]


class Merger:
    """Merges stacks of models by the rule of the settings; `used` tells whether a method ever asked for it."""

    def __init__(self, settings: Training, names: tuple[str, ...], journal: Journal) -> None:
        aggregation.check(settings.aggregate, len(names))
        self.settings, self.names, self.journal = settings, names, journal
        self.used = False

    def enough(self, back: Weights, number: int, rule: str | None = None) -> Weights:
        """The models that came back; none of them where they are fewer than the rule can work with, which is noted."""
        needed = max(1, aggregation.least(rule or self.settings.aggregate))
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
        text, total = rule or self.settings.aggregate, float(coefficients.sum())
        shares = coefficients / total
        if self.settings.secure_sum:
            merged, influence = secure.mean(back, shares, w, self.settings.seed, number, show), shares
        else:
            merged, influence = aggregation.rule(text)(back, shares, w)
        for k, counted in zip(back.owners, influence, strict=True):
            self.journal.numbers[self.names[k], "influence"] = float(counted)
        return toward(w, merged, 1.0 if abs(total - 1) < 1e-9 else total)
