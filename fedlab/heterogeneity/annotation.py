"""Annotation: sites differ in how their readers label the same cases. Test labels stay clean.

The literature calls it label noise or annotator (inter-rater) bias: p(label | image) differs between sites. The dose h,
0 to 1, is the strength: at 0 labels are the true ones, at 1 the worst readers change 40 % of the labels, move every
threshold by half a grade, or move the borders of segmentation masks by a quarter of each structure's thickness. The
readers of a site are drawn once and do not depend on the dose, and the number of changed labels or pixels is exact.
"""

import hashlib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedlab.core.registry import Registry, split_call
from fedlab.core.rng import stream
from fedlab.core.typing import Floats, Ints
from fedlab.data.cases import Cases
from fedlab.data.extents import within
from fedlab.heterogeneity import borders
from fedlab.heterogeneity.borders import Masks
from fedlab.heterogeneity.covariates import read_column
from fedlab.heterogeneity.raking import largest_remainder
from fedlab.heterogeneity.site_effects import SiteEffects, dose

WORST = 0.4  # share of labels that the worst readers change at full dose
THRESHOLD = 0.5  # of a grade, by which the most biased readers move every threshold at full dose
BORDER = 0.25  # of a structure's thickness, by which the most biased readers move its border at full dose
SEVERITY = ("severity", "score")  # columns that order cases within a class

Annotation = float | str
POLICIES = Registry("annotation policy")
LABELLED = ("binary", "multiclass", "ordinal", "multilabel")  # tasks of a policy of the user's own
SUITS = {
    "symmetric": ("binary", "multiclass", "ordinal"),
    "neighbour": ("binary", "ordinal"),
    "threshold": ("binary", "ordinal"),
    "outline": ("segmentation",),
}


@dataclass(frozen=True)
class Annotator:
    """The readers of one site.

    policy: a name in POLICIES. amount: share of changed labels (symmetric, neighbour), shift of thresholds in grades
    (threshold), or the share of a structure's thickness by which its border moves, inwards if negative (outline).
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
        return _checked(POLICIES.function(self.policy)(self, cases, rows, labels), len(rows), cases, self.policy)

    def annotate_masks(self, masks: Masks, overlap: bool = False) -> Masks:
        """Masks (m, height, width[, depth]) that the readers draw; a mask is drawn the same in any batch.

        overlap: whether structures may overlap, with one bit for each.
        """
        if self.policy != "outline" or not self.amount or not len(masks):
            return masks
        if abs(self.amount) > borders.LARGEST:
            raise ValueError(
                f"the readers of {self.site} move borders by {self.amount:g} of the thickness of structures, at most"
                f" {borders.LARGEST:g} is possible: a partition of an earlier version counted pixels, make it again"
            )
        move = borders.move_overlapping_borders if overlap else borders.move_borders
        return np.stack([move(mask, self.amount, self._hand(mask)) for mask in masks])

    def _hand(self, mask: Masks) -> np.random.Generator:
        """Return the random numbers of one mask, which depend on its content only."""
        content = hashlib.blake2b(np.ascontiguousarray(mask).tobytes(), digest_size=16).hexdigest()
        return stream(self.seed, "annotation", "border", self.site, content)


def drawn(masks: Masks, extents: Ints | None, annotator: Annotator, overlap: bool) -> Masks:
    """The masks that readers draw; those of images of unequal size within their extents, see `Cases`."""
    return within(lambda found, _: annotator.annotate_masks(found, overlap), masks, extents)


def check(value: Annotation) -> None:
    """Readers of the sites (label noise, annotator bias): refuse a value that cannot be an annotation.

    Parameters
    ----------
    value : float or str
        A dose, 0 to 1, of the policy that suits the task (symmetric; neighbour for grades; outline for masks), or
        text: ``"symmetric(0.5)"``, ``"neighbour(0.5)"``, ``"threshold(0.5)"``, ``"outline(0.5)"``, or a function of
        your own that ``POLICIES.add`` has registered.

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
    _check_takes(POLICIES.function(name), name)
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


def _check_takes(policy: Callable[..., Any], name: str) -> None:
    """Raise ValueError unless a policy can be called with the readers, the cases, the rows and the labels."""
    try:
        inspect.signature(policy).bind(None, None, None, None)
    except TypeError:
        raise ValueError(
            f"annotation policy {name!r} takes {inspect.signature(policy)}: write it as a function of (reader, cases,"
            " rows, labels) that returns labels; reader.amount is the share of labels to change"
        ) from None


def _check_suits(policy: str, cases: Cases) -> None:
    """Raise ValueError, naming suitable policies, if a policy does not suit the task."""
    if cases.task in SUITS.get(policy, LABELLED):
        return
    suitable = [name for name in POLICIES if cases.task in SUITS.get(name, LABELLED)]
    hint = f"use {' or '.join(map(repr, suitable))}" if suitable else "leave `annotation` at 0"
    raise ValueError(f"annotation policy {policy!r} does not suit the {cases.task} task of {cases.name}: {hint}")


def _checked(annotated: object, count: int, cases: Cases, policy: str) -> Ints:
    """Return the labels (count,) that a policy gave; raise ValueError unless each is a label of the task."""
    found = np.asarray(annotated)
    top = 2 ** len(cases.classes) if cases.task == "multilabel" else len(cases.classes)
    whole = found.shape == (count,) and found.dtype.kind in "biuf" and bool((found == found.astype(np.int64)).all())
    if not whole or not ((found >= 0) & (found < top)).all():
        shown = f"{np.unique(found)[:5].tolist()}" if whole else f"{found.dtype} of shape {found.shape}"
        raise ValueError(
            f"annotation policy {policy!r} returned {shown} for {count} labels: return one whole number from 0 to"
            f" {top - 1} for each label"
        )
    return found.astype(np.int64)


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

    Readers of site k move the border of each structure outwards by the share ``s = h u[k] / 4`` of its thickness,
    inwards if negative; h = 0 changes no mask. Thickness is twice the area over the length of the border, so that the
    area of thin and of thick structures changes by the same share ``2 s``, whatever the size of the image: at full dose
    the extreme sites draw half as much more, or half as much less.

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
    >>> masks = np.zeros((1, 32, 32), np.uint8)
    >>> masks[0, 2:30, 4] = 1  # a thin vessel
    >>> masks[0, 8:24, 10:26] = 2  # and an organ
    >>> drawn = Annotator("Site A", 0, "outline", amount=0.25).annotate_masks(masks)
    >>> [float((drawn == structure).sum() / (masks == structure).sum()) for structure in (1, 2)]
    [1.5, 1.5]
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
    """Return the order of cases within a grade, (m,); a case of unknown severity takes that of a random other one."""
    drawn = stream(reader.seed, "annotation", "rank").permutation(len(cases))[rows].astype(np.float64)
    for name in (name for name in SEVERITY if name in cases.table):
        known = read_column(cases.table[name]).ranks()
        if known is not None and not np.isnan(known).all():
            missing = np.isnan(known)
            if missing.any():
                rng = stream(reader.seed, "annotation", "unknown severity")
                known = np.where(missing, rng.choice(known[~missing], len(known)), known)
            return np.argsort(np.lexsort((drawn, known[rows]))).astype(np.float64)
    return drawn
