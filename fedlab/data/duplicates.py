"""Cases whose images are identical, byte for byte, and in what these cases differ."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.core.typing import Ints

COMPARED = ("label", "mask", "split", "patient", "site")  # in what identical images may differ, the worst first


class Group(NamedTuple):
    """Cases with one image. rows: their positions; differ: in what they differ, of COMPARED."""

    rows: Ints
    differ: tuple[str, ...]


def duplicates(
    hashes: NDArray[np.object_], table: pd.DataFrame, mask: Callable[[int], NDArray[np.uint8]] | None = None
) -> list[Group]:
    """Groups of two or more identical images: those with different labels first, then different masks, and so on.

    hashes: of each image, (n,); table: of the cases, in the same order. mask: that of the case in a row.
    """
    groups = pd.Series(pd.factorize(hashes)[0])
    repeated = groups[groups.duplicated(keep=False)]
    compared = table.iloc[repeated.index].drop(columns="mask", errors="ignore")
    if mask is not None:
        compared = compared.assign(mask=[hash(mask(row).tobytes()) for row in repeated.index])
    columns = [name for name in COMPARED if name in compared]
    kinds = {name: compared[name].groupby(repeated.to_numpy()).nunique() > 1 for name in columns}
    found = [
        Group(np.asarray(rows, np.int64), tuple(name for name in columns if kinds[name][group]))
        for group, rows in repeated.groupby(repeated).groups.items()
    ]
    return sorted(found, key=lambda group: ([name not in group.differ for name in columns], group.rows[0]))
