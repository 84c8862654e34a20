"""One method of a short comparison, advanced a round at a time."""

from pathlib import Path
from typing import Any

import pandas as pd

from fedlab import algorithms
from fedlab.engine.threads import threads_for
from fedlab.experiments import run_folder
from fedlab.experiments.experiment import Experiment
from fedlab.experiments.recorder import Recorder
from fedlab.experiments.run_folder import Run
from fedlab.federation import Federation
from fedlab.partitioning.partitions import Partition
from fedlab.plots.lines import site_means


class Contest:
    """A method on a partition, under the budget that all share; budget: fields of `fedlab.Experiment`."""

    def __init__(self, part: Partition, method: str, budget: dict[str, Any], folder: Path) -> None:
        self.experiment = Experiment(**{**budget, "dataset": part.cases.name, "method": method})
        self.work = run_folder.unfinished(folder / method)
        self.work.mkdir(parents=True)
        self.fed = Federation(part, self.experiment.model, self.experiment)
        self.record = Recorder(self.fed, self.work)
        self._rounds = algorithms.start(method, self.fed)

    def advance(self) -> None:
        """One round, evaluated."""
        with threads_for(self.fed.layout.parameters, self.fed.device):
            self.record.add(next(self._rounds))

    def curve(self, metric: str, split: str) -> pd.DataFrame:
        """Columns method, round, value, low, high: mean, worst and best site."""
        return site_means(self.record.frame(), metric, split).assign(method=self.experiment.method)

    def watched(self) -> tuple[str, str]:
        """(metric, split): the headline on validation cases where there is one, else the training loss."""
        frame, metric = self.record.frame(), self.fed.task.metrics[0]
        known = frame.loc[frame["split"].eq("val") & frame["metric"].eq(metric), "value"].notna().any()
        return (metric, "val") if known else ("loss", "train")

    def finish(self) -> Run:
        """The run as far as it went."""
        return run_folder.finish(self.record, self.experiment, self.work.with_name(self.experiment.method))
