"""What the figures read from runs: sizes of sites, the rows of the models that sites really use, the metric to draw."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from fedlab.heterogeneity.naming import natural

SUMMARIES = ("mean of sites", "pooled", "worst site")
SPLITS = {"train": "training", "val": "validation", "test": "test"}  # as a reader calls them
OUTSIDE = (*SUMMARIES, "unassigned")  # names in a site column that are no training site


def listed(runs: Any) -> list[Any]:
    """One run or several, as a list; ValueError if there is none."""
    found = [runs] if hasattr(runs, "rounds") else list(runs)
    if not found:
        raise ValueError("found no runs to draw: pass the list that `fedlab.grid` returned, or one run")
    return found


def by_size(sizes: pd.Series) -> list[str]:
    """Site names from the largest to the smallest; equal sizes in natural order."""
    return sorted(sizes.index, key=lambda site: (-sizes[site], natural(site)))


def training_sizes(runs: Iterable[Any]) -> pd.Series:
    """Training cases of each site, in the runs' partitions (the last one's where they differ)."""
    sizes: dict[str, int] = {}
    for run in runs:
        table = run.partition_table
        counts = table["split"].eq("train").groupby(table["site"].astype(str)).sum()
        sizes.update({site: int(n) for site, n in counts.items() if site not in OUTSIDE})
    return pd.Series(sizes, dtype=int)


def headline_metric(runs: list[Any], metric: str | None, split: str = "test") -> str:
    """The metric asked for, else the loss of training cases, else the runs' own headline metric."""
    return metric or ("loss" if split == "train" else str(runs[0].headline))


def used(rounds: pd.DataFrame) -> pd.DataFrame:
    """Of each round, site, split and metric one row: the site's own model if it has one, else the global one."""
    own_last = rounds.sort_values("model", key=lambda model: model.eq("local"), kind="stable")
    return own_last.drop_duplicates(["round", "site", "split", "metric"], keep="last").sort_index()
