"""The table of assigned cases (columns case, site, split) and the questions that everything else asks of it."""

import numpy as np
import pandas as pd

from fedlab.core.registry import nearest
from fedlab.core.site_names import natural
from fedlab.core.typing import Ints
from fedlab.data.cases import SPLITS, Cases
from fedlab.data.per_case import find_cases, numbered

Groups = dict[tuple[str, str], Ints]  # (site, split) -> row positions in the cases, ascending


def site_order(table: pd.DataFrame) -> list[str]:
    """Sites in natural order: Site 2 before Site 10, Site Z before Site AA."""
    return sorted(table["site"].unique(), key=natural)


def row_positions(cases: Cases, table: pd.DataFrame) -> Ints:
    """Row position in the cases of each row of the table; ValueError for cases that there are not."""
    return find_cases(table["case"], cases.table["case"], "the partition")


def group_rows(table: pd.DataFrame, rows: Ints) -> Groups:
    """Row positions of each site and split; a pair without a case is absent."""
    groups = table.groupby(["site", "split"]).indices
    return {(str(site), str(split)): np.sort(rows[place]) for (site, split), place in groups.items()}  # type: ignore[misc]


def rows_of(groups: Groups, site: str, split: str) -> Ints:
    """Row positions of one site and split, empty where there is no case."""
    return groups.get((site, check_split(split)), np.zeros(0, np.int64))


def class_counts(
    cases: Cases, table: pd.DataFrame, sites: list[str], split: str | None = None, rows: Ints | None = None
) -> pd.DataFrame:
    """Sites x classes: cases of each class; in a multi-label task a case counts for each of its findings.

    rows: row positions in the cases, if they are known.
    """
    use = np.arange(len(table)) if split is None else np.flatnonzero(table["split"] == check_split(split))
    labels, classes = cases.labels[(row_positions(cases, table) if rows is None else rows)[use]], len(cases.classes)
    site = numbered(table["site"], sites)[use]
    counts = np.zeros((len(sites), classes), np.int64)
    for number in range(classes):
        has = (labels >> number) & 1 == 1 if cases.task == "multilabel" else labels == number
        counts[:, number] = np.bincount(site[has & (site >= 0)], minlength=len(sites))
    return pd.DataFrame(counts, pd.Index(sites, name="site"), cases.classes)


def check_split(name: str) -> str:
    """The name of a split; ValueError with the nearest names if there is none of that name."""
    if name not in SPLITS:
        raise ValueError(f"there is no split {name!r}: {nearest(str(name), SPLITS)}")
    return name
