"""Who takes part in a round: which sites are drawn, which of them are there, how much they do, and who fails.

A pure function of (seed, round, site), so that a resumed run meets the same absences and the order of sites decides
nothing.
"""

import math
from collections.abc import Callable
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
    """One round's participants, as positions in the federation's sites, ascending.

    drawn: asked to take part, and how often. absent: drawn but not there. work: the share of its steps that a straggler
    does. late: stragglers whose work comes too late to count. failed: sites that broke off after they got the model.
    arrival: each site's probability to be drawn and to answer, (K,).
    """

    drawn: dict[int, int]
    absent: frozenset[int] = frozenset()
    work: dict[int, float] = field(default_factory=dict)
    late: frozenset[int] = frozenset()
    failed: frozenset[int] = frozenset()
    arrival: Floats | None = None

    @cached_property
    def present(self) -> tuple[int, ...]:
        """Sites that were drawn and are there."""
        return tuple(k for k in sorted(self.drawn) if k not in self.absent)

    @cached_property
    def answering(self) -> tuple[int, ...]:
        """Sites whose work counts."""
        lost = self.failed | self.late
        return tuple(k for k in self.present if k not in lost)


def everybody(sites: int) -> Participants:
    """All sites, all of their work."""
    return Participants({k: 1 for k in range(sites)})


@dataclass(frozen=True)
class Participation:
    """The rule by which sites take part.

    participation: "all", "sample(0.3)", ... (SCHEMES). availability: the probability that a drawn site is there, one
    for all or one a site. stragglers: the probability of partial work, or "drop(0.3)" where it then does not count.
    failures: the probability that a site breaks off.
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
                f"availability holds {len(self.availability)} probabilities for {len(self.names)} sites"
                f" ({', '.join(self.names)}): give one for all or one a site"
            )

    @property
    def complete(self) -> bool:
        """Whether every site always takes part in full."""
        present = np.all(np.asarray(self.availability) == 1)
        return bool(
            self.participation == "all" and present and not straggling(self.stragglers)[0] and not self.failures
        )

    def at(self, number: int) -> Participants:
        """Who takes part in round `number`."""
        if self.complete:
            return everybody(len(self.names))
        function, args, knobs = SCHEMES.parse(self.participation, given=1)
        drawn, probability = function(Sampling(self.names, self.shares, self.seed, number), *args, **knobs)
        present = np.broadcast_to(np.asarray(self.availability, float), len(self.names))
        slow, drops = straggling(self.stragglers)
        work = {
            k: self._chance("straggler's work", k, number) for k in drawn if self._chance("straggler", k, number) < slow
        }
        return Participants(
            drawn,
            frozenset(k for k in drawn if self._chance("availability", k, number) >= present[k]),
            {} if drops else work,
            frozenset(work if drops else ()),
            frozenset(k for k in drawn if self._chance("failure", k, number) < self.failures),
            probability * present * (1 - self.failures) * (1 - slow * drops),
        )

    def _chance(self, what: str, k: int, number: int) -> float:
        return float(stream(self.seed, what, self.names[k], number).random())

    def weights(self, turnout: Participants, who: tuple[int, ...], of_all: Floats) -> Floats:
        """The coefficient of each of these sites' updates, (m,); of_all: the weights of all sites, (K,).

        n_k / N renormalised, or what the scheme says: "by_size" counts how often a site was drawn, "unbiased" divides
        by the probability of arrival, so that the coefficients sum to 1 only in expectation.
        """
        chosen = of_all[list(who)]
        scheme = self.participation.split("(")[0]
        if scheme == "by_size":
            chosen = np.array([turnout.drawn[k] for k in who], float)
        if scheme == "unbiased" and turnout.arrival is not None:
            return chosen / turnout.arrival[list(who)]
        return chosen / chosen.sum() if len(who) else chosen


@dataclass(frozen=True)
class Sampling:
    """What a scheme draws from: names and shares n_k / N of all sites."""

    names: tuple[str, ...]
    shares: Floats
    seed: int
    number: int

    def count(self, share: float) -> int:
        """How many sites a share of them is, at least one."""
        return max(1, round(fraction("share", share) * len(self.names)))

    def first(self, count: int) -> dict[int, int]:
        """That many sites, all equally likely."""
        keys = [stream(self.seed, "drawn", name, self.number).random() for name in self.names]
        return dict.fromkeys(sorted(np.argsort(keys, kind="stable")[:count].tolist()), 1)


Scheme = Callable[..., tuple[dict[int, int], Floats]]


def everyone(draw: Sampling) -> tuple[dict[int, int], Floats]:
    """Every site in every round."""
    return draw.first(len(draw.names)), np.ones(len(draw.names))


SCHEMES.add(everyone, "all")


@SCHEMES.add
def sample(draw: Sampling, share: float = 0.5) -> tuple[dict[int, int], Floats]:
    """A share of the sites, all equally likely; weights renormalised over them (McMahan 2017)."""
    count = draw.count(share)
    return draw.first(count), np.full(len(draw.names), count / len(draw.names))


@SCHEMES.add
def by_size(draw: Sampling, share: float = 0.5) -> tuple[dict[int, int], Floats]:
    """With replacement and by size n_k / N; every draw counts alike (Li 2020, arXiv:1907.02189, scheme I)."""
    count = draw.count(share)
    rng = stream(draw.seed, "drawn by size", draw.number)
    order = np.argsort(draw.names)  # so that the order of sites does not matter
    picked = order[rng.choice(len(order), count, p=draw.shares[order])]
    often = dict(sorted(zip(*(each.tolist() for each in np.unique(picked, return_counts=True)), strict=True)))
    return often, 1 - (1 - draw.shares) ** count


@SCHEMES.add
def unbiased(draw: Sampling, share: float = 0.5) -> tuple[dict[int, int], Floats]:
    """As `sample`, with weights p_k / pi_k: the update of all sites in expectation (Horvitz & Thompson 1952)."""
    return sample(draw, share)


@STRAGGLING.add
def partial(share: float) -> tuple[float, bool]:
    """Stragglers send what they have done, a uniform share of their steps (Li 2020, arXiv:1812.06127)."""
    return fraction("stragglers", share), False


@STRAGGLING.add
def drop(share: float) -> tuple[float, bool]:
    """Stragglers' work comes too late and does not count (McMahan 2017)."""
    return fraction("stragglers", share), True


def straggling(value: float | str) -> tuple[float, bool]:
    """(probability, whether stragglers are dropped) of what a user wrote: 0.3, "partial(0.3)" or "drop(0.3)"."""
    if isinstance(value, str):
        function, args, knobs = STRAGGLING.parse(value)
        return function(*args, **knobs)
    return partial(value)


def fraction(name: str, value: Any) -> float:
    """A number from 0 to 1; ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not (0 <= value <= 1) or math.isnan(value):
        raise ValueError(f"{name} is {value!r}: give a share from 0 to 1")
    return float(value)


def check_participation(text: str) -> None:
    """Refuse a scheme or share that does not exist, before any data is loaded."""
    function, args, knobs = SCHEMES.parse(text, given=1)
    function(Sampling(("a", "b"), np.full(2, 0.5), 0, 1), *args, **knobs)
