"""What the gains of a site allow one to say, and which verdict follows from them."""

from dataclasses import dataclass

import numpy as np

from fedlab.analysis.scores import Gain
from fedlab.evaluation import report_metrics
from fedlab.evaluation.intervals.decisions import GAINS, LOSES, SAME, UNKNOWN, finding
from fedlab.evaluation.intervals.interval import NONE, Interval

JOIN, STAY, ENSEMBLE, FREE, CANNOT = "join", "stay local", "ensemble", "gain without giving", UNKNOWN
VERDICTS = (JOIN, FREE, ENSEMBLE, STAY, CANNOT)
RARER = 5  # patients of the rarer class below which an AUROC has no verdict
PATIENTS = 10  # patients below which a mean of scores has none
EACH = 2  # patients that the second largest class has at least: scores of one class alone show nothing


@dataclass(frozen=True)
class Statement:
    """A paired gain (larger is better) with its 95 % and 90 % intervals, and what they say.

    p_value: one-sided, of no gain.
    """

    value: float = float("nan")
    at_95: Interval = NONE
    at_90: Interval = NONE
    says: str = UNKNOWN
    p_value: float = float("nan")

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return bool(np.isfinite(self.at_95.low))


NOTHING = Statement()


def statement(gain: Gain, margin: float) -> Statement:
    """What the paired difference of two methods says; nothing below the support that its metric needs."""
    up = report_metrics.higher_is_better(gain.test.metric)
    if up is None or too_few(gain) or not np.isfinite(gain.limits.low):
        return NOTHING
    sign = 1.0 if up else -1.0
    value = sign * gain.value
    at_95, at_90 = (_signed(gain.interval(level), sign) for level in (0.95, 0.9))
    half = gain.p_value / 2
    return Statement(value, at_95, at_90, finding(at_95, at_90, margin), half if value > 0 else 1 - half)


def _signed(limits: Interval, sign: float) -> Interval:
    return limits if sign > 0 else Interval(-limits.high, -limits.low)


def too_few(gain: Gain) -> bool:
    """Whether the test cases are too few for any verdict by this metric."""
    test = gain.test
    if test.segmented:
        return min(gain.first.patients, gain.second.patients) < PATIENTS
    if test.of_classes:
        return test.support < RARER
    if test.patients < PATIENTS or test.numeric:
        return test.patients < PATIENTS
    sizes = sorted(len(np.unique(test.patient[test.y == label])) for label in np.unique(test.y))
    return test.y.ndim == 1 and (len(sizes) < 2 or sizes[-2] < EACH)


def decide(
    federated: Statement,
    ensemble: Statement = NOTHING,
    over_federated: Statement = NOTHING,
    free: Statement = NOTHING,
    giving: Statement = NOTHING,
    margin: float = 0.02,
) -> str:
    """The verdict that follows from what is said of a site.

    Parameters
    ----------
    federated, ensemble, free : Statement
        The gain over the local model of the federated model, of the ensemble of local models, and of the federated
        model that is trained without this site.
    over_federated : Statement
        The gain of the ensemble over the federated model.
    giving : Statement
        The gain of the federated model over the one that is trained without this site: what its cases add.
    margin : float
        The largest difference that would not matter.

    Returns
    -------
    {"join", "gain without giving", "ensemble", "stay local", "cannot tell"}

    Examples
    --------
    >>> from fedlab.analysis.joining.rule import Statement, decide
    >>> from fedlab.evaluation.intervals.interval import Interval
    >>> gains = Statement(0.05, Interval(0.01, 0.09), Interval(0.02, 0.08), "gains")
    >>> nothing_more = Statement(0.0, Interval(-0.012, 0.012), Interval(-0.01, 0.01), "no different")
    >>> decide(gains), decide(gains, free=gains, giving=nothing_more), decide(Statement())
    ('join', 'gain without giving', 'cannot tell')
    """
    if free.says == GAINS and (federated.says != GAINS or giving.at_90.high < margin):
        return FREE
    if federated.says == GAINS:
        return ENSEMBLE if ensemble.says == over_federated.says == GAINS else JOIN
    if ensemble.says == GAINS:
        return ENSEMBLE
    return STAY if federated.says in (LOSES, SAME) else CANNOT
