"""Server: broadcasts the shared model, receives the sites' models and merges them, in the clear or as a secure sum.

The leader of a swarm merges in the same way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from fedlab.core.registry import choose
from fedlab.core.typing import Floats
from fedlab.core.weights import Weights, interpolate
from fedlab.federation import aggregation, secure_aggregation
from fedlab.federation.attacks import Attack
from fedlab.federation.channel import Channel
from fedlab.federation.participation import Participation
from fedlab.federation.round_log import RoundLog
from fedlab.federation.rounds import Schedule
from fedlab.federation.settings import FederationSettings
from fedlab.federation.sites import LocalParameters, OptimizerStates

MIN_SUMMANDS = 2  # a secure sum of fewer hides nothing
STACK_BYTES = 2**28  # models of a round take at most this much memory together unless something needs all of them


@dataclass
class Server:
    """Broadcasts, receives and merges models.

    weighting: that of the method's mean. sent: the model of the latest broadcast. received: whether a method ever took
    models from sites. merged: whether it ever merged any.
    """

    settings: FederationSettings
    names: tuple[str, ...]
    shares: Floats
    participation: Participation
    attack: Attack
    schedule: Schedule
    private: LocalParameters
    optimizers: OptimizerStates
    channel: Channel
    log: RoundLog
    sent: Weights
    weighting: str = "cases"
    received: bool = False
    merged: bool = False
    _merges: tuple[int, int] = field(default=(0, 0), init=False)  # round, and merges in it so far

    def __post_init__(self) -> None:
        aggregation.check(self.settings.aggregate, len(self.names))
        if self.settings.secure_sum and len(self.names) < MIN_SUMMANDS:
            raise ValueError("secure_sum=True with one site: a sum of one update is that update, so use more sites")

    # -- models out and in -------------------------------------------------------------------------------------------

    def broadcast(self, w: Weights, others: Mapping[str, Tensor]) -> Weights:
        """Send a model, and tensors by name, to the available sites; as it is there: a stack (m, ...)."""
        self.sent, available = w, self.schedule.participants.available
        tensors = {name: [tensor] for name, tensor in others.items()}
        tensors["optimizer state"] = self.optimizers.crossing()
        self.channel.send_down(w.without_moments(), available, tensors)
        return self.private.at_sites(w, available)

    def gather(self, models: Weights, others: Mapping[str, Tensor]) -> Weights:
        """Receive the models (m, ...) of sites, and of each its row of the other tensors (m, ...).

        Empty if the aggregation rule needs more models. A secure sum of too few is not even sent.
        """
        arrived, masked = self.receive(models.without_moments(), self.sent), self.settings.secure_sum
        enough = self.enough(arrived)

        def tensors(row: int, k: int) -> dict[str, list[Tensor]]:
            found = {name: [tensor[row]] for name, tensor in others.items()}
            return {**found, "optimizer state": self.optimizers.crossing(k)}

        self.channel.send_up(enough if masked else arrived, tensors, masked)
        chosen = self.shares[list(enough.owners)]
        self.optimizers.average(enough.owners, chosen / chosen.sum() if len(chosen) else chosen)
        return enough

    def receive(self, models: Weights, reference: Weights) -> Weights:
        """Models (m, ...) as they arrive: malicious sites send something else; private parameters stay at the sites.

        reference: the model from which all sites started.
        """
        self.received, arrived = True, models
        if self.attack.sites and len(models):
            malicious = [self.names[k] for k in models.owners if k in self.attack.sites]
            self.log.record_event("attack", f"{self.attack.name} by {', '.join(malicious) or 'no site present'}")
            shares = self.weights(models.owners, self.weighting)
            arrived = self.attack.apply(
                models, reference, shares, self.settings.seed, self.schedule.number, self.merges_in_round()
            )
        return self.private.hide(arrived, reference)

    # -- weights of sites --------------------------------------------------------------------------------------------

    def weights(self, sites: Sequence[int], weighting: str) -> Floats:
        """Coefficients (m,) of these sites' updates, which depend on participation and weighting."""
        return self.participation.weights(self.schedule.participants, sites, self.site_weights(weighting))

    def site_weights(self, weighting: str) -> Floats:
        """Weights (K,) of all sites in a mean: "cases" n_k / N or "uniform" 1 / K."""
        choose("weighting", weighting, ("cases", "uniform"))
        return self.shares if weighting == "cases" else np.full(len(self.shares), 1 / len(self.shares))

    # -- merging -----------------------------------------------------------------------------------------------------

    def merge(self, w: Weights, models: Weights, weighting: str | Floats, rule: str | None = None) -> Weights:
        """w + C (merged - w), where C is the sum of the coefficients and merged is by their shares of it.

        w: the model that was sent out, which is returned if there are too few models. weighting: "cases", "uniform" or
        coefficients (m,). rule: replaces that of the settings.
        """
        if self.sees_all or self.attack.sites:
            self.log.check_finite()  # robust rules and rings of integers do not work on diverged models
        coefficients = weighting if isinstance(weighting, np.ndarray) else self.weights(models.owners, weighting)
        self.merged, models = True, self.private.hide(models, w)
        if not len(models) or not len(self.enough(models, rule)):
            return w.without_moments()
        shares = coefficients / coefficients.sum()
        if self.settings.secure_sum:
            once = self.settings.seed, self.schedule.number, self.merges_in_round()
            merged, influence = secure_aggregation.mean(models, shares, w, once, self.channel.show_masked), shares
        else:
            merged, influence = aggregation.rule(rule or self.settings.aggregate)(models, shares, w)
        return self.step(w, merged, models.owners, influence, float(coefficients.sum()))

    def step(self, w: Weights, merged: Weights, sites: Sequence[int], influence: Floats, total: float) -> Weights:
        """w + total (merged - w); logs the influence of each site."""
        self.merged, self._merges = True, (self.schedule.number, self.merges_in_round() + 1)
        for k, share in zip(sites, influence, strict=True):
            self.log.record_number("influence", float(share), self.names[k])
        return interpolate(w, merged, 1.0 if abs(total - 1) < 1e-9 else total)

    def merges_in_round(self) -> int:
        """Number of merges in the present round so far."""
        number, merges = self._merges
        return merges if number == self.schedule.number else 0

    def min_models(self, rule: str | None = None) -> int:
        """The fewest models that can be merged."""
        needed = aggregation.least(rule or self.settings.aggregate)
        return max(needed, MIN_SUMMANDS if self.settings.secure_sum else 1)

    def enough(self, models: Weights, rule: str | None = None) -> Weights:
        """These models, or none of them if they are too few to merge, which is an event."""
        needed = self.min_models(rule)
        if len(models) >= needed:
            return models
        self.log.record_event("nothing merged", f"{len(models)} models came back, {needed} are needed")
        return models.only(())

    @property
    def sees_all(self) -> bool:
        """Whether the merge needs all models at a time: a rule other than the mean, a secure sum, pooled variances."""
        return aggregation.RULES.parse(self.settings.aggregate, given=3)[0] is not aggregation.mean or (
            self.settings.secure_sum or self.settings.batchnorm == "pooled"
        )

    def merges_one_by_one(self, sites: int) -> bool:
        """Whether the models of this many sites are large and nothing needs them at the same time."""
        keeps = self.private.any or self.settings.local_optimizer != "reset"
        needed = keeps or self.sees_all or bool(self.attack.sites) or bool(self.channel.hooks)
        return not needed and sites * self.sent.nbytes > STACK_BYTES
