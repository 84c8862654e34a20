"""The cases of the sites: in which split, and of which class."""

import pandas as pd

from fedlab.data.cases import SPLITS
from fedlab.experiments.run_folder import Run
from fedlab.partitioning.description import IMAGES
from fedlab.partitioning.partitions import Partition
from fedlab.reporting.gather import Federation
from fedlab.reporting.markup import Markup, element, folded, table
from fedlab.reporting.pieces import cell, figure, frame

FLOW = {
    "site": "site",
    "published": "split of the dataset",
    "split": "split here",
    "reason": "why left out",
    "cases": "cases",
    "patients": "patients",
}
NOTE = (
    "A case counts for its class; a patient counts once for each covariate. SMD: largest standardised difference of two"
    " sites; of small sites it is large by chance."
)


def sites_of(federation: Federation) -> Markup:
    """The partition as a figure, the table of its sites, and where all cases went."""
    from fedlab import plots

    part, splits = federation.partition, splits_of(federation.runs[0])
    if part is None:
        remark = element("p", f"Classes and covariates are not shown: {federation.missing}.", kind="note")
        return element("section", element("h2", "Sites"), remark, splits)
    counted = "patients" if "patient" in part.cases.table else IMAGES
    left = frame(part.flow(), "Every case of the dataset is in one row.", **FLOW | {"patients": counted})
    target = federation.runs[0].target
    numbers = [figure(lambda: plots.population(part, target, split=None))] * bool(target)
    return element(
        "section",
        element("h2", "Sites"),
        *numbers,
        figure(lambda: plots.partition(part)),
        folded(f"Table 1: cases and {counted} of each site", element("p", NOTE, kind="note"), described(part)),
        splits,
        folded("From the dataset to the test cases", figure(lambda: plots.flow(part)), left),
    )


def described(part: Partition) -> Markup:
    """The table of `Partition.describe`, held-out sites marked."""
    wide = part.describe().wide()
    head = ["", *(_named(name, part.unseen) for name in wide.columns)]
    return table(head, [[name, *cells] for name, cells in zip(wide.index, wide.to_numpy(), strict=True)])


def splits_of(run: Run) -> Markup:
    """How many training, validation and test cases each site has."""
    counts = pd.crosstab(run.partition_table["site"], run.partition_table["split"]).reindex(
        columns=SPLITS, fill_value=0
    )
    rows = [[_named(site, run.unseen), *map(cell, row), cell(sum(row))] for site, row in _rows(counts)]
    rows.append(["all sites", *map(cell, counts.sum()), cell(counts.to_numpy().sum())])
    return folded("Cases by site and split", table(["site", "training", "validation", "test", "all"], rows))


def _rows(counts: pd.DataFrame) -> list[tuple[str, list[int]]]:
    return [(str(site), row) for site, row in zip(counts.index, counts.to_numpy().tolist(), strict=True)]


def _named(site: str, unseen: tuple[str, ...]) -> str:
    return f"{site} (held out)" if site in unseen else site
