"""The shift that a partition realises on each axis, with its permutation null and a confidence interval.

Null: sites are permuted over units (patients) within a split, among cases that agree on the other axes in use: for
prevalence in population level (if moved); for presentation and population in label and in each other's level (if
moved); for images in label and both levels; for annotation in label. For geography sites are permuted over regions; for
sizes units are assigned with equal probability. The null interval holds 95 % of these draws and is extended to a
perfectly even assignment, since sites that are more similar than random ones are not shifted.

A covariate is compared among the cases of known value; where values are missing, the row "missing <column>" compares
how many are.

Confidence interval: bootstrap over units, recentred on the value because plug-in measures of resamples are biased away
from zero; for image measures a block jackknife.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from fedlab.core.rng import stream
from fedlab.core.typing import Floats, Ints
from fedlab.heterogeneity.shift.contingency import AxisTables, axis_tables, tables_within_label
from fedlab.heterogeneity.shift.divergences import QUANTITY, mean_defined, mutual_information, within_layers
from fedlab.heterogeneity.shift.image_rows import LoadImages, image_rows
from fedlab.heterogeneity.shift.mask_rows import LoadMasks, mask_rows
from fedlab.heterogeneity.shift.null_intervals import BRIEF, COLUMNS, FULL, HEADLINES, Resampling, Row, recentred, row
from fedlab.heterogeneity.shift.observed import Observed
from fedlab.heterogeneity.shift.permutation import ContingencyTables

__all__ = ["HEADLINES", "LoadImages", "Observed", "shift"]

ASSIGNMENT_MEASURES = ("I(S;Y)", "I(S;Z|Y)", "I(S;A|Y)")  # of which regions may explain a share


def shift(cases: Observed, load: LoadImages, brief: bool = False, masks: LoadMasks | None = None) -> pd.DataFrame:
    """Measure the realised shift on every axis.

    Parameters
    ----------
    cases : Observed
        The assigned cases.
    load : callable
        Maps positions of cases to features (n, d) of their images as the scanners show them, or to a pair of images
        before and after the scanners.
    brief : bool, default False
        Only the headline measure of each axis, from fewer images and draws.
    masks : LoadMasks, optional
        The true segmentation masks of cases and those that readers draw; by default masks are not compared.

    Returns
    -------
    DataFrame
        A row for each measure; columns axis, measure, value, null_low, null, null_high (null interval and mean under
        the null), low, high (95 % confidence interval). NaN where a measure is undefined; an axis about which nothing
        is known has no row. attrs: "images", the number of compared images, and "Frechet", the number of images of each
        site in each class, since the bias of that distance is proportional to 1 / n.

    References
    ----------
    Gretton et al. 2012, A kernel two-sample test, JMLR 13. Lopez-Paz and Oquab 2017, arXiv:1610.06545. Patefield 1981,
    doi:10.2307/2346669.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=400, size=16)")
    >>> table = fedlab.partition(cases, sites=2, prevalence=0.8).shift(brief=True)
    >>> table = table.set_index("axis")
    >>> bool(table.value["prevalence"] > table.null_high["prevalence"])
    True
    >>> bool(table.value["quantity"] > table.null_high["quantity"])
    False
    """
    resampling = BRIEF if brief else FULL
    tables = list(axis_tables(cases, resampling))
    images, notes = image_rows(cases, load, resampling)
    found = [*_sizes(cases, resampling), *(line for each in tables for line in each.rows(resampling)), *images]
    found += [*_annotation(cases, resampling), *(mask_rows(cases, masks, resampling) if masks else ())]
    found += _regions(cases, tables, resampling)
    frame = pd.DataFrame(found, columns=list(COLUMNS))
    frame.attrs.update(notes)
    return frame


def _sizes(cases: Observed, resampling: Resampling) -> Iterator[Row]:
    """Yield the rows of site sizes in cases; under the null whole units are assigned with equal probability."""
    rng = stream(cases.seed, "shift", "quantity")
    size = np.bincount(cases.group)
    sizes = np.bincount(cases.site, minlength=cases.sites).astype(np.float64)
    null, resampled = np.zeros((resampling.permutations, cases.sites)), np.zeros((resampling.resamples, cases.sites))
    for m in np.unique(size):
        units = np.bincount(cases.site[cases.first[size == m]], minlength=cases.sites)
        null += m * rng.multinomial(units.sum(), np.full(cases.sites, 1 / cases.sites), resampling.permutations)
        resampled += m * rng.multinomial(units.sum(), units / units.sum(), resampling.resamples)
    for name in QUANTITY:
        if resampling.includes("quantity", name):
            measure = QUANTITY.function(name)
            value = float(measure(sizes))
            even, single = float(measure(np.ones(cases.sites))), float(measure(np.eye(cases.sites)[0]))
            interval = np.clip(recentred(value, measure(resampled)), min(even, single), max(even, single))
            yield row("quantity", name, value, measure(null), interval, even)


def _annotation(cases: Observed, resampling: Resampling) -> Iterator[Row]:
    """Yield the information of given labels about the site beyond the true ones, and the share of changed labels.

    Under the null no label is changed.
    """
    from scipy.sparse import csr_matrix

    if cases.annotated is None:
        return
    stratum = cases.strata(given=cases.labels)
    annotated = tables_within_label(cases, "annotation", "I(S;Y'|Y)", cases.labels, cases.annotated, stratum)
    yield from (line for line in annotated.rows(resampling) if line[1] == "I(S;Y'|Y)")
    if resampling.includes("annotation", "changed labels"):
        changed = (cases.annotated != cases.labels).astype(np.int64)
        tables = ContingencyTables(cases, changed, csr_matrix(np.eye(2)), np.zeros(len(cases.start), np.int64))
        share = [_share_changed(block) for block in tables.bootstrap(resampling.resamples, "changed labels")]
        yield row("annotation", "changed labels", changed.mean(), np.zeros(1), np.concatenate(share), 0.0)


def _share_changed(tables: Floats) -> Floats:
    """Return the share of changed labels, (draws,)."""
    return tables[..., 1].sum(axis=-1) / tables.sum(axis=(-2, -1))


def _regions(cases: Observed, tables: list[AxisTables], resampling: Resampling) -> Iterator[Row]:
    """Yield the share of the information about sites that is about regions, I(R;L) / I(S;L), mean over moved axes.

    L is the label, or within it the level of presentation or population. Under the null sites are permuted over
    regions.
    """
    if cases.region is None:
        return
    rng = stream(cases.seed, "shift", "geography")
    explained = {*ASSIGNMENT_MEASURES}
    used = [each for each in tables if each.axis in cases.moved and not explained.isdisjoint(each.measures)]
    own = cases.region[None]
    moved = np.stack([rng.permutation(cases.region) for _ in range(resampling.permutations)])
    value, null, resampled = [], [], []
    for each in used:
        table = each.tables.observed()
        value.append(_regional_share(each, table, own))
        null.append(_regional_share(each, table, moved))
        blocks = each.tables.bootstrap(resampling.resamples, "geography")
        resampled.append(np.concatenate([_regional_share(each, block, own) for block in blocks]))
    means = [mean_defined(np.stack(part, axis=-1)) if used else np.full(1, np.nan) for part in (value, null, resampled)]
    interval = np.clip(recentred(float(means[0][0]), means[2]), 0, 1)
    yield row("geography", "regional share", float(means[0][0]), means[1], interval, 0.0)


def _regional_share(axis: AxisTables, tables: Floats, region: Ints) -> Floats:
    """Return the information about regions divided by that about sites, (draws,).

    tables: (draws, sites, columns), region: (draws, sites), either of which may have a single draw.
    """
    members = (region[:, None] == np.arange(region.max() + 1)[:, None]).astype(np.float64)
    of_regions, of_sites = (
        within_layers(mutual_information, axis.layered(each)) for each in (members @ tables, tables)
    )
    return np.divide(
        of_regions, of_sites, out=np.full(np.broadcast(of_regions, of_sites).shape, np.nan), where=of_sites > 0
    )
