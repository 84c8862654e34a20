"""Annotation: sites differ in how their readers label what they see. Test cases stay clean.

A site's readers are drawn once: who errs, and how, is frozen in the dose. The number of changed labels is exact.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlab.core.registry import Registry, split_call
from fedlab.core.rng import stream
from fedlab.core.typing import Ints
from fedlab.data.cases import Cases
from fedlab.heterogeneity.raking import largest_remainder
from fedlab.heterogeneity.site_coordinates import SiteEffects, dose

WORST = 0.4  # share of labels that the worst readers change at full dose
THRESHOLD = 0.5  # of a grade, by which the most biased readers move every threshold at full dose
BORDER = 3  # pixels by which outlines grow or shrink at full dose
SEVERITY = ("severity", "score")  # columns that order cases within a class

Annotation = float | str
Masks = NDArray[np.uint8]
POLICIES = Registry("annotation policy")


@dataclass(frozen=True)
class Annotator:
    """The readers of one site. policy: a name of POLICIES; amount: share of changed labels (symmetric, neighbour),
    shift of thresholds in grades (threshold), or pixels added to outlines, negative for removed ones (outline)."""

    site: str
    seed: int
    policy: str
    amount: float

    def mark(self, cases: Cases, rows: Ints) -> Ints:
        """Labels (m,) of all of the site's cases of one split as its readers write them."""
        labels = cases.labels[rows]
        if not self.amount or self.policy == "outline" or not len(rows):
            return labels
        return POLICIES.function(self.policy)(self, cases, rows, labels)  # type: ignore[no-any-return]

    def outline(self, masks: Masks) -> Masks:
        """Masks (m, height, width[, depth]) as this site's readers draw them."""
        pixels = round(self.amount) if self.policy == "outline" else 0
        return np.stack([_moved(mask, pixels) for mask in masks]) if pixels and len(masks) else masks


def check(value: Annotation) -> None:
    """ValueError for what can be no annotation shift of any cases."""
    read(value)


def read(value: Annotation) -> tuple[str, float]:
    """(policy, "" for the task's own, dose)."""
    if not isinstance(value, str):
        return "", dose(value, "annotation")
    name, args, knobs = split_call(value, "annotation")
    POLICIES.function(name)
    if len(args) + len(knobs) != 1 or not set(knobs) <= {"dose"}:
        raise ValueError(f"annotation is {value!r}: write '{name}(0.5)', with a dose between 0 and 1")
    return name, dose([*args, *knobs.values()][0], f"annotation {name!r}")


def draw(value: Annotation, cases: Cases, sites: list[str], atlas: SiteEffects) -> dict[str, Annotator]:
    """The readers of each site, none at dose 0.

    value: a dose of the task's own policy (symmetric; neighbour for grades; outline for masks), or "threshold(0.5)" and
    the like. Raises ValueError where a policy does not suit the task.
    """
    policy, h = read(value)
    if h == 0:
        return {}
    policy = policy or {"ordinal": "neighbour", "segmentation": "outline"}.get(cases.task, "symmetric")
    _check_suits(policy, cases)
    u = atlas.coordinates("annotation")
    amounts = {"threshold": THRESHOLD * h * u, "outline": BORDER * h * u}.get(policy, WORST * h * (1 + u) / 2)
    return {site: Annotator(site, atlas.seed, policy, float(a)) for site, a in zip(sites, amounts, strict=True)}


def _check_suits(policy: str, cases: Cases) -> None:
    suits = {
        "symmetric": ("binary", "multiclass", "ordinal"),
        "neighbour": ("binary", "ordinal"),
        "threshold": ("binary", "ordinal"),
        "outline": ("segmentation",),
    }
    if cases.task not in suits[policy]:
        would = [name for name, tasks in suits.items() if cases.task in tasks]
        hint = f"{' or '.join(map(repr, would))} would do" if would else "leave `annotation` at 0"
        raise ValueError(f"annotation policy {policy!r} does not suit the {cases.task} task of {cases.name}: {hint}")


@POLICIES.add
def symmetric(reader: Annotator, cases: Cases, rows: Ints, labels: Ints) -> Ints:
    """A share of each class gets any other class, all alike often: exactly so many by largest remainder."""
    classes = len(cases.classes)
    return _changed(reader, labels, lambda c: [d for d in range(classes) if d != c])


@POLICIES.add
def neighbour(reader: Annotator, cases: Cases, rows: Ints, labels: Ints) -> Ints:
    """A share of each grade gets the grade below or above: confusions of neighbours only."""
    classes = len(cases.classes)
    return _changed(reader, labels, lambda c: [d for d in (c - 1, c + 1) if 0 <= d < classes])


@POLICIES.add
def threshold(reader: Annotator, cases: Cases, rows: Ints, labels: Ints) -> Ints:
    """Every threshold between grades is moved: a lenient site calls the mildest cases of a grade by the grade below.

    A case's place within its grade is its rank by a severity column, else drawn.
    """
    marked, step = labels.copy(), 1 if reader.amount < 0 else -1  # thresholds moved up lower the grade
    for grade in np.unique(labels):
        members = np.flatnonzero(labels == grade)
        if not 0 <= grade + step < len(cases.classes):
            continue
        order = members[np.argsort(_severity(reader, cases, rows[members]), kind="stable")]
        count = round(abs(reader.amount) * len(members))
        marked[order[:count] if step < 0 else order[len(order) - count :]] = grade + step
    return marked


@POLICIES.add
def outline(reader: Annotator, cases: Cases, rows: Ints, labels: Ints) -> Ints:
    """Masks are drawn too small at some sites and too large at others; labels stay."""
    return labels


def _changed(reader: Annotator, labels: Ints, others) -> Ints:  # type: ignore[no-untyped-def]
    """Labels of which a share `amount` is changed, evenly to each class of others(class)."""
    marked = labels.copy()
    values, found = np.unique(labels, return_counts=True)
    for grade, count in zip(values, _flips(reader.amount, found), strict=True):
        rng = stream(reader.seed, "annotation", reader.site, int(grade), str(len(labels)))
        to = rng.permutation(others(int(grade)))
        members = rng.permutation(np.flatnonzero(labels == grade))[:count]
        marked[members] = np.resize(to, count)
    return marked


def _flips(share: float, found: Ints) -> Ints:
    """How many of each class are changed, by largest remainder of the share."""
    total = math.floor(share * found.sum() + 0.5)
    return largest_remainder(found, total)


def _severity(reader: Annotator, cases: Cases, rows: Ints) -> NDArray[np.float64]:
    """(m,) what orders cases within a grade."""
    drawn = stream(reader.seed, "annotation", "rank").permutation(len(cases))[rows].astype(np.float64)
    column = next((name for name in SEVERITY if name in cases.table), None)
    if column is None:
        return drawn
    known = cases.table[column].to_numpy(np.float64)[rows]
    return np.argsort(np.lexsort((drawn, np.nan_to_num(known)))).astype(np.float64)


def _moved(mask: Masks, pixels: int) -> Masks:
    """A mask (height, width[, depth]) whose foreground is grown (outer labels win by their number) or shrunk."""
    from scipy.ndimage import binary_erosion, grey_dilation

    if pixels > 0:
        size = (2 * pixels + 1,) * mask.ndim
        return np.where(mask > 0, mask, grey_dilation(mask, size=size)).astype(mask.dtype)
    kept = binary_erosion(mask > 0, np.ones((3,) * mask.ndim), iterations=-pixels, border_value=1)
    return np.where(kept, mask, 0).astype(mask.dtype)
