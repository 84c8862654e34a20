"""A short comparison of local and federated training in a background thread, with live curves and a stop button."""

from __future__ import annotations

import time
from base64 import b64decode, b64encode
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

import ipywidgets
import pandas as pd

from fedlab.engine.devices import duration
from fedlab.notebook.live import PAUSE, picture
from fedlab.partitioning.partitions import Partition
from fedlab.plots import local_vs_global, style
from fedlab.plots.inputs import SPLITS
from fedlab.plots.picture import Picture
from fedlab.plots.rounds import draw
from fedlab.widgets.controls import Notice, button
from fedlab.widgets.lockstep_method import LockstepMethod
from fedlab.widgets.subsample import subsample

METHODS = ("local", "fedavg")
MOST = 1500  # training cases
BUDGET = {"rounds": 10, "local_epochs": 1, "batch_size": 32, "lr": 0.1}
EARLIER = 4  # trainings whose curves are kept
SIZE, ROW = (6.8, 2.6), 0.3  # inches: of the curves, and of a site
Content = tuple[dict[str, Any], dict[str, Any]]


class ShortTraining:
    """Buttons, a line of progress, curves during the training, and the gain of each site at its end.

    most: training cases at most. budget: fields of `fedlab.Experiment`. Training runs in a thread, so that the kernel
    stays free; it checks the stop button at every step. show: is called with each new picture, from that thread.
    earlier: the curves of trainings before the present one, which stay in the figure.
    """

    def __init__(self, show: Callable[[Content], None], most: int = MOST, **budget: Any) -> None:
        self.most, self.budget, self._show = most, {**BUDGET, **budget}, show
        self.notice, self.earlier = Notice(), list[pd.DataFrame]()
        self.shown: Content | None = None
        self.train_button = button("Train", "A short comparison: local against federated training", "play")
        self.stop_button = button("Stop", "At the next step; the models of the last whole round are compared", "stop")
        self.stop_button.disabled = True
        self.stop_button.on_click(lambda _: self.stop())
        self.controls = ipywidgets.HBox([self.train_button, self.stop_button])
        self._methods: list[LockstepMethod] = []
        self._stop, self._thread = Event(), Thread()

    @property
    def training(self) -> bool:
        """Whether a training is running."""
        return self._thread.is_alive()

    def start(self, part: Partition, model: str) -> None:
        """Train a model on these sites, unless a training is running."""
        if self.training:
            return
        self._stop.clear()
        self._ready(False)
        self.notice.say("preparing …")
        self._thread = Thread(target=self._run, args=(part, model), name="fedlab short training", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End at the next step; the models of the last whole round are compared."""
        self._stop.set()
        self.notice.say("stopping …")
        for method in self._methods:
            method.stop()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end of the training."""
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _ready(self, ready: bool) -> None:
        """Enable one button and disable the other."""
        self.train_button.disabled, self.stop_button.disabled = not ready, ready

    def _run(self, part: Partition, model: str) -> None:
        """Train in a temporary folder and show every error."""
        try:
            with TemporaryDirectory(prefix="fedlab-") as folder:
                self._train(subsample(part, self.most), {**self.budget, "model": model}, Path(folder))
        except Exception as error:  # the traceback of a thread is not shown in the notebook
            self.notice.fail(error, "training")
        finally:
            self._methods = []
            self._ready(True)

    def _train(self, part: Partition, budget: dict[str, Any], folder: Path) -> None:
        """Train all methods round by round; then compare them after the last round that all of them finished."""
        methods = self._methods = [LockstepMethod(part, name, budget, folder) for name in METHODS]
        rounds, shown, begun, done = methods[0].experiment.rounds, 0.0, time.perf_counter(), 0
        while done < rounds and self._advance():
            done += 1
            pace = (time.perf_counter() - begun) / done
            progress = f"round {done} of {rounds}, {duration(pace)} a round"
            if done < rounds and not self._stop.is_set():
                self.notice.say(f"{progress}, about {duration(pace * (rounds - done))} left")
            if time.perf_counter() - shown > PAUSE and done < rounds:
                self._present(picture(self._figure(methods, rounds, progress), progress, dpi=120, effort=1))
                shown = time.perf_counter()
        if not done:
            self.notice.say("stopped before the end of the first round")
            return
        end = f"stopped after round {done} of {rounds}" if done < rounds else f"{rounds} rounds"
        curves = picture(self._figure(methods, done, end), end, dpi=120, effort=1)
        with style.drawing():
            axes = Picture(figsize=(SIZE[0], ROW * (len(part.sites) + 3) + 1.6)).subplots()
        drawn = local_vs_global([method.finish() for method in methods], ax=axes)
        self._present(below(curves, picture(drawn.figure, drawn.table.to_string(), dpi=120, effort=1)))
        self.earlier = [*self.earlier, _curves(methods)][-EARLIER:]
        took = duration(time.perf_counter() - begun).replace(" ", "\N{NO-BREAK SPACE}")
        cases = int((part.table["split"] == "train").sum())
        self.notice.say(f"{end} on {cases:,} training cases in {took}")

    def _advance(self) -> bool:
        """Train and evaluate a round of all methods; False, and nothing recorded, if training was stopped."""
        if self._stop.is_set():
            return False
        trained = [(method, method.train()) for method in self._methods]
        if self._stop.is_set():
            return False
        for method, found in trained:
            assert found is not None
            method.evaluate(found)
        return True

    def _present(self, content: Content) -> None:
        """Keep the newest picture and show it."""
        self.shown = content
        self._show(content)

    def _figure(self, methods: list[LockstepMethod], rounds: int, progress: str) -> Any:
        """Draw the mean over sites of every method so far, in a band from the worst to the best site."""
        metric, split = methods[0].watched()
        with style.page(None, *SIZE) as ax:
            roles = style.roles(METHODS)
            kept = [curves for curves in self.earlier if curves.attrs["watched"] == (metric, split)]
            for curves in kept:
                for name, rows in curves.groupby("method", sort=False):
                    ax.plot(rows["round"], rows["value"], color=roles[str(name)].color, lw=1, alpha=0.4, zorder=1)
            draw(ax, _curves(methods), roles)
            ax.set_xlim(1, max(2, rounds, *(curves["round"].max() for curves in kept)))
            ax.set_xlabel("communication round" + ("; thin: earlier trainings" if kept else ""))
            ax.set_ylabel(f"{style.metric_label(metric)} on {SPLITS[split]} cases,\nmean and range of sites")
            style.headline(ax, f"Local against federated: {progress}")
            ax.legend(loc="best", ncols=len(METHODS))
        return style.root(ax)


def _curves(methods: list[LockstepMethod]) -> pd.DataFrame:
    """The curves of all methods; attrs["watched"]: their metric and split."""
    watched = methods[0].watched()
    table = pd.concat([method.curve(*watched) for method in methods])
    table.attrs["watched"] = watched
    return table


def below(first: Content, second: Content) -> Content:
    """Put one picture below another, as one."""
    from PIL import Image

    images = [Image.open(BytesIO(b64decode(content["image/png"]))).convert("RGB") for content, _ in (first, second)]
    width = max(image.width for image in images)
    fitted = [image.resize((width, round(image.height * width / image.width))) for image in images]
    whole, top = Image.new("RGB", (width, sum(image.height for image in fitted)), "white"), 0
    for image in fitted:
        whole.paste(image, (0, top))
        top += image.height
    buffer = BytesIO()
    whole.save(buffer, "png", compress_level=1)
    shown = max(about["image/png"]["width"] for _, about in (first, second))
    text = f"{first[0]['text/plain']}\n\n{second[0]['text/plain']}"
    content = {"image/png": b64encode(buffer.getvalue()).decode(), "text/plain": text}
    return content, {"image/png": {"width": shown, "height": round(whole.height * shown / width)}}
