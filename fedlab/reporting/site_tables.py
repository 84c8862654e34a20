"""The cases of the sites: in which split, and of which class."""

from typing import Any

import pandas as pd

from fedlab.data.cases import SPLITS
from fedlab.experiments.run_folder import Run
from fedlab.partitioning.partitions import Partition
from fedlab.reporting.gather import Federation
from fedlab.reporting.markup import Markup, element, folded, table
from fedlab.reporting.pieces import figure


def sites_of(federation: Federation) -> Markup:
    """The partition as a figure and as counts with shares of classes."""
    from fedlab import plots

    part, splits = federation.partition, splits_of(federation.runs[0])
    if part is None:
        remark = element("p", f"Classes and covariates are not shown: {federation.missing}.", kind="note")
        return element("section", element("h2", "Sites"), remark, splits)
    drawn = figure(lambda: plots.partition(part))
    return element("section", element("h2", "Sites"), drawn, splits, folded("Classes of each site", classes_of(part)))


def splits_of(run: Run) -> Markup:
    """How many training, validation and test cases each site has."""
    counts = pd.crosstab(run.partition_table["site"], run.partition_table["split"]).reindex(
        columns=SPLITS, fill_value=0
    )
    rows = [[_named(site, run.unseen), *map(str, row), str(sum(row))] for site, row in _rows(counts)]
    rows.append(["all sites", *map(str, counts.sum()), str(int(counts.to_numpy().sum()))])
    return folded("Cases by site and split", table(["site", "training", "validation", "test", "all"], rows))


def classes_of(part: Partition) -> Markup:
    """How many cases of each class each site has, with their share of its cases."""
    counts, sizes = part.counts(), part.table["site"].value_counts()
    rows = [[_named(site, part.unseen), *_shares(row, sizes[site])] for site, row in _rows(counts)]
    rows.append(["all sites", *_shares(counts.sum().tolist(), len(part.table))])
    return table(["site", *counts.columns], rows)


def _rows(counts: pd.DataFrame) -> list[tuple[str, list[int]]]:
    return [(str(site), row) for site, row in zip(counts.index, counts.to_numpy().tolist(), strict=True)]


def _named(site: str, unseen: tuple[str, ...]) -> str:
    return f"{site} (held out)" if site in unseen else site


def _shares(counts: list[Any], whole: int) -> list[str]:
    return [f"{count:,} ({100 * count / whole:.1f} %)" for count in counts]
