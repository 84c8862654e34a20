"""Check before training that the data of all sites fit the agreed data elements.

Labels, pixel range and table columns are checked site by site, so that an error names the site that must change
something. (That the architecture fits the images is checked when the model is built.)
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from fedlab.core.warnings import ProtocolWarning, warn
from fedlab.partitioning.partitions import Partition

SCALED_TWICE = 1.01 / 255  # the highest pixel of 0..255 divided by 255 twice, with rounding


class ProtocolError(ValueError):
    """The data of one or more sites do not fit the agreed data elements."""


def check(partition: Partition) -> None:
    """Raise ProtocolError naming every site that does not fit and what to change there."""
    cases = partition.cases
    misfits = []
    for site in partition.sites:
        index = np.concatenate([partition.index(site, split) for split in ("train", "val", "test")])
        misfits += [f"{site}: {reason}" for reason in _misfits(partition, site, index)]
    if misfits:
        raise ProtocolError(f"{cases.name} does not fit the protocol:\n  " + "\n  ".join(misfits))
    _check_columns(partition)
    trains = ~partition.table["site"].isin(partition.unseen)
    for split in sorted({"val", "test"} - set(partition.table.loc[trains, "split"])):
        warn(f"no site has a {split} case: {LACK[split]}", ProtocolWarning)


LACK = {"val": "the last round counts as the best, and `patience` never stops", "test": "sites cannot be compared"}


def _misfits(partition: Partition, site: str, index: np.ndarray) -> Iterator[str]:
    cases = partition.cases
    if site not in partition.unseen and not len(partition.index(site, "train")):
        yield "no training case: give it some, or leave the site out"
    limit = 2 ** len(cases.classes) if cases.task == "multilabel" else len(cases.classes)
    labels = cases.labels[index]
    wrong = index[(labels < 0) | (labels >= limit)]
    if len(wrong):
        first = cases.table["case"][wrong[0]]
        yield f"case {first!r} has label {cases.labels[wrong[0]]}, agreed are 0..{limit - 1}: recode it"
    top = _highest(partition, index)
    agreed = 255 if cases.images.dtype == np.uint8 else 1
    if not np.isfinite(top) or top > agreed:
        yield f"pixels reach {top}, agreed is 0..{agreed}: scale its images and fill holes"
    elif agreed == 255 and top <= 1:
        yield f"pixels lie in 0..{top:g}, agreed is 0..255: multiply its images by 255"
    elif agreed == 1 and top <= SCALED_TWICE:
        yield f"pixels lie in 0..{top:.2g}, agreed is 0..1: multiply its images by 255, they were divided by it twice"


def _highest(partition: Partition, index: np.ndarray) -> float:
    cases = partition.cases
    if cases.extents is not None:  # what is beyond the extent of a case does not count
        return max((float(np.max(cases.image(row))) for row in index), default=255.0)
    images = cases.images
    return max((float(np.max(images[part])) for part in np.array_split(index, -(-len(index) // 4096))), default=255.0)


def _check_columns(partition: Partition) -> None:
    table = partition.cases.table
    codes, names = pd.factorize(partition.table["site"], sort=True)
    for column in (name for name in table.columns if name not in ("case", "label", "split", "site")):
        known = table[column].notna().to_numpy()[partition.rows]
        filled = np.bincount(codes, weights=known, minlength=len(names))
        sites = names[filled == 0].tolist()
        if 0 < len(sites) < len(partition.sites):
            warn(
                f"column {column!r} is empty at {', '.join(sites)} and filled elsewhere: axes and tables that use it"
                " will miss these sites",
                ProtocolWarning,
            )
