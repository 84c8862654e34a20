"""Where each case of the dataset went: to a split of a site, or left out, and why."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.core.site_names import natural
from fedlab.core.typing import Ints, Names
from fedlab.data.cases import SPLITS, Cases

LEFT_OUT = "left out"
NO_SITE, OTHER_SIDE, COPY = "no site", "patient or image in another split", "copy of an image"
AWAY, NOT_TEST = "patient at a held-out site", "held-out site has test cases alone"
COLUMNS = ["site", "published", "split", "reason", "cases", "patients"]


def flow(cases: Cases, table: pd.DataFrame, rows: Ints, spec: dict[str, Any], unseen: tuple[str, ...]) -> pd.DataFrame:
    """See `Partition.flow`; rows: the position in the cases of each row of the table."""
    site, split = (np.full(len(cases), fill, object) for fill in ("", LEFT_OUT))
    given = cases.table[spec["sites"]] if spec.get("sites") in cases.table else None
    if given is not None:
        site = np.where(given.notna(), given.astype(str), "").astype(object)
    site[rows], split[rows] = table["site"].to_numpy(object), table["split"].to_numpy(object)
    published = np.full(len(cases), "", object)
    if "split" in cases.table:
        published = cases.table["split"].to_numpy(object)
    reason = np.where(split == LEFT_OUT, _reasons(cases, rows, split, published, spec, unseen, site), "")
    facts = pd.DataFrame({"site": site, "published": published, "split": split, "reason": reason, "unit": cases.units})
    found = facts.groupby(COLUMNS[:4], sort=False)["unit"].agg(cases="size", patients="nunique").reset_index()
    places = [*SPLITS, LEFT_OUT]
    order = sorted(
        range(len(found)),
        key=lambda k: (not found["site"][k], natural(found["site"][k]), places.index(found["split"][k]),
                       str(found["published"][k]), found["reason"][k]),
    )  # fmt: skip
    return found.iloc[order].reset_index(drop=True)


def _reasons(
    cases: Cases, rows: Ints, split: Names, published: Names, spec: dict[str, Any], unseen: tuple[str, ...], site: Names
) -> NDArray[np.object_]:
    """Why each case would be left out, if it is."""
    units = cases.units
    kept = {name: np.isin(units, units[rows[split[rows] == name]]) for name in SPLITS}
    elsewhere = np.any([kept[name] & (published != name) for name in SPLITS], axis=0)
    away = np.isin(units, units[rows[np.isin(site[rows], unseen)]]) if unseen else np.zeros(len(cases), bool)
    reason = np.full(len(cases), NO_SITE, object)
    if isinstance(spec.get("sites"), int):
        reason[:] = NOT_TEST  # simulated sites take all other cases
    if spec.get("leakage") == "drop":
        reason[kept["train"] | kept["val"] | kept["test"]] = COPY
        reason[elsewhere] = OTHER_SIDE
    elif unseen:
        reason[away] = AWAY
    return reason
