"""The shift that sites realise, beside what chance and the other axes would make of the same cases, and its interval.

null: sites permuted over units (patients) within a split, among cases that are alike on the other axes in use: for
prevalence in population level (if moved); for presentation and population in label and each other's level (if moved);
for images in label and both levels; for annotation in label; for geography sites over regions; for sizes, units dealt
with equal probability. The band holds 95 % of chance and reaches on to a perfectly even deal, since sites more alike
than chance would make them are no shift. interval: bootstrap over units, recentred on the value because plug-in
measures of resamples are biased away from zero; for image measures a block jackknife.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from fedlab.core.rng import stream
from fedlab.core.typing import Floats, Ints
from fedlab.heterogeneity.shift.contingency import Crossing, crossings, within_label
from fedlab.heterogeneity.shift.divergences import QUANTITY, mean_defined, mutual_information, within_layers
from fedlab.heterogeneity.shift.image_rows import Look, image_rows
from fedlab.heterogeneity.shift.null_intervals import BRIEF, COLUMNS, FULL, HEADLINES, Effort, Row, recentred, row
from fedlab.heterogeneity.shift.observed import Observed
from fedlab.heterogeneity.shift.permutation import Tables

__all__ = ["HEADLINES", "Look", "Observed", "shift"]

DEALT = ("I(S;Y)", "I(S;Z|Y)", "I(S;A|Y)")  # what regions may share, by headline


def shift(seen: Observed, look: Look, brief: bool = False) -> pd.DataFrame:
    """Columns axis, measure, value, null_low, null, null_high (band and mean of chance), low, high (95 % interval).

    look(rows) returns the features (n, d) of these rows as their sites' scanners show them, or the images before and
    after these scanners. brief: the headline of each axis alone, from fewer images and draws. NaN where a measure is
    undefined; an axis of which nothing is known has no row. attrs: "images", how many are compared, and "Frechet", how
    many of each site in each class, since that distance grows as 1 / n by chance.
    """
    effort = BRIEF if brief else FULL
    known = list(crossings(seen, effort))
    images, notes = image_rows(seen, look, effort)
    found = [*_sizes(seen, effort), *(line for crossing in known for line in crossing.rows(effort)), *images]
    found += [*_annotation(seen, effort), *_regions(seen, known, effort)]
    frame = pd.DataFrame(found, columns=list(COLUMNS))
    frame.attrs.update(notes)
    return frame


def _sizes(seen: Observed, effort: Effort) -> Iterator[Row]:
    """Sizes count cases; the null deals whole units to sites with equal probability."""
    rng = stream(seen.seed, "shift", "quantity")
    size = np.bincount(seen.group)
    sizes = np.bincount(seen.site, minlength=seen.sites).astype(np.float64)
    chance, again = np.zeros((effort.permutations, seen.sites)), np.zeros((effort.resamples, seen.sites))
    for m in np.unique(size):
        units = np.bincount(seen.site[seen.first[size == m]], minlength=seen.sites)
        chance += m * rng.multinomial(units.sum(), np.full(seen.sites, 1 / seen.sites), effort.permutations)
        again += m * rng.multinomial(units.sum(), units / units.sum(), effort.resamples)
    for name in QUANTITY:
        if effort.asks("quantity", name):
            measure = QUANTITY.function(name)
            value = float(measure(sizes))
            even, lone = float(measure(np.ones(seen.sites))), float(measure(np.eye(seen.sites)[0]))
            interval = np.clip(recentred(value, measure(again)), min(even, lone), max(even, lone))
            yield row("quantity", name, value, measure(chance), interval, even)


def _annotation(seen: Observed, effort: Effort) -> Iterator[Row]:
    """How much the label that readers wrote tells about their site beyond the true one, and how many are wrong.

    By chance alone no label is changed.
    """
    from scipy.sparse import csr_matrix

    if seen.annotated is None:
        return
    stratum = seen.alike(given=seen.labels)
    written = within_label(seen, "annotation", "I(S;Y'|Y)", seen.labels, seen.annotated, stratum)
    yield from (line for line in written.rows(effort) if line[1] == "I(S;Y'|Y)")
    if effort.asks("annotation", "changed labels"):
        changed = (seen.annotated != seen.labels).astype(np.int64)
        tables = Tables(seen, changed, csr_matrix(np.eye(2)), np.zeros(len(seen.start), np.int64))
        share = [_share_changed(block) for block in tables.resampled(effort.resamples, "changed labels")]
        yield row("annotation", "changed labels", changed.mean(), np.zeros(1), np.concatenate(share), 0.0)


def _share_changed(tables: Floats) -> Floats:
    return tables[..., 1].sum(axis=-1) / tables.sum(axis=(-2, -1))


def _regions(seen: Observed, known: list[Crossing], effort: Effort) -> Iterator[Row]:
    """Share of what tells sites apart that tells regions apart, I(R;L) / I(S;L), mean over the moved axes that deal.

    L is the label, or within it the level of presentation or population. Chance permutes sites over regions.
    """
    if seen.region is None:
        return
    rng = stream(seen.seed, "shift", "geography")
    used = [each for each in known if each.axis in seen.moved and not {*DEALT}.isdisjoint(each.named)]
    own = seen.region[None]
    moved = np.stack([rng.permutation(seen.region) for _ in range(effort.permutations)])
    value, chance, again = [], [], []
    for each in used:
        table = each.tables.observed()
        value.append(_between(each, table, own))
        chance.append(_between(each, table, moved))
        blocks = each.tables.resampled(effort.resamples, "geography")
        again.append(np.concatenate([_between(each, block, own) for block in blocks]))
    means = [mean_defined(np.stack(part, axis=-1)) if used else np.full(1, np.nan) for part in (value, chance, again)]
    interval = np.clip(recentred(float(means[0][0]), means[2]), 0, 1)
    yield row("geography", "regional share", float(means[0][0]), means[1], interval, 0.0)


def _between(crossing: Crossing, tables: Floats, region: Ints) -> Floats:
    """Information about regions over that about sites, (draws,); tables (draws, sites, columns), region (draws, sites),
    either of one draw."""
    members = (region[:, None] == np.arange(region.max() + 1)[:, None]).astype(np.float64)
    of_regions, of_sites = (
        within_layers(mutual_information, crossing.layered(each)) for each in (members @ tables, tables)
    )
    return np.divide(
        of_regions, of_sites, out=np.full(np.broadcast(of_regions, of_sites).shape, np.nan), where=of_sites > 0
    )
