"""A stratified subsample of a partition, for a comparison that takes seconds."""

from dataclasses import replace

import numpy as np

from fedlab.core.rng import stream
from fedlab.partitioning.partitions import Partition

LEAST = 2  # cases of a class that a site keeps in each split, where it has them


def subsample(part: Partition, most: int) -> Partition:
    """Subsample a partition to about `most` training cases, and the same share of the other splits.

    Each site keeps its share of every class in every split. A partition that is small enough is returned unchanged.
    """
    table = part.table.assign(label=part.cases.labels[part.rows])
    share = most / max(1, int((table["split"] == "train").sum()))
    if share >= 1:
        return part
    order = stream(int(part.spec.get("seed", 0)), "thinned").permutation(len(table))
    shuffled = table.iloc[order]
    groups = shuffled.groupby(["site", "split", "label"], sort=False)
    size, place = groups["case"].transform("size"), groups.cumcount()
    kept = np.sort(order[(place < np.maximum(LEAST, np.ceil(share * size))).to_numpy()])
    cases = part.cases.take(part.rows[kept])
    return replace(part, cases=cases, table=part.table.iloc[kept].reset_index(drop=True))
