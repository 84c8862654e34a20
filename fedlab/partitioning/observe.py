"""What measures get to see of a partition: who is where, on which level of each axis, and what images look like."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fedlab.core.typing import Ints
from fedlab.data.cases import SPLITS, Cases
from fedlab.heterogeneity import population, presentation
from fedlab.heterogeneity.axes import AXES
from fedlab.heterogeneity.embedding import Features, yardstick
from fedlab.heterogeneity.geography import atlas_of
from fedlab.heterogeneity.levels import Levels, column_levels
from fedlab.heterogeneity.population import Covariate
from fedlab.heterogeneity.shift.report import Observed

if TYPE_CHECKING:
    from fedlab.partitioning.partitions import Partition


def levels(cases: Cases, spec: dict[str, Any], sites: int) -> dict[str, Levels]:
    """What the presentation and population axes look at, over all cases.

    Of real sites only columns are known: clusters of images would tell scanners apart, and nobody drew a covariate.
    """
    simulated = isinstance(spec.get("sites"), int)
    atlas = atlas_of(spec.get("geography", 0.0), sites, spec.get("seed", 0)) if simulated else None
    found: dict[str, Levels] = {}
    if atlas is not None and (choice := population.lean(spec["population"], cases, atlas)):
        found["population"] = choice.levels
    elif column := population.default(cases):
        found["population"] = column_levels(cases, column)
    elif simulated:
        found["population"] = population.covariate_levels(Covariate(spec["seed"], 1.0), cases)
    if atlas is not None and (shown := presentation.lean(spec["presentation"], cases, atlas)):
        found["presentation"] = shown[0]
    elif simulated or any(name in cases.table for name in presentation.COLUMNS):
        found["presentation"] = presentation.levels(cases)
    return found


def observed(part: "Partition", use: Ints) -> Observed:
    """The dealt cases at these positions of the table."""
    cases, rows = part.cases, part.rows[use]
    sites = pd.Index(part.sites)
    column = part.levels["population"].name if "population" in part.levels else ""
    numeric = column in cases.table and pd.api.types.is_numeric_dtype(cases.table[column])
    numbers = {column: cases.table[column].to_numpy(np.float64)[rows]} if numeric else {}
    regions = sorted(set(part.regions.values()))
    return Observed(
        site=sites.get_indexer(part.table["site"].to_numpy(object)[use]).astype(np.int64),
        labels=cases.labels[rows],
        units=cases.units[rows],
        split=pd.Index(SPLITS).get_indexer(part.table["split"].iloc[use]).astype(np.int64),
        task=cases.task,
        classes=len(cases.classes),
        sites=len(part.sites),
        seed=int(part.spec.get("seed", 0)),
        levels={axis: found.of[rows] for axis, found in part.levels.items()},
        numbers=numbers,
        moved=frozenset(moved(part.spec)),
        annotated=part.annotated(rows) if "annotated" in part.table else None,
        region=np.array([regions.index(part.regions[site]) for site in part.sites]) if regions else None,
    )


def moved(spec: dict[str, Any]) -> list[str]:
    """Axes that were asked to do something."""
    return [axis for axis in AXES if not (isinstance(spec.get(axis, 0), int | float) and spec.get(axis, 0) == 0)]


def look(part: "Partition", use: Ints) -> Callable[[Ints], Features]:
    """A function of positions among `use` that returns features (n, d) of images as their sites' scanners show them.

    The yardstick that describes them was made of the images before any scanner.
    """
    rows, names = part.rows[use], part.table["site"].to_numpy(object)[use]
    changed = part.scanners or (part.covariate is not None and part.covariate.visible)
    described = yardstick(part.cases)

    def features(few: Ints) -> Features:
        if not changed:
            return described.plain(rows[few])
        shown = np.empty((len(few), *part.cases.shape), part.cases.images.dtype)
        for site in np.unique(names[few]):
            here = names[few] == site
            shown[here] = part.pixels(rows[few][here], site)
        return described.shown(shown)

    return features


def standardised(part: "Partition") -> pd.DataFrame:
    """Sites x classes: columns (crude, class) and (standardised, class), in shares.

    Direct standardisation: each site's class shares within a level of the population, weighted by how frequent that
    level is in the pool; levels that a site lacks are left out of its weights.
    """
    level = part.levels["population"].of[part.rows]
    frame = pd.DataFrame({"site": part.table["site"], "level": level, "label": part.cases.labels[part.rows]})
    crude = pd.crosstab(frame["site"], frame["label"], normalize="index")
    by_level = pd.crosstab([frame["site"], frame["level"]], frame["label"], normalize="index")
    weights = frame["level"].value_counts(normalize=True)
    weight = by_level.index.get_level_values("level").map(weights).to_numpy()
    total = pd.Series(weight, by_level.index).groupby("site").sum()
    adjusted = by_level.mul(weight, axis=0).groupby("site").sum().div(total, axis=0)
    names = dict(enumerate(part.cases.classes))
    both = {"crude": crude.rename(columns=names), "standardised": adjusted.rename(columns=names)}
    return pd.concat(both, axis=1).reindex(part.sites).rename_axis(columns=["prevalence", "class"])
