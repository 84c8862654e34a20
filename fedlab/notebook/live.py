"""Training as it goes: one figure and one truthful line of progress, wherever the training runs.

In a notebook one display is redrawn in place, so a notebook that is executed without a screen keeps one plain picture;
inside an Output widget, and from any thread, likewise. Elsewhere the line of progress is rewritten on standard error.
"""

import shutil
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd

from fedlab.engine.devices import throughput
from fedlab.experiments.recorder import trained_images

PAUSE = 0.5  # seconds at least between two redraws
SHARE = 0.05  # of the time, at most, that redrawing may take from training
WIDE = 110  # characters of the line of progress that the figure has room for
LEFT_OUT = ("mean", "pace", "device", "speed", "left")  # parts of that line, in the order in which they are left out


class Screen:
    """One picture or text in a notebook that is replaced in place, wherever it stands and from any thread.

    output: an ipywidgets.Output to show it in; else it appears where the notebook stands when it is first shown. (An
    Output widget that captures what is displayed does not follow a display that is updated later, so inside one the
    picture stands in an Output of its own.)
    """

    def __init__(self, output: Any = None) -> None:
        self._places: list[Callable[[dict[str, Any], dict[str, Any]], None]] = []
        if output is not None:
            self._places.append(partial(_replace, output))

    @property
    def shown(self) -> bool:
        return bool(self._places)

    def show(self, content: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
        """Replace what is shown everywhere; content: mime type -> data, as in a notebook's outputs."""
        if not self._places:
            self.open(content, metadata)
            return
        for replace in self._places:
            replace(content, metadata or {})

    def open(self, content: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
        """Show it here too."""
        from IPython.display import display

        if capturing():
            from fedlab.notebook.output import output

            place = output()
            display(place)
            _replace(place, content, metadata or {})
            self._places.append(partial(_replace, place))
        else:
            handle = display(content, raw=True, metadata=metadata or {}, display_id=True)
            self._places.append(partial(_update, handle))


def _replace(output: Any, content: dict[str, Any], metadata: dict[str, Any]) -> None:
    output.outputs = ({"output_type": "display_data", "data": content, "metadata": metadata},)


def _update(handle: Any, content: dict[str, Any], metadata: dict[str, Any]) -> None:
    handle.update(content, raw=True, metadata=metadata)


def capturing() -> bool:
    """Whether an Output widget takes what this thread displays."""
    if "ipywidgets" not in sys.modules:
        return False
    from fedlab.notebook.output import captures

    return captures()


def picture(figure: Any, text: str, **how: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(content, metadata) of a figure for a Screen; a reader without pictures gets the text. how: see `png`."""
    from fedlab.plots.picture import png

    data, size = png(figure, **how)
    return {"image/png": b64encode(data).decode(), "text/plain": text}, {"image/png": size}


class Live:
    """Shows the rounds of one run while it trains; an error in showing is reported once and never stops training.

    rounds: how many are planned. title: of the figure. metric: the first of the validation metrics if None. output: an
    ipywidgets.Output to draw in. device: the name of the device that the run trains on.
    """

    def __init__(
        self, rounds: int, title: str, metric: str | None = None, output: Any = None, device: str = ""
    ) -> None:
        self.rounds, self.title, self.metric, self.device = rounds, title, metric, device
        self.frame, self.round = pd.DataFrame(), 0
        self.screen = Screen(output)
        self._broken = self._closed = False
        self._finished = {0: time.perf_counter()}  # round -> when; 0: when the clock started
        self._next = 0.0  # when the next redraw is due

    def update(self, rounds_frame: pd.DataFrame, round: int) -> None:
        """Take note of a finished round; redraw if the last time is long enough ago.

        rounds_frame: the rounds so far, as in `run.rounds`.
        """
        now = time.perf_counter()
        if round > 1 and list(self._finished) == [0]:
            self._finished = {}  # resumed: what passed since the start of the clock is not the time of these rounds
        self._finished[round] = now
        self.frame, self.round = rounds_frame, round
        if now >= self._next:
            self._show()
            spent = time.perf_counter() - now
            self._next = now + spent + max(PAUSE, spent / SHARE)

    def close(self) -> None:
        """Show the last state, however the training ended; calling it again does nothing."""
        if not self._closed:
            self._closed = True
            self._show()

    def restart(self, rounds: int, title: str, device: str = "") -> None:
        """Follow another run in the same place."""
        self.rounds, self.title, self.device = rounds, title, device
        self.frame, self.round, self._closed = pd.DataFrame(), 0, False
        self._finished, self._next = {0: time.perf_counter()}, 0.0

    def conclude(self, text: str) -> None:
        """Put one line in the place of the figure."""
        self._closed = True
        if in_notebook() and self.screen.shown:
            self.screen.show({"text/plain": text})
        else:
            print(f"\r{text}".ljust(shutil.get_terminal_size((120, 0)).columns - 1), file=sys.stderr)

    def tell(self, text: str) -> None:
        """One line in the place of the figure, while runs of other processes are followed."""
        if in_notebook():
            self.screen.show({"text/plain": text})
        else:
            width = shutil.get_terminal_size((120, 0)).columns - 1
            print(f"\r{text[:width].ljust(width)}", end="", file=sys.stderr, flush=True)

    @property
    def pace(self) -> float | None:
        """Seconds a round took on average since the clock started; None while unknown.

        What came before the end of the first round (loading, compiling) counts only while there is no other round.
        """
        marks = list(self._finished.items())
        (first, start), (last, end) = marks[1 if marks[0][0] == 0 and len(marks) > 2 else 0], marks[-1]
        return (end - start) / (last - first) if last > first else None

    @property
    def speed(self) -> float | None:
        """Training images a second since the end of the first round; None while there is no other round.

        Time includes evaluation and merging, as it does for a user who waits.
        """
        marks = [(number, when) for number, when in self._finished.items() if number > 0]
        if len(marks) < 2 or "samples" not in self.frame:
            return None
        (first, start), (last, end) = marks[0], marks[-1]
        images = trained_images(self.frame[self.frame["round"].between(first + 1, last)])
        return images / (end - start) if end > start else None

    def progress(self, width: int | None = None) -> str:
        """The line: the round, the time that rounds take, the time left, images a second, the device, the metric now.

        What does not fit into `width` characters is left out, the least important first.
        """
        parts = self._parts()
        for name in () if width is None else LEFT_OUT:
            if len("".join(parts.values())) <= (width or 0):
                break
            parts.pop(name, None)
        return "".join(parts.values())

    def _parts(self) -> dict[str, str]:
        """Pieces of the line in the order in which they are read."""
        parts = {"round": f"round {self.round} of {self.rounds}"}
        if self._closed and self.round < self.rounds:
            parts = {"round": f"ended after round {self.round} of {self.rounds}"}
        if self.pace is not None:
            parts["pace"] = f", {duration(self.pace)} a round"
            if not self._closed and self.round < self.rounds:
                parts["left"] = f", about {duration(self.pace * (self.rounds - self.round))} left"
        speed = self.speed
        if speed is not None:
            parts["speed"] = f", {throughput(speed)}"
        if self.device:
            parts["device"] = f"{',' if speed is None else ''} on {self.device}"
        return parts | self._level()

    def _level(self) -> dict[str, str]:
        """The newest value of the metric, in words; empty before the first one."""
        from fedlab.plots.lines import site_means
        from fedlab.plots.reading import SPLITS
        from fedlab.plots.style import metric_label

        if not len(self.frame):
            return {}
        metric, split = self._watched()
        last = site_means(self.frame, metric, split).iloc[-1]
        return {"level": f", {SPLITS[split]} {metric_label(metric)} {last['value']:.3f}", "mean": " (mean over sites)"}

    def _watched(self) -> tuple[str, str]:
        """(metric, split): a validation metric once there is one, the training loss until then."""
        known = list(self.frame.loc[self.frame["split"] == "val", "metric"].unique())
        if self.metric in known:
            return str(self.metric), "val"
        return (known[0], "val") if known and self.metric is None else ("loss", "train")

    def _show(self) -> None:
        if self._broken:
            return
        try:
            if in_notebook():
                self._display()
            else:
                width = shutil.get_terminal_size((120, 0)).columns - 1
                line = f"{self.title}: {self.progress(width - len(self.title) - 2)}"[:width].ljust(width)
                print(f"\r{line}", end="\n" if self._closed else "", file=sys.stderr, flush=True)
        except Exception as error:  # whatever it is, training is worth more than its picture
            self._broken = True
            print(f"the live figure stopped ({error!r}); training goes on", file=sys.stderr)

    def _display(self) -> None:
        """Redraw the one display of this run; a reader without pictures gets the line of progress."""
        self.screen.show(*picture(self._figure(), f"{self.title}: {self.progress()}"))

    def _figure(self) -> Any:
        """The mean over sites so far, in a band from the worst to the best site, on an axis of all planned rounds."""
        from fedlab.plots import style
        from fedlab.plots.lines import draw, site_means
        from fedlab.plots.reading import SPLITS

        with style.page(None, 8, 3.2) as ax:
            if len(self.frame):
                metric, split = self._watched()
                draw(ax, site_means(self.frame, metric, split).assign(method="run"), style.roles(["run"]))
                ax.set_ylabel(f"{style.metric_label(metric)} on {SPLITS[split]} cases,\nmean and range of sites")
            ax.set_xlim(1, max(2, self.rounds))
            ax.set_xlabel("communication round")
            look: dict[str, Any] = {
                "xytext": (0, 7),
                "textcoords": "offset points",
                "fontsize": 8.5,
                "color": "#555555",
            }
            ax.annotate(self.progress(WIDE), (0, 1), xycoords="axes fraction", **look)
            style.headline(ax, self.title, pad=24)
        return style.root(ax)


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel, whose displays can be redrawn."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def duration(seconds: float) -> str:
    """Seconds as they are read: "0.42 s", "12 s", "3 min", "1 h 20 min"."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
