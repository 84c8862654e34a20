"""Simulated institutions: sites for cases, split by split, from site sizes and the assignment axes."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.core.rng import stream
from fedlab.core.site_names import site_names
from fedlab.core.typing import Floats, Ints, Names
from fedlab.data.cases import Cases
from fedlab.heterogeneity.levels import Levels
from fedlab.heterogeneity.odds import LogOdds, Strata, stratify, wanted_table
from fedlab.heterogeneity.population import Choice
from fedlab.heterogeneity.prevalence import Labelled, Prevalence, shortfall, tilt
from fedlab.heterogeneity.quantity import Quantity, shares, sizes
from fedlab.heterogeneity.site_coordinates import SiteEffects
from fedlab.partitioning.allocate import deal, refine

# least cases of a site by split, as multiples of the classes there are; "" is a pool whose splits are still to be made
FLOORS = {"": 5, "train": 2, "val": 1, "test": 1}
TRAINED = ("", "train")


@dataclass(frozen=True)
class AssignmentAxes:
    """What the assignment axes are to do; None where an axis does nothing."""

    quantity: Quantity
    prevalence: Prevalence
    population: Choice | None = None
    presentation: tuple[Levels, Floats] | None = None


def simulate(cases: Cases, split: Names, atlas: SiteEffects, asked: AssignmentAxes) -> tuple[Names, list[str]]:
    """Site name of each case (n,), None for cases left out, and what did not come true, a line each.

    split: (n,) train, val, test; "" throughout where splits are made afterwards; None for cases that are not dealt.
    Every split is dealt to the same sites with the same odds and proportions, so that a site's test cases resemble its
    train cases. Prevalence and population say how many of each class and level a site gets; presentation then says
    which.
    """
    names, part = np.array([*site_names(atlas.sites), None], object), shares(asked.quantity, atlas)
    tilts = _tilts(cases, atlas, asked)
    if tilts[0].own_sizes and np.ptp(part) > 0:
        raise ValueError(
            f"prevalence={asked.prevalence!r} fixes the site sizes: leave `quantity` at 0, found {asked.quantity!r}"
        )
    strata = stratify(cases.labels, tilts)
    by_dose = not isinstance(asked.quantity, Sequence | np.ndarray) or isinstance(asked.quantity, str)
    site, notes = np.full(len(cases), None, object), []
    for name in [name for name in FLOORS if (split == name).any()]:
        rows = np.flatnonzero(split == name)
        floor = FLOORS[name] * _classes_in(cases, rows) if by_dose else 0
        size = sizes(part, len(rows), floor)
        place = _place(cases, rows, strata, tilts, size, name, atlas.seed)
        notes += _afar(asked.prevalence, tilts[0], rows, place) if name in TRAINED else []
        if asked.presentation is not None:
            place = _presented(cases, rows, strata, place, asked.presentation, name, atlas.seed)
        site[rows] = names[place]
        notes += _raised(part, size, floor, name)
    return site, notes + _left_out(site, split, asked.prevalence)


def _tilts(cases: Cases, atlas: SiteEffects, asked: AssignmentAxes) -> list[LogOdds]:
    """The axes that say how many of what a site gets."""
    tilts = [tilt(asked.prevalence, Labelled(cases.labels, len(cases.classes), cases.task, atlas))]
    if asked.population is not None:
        tilts.append(LogOdds(asked.population.levels.of, asked.population.odds))
    return tilts


def _place(cases: Cases, rows: Ints, strata: Strata, tilts: list[LogOdds], size: Ints, name: str, seed: int) -> Ints:
    """The number of each case's site; that of no site for cases left out."""
    pool = np.bincount(strata.of[rows], minlength=len(strata))
    wanted = wanted_table(strata, tilts, pool, size, least=2 if name in TRAINED else 0)
    place = deal(cases.units[rows], strata.of[rows], wanted, stream(seed, "dealing", name))
    if name in TRAINED:
        _check_everyone_trains(place, len(size), len(np.unique(cases.units[rows])))
    return place


def _presented(
    cases: Cases, rows: Ints, strata: Strata, place: Ints, shown: tuple[Levels, Floats], name: str, seed: int
) -> Ints:
    """Cases change places within their class and population level."""
    levels, odds = shown
    elsewhere = np.ones((1, odds.shape[1]))  # cases left out lean nowhere
    rng = stream(seed, "presentation", name)
    return refine(cases.units[rows], strata.of[rows], place, levels.of[rows], np.vstack([odds, elsewhere]), rng)


def site_count(sites: object) -> int:
    """A whole number of sites; ValueError for anything else."""
    if isinstance(sites, bool | np.bool_) or not isinstance(sites, Integral) or sites < 1:
        raise ValueError(
            f"sites is {sites!r}: give how many to simulate (1 or more), or the name of a column that holds them"
        )
    return int(sites)


def _check_everyone_trains(place: Ints, count: int, units: int) -> None:
    found = np.bincount(place, minlength=count)[:count]
    if found.min() == 0:
        raise ValueError(
            f"{(found == 0).sum()} of {count} sites would have no case to train on, with {units} patients or distinct"
            f" cases to deal: ask for fewer sites, a lower dose or more equal sizes"
        )


def _classes_in(cases: Cases, rows: Ints) -> int:
    return 2 if cases.task == "multilabel" else len(np.unique(cases.labels[rows]))


def _raised(part: NDArray[np.float64], size: Ints, floor: int, name: str) -> list[str]:
    low = int((part * size.sum() < min(floor, size.sum() // len(size))).sum())
    if not low:
        return []
    return [f"{low} of {len(size)} sites were raised to {size.min()} {name or 'dealt'} cases: lower `quantity`"]


def _afar(prevalence: Prevalence, axis: LogOdds, rows: Ints, place: Ints) -> list[str]:
    """A line where a draw of prevalences came true only from afar."""
    counts = np.zeros((len(axis.odds) + 1, axis.odds.shape[1]), np.int64)
    np.add.at(counts, (place, axis.levels[rows]), 1)
    return shortfall(prevalence, axis, counts[:-1])


def _left_out(site: Names, split: Names, prevalence: Prevalence) -> list[str]:
    dealt = np.isin(split, list(FLOORS))
    gone = int(pd.isna(site[dealt]).sum())
    return [f"{gone} of {dealt.sum()} cases were left out to meet prevalence={prevalence!r}"] if gone else []
