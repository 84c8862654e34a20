"""A small federation out of a large one, for a comparison that takes seconds."""

from dataclasses import replace

import numpy as np

from fedlab.core.rng import stream
from fedlab.partitioning.partitions import Partition

LEAST = 2  # cases of a class that a site keeps in each split, where it has them


def thinned(part: Partition, most: int) -> Partition:
    """The same sites with about `most` training cases together, and as large a share of the other splits.

    Each site keeps its share of every class in every split. A partition that is small enough comes back as it is.
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
