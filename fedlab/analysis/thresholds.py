"""Whether decisions do justice to the ranking: a model may rank cases well and yet decide badly at its threshold.

The decisions of a model (p > 0.5, or the most probable class) are compared with those of the same probabilities when
each class is named as often as it occurs. Where these are clearly more often right although the model discriminates,
threshold or calibration is wrong, and accuracy understates the model.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedlab.analysis.scores import Gain, Score, SeedScore
from fedlab.core.typing import Floats

GAP = 0.1  # accuracy that is lost at the threshold, at least
HIGH = 0.75  # AUROC above which a model discriminates
CERTAIN = 0.99  # level of the intervals of both
SWEEPS = 5  # over the classes of a task that is not binary


@dataclass(frozen=True)
class Disagreement:
    """A good ranking with bad decisions: AUROC, accuracy, share of the largest class, accuracy at matched counts."""

    auroc: float
    accuracy: float
    largest: float
    matched: float

    @property
    def brief(self) -> str:
        """The two numbers that disagree."""
        return f"AUROC {self.auroc:.2f}, accuracy {self.accuracy:.2f}"

    def __str__(self) -> str:
        return (
            f"AUROC {self.auroc:.2f} but accuracy {self.accuracy:.2f} (largest class {self.largest:.2f};"
            f" {self.matched:.2f} if each class were named as often as it occurs)"
        )


def disagreement(score: Score) -> Disagreement | None:
    """What is wrong with the decisions of a method on one test set; None where nothing is, or nothing can be said."""
    test, models = score.test, {seed: found.models for seed, found in score.seeds.items()}
    if test.segmented or test.numeric or test.y.ndim == 2 or len(np.unique(test.y)) < 2 or not models:
        return None
    if not all(len(each) and all(np.isfinite(p).all() for p in each) for each in models.values()):
        return None
    decided, ranked = replace(test, metric="accuracy"), replace(test, metric="auroc")
    accuracy = Score(decided, {seed: decided.score(each) for seed, each in models.items()})
    if accuracy.value > 1 - GAP:
        return None
    right = {seed: np.mean([matched_decisions(p, test.y) == test.y for p in each], axis=0)
             for seed, each in models.items()}  # fmt: skip
    matched = Score(decided, {seed: SeedScore(float(each.mean()), right=each) for seed, each in right.items()})
    lost = Gain(matched, accuracy)
    if lost.value < GAP or not lost.cases(CERTAIN).low > 0:
        return None
    auroc = Score(ranked, {seed: ranked.score(each) for seed, each in models.items()})
    if auroc.value < HIGH or not auroc.cases(CERTAIN).low > 0.5:
        return None
    largest = np.bincount(test.y).max() / len(test.y)
    return Disagreement(auroc.value, accuracy.value, float(largest), matched.value)


def matched_decisions(p: Floats, y: NDArray[np.int64]) -> NDArray[np.int64]:
    """Decisions from probabilities (n, classes) that name each class about as often as labels (n,) do.

    Each class has a weight, set in turn so that as many cases prefer it as it has; two classes need one turn.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.analysis.thresholds import matched_decisions
    >>> p = np.array([0.6, 0.7, 0.8, 0.9])
    >>> matched_decisions(np.column_stack([1 - p, p]), np.array([0, 0, 1, 1]))
    array([0, 0, 1, 1])
    """
    classes = p.shape[1]
    logs = np.log(np.clip(p, np.finfo(np.float64).tiny, None))
    wanted = np.bincount(y, minlength=classes)
    logs[:, wanted == 0] = -np.inf
    present = np.flatnonzero(wanted)
    turns = present[1:] if len(present) == 2 else np.tile(present, SWEEPS)
    for label in turns:
        others = np.delete(logs, label, axis=1).max(1)
        margin = np.sort(logs[:, label] - others)[::-1]
        logs[:, label] -= margin[wanted[label] - 1 : wanted[label] + 1].mean()
    return np.asarray(logs.argmax(1))
