"""One method of a short comparison, advanced round by round."""

from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pandas as pd

from fedlab import algorithms
from fedlab.engine.loop import StoppedError
from fedlab.engine.thread_pool import threads_for
from fedlab.experiments import run_folder
from fedlab.experiments.experiment import Experiment
from fedlab.experiments.recorder import Recorder
from fedlab.experiments.run_folder import Run
from fedlab.federation import Federation, Round
from fedlab.partitioning.partitions import Partition
from fedlab.plots.rounds import site_means


class LockstepMethod:
    """A method on a partition, under a budget that all methods share; budget: fields of `fedlab.Experiment`."""

    def __init__(self, part: Partition, method: str, budget: dict[str, Any], folder: Path) -> None:
        self.experiment = Experiment(**{**budget, "dataset": part.cases.name, "method": method})
        self.work = run_folder.unfinished(folder / method)
        self.work.mkdir(parents=True)
        self.fed = Federation(part, self.experiment.model, self.experiment)
        self.record = Recorder(self.fed, self.work)
        self._rounds = algorithms.start(method, self.fed)

    def train(self) -> Round | None:
        """Train one round; None if it was stopped."""
        try:
            with threads_for(self.fed.execution.parameters, self.fed.device):
                return next(self._rounds)
        except (StoppedError, CancelledError):
            return None

    def evaluate(self, trained: Round) -> None:
        """Evaluate and record a round."""
        with threads_for(self.fed.execution.parameters, self.fed.device):
            self.record.add(trained)

    def stop(self) -> None:
        """End the training of the present round at its next step, from any thread."""
        self.fed.execution.pool.stop()

    def curve(self, metric: str, split: str) -> pd.DataFrame:
        """Compute columns method, round, value, low, high: mean, worst and best site."""
        return site_means(self.record.frame(), metric, split).assign(method=self.experiment.method)

    def watched(self) -> tuple[str, str]:
        """Return (metric, split): the headline metric on validation cases if defined, else the training loss."""
        frame, metric = self.record.frame(), self.fed.task.metrics[0]
        known = frame.loc[frame["split"].eq("val") & frame["metric"].eq(metric), "value"].notna().any()
        return (metric, "val") if known else ("loss", "train")

    def finish(self) -> Run:
        """Write and return the run up to its last recorded round."""
        return run_folder.finish(self.record, self.experiment, self.work.with_name(self.experiment.method))
