"""What figures read from partitions and runs: sites in their order, sizes, the rows and the metric to draw."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from fedlab.analysis.alignment import HELD_OUT, MEAN, POOLED, WORST
from fedlab.analysis.grouping import check_one_federation
from fedlab.core.site_names import natural
from fedlab.plots.names import NAME, names

SUMMARIES = (MEAN, POOLED, WORST)
SUMMARY_NAMES = {MEAN: "macro-average over sites", POOLED: "pooled", WORST: "worst site"}
SPLITS = {"train": "training", "val": "validation", "test": "test"}  # names for readers
OUTSIDE = (*SUMMARIES, "unassigned", "all sites")  # values of a site column that are no site


def listed(runs: Any) -> list[Any]:
    """Return one run or several of one federation as a list; ValueError if there is none, or they differ in that."""
    found = [runs] if hasattr(runs, "rounds") else list(runs)
    if not found:
        raise ValueError("found no runs to draw: pass the list that `fedlab.grid` returned, or one run")
    check_one_federation(found)
    return found


def by_size(sizes: pd.Series) -> list[str]:
    """Sort site names from the largest to the smallest; equal sizes in natural order."""
    return sorted(sizes.index, key=lambda site: (-sizes[site], natural(site)))


def site_order(part: Any, sizes: pd.Series) -> list[str]:
    """Sort sites from the largest to the smallest; sites of one region together, the largest region first."""
    regions = pd.Series({site: part.regions.get(site, "") for site in sizes.index}, dtype=object)
    held = sizes.groupby(regions).sum()
    return sorted(by_size(sizes), key=lambda site: (-held[regions[site]], natural(regions[site])))


def site_labels(part: Any, sites: Iterable[str], most: int = NAME) -> list[str]:
    """Return the names of sites as figures show them, marked if a site is held out of training."""
    return [f"{name} (held out)" if site in part.unseen else name for site, name in names(sites, most).items()]


def is_held_out(site: str) -> bool:
    """Return whether a name in a comparison's site column is that of a held-out site."""
    return site.startswith(HELD_OUT)


def row_names(rows: Iterable[str], most: int = NAME) -> list[str]:
    """Return the names in figures of sites, held-out sites and summaries in a comparison."""
    rows = list(rows)
    short = names((row.removeprefix(HELD_OUT) for row in rows), most)
    return [
        f"{short[row.removeprefix(HELD_OUT)]} (held out)" if is_held_out(row) else SUMMARY_NAMES.get(row, short[row])
        for row in rows
    ]


def region_spans(part: Any, order: list[str]) -> list[tuple[str, int, int]]:
    """Return (region, first row, last row) in an order of sites that keeps regions together; empty without regions."""
    found: list[tuple[str, int, int]] = []
    for row, site in enumerate(order if part.regions else ()):
        region = part.regions[site]
        first = found.pop()[1] if found and found[-1][0] == region else row
        found.append((region, first, row))
    return found


def training_sizes(runs: Iterable[Any]) -> pd.Series:
    """Count the training cases of each site in the runs' partitions (the last one's where they differ)."""
    sizes: dict[str, int] = {}
    for run in runs:
        table = run.partition_table
        counts = table["split"].eq("train").groupby(table["site"].astype(str)).sum()
        sizes.update({site: int(n) for site, n in counts.items() if site not in OUTSIDE})
    return pd.Series(sizes, dtype=int)


def headline_metric(runs: list[Any], metric: str | None, split: str = "test") -> str:
    """Return the given metric, else the loss for training cases, else the runs' own headline metric."""
    return metric or ("loss" if split == "train" else str(runs[0].headline))


def models_in_use(rounds: pd.DataFrame) -> pd.DataFrame:
    """Keep one row of each round, site, split and metric: the site's own model if it has one, else the global one."""
    own_last = rounds.sort_values("model", key=lambda model: model.eq("local"), kind="stable")
    return own_last.drop_duplicates(["round", "site", "split", "metric"], keep="last").sort_index()
