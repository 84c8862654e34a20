"""How partitions are made: cases dealt to simulated sites, or given ones, and what differs between the sites."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.core.registry import nearest
from fedlab.core.site_names import natural, site_names
from fedlab.core.typing import Names
from fedlab.core.warnings import HeterogeneityWarning, LeakageWarning, warn
from fedlab.data.cases import Cases
from fedlab.heterogeneity import annotation, population, presentation
from fedlab.heterogeneity.acquisition import scanner
from fedlab.heterogeneity.axes import AXES
from fedlab.heterogeneity.geography import atlas_of, region_names
from fedlab.heterogeneity.prevalence import Prevalence
from fedlab.heterogeneity.quantity import Quantity
from fedlab.heterogeneity.site_coordinates import SiteEffects
from fedlab.partitioning.explicit import Explicit, read_sites
from fedlab.partitioning.holdout import Unseen, held_out
from fedlab.partitioning.partitions import Partition
from fedlab.partitioning.simulate import AssignmentAxes, simulate, site_count
from fedlab.partitioning.splits import Cleared, clear, given_splits, make, unless

ASSIGNING = ("quantity", "prevalence", "presentation", "population", "geography")  # who gets which case
RESERVED = (
    "",
    "server",
    "global",
    "global, own statistics",
    "all sites",
    "unassigned",
    "pooled",
    "mean of sites",
    "worst site",
)


def partition(
    cases: Cases,
    sites: int | str = 4,
    *,
    quantity: Quantity = 0.0,
    prevalence: Prevalence = 0.0,
    presentation: float | str = 0.0,
    population: float | str = 0.0,
    acquisition: float | str | Sequence[str] = 0.0,
    annotation: float | str = 0.0,
    geography: float | str = 0.0,
    unseen: Unseen = 0,
    seed: int = 0,
    splits: str = "official",
    leakage: str = "together",
    **unknown: object,
) -> Partition:
    """Deal cases to simulated sites with controlled heterogeneity; see `fedlab.AXES` for what each axis may be.

    sites: how many, or the column of the cases' table that holds real ones. unseen: how many whole sites, or which
    sites or regions, are held out of training. splits: "official" deals each official split to the same sites (made
    within each site where the cases have none); "site" makes 70/10/20 within each site. leakage: what to do with units
    on both sides of an official split, see `clear`. Raises ValueError for what cannot be done.
    """
    for name in unknown:
        raise TypeError(f"partition has no axis or argument {name!r}: {nearest(name, ARGUMENTS)}")
    given = (quantity, prevalence, presentation, population, acquisition, annotation, geography)
    axes = {axis: _plain(value) for axis, value in zip(AXES, given, strict=True)}
    if isinstance(sites, str):
        _refuse_with_column(sites, {axis: axes[axis] for axis in ASSIGNING})
        rest: dict[str, Any] = {"acquisition": acquisition, "annotation": annotation, "unseen": unseen}
        return from_sites(cases, sites, splits=splits, seed=seed, leakage=leakage, **rest)
    count = site_count(sites)
    spec = _settings(cases, seed, splits, leakage, False) | {"sites": count, **axes, "unseen": _plain(unseen)}
    official = given_splits(cases, spec["splits"])
    cleared = clear(cases, official, np.ones(len(cases), bool), leakage)
    pools = cleared.split if spec["splits"] == "official" else np.full(len(cases), "", object)
    atlas = atlas_of(geography, count, spec["seed"])
    asked = _asked(cases, atlas, quantity, prevalence, population, presentation)
    site, notes = simulate(cases, unless(cleared.split == "", pools), atlas, asked)
    return _finish(cases, site, cleared, spec, notes, atlas, asked)


ARGUMENTS = [name for name in inspect.signature(partition).parameters if name not in ("cases", "unknown")]


def from_sites(
    cases: Cases,
    sites: Explicit,
    *,
    splits: str = "official",
    acquisition: float | str | Sequence[str] = 0.0,
    annotation: float | str = 0.0,
    unseen: Unseen = 0,
    seed: int = 0,
    leakage: str = "together",
) -> Partition:
    """Any explicit assignment, e.g. real hospitals; see `read_sites` for the forms it may take.

    splits: "official", the split of `sites` or else of the cases (made within each site where there is none), or
    "site", 70/10/20 within each site. leakage: see `clear`; test cases of no site count as test.
    """
    site, own = read_sites(cases, sites)
    spec = _settings(cases, seed, splits, leakage, own is not None)
    spec |= {"sites": sites if isinstance(sites, str) else "explicit", "acquisition": _plain(acquisition)}
    spec |= {"annotation": annotation, "unseen": _plain(unseen)}
    official = given_splits(cases, spec["splits"], own)
    cleared = clear(cases, official, pd.notna(site) | (official == "test"), leakage)
    return _finish(cases, unless(cleared.split == "", site), cleared, spec, [])


def _asked(cases: Cases, atlas: SiteEffects, quantity: Any, prevalence: Any, people: Any, shown: Any) -> AssignmentAxes:
    """The assignment axes, each understood for these cases."""
    return AssignmentAxes(
        quantity, prevalence, population.lean(people, cases, atlas), presentation.lean(shown, cases, atlas)
    )


def _finish(
    cases: Cases,
    site: Names,
    cleared: Cleared,
    spec: dict[str, Any],
    notes: list[str],
    atlas: SiteEffects | None = None,
    asked: AssignmentAxes | None = None,
) -> Partition:
    """The partition of cases with a site, once every site can train; warns of what cannot be measured."""
    split = make(cases, site, spec["seed"]) if spec["splits"] == "site" else cleared.split
    dealt = pd.notna(site)
    if not dealt.any():
        raise ValueError("no case belongs to a site: give at least one site some cases")
    names = _names(site[dealt], atlas)
    atlas = atlas or SiteEffects(len(names), spec["seed"])
    table = pd.DataFrame({"case": cases.table["case"][dealt], "site": site[dealt], "split": split[dealt]})
    spec["notes"] = cleared.notes + notes
    part = _equipped(cases, table.reset_index(drop=True), spec, names, atlas, asked)
    _check_training(part)
    if cleared.notes:
        warn("; ".join(cleared.notes), LeakageWarning)
    if shortfalls := notes + _missing(part):
        warn("; ".join(shortfalls), HeterogeneityWarning)
    return part


def _equipped(
    cases: Cases,
    table: pd.DataFrame,
    spec: dict[str, Any],
    names: list[str],
    atlas: SiteEffects,
    asked: AssignmentAxes | None,
) -> Partition:
    """The partition with each site's scanner and readers, and whatever else belongs to a case."""
    regions = region_names(atlas, names)
    choice = asked.population if asked is not None else None
    covariate = choice.covariate if choice is not None else None
    if choice is not None:
        spec["causes"] = choice.causes
    scanners = scanner.draw(names, spec["acquisition"], atlas, cases)
    readers = annotation.draw(spec["annotation"], cases, names, atlas)
    bare = Partition(cases, table, spec)
    if covariate is not None and choice is not None:
        table = table.assign(covariate=choice.levels.of[bare.rows])
    if readers and cases.task != "segmentation":
        table = table.assign(annotated=_annotated(bare, readers))
    unseen = held_out(spec["unseen"], names, regions)
    return Partition(cases, table, spec, scanners, readers, regions, unseen, covariate)


def _annotated(part: Partition, readers: dict[str, annotation.Annotator]) -> NDArray[np.int64]:
    """(dealt,) the label that the readers of each case's site wrote."""
    labels = part.cases.labels.copy()
    for site in part.sites:
        for split in ("train", "val", "test"):
            rows = part.index(site, split)
            labels[rows] = readers[site].mark(part.cases, rows)
    return labels[part.rows]


def _names(site: Names, atlas: SiteEffects | None) -> list[str]:
    """Names of the sites, in natural order; all that were asked for, though one may hold no case."""
    names = sorted(set(site), key=natural) if atlas is None else site_names(atlas.sites)
    if taken := [name for name in names if name.strip() in RESERVED]:
        raise ValueError(f"a site is called {taken[0]!r}, which means something else in every table: rename it")
    return names


def _check_training(part: Partition) -> None:
    without = [name for name in part.sites if name not in part.unseen and not len(part.index(name, "train"))]
    if without:
        raise ValueError(
            f"{', '.join(without)} would have no training case: ask for fewer sites or a lower dose, or leave it out"
        )


def _missing(part: Partition) -> list[str]:
    """A line on the classes that sites lack in train or test, or none."""
    gaps = []
    for split in ("train", "test"):
        counts = part.counts(split)
        for site, row in counts.iterrows() if counts.to_numpy().any() else ():
            gaps += [f"{site} has no {name} in {split}" for name in row.index[row == 0]]
    if not gaps:
        return []
    shown = ", ".join(gaps[:4]) + (f" and {len(gaps) - 4} more" if len(gaps) > 4 else "")
    return [f"{shown}: metrics that need these classes are undefined there and left out of means"]


def _settings(cases: Cases, seed: int, splits: str, leakage: str, own: bool) -> dict[str, Any]:
    if not isinstance(cases, Cases):
        raise ValueError(f"cases is {cases!r}: give the cases themselves, e.g. fedlab.load('phantoms')")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise ValueError(f"seed is {seed!r}: give a whole number")
    if splits not in ("official", "site"):
        raise ValueError(f"splits is {splits!r}: {nearest(str(splits), ('official', 'site'))}")
    used = splits if own or "split" in cases.table else "site"
    return {"seed": int(seed), "splits": used, "leakage": leakage}


def _refuse_with_column(column: str, axes: dict[str, object]) -> None:
    for axis, value in axes.items():
        if not (isinstance(value, int | float) and value == 0):
            raise ValueError(f"sites come from column {column!r}: leave {axis} at 0, found {value!r}")


def _plain(value: Any) -> Any:
    """JSON-able."""
    if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str):
        return [_plain(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value
