"""Simulated institutions: sites for cases, split by split, from site sizes and the assignment axes."""

from collections.abc import Sequence
from numbers import Integral

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.cases import Cases
from fedlab.heterogeneity.coordinates import Atlas
from fedlab.heterogeneity.dealing import deal
from fedlab.heterogeneity.naming import site_names
from fedlab.heterogeneity.prevalence import Labelled, Prevalence, tilt
from fedlab.heterogeneity.quantity import Quantity, shares, sizes
from fedlab.heterogeneity.tilt import stratify, wanted_table
from fedlab.randomness import stream

# least cases of a site by split, as multiples of the classes there are; "" is a pool whose splits are still to be made
FLOORS = {"": 5, "train": 2, "val": 1, "test": 1}
TRAINED = ("", "train")

Ids = NDArray[np.int64]
Names = NDArray[np.object_]


def simulate(
    cases: Cases, split: Names, count: int, quantity: Quantity, prevalence: Prevalence, seed: int
) -> tuple[Names, list[str]]:
    """Site name of each case (n,), None for cases left out, and what did not come true, a line each.

    split: (n,) train, val, test; "" throughout where splits are made afterwards; None for cases that are not dealt.
    Every split is dealt to the same sites with the same odds and proportions, so that a site's test cases resemble its
    train cases.
    """
    names, part = np.array([*site_names(count), None], object), shares(quantity, Atlas(count, seed))
    tilts = [tilt(prevalence, Labelled(cases.labels, len(cases.classes), cases.task, Atlas(count, seed)))]
    if tilts[0].own_sizes and np.ptp(part) > 0:
        raise ValueError(f"prevalence={prevalence!r} fixes the site sizes: leave `quantity` at 0, found {quantity!r}")
    strata = stratify(cases.labels, tilts)
    by_dose = not isinstance(quantity, Sequence | np.ndarray)
    site, notes = np.full(len(cases), None, object), []
    for name in [name for name in FLOORS if (split == name).any()]:
        rows = np.flatnonzero(split == name)
        floor = FLOORS[name] * _classes_in(cases, rows) if by_dose else 0
        size = sizes(part, len(rows), floor)
        pool = np.bincount(strata.of[rows], minlength=len(strata))
        wanted = wanted_table(strata, tilts, pool, size, least=2 if name in TRAINED else 0)
        place = deal(cases.units[rows], strata.of[rows], wanted, stream(seed, "dealing", name))
        if name in TRAINED:
            _check_everyone_trains(place, count, len(np.unique(cases.units[rows])))
        site[rows] = names[place]
        notes += _raised(part, size, floor, name)
    return site, notes + _left_out(site, split, prevalence)


def site_count(sites: object) -> int:
    """A whole number of sites; ValueError for anything else."""
    if isinstance(sites, bool | np.bool_) or not isinstance(sites, Integral) or sites < 1:
        raise ValueError(
            f"sites is {sites!r}: give how many to simulate (1 or more), or the name of a column that holds them"
        )
    return int(sites)


def _check_everyone_trains(place: Ids, count: int, units: int) -> None:
    found = np.bincount(place, minlength=count)[:count]
    if found.min() == 0:
        raise ValueError(
            f"{(found == 0).sum()} of {count} sites would have no case to train on, with {units} patients or distinct"
            f" cases to deal: ask for fewer sites, a lower dose or more equal sizes"
        )


def _classes_in(cases: Cases, rows: Ids) -> int:
    return 2 if cases.task == "multilabel" else len(np.unique(cases.labels[rows]))


def _raised(part: NDArray[np.float64], size: Ids, floor: int, name: str) -> list[str]:
    low = int((part * size.sum() < min(floor, size.sum() // len(size))).sum())
    if not low:
        return []
    return [f"{low} of {len(size)} sites were raised to {size.min()} {name or 'dealt'} cases: lower `quantity`"]


def _left_out(site: Names, split: Names, prevalence: Prevalence) -> list[str]:
    dealt = np.isin(split, list(FLOORS))
    gone = int(pd.isna(site[dealt]).sum())
    return [f"{gone} of {dealt.sum()} cases were left out to meet prevalence={prevalence!r}"] if gone else []
