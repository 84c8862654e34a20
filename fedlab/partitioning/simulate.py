"""Assign cases to simulated sites, split by split, from site sizes and the assignment axes."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.core.arguments import shown
from fedlab.core.rng import stream
from fedlab.core.site_names import site_names
from fedlab.core.typing import Floats, Ints, Names
from fedlab.data.cases import Cases
from fedlab.heterogeneity.log_odds import Levels, LogOdds, Strata, expected_counts, stratify
from fedlab.heterogeneity.population import Preferences
from fedlab.heterogeneity.prevalence import LabelledCases, Prevalence, log_odds, shortfall
from fedlab.heterogeneity.quantity import Quantity, shares, sizes
from fedlab.heterogeneity.site_effects import SiteEffects
from fedlab.partitioning.allocate import allocate, refine

# least cases of a site by split, as multiples of the classes there are; "" is a pool whose splits are still to be made
FLOORS = {"": 5, "train": 2, "val": 1, "test": 1}
TRAINED = ("", "train")
MOST_SITES = 100_000


@dataclass(frozen=True)
class AssignmentAxes:
    """The values of the assignment axes; None where an axis does nothing."""

    quantity: Quantity
    prevalence: Prevalence
    population: Preferences | None = None
    presentation: tuple[Levels, Floats] | None = None


def simulate(cases: Cases, split: Names, effects: SiteEffects, requested: AssignmentAxes) -> tuple[Names, list[str]]:
    """Site name of each case (n,), None for cases left out, and a line on each request that was not reached.

    split: (n,) train, val, test; "" throughout where splits are made afterwards; None for cases of no site. Every split
    is assigned to the same sites with the same odds and proportions, so that a site's test cases resemble its train
    cases. Prevalence and population determine how many cases of each class and level a site gets; presentation then
    determines which.
    """
    names, part = np.array([*site_names(effects.sites), None], object), shares(requested.quantity, effects)
    axes = _count_axes(cases, effects, requested)
    if axes[0].fixes_sizes and np.ptp(part) > 0:
        raise ValueError(
            f"prevalence={requested.prevalence!r} fixes the site sizes: leave `quantity` at 0, found"
            f" {requested.quantity!r}"
        )
    strata = stratify(cases.labels, axes)
    by_dose = not isinstance(requested.quantity, Sequence | np.ndarray) or isinstance(requested.quantity, str)
    site, notes = np.full(len(cases), None, object), []
    for name in [name for name in FLOORS if (split == name).any()]:
        rows = np.flatnonzero(split == name)
        floor = FLOORS[name] * _classes_in(cases, rows) if by_dose else 0
        size = sizes(part, len(rows), floor)
        place = _place(cases, rows, strata, axes, size, name, effects.seed)
        notes += _shortfall(requested.prevalence, axes[0], rows, place) if name in TRAINED else []
        if requested.presentation is not None:
            place = _refine_presentation(cases, rows, strata, place, requested.presentation, name, effects.seed)
        site[rows] = names[place]
        notes += _raised(part, size, floor, name)
    return site, notes + _left_out(site, split, requested.prevalence)


def _count_axes(cases: Cases, effects: SiteEffects, requested: AssignmentAxes) -> list[LogOdds]:
    """The axes that determine how many cases of each class and level a site gets."""
    axes = [log_odds(requested.prevalence, LabelledCases(cases.labels, len(cases.classes), cases.task, effects))]
    if requested.population is not None:
        axes.append(LogOdds(requested.population.levels.of, requested.population.odds))
    return axes


def _place(cases: Cases, rows: Ints, strata: Strata, axes: list[LogOdds], size: Ints, name: str, seed: int) -> Ints:
    """The number of the site of each case; the number of sites for cases left out."""
    pool = np.bincount(strata.of[rows], minlength=len(strata))
    wanted = expected_counts(strata, axes, pool, size, least=2 if name in TRAINED else 0)
    place = allocate(cases.units[rows], strata.of[rows], wanted, stream(seed, "dealing", name))
    if name in TRAINED:
        _check_all_sites_train(place, len(size), len(np.unique(cases.units[rows])))
    return place


def _refine_presentation(
    cases: Cases, rows: Ints, strata: Strata, place: Ints, shown: tuple[Levels, Floats], name: str, seed: int
) -> Ints:
    """Exchange cases between sites within their class and population level."""
    levels, odds = shown
    elsewhere = np.ones((1, odds.shape[1]))  # cases left out have no preference
    rng = stream(seed, "presentation", name)
    return refine(cases.units[rows], strata.of[rows], place, levels.of[rows], np.vstack([odds, elsewhere]), rng)


def site_count(sites: object) -> int:
    """The number of sites as an int; ValueError for anything that is no whole number from 1."""
    if isinstance(sites, bool | np.bool_) or not isinstance(sites, Integral) or sites < 1:
        raise ValueError(
            f"sites is {shown(sites)}: give how many to simulate (1 or more), or the name of a column that holds them"
        )
    if int(sites) > MOST_SITES:
        raise ValueError(f"sites is {shown(sites)}: give at most {MOST_SITES:,}")
    return int(sites)


def _check_all_sites_train(place: Ints, count: int, units: int) -> None:
    found = np.bincount(place, minlength=count)[:count]
    if found.min() == 0:
        raise ValueError(
            f"{(found == 0).sum()} of {count} sites would have no case to train on, with {units} patients or distinct"
            " cases to assign: use fewer sites, a lower dose or more equal sizes"
        )


def _classes_in(cases: Cases, rows: Ints) -> int:
    return 2 if cases.task == "multilabel" else len(np.unique(cases.labels[rows]))


def _raised(part: NDArray[np.float64], size: Ints, floor: int, name: str) -> list[str]:
    low = int((part * size.sum() < min(floor, size.sum() // len(size))).sum())
    if not low:
        return []
    return [f"{low} of {len(size)} sites were raised to {size.min()} {name or 'assigned'} cases: lower `quantity`"]


def _shortfall(prevalence: Prevalence, axis: LogOdds, rows: Ints, place: Ints) -> list[str]:
    """A line where the drawn prevalences were not reached."""
    counts = np.zeros((len(axis.odds) + 1, axis.odds.shape[1]), np.int64)
    np.add.at(counts, (place, axis.levels[rows]), 1)
    return shortfall(prevalence, axis, counts[:-1])


def _left_out(site: Names, split: Names, prevalence: Prevalence) -> list[str]:
    assignable = np.isin(split, list(FLOORS))
    missing = int(pd.isna(site[assignable]).sum())
    return [f"{missing} of {assignable.sum()} cases were left out to meet prevalence={prevalence!r}"] if missing else []
