"""How long a study takes: an estimate before it begins, and the time that is left."""

import tempfile
import time
from collections.abc import Iterable

from fedlab.experiments.experiment import Experiment
from fedlab.experiments.runner import run

FEW, MORE = 1, 3  # rounds of the runs of an estimate


def estimate(experiments: Iterable[Experiment]) -> float:
    """Seconds that experiments take one after another.

    The first experiment of each method is run with one and with three rounds, in a folder that is removed again.
    """
    seconds: dict[str, float] = {}
    total = 0.0
    for one in experiments:
        if one.method not in seconds:
            seconds[one.method] = _measured(one)
        total += seconds[one.method]
    return total


def _measured(experiment: Experiment) -> float:
    """Seconds of a run, extrapolated from runs of few rounds."""
    took = []
    for rounds in (FEW, FEW, MORE):  # the first warms up
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            run(experiment.with_(rounds=min(rounds, experiment.rounds)), folder=folder)
            took.append(time.perf_counter() - begun)
    a_round = max(0.0, (took[2] - took[1]) / (MORE - FEW))
    return took[1] + a_round * (experiment.rounds - FEW)
