"""Participation: which sites are sampled in a round, which are available, how much they do, and which drop out.

All draws are functions of (seed, round, site), so that a resumed run repeats them and the order of sites is irrelevant.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from fedlab.core.registry import Registry
from fedlab.core.rng import stream
from fedlab.core.typing import Floats

SCHEMES = Registry("participation")
STRAGGLING = Registry("straggling")


@dataclass(frozen=True)
class Participants:
    """Participants of one round, as positions of sites in the federation.

    sampled: site -> how often it was sampled. absent: sampled but not available. work: straggler -> the share of its
    steps that it completes. late: stragglers whose update is discarded. failed: sites that drop out after they received
    the model. inclusion: each site's probability (K,) to be sampled and to report.
    """

    sampled: dict[int, int]
    absent: frozenset[int] = frozenset()
    work: dict[int, float] = field(default_factory=dict)
    late: frozenset[int] = frozenset()
    failed: frozenset[int] = frozenset()
    inclusion: Floats | None = None

    @cached_property
    def available(self) -> tuple[int, ...]:
        """Sites that receive the model, ascending."""
        return tuple(k for k in sorted(self.sampled) if k not in self.absent)

    @cached_property
    def reporting(self) -> tuple[int, ...]:
        """Sites whose update counts, ascending."""
        lost = self.failed | self.late
        return tuple(k for k in self.available if k not in lost)


def all_sites(count: int) -> Participants:
    """All sites, with all of their steps."""
    return Participants({k: 1 for k in range(count)})


@dataclass(frozen=True)
class Participation:
    """Rule by which sites take part in rounds.

    Parameters
    ----------
    names : tuple of str
        Names of the K sites.
    shares : ndarray, shape (K,)
        n_k / N, the shares of training cases.
    seed : int
        Seed of all draws.
    participation : str, default "all"
        Sampling scheme: "all", "sample(0.3)", "by_size(0.3)", "unbiased(0.3)".
    availability : float or list of float, default 1.0
        Probability that a sampled site is available, one for all sites or one for each.
    stragglers : float or str, default 0.0
        Probability that a site completes only a part of its steps; with "drop(0.3)" its update is discarded.
    failures : float, default 0.0
        Probability that a site drops out after it received the model.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.federation.participation import Participation
    >>> rule = Participation(("A", "B", "C", "D"), np.full(4, 0.25), seed=0, participation="sample(0.5)")
    >>> len(rule.at(1).available)
    2
    """

    names: tuple[str, ...]
    shares: Floats
    seed: int
    participation: str = "all"
    availability: float | list[float] = 1.0
    stragglers: float | str = 0.0
    failures: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.availability, list) and len(self.availability) != len(self.names):
            raise ValueError(
                f"availability has {len(self.availability)} probabilities for {len(self.names)} sites"
                f" ({', '.join(self.names)}): give one for all or one for each site"
            )

    @property
    def complete(self) -> bool:
        """Whether every site always takes part in full."""
        available = np.all(np.asarray(self.availability) == 1)
        return bool(
            self.participation == "all" and available and not straggling(self.stragglers)[0] and not self.failures
        )

    @property
    def impossible(self) -> bool:
        """Whether no site can ever report: none is available, or all of them fail or are late."""
        slow, drops = straggling(self.stragglers)
        return bool(np.all(np.asarray(self.availability) == 0)) or self.failures == 1 or (drops and slow == 1)

    def at(self, number: int) -> Participants:
        """Participants of round `number`."""
        if self.complete:
            return all_sites(len(self.names))
        function, args, named = SCHEMES.parse(self.participation, given=1)
        sampled, probability = function(Sampling(self.names, self.shares, self.seed, number), *args, **named)
        available = np.broadcast_to(np.asarray(self.availability, float), len(self.names))
        slow, drops = straggling(self.stragglers)
        slow_sites = [k for k in sampled if self._uniform("straggler", k, number) < slow]
        work = {k: self._uniform("straggler's work", k, number) for k in slow_sites}
        return Participants(
            sampled=sampled,
            absent=frozenset(k for k in sampled if self._uniform("availability", k, number) >= available[k]),
            work={} if drops else work,
            late=frozenset(work if drops else ()),
            failed=frozenset(k for k in sampled if self._uniform("failure", k, number) < self.failures),
            inclusion=probability * available * (1 - self.failures) * (1 - slow * drops),
        )

    def _uniform(self, purpose: str, k: int, number: int) -> float:
        """A uniform number of site k in a round."""
        return float(stream(self.seed, purpose, self.names[k], number).random())

    def weights(self, participants: Participants, sites: Sequence[int], site_weights: Floats) -> Floats:
        """Coefficients (m,) of the updates of these sites; site_weights: those of all sites, (K,).

        Renormalised over the sites, except that "by_size" counts how often a site was sampled, and "unbiased" divides
        by the inclusion probability, so that coefficients sum to 1 only in expectation.
        """
        chosen = site_weights[list(sites)]
        scheme = self.participation.split("(")[0]
        if scheme == "by_size":
            chosen = np.array([participants.sampled[k] for k in sites], float)
        if scheme == "unbiased" and participants.inclusion is not None:
            return chosen / participants.inclusion[list(sites)]
        return chosen / chosen.sum() if len(sites) else chosen


@dataclass(frozen=True)
class Sampling:
    """What a scheme samples from: names and shares n_k / N of all sites, seed and round."""

    names: tuple[str, ...]
    shares: Floats
    seed: int
    number: int

    def count(self, share: float) -> int:
        """The number of sites in a share of them, at least one."""
        return max(1, round(fraction("share", share) * len(self.names)))

    def first(self, count: int) -> dict[int, int]:
        """That many sites, all equally likely."""
        keys = [stream(self.seed, "drawn", name, self.number).random() for name in self.names]
        return dict.fromkeys(sorted(np.argsort(keys, kind="stable")[:count].tolist()), 1)


Scheme = Callable[..., tuple[dict[int, int], Floats]]


def every_site(sampling: Sampling) -> tuple[dict[int, int], Floats]:
    """Every site in every round."""
    return sampling.first(len(sampling.names)), np.ones(len(sampling.names))


SCHEMES.add(every_site, "all")


@SCHEMES.add
def sample(sampling: Sampling, share: float = 0.5) -> tuple[dict[int, int], Floats]:
    """A share of the sites without replacement, all equally likely; weights renormalised over them (McMahan 2017).

    Parameters
    ----------
    share : float, default 0.5
        Share of the sites in a round, 0 to 1, at least one site. 1 is "all".

    References
    ----------
    McMahan et al. 2017, arXiv:1602.05629.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(participation="sample(0.3)").participation
    'sample(0.3)'
    """
    count = sampling.count(share)
    return sampling.first(count), np.full(len(sampling.names), count / len(sampling.names))


@SCHEMES.add
def by_size(sampling: Sampling, share: float = 0.5) -> tuple[dict[int, int], Floats]:
    """With replacement, in proportion to size n_k / N; every draw has the same weight (Li 2020, scheme I).

    Parameters
    ----------
    share : float, default 0.5
        Number of draws as a share of the number of sites, 0 to 1, at least one draw.

    References
    ----------
    Li et al. 2020, arXiv:1907.02189.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(participation="by_size(0.3)").participation
    'by_size(0.3)'
    """
    count = sampling.count(share)
    rng = stream(sampling.seed, "drawn by size", sampling.number)
    order = np.argsort(sampling.names)  # so that the order of sites does not matter
    picked = order[rng.choice(len(order), count, p=sampling.shares[order])]
    often = dict(sorted(zip(*(each.tolist() for each in np.unique(picked, return_counts=True)), strict=True)))
    return often, 1 - (1 - sampling.shares) ** count


@SCHEMES.add
def unbiased(sampling: Sampling, share: float = 0.5) -> tuple[dict[int, int], Floats]:
    """As `sample`, with weights p_k / pi_k: in expectation the update of all sites (Horvitz & Thompson 1952).

    pi_k is the probability that site k is sampled, available, in time, and does not fail. Weights may sum to more or
    less than 1 in a round.

    Parameters
    ----------
    share : float, default 0.5
        Share of the sites in a round, 0 to 1, at least one site.

    References
    ----------
    Horvitz & Thompson 1952, doi:10.1080/01621459.1952.10483446.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(participation="unbiased(0.3)").participation
    'unbiased(0.3)'
    """
    return sample(sampling, share)


@STRAGGLING.add
def partial(share: float) -> tuple[float, bool]:
    """Stragglers send what they have done, a uniform share of their steps (Li 2020, arXiv:1812.06127).

    Parameters
    ----------
    share : float
        Probability that a site is a straggler, 0 to 1.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(stragglers="partial(0.3)").stragglers
    'partial(0.3)'
    """
    return fraction("stragglers", share), False


@STRAGGLING.add
def drop(share: float) -> tuple[float, bool]:
    """Stragglers' updates are late and discarded (McMahan 2017, arXiv:1602.05629).

    Parameters
    ----------
    share : float
        Probability that a site is a straggler, 0 to 1.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(stragglers="drop(0.3)").stragglers
    'drop(0.3)'
    """
    return fraction("stragglers", share), True


def straggling(value: float | str) -> tuple[float, bool]:
    """(probability, whether updates are discarded) of what a user wrote: 0.3, "partial(0.3)" or "drop(0.3)"."""
    if isinstance(value, str):
        function, args, named = STRAGGLING.parse(value)
        return function(*args, **named)
    return partial(value)


def fraction(name: str, value: Any) -> float:
    """A number from 0 to 1; ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not (0 <= value <= 1) or math.isnan(value):
        raise ValueError(f"{name} is {value!r}: give a share from 0 to 1")
    return float(value)


def check_participation(text: str) -> None:
    """Refuse a scheme or share that does not exist, before any data is loaded."""
    function, args, named = SCHEMES.parse(text, given=1)
    function(Sampling(("a", "b"), np.full(2, 0.5), 0, 1), *args, **named)
