"""Annotation: sites differ in how their readers label the same cases. Test labels stay clean.

The literature calls it label noise or annotator (inter-rater) bias: p(label | image) differs between sites. The dose h,
0 to 1, is the strength: at 0 labels are the true ones, at 1 the worst readers change 40 % of the labels, move every
threshold by half a grade, or grow and shrink segmentation masks by 3 pixels. The readers of a site are drawn once and
do not depend on the dose, and the number of changed labels is exact.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlab.core.registry import Registry, split_call
from fedlab.core.rng import stream
from fedlab.core.typing import Floats, Ints
from fedlab.data.cases import Cases
from fedlab.heterogeneity.raking import largest_remainder
from fedlab.heterogeneity.site_effects import SiteEffects, dose

WORST = 0.4  # share of labels that the worst readers change at full dose
THRESHOLD = 0.5  # of a grade, by which the most biased readers move every threshold at full dose
BORDER = 3  # pixels by which masks grow or shrink at full dose
SEVERITY = ("severity", "score")  # columns that order cases within a class

Annotation = float | str
Masks = NDArray[np.uint8]
POLICIES = Registry("annotation policy")


@dataclass(frozen=True)
class Annotator:
    """The readers of one site.

    policy: a name in POLICIES. amount: share of changed labels (symmetric, neighbour), shift of thresholds in grades
    (threshold), or pixels added to the border of masks, negative for removed ones (outline).
    """

    site: str
    seed: int
    policy: str
    amount: float

    def annotate(self, cases: Cases, rows: Ints) -> Ints:
        """Labels (m,) that the readers give to all of the site's cases of one split."""
        labels = cases.labels[rows]
        if not self.amount or self.policy == "outline" or not len(rows):
            return labels
        return POLICIES.function(self.policy)(self, cases, rows, labels)  # type: ignore[no-any-return]

    def annotate_masks(self, masks: Masks) -> Masks:
        """Masks (m, height, width[, depth]) that the readers draw."""
        pixels = round(self.amount) if self.policy == "outline" else 0
        return np.stack([_move_border(mask, pixels) for mask in masks]) if pixels and len(masks) else masks


def check(value: Annotation) -> None:
    """Readers of the sites (label noise, annotator bias): refuse a value that cannot be an annotation.

    Parameters
    ----------
    value : float or str
        A dose, 0 to 1, of the policy that suits the task (symmetric; neighbour for grades; outline for masks), or
        text: ``"symmetric(0.5)"``, ``"neighbour(0.5)"``, ``"threshold(0.5)"``, ``"outline(0.5)"``.

    Raises
    ------
    ValueError
        If the value is neither a dose nor a known policy with a dose.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=400, size=16)")
    >>> part = fedlab.partition(cases, sites=2, annotation=0.5)
    >>> changed = part.table["annotated"] != cases.labels[part.rows]
    >>> changed.groupby(part.table["site"]).mean().round(2).tolist()
    [0.0, 0.2]
    """
    read(value)


def read(value: Annotation) -> tuple[str, float]:
    """Return (policy, dose); an empty policy is the one that suits the task."""
    if not isinstance(value, str):
        return "", dose(value, "annotation")
    name, args, arguments = split_call(value, "annotation")
    POLICIES.function(name)
    if len(args) + len(arguments) != 1 or not set(arguments) <= {"dose"}:
        raise ValueError(f"annotation is {value!r}: write '{name}(0.5)', with a dose between 0 and 1")
    return name, dose([*args, *arguments.values()][0], f"annotation {name!r}")


def draw(value: Annotation, cases: Cases, sites: list[str], effects: SiteEffects) -> dict[str, Annotator]:
    """Draw the readers of each site; an empty dictionary at dose 0.

    value: see `check`. Raises ValueError where a policy does not suit the task.
    """
    policy, h = read(value)
    if h == 0:
        return {}
    policy = policy or {"ordinal": "neighbour", "segmentation": "outline"}.get(cases.task, "symmetric")
    _check_suits(policy, cases)
    u = effects.of("annotation")
    amounts = {"threshold": THRESHOLD * h * u, "outline": BORDER * h * u}.get(policy, WORST * h * (1 + u) / 2)
    return {site: Annotator(site, effects.seed, policy, float(a)) for site, a in zip(sites, amounts, strict=True)}


def _check_suits(policy: str, cases: Cases) -> None:
    """Raise ValueError, naming suitable policies, if a policy does not suit the task."""
    suits = {
        "symmetric": ("binary", "multiclass", "ordinal"),
        "neighbour": ("binary", "ordinal"),
        "threshold": ("binary", "ordinal"),
        "outline": ("segmentation",),
    }
    if cases.task not in suits[policy]:
        suitable = [name for name, tasks in suits.items() if cases.task in tasks]
        hint = f"use {' or '.join(map(repr, suitable))}" if suitable else "leave `annotation` at 0"
        raise ValueError(f"annotation policy {policy!r} does not suit the {cases.task} task of {cases.name}: {hint}")


@POLICIES.add
def symmetric(reader: Annotator, cases: Cases, rows: Ints, labels: Ints) -> Ints:
    """Symmetric (uniform) label noise: a share of each class gets any other class with equal frequency.

    The share at site k is ``0.4 h (1 + u[k]) / 2``, met exactly by largest remainder; h = 0 changes no label.

    Parameters
    ----------
    reader, cases, rows, labels
        Given by the partition; a user writes the dose, 0 to 1, as in ``"symmetric(0.5)"``.

    Returns
    -------
    ndarray of int, (m,)
        Labels as the site's readers give them.

    References
    ----------
    Natarajan et al. 2013, Learning with noisy labels, NeurIPS 26.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=400, size=16)")
    >>> part = fedlab.partition(cases, sites=3, annotation="symmetric(1.0)")
    >>> sorted(round(reader.amount, 2) for reader in part.annotators.values())
    [0.0, 0.2, 0.4]
    """
    classes = len(cases.classes)
    return _relabel(reader, labels, lambda c: [d for d in range(classes) if d != c])


@POLICIES.add
def neighbour(reader: Annotator, cases: Cases, rows: Ints, labels: Ints) -> Ints:
    """Label noise between neighbouring grades: a share of each grade gets the grade below or above.

    The share at site k is ``0.4 h (1 + u[k]) / 2``, met exactly by largest remainder; h = 0 changes no label. For a
    binary task it is the same as symmetric.

    Parameters
    ----------
    reader, cases, rows, labels
        Given by the partition; a user writes the dose, 0 to 1, as in ``"neighbour(0.5)"``.

    Returns
    -------
    ndarray of int, (m,)
        Labels as the site's readers give them.

    References
    ----------
    Krause et al. 2018 on disagreement between graders of diabetic retinopathy, doi:10.1016/j.ophtha.2018.01.034.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=400, size=16)")
    >>> part = fedlab.partition(cases, sites=3, annotation="neighbour(0.5)")
    >>> sorted(round(reader.amount, 2) for reader in part.annotators.values())
    [0.0, 0.1, 0.2]
    """
    classes = len(cases.classes)
    return _relabel(reader, labels, lambda c: [d for d in (c - 1, c + 1) if 0 <= d < classes])


@POLICIES.add
def threshold(reader: Annotator, cases: Cases, rows: Ints, labels: Ints) -> Ints:
    """Biased thresholds between grades: a lenient site gives its mildest cases of a grade the grade below.

    Thresholds of site k are moved by ``0.5 h u[k]`` of a grade, upwards if positive. The order of cases within a grade
    is that of a severity or score column, else random; h = 0 changes no label.

    Parameters
    ----------
    reader, cases, rows, labels
        Given by the partition; a user writes the dose, 0 to 1, as in ``"threshold(0.5)"``.

    Returns
    -------
    ndarray of int, (m,)
        Labels as the site's readers give them.

    References
    ----------
    Kalpathy-Cramer et al. 2016 on cut points that differ between experts, doi:10.1016/j.ophtha.2016.07.020.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=400, size=16)")
    >>> part = fedlab.partition(cases, sites=3, annotation="threshold(1.0)")
    >>> sorted(reader.amount for reader in part.annotators.values())
    [-0.5, 0.0, 0.5]
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
    """Biased segmentation masks: too small at some sites, too large at others; labels do not change.

    Masks of site k are dilated by ``3 h u[k]`` pixels, rounded, or eroded if negative; h = 0 changes no mask.

    Parameters
    ----------
    reader, cases, rows, labels
        Given by the partition; a user writes the dose, 0 to 1, as in ``"outline(0.5)"``.

    Returns
    -------
    ndarray of int, (m,)
        The labels, unchanged; `Annotator.annotate_masks` changes the masks.

    References
    ----------
    Joskowicz et al. 2019 on the variability of manual delineation, doi:10.1007/s00330-018-5695-5.

    Examples
    --------
    >>> mask = np.zeros((1, 5, 5), np.uint8)
    >>> mask[0, 2, 2] = 1
    >>> int(Annotator("Site A", 0, "outline", amount=1.0).annotate_masks(mask).sum())
    9
    """
    return labels


def _relabel(reader: Annotator, labels: Ints, others: Callable[[int], list[int]]) -> Ints:
    """Change a share `amount` of the labels, equally often to each class in others(class)."""
    marked = labels.copy()
    values, found = np.unique(labels, return_counts=True)
    for grade, count in zip(values, _changes_by_class(reader.amount, found), strict=True):
        rng = stream(reader.seed, "annotation", reader.site, int(grade), str(len(labels)))
        to = rng.permutation(others(int(grade)))
        members = rng.permutation(np.flatnonzero(labels == grade))[:count]
        marked[members] = np.resize(to, count)
    return marked


def _changes_by_class(share: float, found: Ints) -> Ints:
    """Return how many labels of each class are changed, by largest remainder of the share."""
    total = math.floor(share * found.sum() + 0.5)
    return largest_remainder(found, total)


def _severity(reader: Annotator, cases: Cases, rows: Ints) -> Floats:
    """Return the order of cases within a grade, (m,)."""
    drawn = stream(reader.seed, "annotation", "rank").permutation(len(cases))[rows].astype(np.float64)
    column = next((name for name in SEVERITY if name in cases.table), None)
    if column is None:
        return drawn
    known = cases.table[column].to_numpy(np.float64)[rows]
    return np.argsort(np.lexsort((drawn, np.nan_to_num(known)))).astype(np.float64)


def _move_border(mask: Masks, pixels: int) -> Masks:
    """Dilate (the highest label wins) or erode the foreground of a mask (height, width[, depth])."""
    from scipy.ndimage import binary_erosion, grey_dilation

    if pixels > 0:
        size = (2 * pixels + 1,) * mask.ndim
        return np.where(mask > 0, mask, grey_dilation(mask, size=size)).astype(mask.dtype)
    kept = binary_erosion(mask > 0, np.ones((3,) * mask.ndim), iterations=-pixels, border_value=1)
    return np.where(kept, mask, 0).astype(mask.dtype)
