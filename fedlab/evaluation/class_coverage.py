"""Report before training which classes have no case, and where metrics are undefined for that."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.warnings import ProtocolWarning, warn
from fedlab.learning.metrics import METRICS, present_classes
from fedlab.learning.tasks import Task

NAMED = 5  # classes that a sentence names, at most
MEANS = ("auroc", "average_precision", "balanced_accuracy")  # metrics that are means over classes
MEANING = {
    "val": "no round can be chosen by it and the last one counts as the best",
    "test": "sites cannot be compared by it: give `compare` another metric",
}


def warn_of_absent_classes(
    task: Task, targets: NDArray[Any], evaluated: Mapping[tuple[str, str], NDArray[Any]]
) -> None:
    """Warn of classes without a case at any site, and where the headline metric is undefined.

    targets: of all cases of all sites, as metrics take them. evaluated: those of each site and split that is scored.
    """
    if task.dense or task.numeric:  # metrics rest on masks, or on numbers
        return
    lines = list(_absent(task, targets))
    headline = task.metrics[0]
    for split, meaning in MEANING.items():
        places = [y for (_, name), y in evaluated.items() if name == split and len(y)]
        undefined = sum(not _is_defined(headline, y, len(task.classes)) for y in places)
        if places and undefined == len(places):
            lines.append(f"{headline} is undefined on the {split} cases of every site, so that {meaning}")
    if lines:
        warn("; ".join(lines), ProtocolWarning)


def _absent(task: Task, targets: NDArray[Any]) -> list[str]:
    """Sentences on classes that no case has, or every case."""
    count = len(task.classes)
    member = targets == 1 if targets.ndim == 2 else targets[:, None] == np.arange(count)
    absent = [name for name, found in zip(task.classes, member.any(0), strict=True) if not found]
    everywhere = [name for name, all_ in zip(task.classes, member.all(0), strict=True) if all_]
    lines = []
    if absent:
        lines.append(f"no case of any site has class {_either(absent)} ({len(absent)} of {count} classes)")
    if everywhere and task.name == "multilabel":
        lines.append(f"every case of every site has class {_either(everywhere)} ({len(everywhere)} of {count} classes)")
    if lines and (left := len(present_classes(targets, count))):
        means = [name for name in MEANS if name in task.metrics]
        lines[-1] += f", so that {' and '.join(means)} are means over the other {left}"
    return lines


def _either(names: Collection[str]) -> str:
    """Names of classes in a sentence, the first few of many."""
    shown = [repr(name) for name in names][:NAMED]
    if len(names) > NAMED:
        shown.append(f"{len(names) - NAMED} more")
    return " or ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _is_defined(metric: str, y: NDArray[Any], classes: int) -> bool:
    """Whether labels define a metric for any prediction."""
    return bool(np.isfinite(METRICS.function(metric)(y, np.full((len(y), classes), 1 / classes))))
