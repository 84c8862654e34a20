"""A short comparison of local and federated training, in a thread of its own: live, and stopped by a button."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

import ipywidgets
import pandas as pd

from fedlab.experiments.run_folder import Run
from fedlab.notebook.live import PAUSE, Screen, duration, picture
from fedlab.partitioning.partitions import Partition
from fedlab.plots import local_vs_global, style
from fedlab.plots.lines import draw
from fedlab.plots.reading import SPLITS
from fedlab.widgets.contest import Contest
from fedlab.widgets.controls import Notice, button
from fedlab.widgets.thinning import thinned

METHODS = ("local", "fedavg")
MOST = 1500  # training cases
BUDGET = {"rounds": 10, "local_epochs": 1, "batch_size": 32, "lr": 0.1, "model": "small_cnn"}


class Comparison:
    """Buttons, a line of progress, the curves while it trains and what each site gains at the end.

    budget: fields of `fedlab.Experiment`. The kernel stays free: the training has a thread of its own and looks at the
    stop button after every round.
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
        return self._thread.is_alive()

    def start(self, part: Partition) -> None:
        """Train on these sites, unless a training is under way."""
        if self.training:
            return
        self._stop.clear()
        self._ready(False)
        self.curves.outputs = self.gains.outputs = ()
        self.notice.say("preparing …")
        self._thread = Thread(target=self._run, args=(part,), name="fedlab comparison", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the current round; what was learnt by then is compared."""
        self._stop.set()
        self.notice.say("stopping after this round …")

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end."""
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _ready(self, ready: bool) -> None:
        self.train_button.disabled, self.stop_button.disabled = not ready, ready

    def _run(self, part: Partition) -> None:
        try:
            with TemporaryDirectory(prefix="fedlab-") as folder:
                self._train(thinned(part, self.most), Path(folder))
        except Exception as error:  # a thread's traceback goes nowhere that a user looks
            self.notice.fail(error, "training")
        finally:
            self._ready(True)

    def _train(self, part: Partition, folder: Path) -> None:
        """All methods round by round, side by side; then what each site gains, as far as they went."""
        contests = [Contest(part, method, self.budget, folder) for method in METHODS]
        rounds, screen, shown, begun = contests[0].experiment.rounds, Screen(self.curves), 0.0, time.perf_counter()
        done = 0
        while done < rounds and not self._stop.is_set():
            for contest in contests:
                contest.advance()
            done += 1
            told = f"round {done} of {rounds}, {duration((time.perf_counter() - begun) / done)} a round"
            self.notice.say(told)
            if time.perf_counter() - shown > PAUSE or done == rounds or self._stop.is_set():
                screen.show(*picture(figure(contests, rounds, told), told))
                shown = time.perf_counter()
        if not done:
            self.notice.say("stopped before the first round")
            return
        self._compare([contest.finish() for contest in contests])
        cases = int((part.table["split"] == "train").sum())
        end = f"stopped after round {done} of {rounds}" if done < rounds else f"{rounds} rounds"
        took = duration(time.perf_counter() - begun)
        self.notice.say(f"{end} on {cases:,} training cases in {took}")

    def _compare(self, finished: list[Run]) -> None:
        """The dumbbells, while the run folders are still there."""
        drawn = local_vs_global(finished)
        Screen(self.gains).show(*picture(drawn.figure, drawn.table.to_string()))


def figure(contests: list[Contest], rounds: int, told: str) -> Any:
    """Mean over sites of every method so far, in a band from the worst to the best site."""
    metric, split = contests[0].watched()
    table = pd.concat([contest.curve(metric, split) for contest in contests])
    with style.page(None, 8, 3.2) as ax:
        roles = style.roles(METHODS)
        draw(ax, table, roles)
        ax.set_xlim(1, max(2, rounds))
        ax.set_xlabel("communication round")
        ax.set_ylabel(f"{style.metric_label(metric)} on {SPLITS[split]} cases,\nmean and range of sites")
        style.headline(ax, f"Local against federated: {told}")
        ax.legend(loc="best", ncols=len(METHODS))
    return style.root(ax)
