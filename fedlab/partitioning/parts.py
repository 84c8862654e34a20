"""The parts of a partition as plain values: cases assigned to simulated or given sites, and how these sites differ."""

from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, TypedDict

import numpy as np
import pandas as pd

from fedlab.core.registry import nearest
from fedlab.core.site_names import natural, site_names
from fedlab.core.typing import Ints, Names
from fedlab.core.warnings import HeterogeneityWarning, LeakageWarning, warn
from fedlab.data.cases import SPLITS, Cases
from fedlab.data.columns import doubts
from fedlab.data.per_case import shown
from fedlab.heterogeneity import annotation, population, presentation
from fedlab.heterogeneity.acquisition import scanner
from fedlab.heterogeneity.covariates import lost_order
from fedlab.heterogeneity.geography import draw_site_effects, region_names
from fedlab.heterogeneity.site_effects import SiteEffects
from fedlab.partitioning.assignment import class_counts, group_rows, rows_of
from fedlab.partitioning.explicit import Explicit, read_sites
from fedlab.partitioning.holdout import Unseen, held_out
from fedlab.partitioning.simulate import AssignmentAxes, simulate
from fedlab.partitioning.splits import SPLITTING, Cleared, clear, external, given_splits, make, unless

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


class Parts(TypedDict):
    """The fields of a `Partition`, under their names."""

    cases: Cases
    table: pd.DataFrame
    spec: dict[str, Any]
    scanners: dict[str, scanner.Scanner]
    annotators: dict[str, annotation.Annotator]
    regions: dict[str, str]
    unseen: tuple[str, ...]
    covariate: population.Covariate | None


def simulated_parts(
    cases: Cases, count: int, axes: dict[str, Any], unseen: Unseen, seed: int, splits: str, leakage: str
) -> Parts:
    """Assign cases to `count` simulated sites; axes: the value of each axis in `fedlab.AXES`."""
    spec = _settings(cases, seed, splits, leakage, False) | {"sites": count}
    spec |= {axis: as_json(value) for axis, value in axes.items()} | {"unseen": as_json(unseen)}
    official = given_splits(cases, spec["splits"], seed=spec["seed"])
    cleared = clear(cases, official, np.ones(len(cases), bool), leakage)
    pools = np.full(len(cases), "", object) if spec["splits"] == "site" else cleared.split
    effects, names = draw_site_effects(axes["geography"], count, spec["seed"]), site_names(count)
    out = held_out(unseen, names, region_names(effects, names))
    requested = AssignmentAxes(
        axes["quantity"],
        axes["prevalence"],
        population.preferences(axes["population"], cases, effects),
        presentation.preferences(axes["presentation"], cases, effects),
    )
    pools = unless(cleared.split == "", pools)
    if spec["splits"] == "common":
        site, notes = _with_common_test_cases(cases, pools, effects, requested, out)
    else:
        site, notes = simulate(cases, pools, effects, requested)
        cleared = replace(cleared, split=external(cleared.split, site, out))
    notes += _one_class(cases, requested) + _doubts_about_columns(cases, requested)
    return _finish(cases, site, cleared, spec, notes, out, effects, requested.population)


def _with_common_test_cases(
    cases: Cases, pools: Names, effects: SiteEffects, requested: AssignmentAxes, out: tuple[str, ...]
) -> tuple[Names, list[str]]:
    """Sites (n,) and notes, as `simulate`, with test cases assigned at random whatever the axes are.

    Held-out sites have these test cases alone.
    """
    tested = pools == "test"
    site, notes = simulate(cases, unless(tested, pools), effects, requested)
    common, _ = simulate(cases, unless(~tested, pools), effects, AssignmentAxes(0.0, 0.0))
    site = unless(np.isin(site, out), site) if len(out) else site
    return np.where(tested, common, site), notes


def explicit_parts(
    cases: Cases,
    sites: Explicit,
    splits: str,
    acquisition: float | str | Sequence[str],
    annotation: float | str,
    unseen: Unseen,
    seed: int,
    leakage: str,
) -> Parts:
    """Take over an explicit assignment; test cases of no site count as test cases when leakage is looked for."""
    if splits == "common":
        raise ValueError(
            "splits='common' spreads test cases over simulated sites, but these sites are given: choose 'official' or"
            " 'site'"
        )
    site, own, notes = read_sites(cases, sites)
    spec = _settings(cases, seed, splits, leakage, own is not None)
    spec |= {"sites": sites if isinstance(sites, str) else "explicit", "acquisition": as_json(acquisition)}
    spec |= {"annotation": as_json(annotation), "unseen": as_json(unseen)}
    names = sorted(set(site[pd.notna(site)]), key=natural)
    out = held_out(unseen, names, {}) if names else ()
    official = given_splits(cases, spec["splits"], own)
    if spec["splits"] == "official":
        official = external(official, site, out)
    cleared = clear(cases, official, pd.notna(site) | (official == "test"), leakage)
    return _finish(cases, unless(cleared.split == "", site), cleared, spec, notes, out)


def _finish(
    cases: Cases,
    site: Names,
    cleared: Cleared,
    spec: dict[str, Any],
    notes: list[str],
    out: tuple[str, ...],
    effects: SiteEffects | None = None,
    choice: population.Preferences | None = None,
) -> Parts:
    """Build the parts, check that every site can train, and warn of what cannot be measured. out: held-out sites."""
    split = make(cases, site, spec["seed"], out) if spec["splits"] == "site" else cleared.split
    assigned = pd.notna(site)
    away = np.isin(site, out)
    if spec["splits"] == "site" and (both := assigned & ~away & np.isin(cases.units, cases.units[away])).any():
        notes = [*notes, f"{both.sum()} cases became test cases, since their patient is at a held-out site, too"]
    if not assigned.any():
        raise ValueError("no case belongs to a site: give at least one site some cases")
    rows = np.flatnonzero(assigned)
    names = _names(site[rows], effects)
    effects = effects or SiteEffects(len(names), spec["seed"])
    table = pd.DataFrame({"case": cases.table["case"].take(rows), "site": site[rows], "split": split[rows]})
    spec["notes"] = cleared.notes + notes
    parts = _with_site_effects(cases, table.reset_index(drop=True), rows, spec, names, out, effects, choice)
    _check_training(parts, names)
    if cleared.notes:
        warn("; ".join(cleared.notes), LeakageWarning)
    if shortfalls := notes + _missing(parts, rows, names):
        warn("; ".join(shortfalls), HeterogeneityWarning)
    return parts


def _with_site_effects(
    cases: Cases,
    table: pd.DataFrame,
    rows: Ints,
    spec: dict[str, Any],
    names: list[str],
    out: tuple[str, ...],
    effects: SiteEffects,
    choice: population.Preferences | None,
) -> Parts:
    """Draw each site's scanner, readers and region, and write down the covariate and the annotated labels.

    rows: position in the cases of each row of the table.
    """
    if choice is not None:
        spec["causes"] = choice.causes
    covariate = choice.covariate if choice is not None else None
    scanners = scanner.draw(names, spec["acquisition"], effects, cases)
    readers = annotation.draw(spec["annotation"], cases, names, effects)
    regions = region_names(effects, names)
    annotated = _annotated(cases, table, rows, names, readers) if readers and cases.task != "segmentation" else None
    if covariate is not None and choice is not None:
        table = table.assign(covariate=choice.levels.of[rows])
    if annotated is not None:
        table = table.assign(annotated=annotated)
    return {
        "cases": cases,
        "table": table,
        "spec": spec,
        "scanners": scanners,
        "annotators": readers,
        "regions": regions,
        "unseen": tuple(name for name in out if name in names),
        "covariate": covariate,
    }


def _annotated(
    cases: Cases, table: pd.DataFrame, rows: Ints, names: list[str], readers: dict[str, annotation.Annotator]
) -> Ints:
    """The label that the readers of each case's site wrote, one a row of the table."""
    labels = cases.labels.copy()
    groups = group_rows(table, rows)
    for site in names:
        for split in SPLITS:
            members = rows_of(groups, site, split)
            labels[members] = readers[site].annotate(cases, members)
    return labels[rows]


def _one_class(cases: Cases, requested: AssignmentAxes) -> list[str]:
    """A line where all cases have the class whose prevalence is to differ."""
    value = requested.prevalence
    if len(cases.classes) > 1 or cases.task == "multilabel" or not isinstance(value, Real) or not value:
        return []
    return [f"all cases have the class {cases.classes[0]!r}, so that prevalence={value!r} changes nothing"]


def _doubts_about_columns(cases: Cases, requested: AssignmentAxes) -> list[str]:
    """A line on each column that was used without its order, or whose values may not be what they seem."""
    shown = [requested.presentation[0]] if requested.presentation is not None else []
    levels = [requested.population.levels, *shown] if requested.population is not None else shown
    columns = {one.name: cases.table[one.name] for one in levels if one.name in cases.table}
    lines = [line for name, values in columns.items() for line in (lost_order(name, values), *doubts(name, values))]
    return [line for line in lines if line]


def _names(site: Names, effects: SiteEffects | None) -> list[str]:
    """Names of the sites in natural order; of simulated sites all, also those without a case."""
    names = sorted(set(site), key=natural) if effects is None else site_names(effects.sites)
    if taken := [name for name in names if name.strip() in RESERVED]:
        raise ValueError(f"a site is called {taken[0]!r}, which means something else in every table: rename it")
    return names


def _check_training(parts: Parts, names: list[str]) -> None:
    table = parts["table"]
    trained = set(table.loc[table["split"] == "train", "site"].unique())
    present = set(table["site"].unique())
    without = [name for name in names if name in present and name not in trained and name not in parts["unseen"]]
    if without:
        raise ValueError(
            f"{', '.join(without)} would have no training case: use fewer sites or a lower dose, or leave it out"
        )


def _missing(parts: Parts, rows: Ints, names: list[str]) -> list[str]:
    """A line on the classes that sites lack in train or test, or none; rows: positions of the table in the cases."""
    gaps = []
    present = set(parts["table"]["site"].unique())
    sites = [name for name in names if name in present]
    for split in ("train", "test"):
        counts = class_counts(parts["cases"], parts["table"], sites, split, rows)
        for row, column in np.argwhere(counts.to_numpy() == 0) if counts.to_numpy().any() else ():
            site = counts.index[row]
            if site not in parts["unseen"] or split != "train":
                gaps.append(f"{site} has no {counts.columns[column]} in {split}")
    if not gaps:
        return []
    shown = ", ".join(gaps[:4]) + (f" and {len(gaps) - 4} more" if len(gaps) > 4 else "")
    if len(parts["cases"].classes) > 2:
        return [f"{shown}: metrics that are means over classes are taken over the other classes there"]
    return [f"{shown}: metrics that need these classes are undefined there and left out of means"]


def _settings(cases: Cases, seed: int, splits: str, leakage: str, own: bool) -> dict[str, Any]:
    if not isinstance(cases, Cases):
        raise ValueError(f"cases is {shown(cases)}: give the cases themselves, e.g. fedlab.load('phantoms')")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise ValueError(f"seed is {seed!r}: give a whole number")
    if splits not in SPLITTING:
        raise ValueError(f"splits is {splits!r}: {nearest(str(splits), SPLITTING)}")
    used = splits if own or splits == "common" or "split" in cases.table else "site"
    return {"seed": int(seed), "splits": used, "leakage": leakage}


def as_json(value: Any) -> Any:
    """The value as JSON has it: lists for sequences and arrays, numbers for scalars of numpy."""
    if isinstance(value, np.ndarray):
        return as_json(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_json(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value
