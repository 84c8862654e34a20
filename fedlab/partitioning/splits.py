"""Train, val and test splits: official ones without leakage, or new ones within each site, whole patients at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.core.registry import nearest
from fedlab.core.rng import stream
from fedlab.core.typing import Names
from fedlab.data.cases import SPLITS, Cases
from fedlab.heterogeneity.raking import largest_remainder
from fedlab.partitioning.allocate import allocate

FRACTIONS = (0.7, 0.1, 0.2)  # of a site's cases, where splits are made
SPLITTING = ("official", "site", "common")
LEAKAGE = ("together", "drop", "allow")


@dataclass(frozen=True)
class Cleared:
    """Split of each case (n,), "" for cases left out, and a line on each thing done about leakage."""

    split: Names
    notes: list[str] = field(default_factory=list)


def given_splits(cases: Cases, splits: str, own: Names | None = None, seed: int = 0) -> Names:
    """Split of each case (n,): the given one, else the official one; all "train" where splits are made afterwards.

    own: (n,) splits given with the sites, "" for cases of no site. "common": splits are made before cases are assigned
    to sites, where there are none.
    """
    if splits == "common" and "split" not in cases.table:
        return make(cases, np.full(len(cases), "all", object), seed)
    if splits == "site" or "split" not in cases.table:
        official = np.full(len(cases), "train", object)
    else:
        official = cases.table["split"].to_numpy(object)
    return official if own is None or splits == "site" else np.where(own == "", official, own)


def external(split: Names, site: Names, out: Sequence[str]) -> Names:
    """The splits (n,) in which all cases of the held-out sites are test cases."""
    return np.where(np.isin(site, out) & (split != ""), "test", split) if len(out) else split


def unless(out: NDArray[np.bool_], values: Names) -> Names:
    """The values (n,), None for cases that are out."""
    kept = values.copy()
    kept[out] = None
    return kept


def clear(cases: Cases, split: Names, used: NDArray[np.bool_], leakage: str) -> Cleared:
    """Remove leakage: no unit (patient, or byte-identical images) is in two splits, unless `leakage` allows it.

    split: (n,) as given. used: (n,) cases that will be trained or evaluated on. "together": a unit in train and val
    goes to train, one that touches test is refused with ValueError. "drop": such units stay in test, else in train, and
    their other cases are left out, as are surplus copies of an image. "allow": as given.
    """
    if leakage not in LEAKAGE:
        raise ValueError(f"leakage is {leakage!r}: {nearest(str(leakage), LEAKAGE)}")
    if leakage == "allow":
        return Cleared(split)
    present = {name: np.isin(cases.units, cases.units[used & (split == name)]) for name in SPLITS}
    if leakage == "drop":
        return _drop(cases, split, used, present)
    both = used & present["test"] & (present["train"] | present["val"])
    if both.any():
        raise ValueError(
            f"{len(np.unique(cases.units[both]))} patients or identical images are both in test and in train or val"
            f" (first: case {cases.table['case'][both].iloc[0]!r}): give leakage='drop' to leave the other copies out,"
            f" leakage='allow' to keep them as published, or splits='site' for new splits"
        )
    moved = used & present["train"] & (split == "val")
    notes = (
        [f"{moved.sum()} val cases went to train, where images of the same patient, or copies of theirs, are"]
        if moved.any()
        else []
    )
    return Cleared(np.where(moved, "train", split), notes)


def _drop(cases: Cases, split: Names, used: NDArray[np.bool_], present: dict[str, NDArray[np.bool_]]) -> Cleared:
    leaking = (present["test"] & (split != "test")) | (present["train"] & (split == "val"))
    kept = used & ~leaking
    copies = np.zeros(len(split), bool)
    copies[kept] = pd.Series(cases.pixel_hashes[kept]).duplicated()
    out = used & (leaking | copies)
    notes = (
        [f"{out.sum()} cases were left out: on the other side of a split, or copies of an image"] if out.any() else []
    )
    return Cleared(np.where(out, "", split), notes)


def make(cases: Cases, site: Names, seed: int, out: Sequence[str] = ()) -> Names:
    """Make splits (n,) of 70/10/20 % within each site, stratified by label, units whole; "" where site is None.

    A unit at several sites is split once, at the first of them; with a case at a held-out site (out) it is all test.
    The draw does not depend on the sites' names.
    """
    rows = np.flatnonzero(pd.notna(site))
    rows = rows[np.argsort(~np.isin(site[rows], out), kind="stable")]
    first, of = np.unique(cases.units[rows], return_index=True, return_inverse=True)[1:]
    home = site[rows[first]][of]
    split = np.full(len(site), "", object)
    for members in pd.Series(rows).groupby(home).indices.values():
        here = rows[members]
        if home[members[0]] in out:
            split[here] = "test"
            continue
        rng = stream(seed, "splits", str(cases.table["case"].iloc[here[0]]))
        strata, pool = np.unique(cases.labels[here], return_inverse=True, return_counts=True)[1:]
        sizes = largest_remainder(np.array(FRACTIONS), len(here))
        place = allocate(cases.units[here], strata.reshape(-1), np.outer(sizes, pool) / len(here), rng)
        split[here] = np.array(SPLITS, object)[place]
    return split
