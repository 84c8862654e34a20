"""A short comparison of local and federated training in a background thread, with live curves and a stop button."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

import ipywidgets
import pandas as pd

from fedlab.engine.devices import duration
from fedlab.experiments.run_folder import Run
from fedlab.notebook.live import PAUSE, Screen, picture
from fedlab.partitioning.partitions import Partition
from fedlab.plots import local_vs_global, style
from fedlab.plots.inputs import SPLITS
from fedlab.plots.rounds import draw
from fedlab.widgets.controls import Notice, button
from fedlab.widgets.lockstep_method import LockstepMethod
from fedlab.widgets.subsample import subsample

METHODS = ("local", "fedavg")
MOST = 1500  # training cases
BUDGET = {"rounds": 10, "local_epochs": 1, "batch_size": 32, "lr": 0.1, "model": "small_cnn"}


class ShortTraining:
    """Buttons, a line of progress, curves during the training, and the gain of each site at its end.

    most: training cases at most. budget: fields of `fedlab.Experiment`. Training runs in a thread, so that the kernel
    stays free; it checks the stop button after every round.
    """

    def __init__(self, most: int = MOST, **budget: Any) -> None:
        self.most, self.budget = most, {**BUDGET, **budget}
        self.notice = Notice()
        self.curves, self.gains = ipywidgets.Output(), ipywidgets.Output()
        self.train_button = button("Train a short comparison", "Local against federated training", "play")
        self.stop_button = button("Stop", "After the current round", "stop")
        self.stop_button.disabled = True
        self.stop_button.on_click(lambda _: self.stop())
        self._stop, self._thread = Event(), Thread()
        buttons = ipywidgets.HBox([self.train_button, self.stop_button])
        self.controls = ipywidgets.VBox([buttons, self.notice.widget, self.curves, self.gains])

    @property
    def training(self) -> bool:
        """Whether a training is running."""
        return self._thread.is_alive()

    def start(self, part: Partition) -> None:
        """Train on these sites, unless a training is running."""
        if self.training:
            return
        self._stop.clear()
        self._ready(False)
        self.curves.outputs = self.gains.outputs = ()
        self.notice.say("preparing …")
        self._thread = Thread(target=self._run, args=(part,), name="fedlab short training", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the current round; the models of that round are compared."""
        self._stop.set()
        self.notice.say("stopping after this round …")

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end of the training."""
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _ready(self, ready: bool) -> None:
        """Enable one button and disable the other."""
        self.train_button.disabled, self.stop_button.disabled = not ready, ready

    def _run(self, part: Partition) -> None:
        """Train in a temporary folder and show every error."""
        try:
            with TemporaryDirectory(prefix="fedlab-") as folder:
                self._train(subsample(part, self.most), Path(folder))
        except Exception as error:  # the traceback of a thread is not shown in the notebook
            self.notice.fail(error, "training")
        finally:
            self._ready(True)

    def _train(self, part: Partition, folder: Path) -> None:
        """Train all methods round by round; then compare them after the last round."""
        methods = [LockstepMethod(part, name, self.budget, folder) for name in METHODS]
        rounds, screen, shown, begun = methods[0].experiment.rounds, Screen(self.curves), 0.0, time.perf_counter()
        done = 0
        while done < rounds and not self._stop.is_set():
            for method in methods:
                method.advance()
            done += 1
            progress = f"round {done} of {rounds}, {duration((time.perf_counter() - begun) / done)} a round"
            self.notice.say(progress)
            if time.perf_counter() - shown > PAUSE or done == rounds or self._stop.is_set():
                screen.show(*picture(figure(methods, rounds, progress), progress))
                shown = time.perf_counter()
        if not done:
            self.notice.say("stopped before the first round")
            return
        self._compare([method.finish() for method in methods])
        cases = int((part.table["split"] == "train").sum())
        end = f"stopped after round {done} of {rounds}" if done < rounds else f"{rounds} rounds"
        took = duration(time.perf_counter() - begun)
        self.notice.say(f"{end} on {cases:,} training cases in {took}")

    def _compare(self, finished: list[Run]) -> None:
        """Draw the gain of each site, while the run folders exist."""
        drawn = local_vs_global(finished)
        Screen(self.gains).show(*picture(drawn.figure, drawn.table.to_string()))


def figure(methods: list[LockstepMethod], rounds: int, progress: str) -> Any:
    """Draw the mean over sites of every method so far, in a band from the worst to the best site."""
    metric, split = methods[0].watched()
    table = pd.concat([method.curve(metric, split) for method in methods])
    with style.page(None, 8, 3.2) as ax:
        roles = style.roles(METHODS)
        draw(ax, table, roles)
        ax.set_xlim(1, max(2, rounds))
        ax.set_xlabel("communication round")
        ax.set_ylabel(f"{style.metric_label(metric)} on {SPLITS[split]} cases,\nmean and range of sites")
        style.headline(ax, f"Local against federated: {progress}")
        ax.legend(loc="best", ncols=len(METHODS))
    return style.root(ax)
