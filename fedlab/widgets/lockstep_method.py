"""One method of a short comparison, advanced round by round."""

from pathlib import Path
from typing import Any

import pandas as pd

from fedlab import algorithms
from fedlab.engine.thread_pool import threads_for
from fedlab.experiments import run_folder
from fedlab.experiments.experiment import Experiment
from fedlab.experiments.recorder import Recorder
from fedlab.experiments.run_folder import Run
from fedlab.federation import Federation
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

    def advance(self) -> None:
        """Train and evaluate one round."""
        with threads_for(self.fed.execution.parameters, self.fed.device):
            self.record.add(next(self._rounds))

    def curve(self, metric: str, split: str) -> pd.DataFrame:
        """Compute columns method, round, value, low, high: mean, worst and best site."""
        return site_means(self.record.frame(), metric, split).assign(method=self.experiment.method)

    def watched(self) -> tuple[str, str]:
        """Return (metric, split): the headline metric on validation cases if defined, else the training loss."""
        frame, metric = self.record.frame(), self.fed.task.metrics[0]
        known = frame.loc[frame["split"].eq("val") & frame["metric"].eq(metric), "value"].notna().any()
        return (metric, "val") if known else ("loss", "train")

    def finish(self) -> Run:
        """Write and return the run up to its last round."""
        return run_folder.finish(self.record, self.experiment, self.work.with_name(self.experiment.method))
