"""What measures of heterogeneity see of a partition: the site, the levels and the image features of each case."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.core.typing import Ints
from fedlab.data.cases import SPLITS, Cases
from fedlab.data.extents import cut_outs
from fedlab.data.per_case import numbered
from fedlab.heterogeneity import population, presentation
from fedlab.heterogeneity.annotation import Annotator, drawn
from fedlab.heterogeneity.axes import AXES
from fedlab.heterogeneity.covariates import read_column
from fedlab.heterogeneity.geography import draw_site_effects
from fedlab.heterogeneity.log_odds import Levels, column_levels
from fedlab.heterogeneity.population import Covariate
from fedlab.heterogeneity.shift.embedding import Features, dataset_embedding
from fedlab.heterogeneity.shift.mask_rows import LoadMasks, Masks
from fedlab.heterogeneity.shift.measures import Observed


def levels(cases: Cases, spec: dict[str, Any], sites: int) -> dict[str, Levels]:
    """Levels of the presentation and population axes, over all cases; an axis without levels is absent.

    Of real sites only columns are known: clusters of images would tell scanners apart, and no covariate was drawn.
    """
    simulated = isinstance(spec.get("sites"), int)
    effects = draw_site_effects(spec.get("geography", 0.0), sites, spec.get("seed", 0)) if simulated else None
    found: dict[str, Levels] = {}
    if effects is not None and (choice := population.preferences(spec["population"], cases, effects)):
        found["population"] = choice.levels
    elif column := population.default(cases):
        found["population"] = column_levels(cases, column)
    elif simulated:
        found["population"] = population.covariate_levels(Covariate(spec["seed"], 1.0), cases)
    if effects is not None and (shown := presentation.preferences(spec["presentation"], cases, effects)):
        found["presentation"] = shown[0]
    elif simulated or any(name in cases.table for name in presentation.COLUMNS):
        found["presentation"] = presentation.levels(cases)
    return found


def observed(
    cases: Cases,
    table: pd.DataFrame,
    rows: Ints,
    *,
    spec: dict[str, Any],
    sites: list[str],
    regions: dict[str, str],
    levels: dict[str, Levels],
    annotated: Ints | None,
) -> Observed:
    """The assigned cases of a table and their row positions (n,) as numbers.

    levels: of each axis over all cases. annotated: (n,) labels as the sites' readers wrote them, if these err.
    """
    column = levels["population"].name if "population" in levels else ""  # a number is compared in its own unit, too
    names = sorted(set(regions.values()))
    return Observed(
        site=numbered(table["site"], sites),
        labels=cases.labels[rows],
        units=cases.units[rows],
        split=numbered(table["split"], SPLITS),
        task=cases.task,
        classes=len(cases.classes),
        sites=len(sites),
        seed=int(spec.get("seed", 0)),
        levels={axis: np.where(found.known, found.of, -1)[rows] for axis, found in levels.items()},
        missing={axis: found.name for axis, found in levels.items() if not found.known.all()},
        numbers=_numbers(cases, column, rows) if column in cases.table else {},
        moved=frozenset(moved(spec)),
        annotated=annotated,
        region=np.array([names.index(regions[site]) for site in sites]) if names else None,
    )


def _numbers(cases: Cases, column: str, rows: Ints) -> dict[str, NDArray[np.float64]]:
    """The column as numbers, (n,), NaN where unknown; empty if it holds none."""
    if pd.api.types.is_bool_dtype(cases.table[column]):
        return {column: cases.table[column].to_numpy(np.float64, na_value=np.nan)[rows]}
    numbers = read_column(cases.table[column]).numbers
    return {} if numbers is None else {column: numbers[rows]}


def moved(spec: dict[str, Any]) -> list[str]:
    """The axes with a dose above 0 or a scheme."""
    return [axis for axis in AXES if not (isinstance(spec.get(axis, 0), int | float) and spec.get(axis, 0) == 0)]


def image_features(
    cases: Cases, rows: Ints, site: NDArray[Any], show: Callable[[Ints, str], NDArray[Any]] | None
) -> Callable[[Ints], Features]:
    """A function of positions among `rows` (n,) that returns features (m, d) of images as their scanners show them.

    site: (n,) names. show: the images at row positions as one site shows them; None where they stay as they are. The
    embedding that describes images was made before any scanner changed them.
    """
    described = dataset_embedding(cases)

    def features(few: Ints) -> Features:
        if show is None:
            return described.of_rows(rows[few])
        shown = np.zeros((len(few), *cases.shape), cases.images.dtype)
        for name in np.unique(site[few]):
            here = site[few] == name
            shown[here] = show(rows[few][here], name)
        return described.of_images(cut_outs(shown, None if cases.extents is None else cases.extents[rows[few]]))

    return features


def mask_pairs(cases: Cases, rows: Ints, site: NDArray[Any], annotators: Mapping[str, Annotator]) -> LoadMasks | None:
    """A function of positions among `rows` (n,) that returns true masks and those that the site's readers draw.

    None where nobody draws masks. site: (n,) names.
    """
    masks = cases.masks
    if masks is None or not annotators or cases.task != "segmentation":
        return None

    def pairs(few: Ints) -> tuple[Masks, Masks]:
        true, extents = np.asarray(masks[rows[few]]), None if cases.extents is None else cases.extents[rows[few]]
        found = true.copy()
        for name in np.unique(site[few]):
            here = site[few] == name
            own = None if extents is None else extents[here]
            found[here] = drawn(true[here], own, annotators[name], cases.overlap)
        return cut_outs(true, extents), cut_outs(found, extents)

    return LoadMasks(pairs, cases.overlap)


def standardised(cases: Cases, table: pd.DataFrame, rows: Ints, levels: Levels, sites: list[str]) -> pd.DataFrame:
    """Sites x classes: columns (crude, class) and (standardised, class), in shares.

    Direct standardisation: each site's class shares within a level of the population, weighted by how frequent that
    level is in the pool; levels that a site lacks are left out of its weights, and cases of unknown level altogether.
    """
    frame = pd.DataFrame({"site": table["site"], "level": levels.of[rows], "label": cases.labels[rows]})
    crude = pd.crosstab(frame["site"], frame["label"], normalize="index")
    frame = frame[levels.known[rows]]
    by_level = pd.crosstab([frame["site"], frame["level"]], frame["label"], normalize="index")
    weights = frame["level"].value_counts(normalize=True)
    weight = by_level.index.get_level_values("level").map(weights).to_numpy()
    total = pd.Series(weight, by_level.index).groupby("site").sum()
    adjusted = by_level.mul(weight, axis=0).groupby("site").sum().div(total, axis=0)
    adjusted = adjusted.reindex(columns=crude.columns, fill_value=0.0)
    names = dict(enumerate(cases.classes))
    both = {"crude": crude.rename(columns=names), "standardised": adjusted.rename(columns=names)}
    return pd.concat(both, axis=1).reindex(sites).rename_axis(columns=["prevalence", "class"])
