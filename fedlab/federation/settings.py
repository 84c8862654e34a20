"""Settings of a federation: local training, and which sites take part, attack, and how their models are merged."""

from typing import Literal, Self

from pydantic import model_validator

from fedlab.federation import aggregation
from fedlab.federation.attacks import Attack
from fedlab.federation.participation import check_participation, fraction, straggling
from fedlab.learning.settings import Training

__all__ = ["FederationSettings"]


class FederationSettings(Training):
    """Settings of a federation: those of local training (see `Training`), participation, merging and attacks.

    Parameters
    ----------
    local_optimizer : {"reset", "keep", "share"}, default "reset"
        Optimizer state of a site between rounds: reset, kept at the site, or averaged with the weights.
    participation : str, default "all"
        Sites sampled in a round: "all", "sample(0.3)", "by_size(0.3)", "unbiased(0.3)".
    availability : float or list of float, default 1.0
        Probability, 0 to 1, that a sampled site is available; one for all sites or one for each.
    stragglers : float or str, default 0.0
        Probability, 0 to 1, that a site finishes only a part of its steps; with "drop(0.3)" that part is discarded.
    failures : float, default 0.0
        Probability, 0 to 1, that a site drops out after it has received the model.
    aggregate : str, default "mean"
        How models are merged: "mean", "median", "trimmed(0.2)", "krum(f=1)", "multikrum(f=1)", "geomedian",
        "clipped(1.0)".
    attack : str, default "none"
        What malicious sites send: "signflip(count=1)", "labelflip", "alie(count=2)", ...
    secure_sum : bool, default False
        Merge by a sum of masked messages, so that the server sees no single update.
    watch_visits : bool, default False
        Also evaluate a travelling model on every site's validation cases after each visit.

    Examples
    --------
    >>> from fedlab.federation.settings import FederationSettings
    >>> FederationSettings(participation="sample(0.5)", aggregate="median").rounds
    20
    """

    local_optimizer: Literal["reset", "keep", "share"] = "reset"
    participation: str = "all"
    availability: float | list[float] = 1.0
    stragglers: float | str = 0.0
    failures: float = 0.0
    aggregate: str = "mean"
    attack: str = "none"
    secure_sum: bool = False
    watch_visits: bool = False

    @model_validator(mode="after")
    def _consistent_federation(self) -> Self:
        check_participation(self.participation)
        straggling(self.stragglers)
        fraction("failures", self.failures)
        for probability in self.availability if isinstance(self.availability, list) else [self.availability]:
            fraction("availability", probability)
        self._check_merging()
        return self

    def _check_merging(self) -> None:
        """Refuse combinations of rule, attack and normalisation that cannot work."""
        aggregation.least(self.aggregate)
        Attack.of(self.attack, 0)
        rule = aggregation.RULES.parse(self.aggregate, given=3)[0]
        if self.batchnorm == "pooled" and rule in (aggregation.median, aggregation.trimmed):
            raise ValueError(
                f"aggregate={self.aggregate!r} merges each coordinate separately, so it cannot compute the variance of"
                " the union: use another rule, or another batchnorm than 'pooled'"
            )
        if self.secure_sum:
            self._check_secure_sum(is_mean=rule is aggregation.mean)

    def _check_secure_sum(self, is_mean: bool) -> None:
        """A secure sum shows no single update, so nothing may use one or miss one."""
        if not is_mean:
            raise ValueError(
                f"secure_sum=True hides single models, which aggregate={self.aggregate!r} must see: choose one of them"
            )
        if self.batchnorm == "pooled":
            raise ValueError(
                "secure_sum=True adds up models, which does not give batchnorm='pooled' the variance of the union: use"
                " 'avg', 'fedbn' or 'group'"
            )
        if self.local_optimizer == "share":
            raise ValueError(
                "secure_sum=True hides single updates, which the moments of local_optimizer='share' would show: choose"
                " one of them"
            )
        if straggling(self.stragglers)[1] or self.failures > 0:
            raise ValueError(
                "secure_sum=True cannot unmask a sum if a site drops out after masks are agreed: set failures=0 and"
                " no stragglers='drop(...)'; absent sites (availability) are no obstacle"
            )
