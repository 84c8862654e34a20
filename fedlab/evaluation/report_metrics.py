"""Metrics of stored predictions that no training computes: sensitivity, specificity and calibration of binary tasks.

`fedlab.compare` takes their names like those of `fedlab.learning.metrics`. A metric of one's own, registered under the
same name, comes first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.registry import nearest
from fedlab.core.typing import Floats
from fedlab.evaluation.intervals import calibration
from fedlab.evaluation.intervals.interval import Interval
from fedlab.evaluation.metric_names import suggestion
from fedlab.learning.mask_metrics import MASK_METRICS, of_structure
from fedlab.learning.metrics import HIGHER_IS_BETTER, METRIC_LABELS, METRICS, TASK_METRICS
from fedlab.learning.regression_metrics import REGRESSION_METRICS

Labels = NDArray[np.int64]
Limits = Callable[[Floats, Labels, float, NDArray[Any] | None], tuple[float, Interval]]


@dataclass(frozen=True)
class ReportMetric:
    """A metric of a binary task.

    measure: of labels (n,) and probabilities (n, 2). higher_is_better: None where some value between is best. needs:
    classes without which it is undefined. cases: fewest that define it. limits: (probability of class 1, label, level,
    patient) -> value and interval. interval: the name of the method.
    """

    label: str
    measure: Callable[[Labels, Floats], float]
    higher_is_better: bool | None = None
    needs: tuple[int, ...] = ()
    cases: int = 1
    limits: Limits | None = None
    interval: str = ""

    def is_defined(self, y: Labels) -> bool:
        """Whether labels define the metric."""
        return len(y) >= self.cases and set(self.needs) <= set(y.tolist())


def sensitivity(y: Labels, p: Floats) -> float:
    """Share of the cases of class 1 that are called so: p[:, 1] > 0.5.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.evaluation.report_metrics import sensitivity
    >>> sensitivity(np.array([1, 1, 0]), np.array([[0.1, 0.9], [0.9, 0.1], [0.2, 0.8]]))
    0.5
    """
    return _share(p[y == 1, 1] > 0.5)


def specificity(y: Labels, p: Floats) -> float:
    """Share of the cases of class 0 that are called so.

    Examples
    --------
    >>> import numpy as np
    >>> from fedlab.evaluation.report_metrics import specificity
    >>> specificity(np.array([1, 1, 0]), np.array([[0.1, 0.9], [0.9, 0.1], [0.2, 0.8]]))
    0.0
    """
    return _share(p[y == 0, 1] <= 0.5)


def _share(right: NDArray[np.bool_]) -> float:
    return float(right.mean()) if len(right) else float("nan")


REPORT_METRICS = {
    "sensitivity": ReportMetric("sensitivity", sensitivity, True, needs=(1,)),
    "specificity": ReportMetric("specificity", specificity, True, needs=(0,)),
    "calibration_slope": ReportMetric(
        "calibration slope", lambda y, p: calibration.slope_value(p[:, 1], y), needs=(0, 1),
        limits=calibration.slope, interval="Firth profile",
    ),
    "calibration_intercept": ReportMetric(
        "calibration intercept", lambda y, p: calibration.intercept_value(p[:, 1], y), needs=(0, 1),
        limits=calibration.intercept, interval="score",
    ),
    "squared_calibration_error": ReportMetric(
        "squared calibration error", lambda y, p: calibration.squared_error(p[:, 1], y), False,
        cases=calibration.FEWEST,
    ),
}  # fmt: skip


def find(name: str) -> ReportMetric | None:
    """The metric of that name; None if it is one of `fedlab.learning.metrics`."""
    return None if name in METRICS else REPORT_METRICS.get(name)


def check(name: str, task: str, structures: Sequence[str] = ()) -> None:
    """Raise ValueError for an unknown metric, or one that is not defined for a task; structures: of its masks."""
    base, structure = of_structure(name)
    if structure and base in MASK_METRICS and task == "segmentation":
        if structure not in structures:
            raise ValueError(f"{name!r}: masks have no structure {structure!r}: {nearest(structure, structures)}")
        return
    _check_kind(name, task)
    known = TASK_METRICS[task] if task in KINDS else [*METRICS, *REPORT_METRICS]
    if name in METRICS:
        return
    if name not in REPORT_METRICS:
        others = {*MASK_METRICS, *REGRESSION_METRICS}
        fitting = known if task in KINDS else [one for one in known if one not in others]
        raise ValueError(f"unknown metric {name!r}: {suggestion(base, fitting)}")
    if task != "binary":
        raise ValueError(
            f"{name} is a metric of binary tasks, and this task is {task}: compare accuracy, balanced_accuracy, auroc"
            " or ece"
        )


KINDS = {"segmentation": (MASK_METRICS, "masks"), "regression": (REGRESSION_METRICS, "numbers")}


def _check_kind(name: str, task: str) -> None:
    """Raise ValueError for a metric of masks, numbers or probabilities in a task of another kind."""
    kind = next((kind for kind, (metrics, _) in KINDS.items() if name in metrics), "")
    if kind == (task if task in KINDS else "") or not (name in METRICS or name in REPORT_METRICS):
        return
    what, usual = KINDS[kind][1] if kind else "probabilities", TASK_METRICS.get(task, ["accuracy"])
    raise ValueError(
        f"{name} is a metric of {what}, and this task is {task}: compare {', '.join(usual[:-1])} or {usual[-1]}"
    )


def measure(name: str) -> Callable[..., Any]:
    """The function of labels and probabilities."""
    found = find(name)
    return METRICS.function(name) if found is None else found.measure


def higher_is_better(name: str) -> bool | None:
    """Whether a higher value is better; None where some value between is best."""
    found = find(name)
    return HIGHER_IS_BETTER[of_structure(name)[0]] if found is None else found.higher_is_better


def metric_label(name: str) -> str:
    """The metric's name for axes and titles."""
    found = find(name)
    if found is not None:
        return found.label
    base, structure = of_structure(name)
    return METRIC_LABELS.get(base, base) + (f" of {structure}" if structure else "")
