"""Conformal prediction sets: how often they contain the true class at each site, and how large they are.

Split conformal: thresholds are set on validation cases, and sets are judged on test cases. Cases of a site are
exchangeable with each other, not with those of other sites.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from fedlab.analysis.alignment import POOLED, Alignment, align, probabilities
from fedlab.core.registry import choose
from fedlab.core.rng import stream
from fedlab.core.typing import Bools, Floats, Ints
from fedlab.evaluation.intervals import proportions
from fedlab.evaluation.intervals.interval import NONE, Interval
from fedlab.experiments.run_folder import Run

CALIBRATIONS = ("pooled", "site", "shrunken")
SCORES = ("lac", "aps")
SHRINKAGE = 30.0  # cases of the other sites that count as much as those of the site
ROUNDING = 1e-9
ALL = "all classes"


class Conformal(pd.DataFrame):
    """The table of `fedlab.conformal`: an ordinary DataFrame; `attrs` keeps level and score."""

    @property
    def _constructor(self) -> type["Conformal"]:
        return Conformal


def conformal(
    run: Run,
    level: float = 0.9,
    calibration: str = "site",
    score: str = "lac",
    *,
    by_class: bool = False,
    shrinkage: float = SHRINKAGE,
    choice: str = "best",
) -> Conformal:
    """Make prediction sets that should contain the true class with a given probability, and measure it at each site.

    Parameters
    ----------
    run : Run
        Of a classification task with one label a case. Each site uses its own model if it has one.
    level : float, default 0.9
        Wanted share of test cases whose set contains the true class.
    calibration : {"pooled", "site", "shrunken"}, default "site"
        Validation cases that set the threshold. "pooled": of all sites; sets cover on average over the cases of all
        sites and may fail at one. "site": of the site alone; sets cover there, but are large with few cases (all
        classes with fewer than level / (1 - level), 9 at 0.9). "shrunken": both, the site's with weight
        n / (n + shrinkage); a compromise without guarantee.
    score : {"lac", "aps"}, default "lac"
        "lac": one minus the probability of the class; smallest sets. "aps": the probability of all classes that are
        more probable, and a random share of its own, so that sets adapt to difficult cases.
    by_class : bool, default False
        One threshold for each class (Mondrian), so that each class is covered; it needs cases of each class.
    shrinkage : float, default 30
        Number of validation cases at which both parts of "shrunken" have the same weight; 0 is "site".
    choice : {"best", "last"}, default "best"
        Model of the round that is best on validation cases, or of the last round. The best round is chosen on the
        calibration cases, of which the sets then are a little too sure; "last" is free of that.

    Returns
    -------
    Conformal
        A row for each site and class, and for "pooled" (all test cases, each set by the threshold of its site); the
        class is "all classes" unless `by_class`. Columns: site, class, calibration, cases (of validation, behind the
        threshold; patients if these have several images), own (of these at the site), threshold, tests (test cases),
        coverage with its 95 % interval low, high; size (mean classes in a set), empty (share of sets without a
        class); band_low, band_high: where 95 % of thresholds from as many exchangeable cases have their true
        coverage; covered_by: "guarantee" where cases are exchangeable with those behind the threshold, else "none".

    Raises
    ------
    ValueError
        If the task has several labels a case or masks, there are no validation cases, or an argument is out of range.

    Notes
    -----
    The threshold of n cases is the smallest score that ceil((n + 1) level) of them do not exceed. The coverage of such
    a threshold is Beta(n + 1 - l, l) with l = floor((n + 1) (1 - level)) [1]_. "shrunken" weights the two shares of
    scores below the threshold, each of n + 1. Images of a patient share the weight of one case. Validation labels are
    those that the readers of the site wrote; test labels are true.

    References
    ----------
    .. [1] V. Vovk, A. Gammerman, G. Shafer, Algorithmic Learning in a Random World, 2005; Y. Romano, M. Sesia,
       E. Candes, NeurIPS 2020 (APS); C. Lu, J. Kalpathy-Cramer, arXiv:2110.07661 (sites).

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=300, size=16)", sites=2, model="logistic", rounds=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = fedlab.conformal(fedlab.run(base, folder=folder), level=0.8, calibration="pooled")
    >>> table["site"].tolist(), bool((table["size"] <= 2).all())
    (['Site A', 'Site B', 'pooled'], True)
    """
    choose("calibration", calibration, CALIBRATIONS)
    choose("score", score, SCORES)
    if isinstance(level, bool) or not 0 < level < 1:
        raise ValueError(f"level={level!r}: give the wanted coverage, between 0 and 1, such as 0.9")
    if isinstance(shrinkage, bool) or not 0 <= shrinkage < float("inf"):
        raise ValueError(f"shrinkage={shrinkage!r}: give a number of cases, 0 or more")
    fitted, tested = (_scored(run, split, choice, score) for split in ("val", "test"))
    if not len(fitted.y):
        raise ValueError("there are no validation cases to set thresholds on: partition with validation cases")
    classes = range(fitted.classes) if by_class else [None]
    found = [_for_class(fitted, tested, level, calibration, shrinkage, label) for label in classes]
    inside = tested.sets([each.thresholds for each in found])
    rows: list[dict[str, Any]] = []
    for label, each in zip(classes, found, strict=True):
        named = ALL if label is None else run.classes[label]
        for site in [*tested.sites, POOLED]:
            row = {"site": site, "class": named, "calibration": calibration, **each.of(site)}
            rows.append(row | _measured(tested, inside, site, label))
    table = Conformal(rows).sort_values("site", key=lambda s: s.map([*tested.sites, POOLED].index), kind="stable")
    table = table.reset_index(drop=True)
    table.attrs |= {"level": level, "score": score}
    return Conformal(table)


# -- scores ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Scored:
    """Conformal scores (n, classes) of cases, their labels (n,), site numbers (n,) and patients (n,)."""

    scores: Floats
    y: Ints
    site: Ints
    patient: Ints
    sites: list[str]

    @property
    def classes(self) -> int:
        return self.scores.shape[1]

    @property
    def true(self) -> Floats:
        """The score of the true class, (n,)."""
        return self.scores[np.arange(len(self.y)), self.y]

    def of_class(self, label: int | None) -> "Scored":
        """The cases of one class; all of them for None."""
        if label is None:
            return self
        at = self.y == label
        return replace(self, scores=self.scores[at], y=self.y[at], site=self.site[at], patient=self.patient[at])

    def sets(self, thresholds: list[dict[str, float]]) -> Bools:
        """Which classes are in the set of each case, (n, classes); thresholds: by site, of each class or of all."""
        limits = np.array([[each[site] for site in self.sites] for each in thresholds])[:, self.site].T
        return self.scores <= limits + ROUNDING


def _scored(run: Run, split: str, choice: str, score: str) -> Scored:
    """The scores of a split; validation labels are those that a site has."""
    if run.task in ("segmentation", "multilabel", "regression"):
        raise ValueError(
            f"{run.method!r} solves a {run.task} task: prediction sets need one class a case (binary, multiclass or"
            " ordinal)"
        )
    labels = "annotated" if split == "val" and "annotated" in run.predictions else "true"
    alignment = align([run], "brier", choice, split, labels)[0]
    p = probabilities(run, alignment)[0]
    site = np.array([alignment.sites.index(name) for name in alignment.table["site"]], np.int64)
    scores = 1 - p if score == "lac" else aps(p, _uniform(run, alignment))
    return Scored(scores, alignment.y, site, alignment.table["unit"].to_numpy(), alignment.sites)


def _uniform(run: Run, alignment: Alignment) -> Floats:
    """One random number a case, (n,), which neither the order of rows nor the splits change."""
    cases = np.unique(run.partition_table["case"].astype(str))
    drawn = pd.Series(stream(int(run.experiment.seed), "prediction sets").random(len(cases)), index=cases)
    return drawn.loc[alignment.table["case"].astype(str)].to_numpy(np.float64)


def aps(p: Floats, u: Floats) -> Floats:
    """Adaptive scores (n, classes) of probabilities (n, classes) with random numbers (n,).

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.analysis.joining.conformal_sets import aps
    >>> aps(np.array([[0.7, 0.2, 0.1]]), np.array([0.5])).round(2).tolist()
    [[0.35, 0.8, 0.95]]
    """
    order = np.argsort(-p, axis=1, kind="stable")
    ranked = np.take_along_axis(p, order, axis=1)
    above = np.cumsum(ranked, axis=1) - ranked
    scores = np.empty_like(p)
    np.put_along_axis(scores, order, above + u[:, None] * ranked, axis=1)
    return scores


# -- thresholds ------------------------------------------------------------------------------------------------------


def threshold(
    own: Floats, others: Floats, level: float, weight: float, counts: tuple[Floats, Floats] | None = None
) -> float:
    """The threshold that the weighted share of scores reaches: that of `own` alone for weight 1, of `others` for 0.

    Parameters
    ----------
    own, others : ndarray of float, shape (n,) and (m,)
        Scores of true classes.
    level : float
        Wanted coverage.
    weight : float
        Of the site's own scores, 0 to 1.
    counts : pair of ndarray, optional
        What each score counts for, such as 1 / (images of its patient); 1 by default.

    Returns
    -------
    float
        Infinite where there are too few scores.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.analysis.joining.conformal_sets import threshold
    >>> own, others = np.arange(1, 10) / 10, np.arange(1, 20) / 100
    >>> threshold(own, others, 0.9, 1.0), threshold(own, others, 0.9, 0.0), threshold(own[:8], others, 0.9, 1.0)
    (0.9, 0.18, inf)
    """
    parts = counts or (np.ones(len(own)), np.ones(len(others)))
    shares = [
        w * part / (part.sum() + 1) for w, part in zip((weight, 1 - weight), parts, strict=True)
    ]  # one more for the test case
    scores, mass = np.concatenate([own, others]), np.concatenate(shares)
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum(mass[order]) >= level - ROUNDING
    return float(scores[order][np.argmax(reached)]) if reached.any() else float("inf")


@dataclass(frozen=True, eq=False)
class _Fitted:
    """Thresholds of sites for one class, or for all, with the cases behind them."""

    thresholds: dict[str, float]
    cases: dict[str, float]
    own: dict[str, float]
    level: float
    calibration: str

    def of(self, site: str) -> dict[str, Any]:
        """The columns of a site, or of all sites together."""
        everything = site == POOLED
        exchangeable = self.calibration == ("pooled" if everything else "site")
        n = self.cases[site]
        known = self.calibration == "pooled" or (self.calibration == "site" and not everything)
        band = coverage_band(int(n), self.level) if known else NONE
        return {
            "cases": n,
            "own": self.own[site],
            "threshold": float("nan") if everything and self.calibration != "pooled" else self.thresholds[site],
            "band_low": band.low,
            "band_high": band.high,
            "covered_by": "guarantee" if exchangeable else "none",
        }


def _for_class(
    fitted: Scored, tested: Scored, level: float, calibration: str, shrinkage: float, label: int | None
) -> _Fitted:
    """Thresholds of each site from the validation cases of a class."""
    cases = fitted.of_class(label)
    person = np.unique(cases.patient, return_inverse=True)[1]
    counts = 1 / np.bincount(person)[person] if len(person) else np.ones(0)
    thresholds, behind, own = {}, {}, {}
    everything, nothing = np.ones(len(cases.y), bool), np.zeros(len(cases.y), bool)
    for number, site in enumerate(tested.sites):
        at = cases.site == number
        mine, rest = {"pooled": (everything, nothing), "site": (at, nothing), "shrunken": (at, ~at)}[calibration]
        n = float(counts[at].sum())
        weight = n / (n + shrinkage) if rest.any() and n + shrinkage > 0 else 1.0
        thresholds[site] = threshold(cases.true[mine], cases.true[rest], level, weight, (counts[mine], counts[rest]))
        behind[site], own[site] = round(float(counts[mine | rest].sum()), 6), round(n, 6)
    total = round(float(counts.sum()), 6)
    thresholds[POOLED] = thresholds[tested.sites[0]] if calibration == "pooled" else float("nan")
    return _Fitted(thresholds, behind | {POOLED: total}, own | {POOLED: total}, level, calibration)


def coverage_band(n: int, level: float, share: float = 0.95) -> Interval:
    """Where the true coverage lies with a given probability, over thresholds of n exchangeable cases.

    Examples
    --------
    >>> from fedlab.analysis.joining.conformal_sets import coverage_band
    >>> [round(limit, 3) for limit in coverage_band(100, 0.9)]
    [0.836, 0.951]
    >>> coverage_band(8, 0.9)  # too few: sets of all classes
    Interval(low=1.0, high=1.0)
    """
    from scipy import special

    left = int(np.floor((n + 1) * (1 - level) + ROUNDING))
    if left < 1:
        return Interval(1.0, 1.0)
    tails = (0.5 - share / 2, 0.5 + share / 2)
    low, high = (float(special.betaincinv(n + 1 - left, left, tail)) for tail in tails)
    return Interval(low, high)


# -- what test cases show --------------------------------------------------------------------------------------------


def _measured(tested: Scored, inside: Bools, site: str, label: int | None) -> dict[str, Any]:
    """Coverage and size of the sets of a site's test cases, or of all test cases, of one class or of all."""
    at = np.ones(len(tested.y), bool) if site == POOLED else tested.site == tested.sites.index(site)
    at = at & (True if label is None else tested.y == label)
    covered, sizes = inside[np.arange(len(at)), tested.y][at], inside[at].sum(1)
    limits = _limits(covered, tested.patient[at])
    return {
        "tests": int(at.sum()),
        "coverage": float(covered.mean()) if at.any() else float("nan"),
        "low": limits.low,
        "high": limits.high,
        "size": float(sizes.mean()) if at.any() else float("nan"),
        "empty": float((sizes == 0).mean()) if at.any() else float("nan"),
    }


def _limits(covered: Bools, patient: Ints) -> Interval:
    """The interval of a coverage; the unit is the patient."""
    person = np.unique(patient, return_inverse=True)[1]
    images = np.bincount(person)
    if len(images) < 2:
        return NONE
    if (images == 1).all():
        return proportions.proportion(int(covered.sum()), len(covered))
    return proportions.clustered_proportion(np.bincount(person, covered), images)
