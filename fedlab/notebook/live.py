"""Live output of a training: one figure and one line of progress.

In a notebook one display is redrawn in place, also inside an Output widget and from any thread, so that a headless
execution keeps one picture. Elsewhere the line of progress is rewritten on standard error.
"""

import shutil
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pandas as pd

from fedlab.engine.devices import duration, throughput
from fedlab.experiments.recorder import trained_images
from fedlab.plots import style
from fedlab.plots.inputs import SPLITS
from fedlab.plots.rounds import draw, site_means

PAUSE = 0.5  # seconds at least between two redraws
SHARE = 0.05  # of the time, at most, that redrawing may take from training
WIDE = 110  # characters of the line of progress that fit the figure
LEFT_OUT = (
    "mean",
    "pace",
    "device",
    "speed",
    "left",
    "all",
)  # parts of that line, in the order in which they are dropped


class Screen:
    """One picture or text in a notebook that is replaced in place, from any thread.

    output: an ipywidgets.Output to show it in; by default it appears in the cell that first shows it. (An Output widget
    that captures what is displayed does not follow later updates of a display, so inside one the picture gets another
    Output widget.)
    """

    def __init__(self, output: Any = None) -> None:
        self._places: list[Callable[[dict[str, Any], dict[str, Any]], None]] = []
        if output is not None:
            self._places.append(partial(_replace, output))

    @property
    def shown(self) -> bool:
        """Whether there is a place to replace."""
        return bool(self._places)

    def show(self, content: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
        """Replace the content everywhere; content: mime type -> data, as in a notebook's outputs."""
        if not self._places:
            self.open(content, metadata)
            return
        for replace in self._places:
            replace(content, metadata or {})

    def open(self, content: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
        """Show the content here too."""
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
    """Replace the content of an Output widget."""
    output.outputs = ({"output_type": "display_data", "data": content, "metadata": metadata},)


def _update(handle: Any, content: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Update a display."""
    handle.update(content, raw=True, metadata=metadata)


def capturing() -> bool:
    """Return whether an Output widget captures what this thread displays."""
    if "ipywidgets" not in sys.modules:
        return False
    from fedlab.notebook.output import captures

    return captures()


def picture(figure: Any, text: str, **how: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (content, metadata) of a figure for a Screen, with a text for readers without pictures; how: see `png`."""
    from fedlab.plots.picture import png

    data, size = png(figure, **how)
    return {"image/png": b64encode(data).decode(), "text/plain": text}, {"image/png": size | {"alt": text}}


class Live:
    """Observer of a run that shows its rounds while it trains.

    An error in drawing is reported once and never stops training.

    Parameters
    ----------
    rounds : int
        How many rounds are planned.
    title : str
        Title of the figure.
    metric : str, optional
        The metric to show; the first of the validation metrics by default.
    output : ipywidgets.Output, optional
        Where to draw; by default the cell that trains.
    device : str, optional
        Name of the device that the run trains on.

    Examples
    --------
    >>> import pandas as pd
    >>> live = Live(rounds=10, title="fedavg on phantoms")
    >>> row = {"round": 1, "model": "global", "site": "Site A", "split": "val", "metric": "auroc", "value": 0.8}
    >>> live.update(pd.DataFrame([row]), round=1)
    >>> live.progress(width=50)
    'round 1 of 10, validation AUROC 0.800'
    """

    def __init__(
        self, rounds: int, title: str, metric: str | None = None, output: Any = None, device: str = ""
    ) -> None:
        self.rounds, self.title, self.metric, self.device = rounds, title, metric, device
        self.frame, self.round = pd.DataFrame(), 0
        self.earlier: list[tuple[str, pd.DataFrame]] = []  # method, rounds of runs of this grid that have ended
        self.screen = Screen(output)
        self._plan: list[int] = []  # rounds of each run of a grid
        self._number, self._trained, self._spent = 0, 0, 0.0  # run that trains; rounds and seconds of those before
        self._broken = self._closed = False
        self._finished = {0: time.perf_counter()}  # round -> when it ended; 0: when the run started
        self._next = 0.0  # when the next redraw is due

    def update(self, rounds_frame: pd.DataFrame, round: int) -> None:
        """Record a finished round; redraw if the last redraw is long enough ago.

        rounds_frame: the rounds so far, as in `run.rounds`.
        """
        now = time.perf_counter()
        if round > 1 and list(self._finished) == [0]:
            self._finished = {}  # resumed: the time since the start is not the time of these rounds
        self._finished[round] = now
        self.frame, self.round = rounds_frame, round
        if now >= self._next:
            self._show()

    def close(self) -> None:
        """Show the last state, however the training ended; later calls do nothing.

        In a notebook a finished run of a grid gives way to the next one, so that it is shown only if a redraw is due.
        """
        if self._closed:
            return
        self._closed = True
        gives_way = self._plan and self.round >= self.rounds and in_notebook()
        if not gives_way or time.perf_counter() >= self._next:
            self._show()

    def plan(self, rounds: Sequence[int]) -> None:
        """Begin a grid; rounds: how many each of its runs has. Curves of its finished runs stay in the figure."""
        self.earlier, self._plan = [], list(rounds)
        self._number, self._trained, self._spent = 0, 0, 0.0

    def restart(self, rounds: int, title: str, device: str = "") -> None:
        """Follow another run in the same place."""
        if self._number and len(self.frame):
            self.earlier.append((self.title.split(" on ")[0], self.frame))
            self._trained += sum(number > 0 for number in self._finished)
            self._spent += max(self._finished.values()) - min(self._finished.values())
        self._number += bool(self._plan)
        self.rounds, self.title, self.device = rounds, title, device
        self.frame, self.round, self._closed = pd.DataFrame(), 0, False
        now = time.perf_counter()
        self._finished, self._next = {0: now}, self._next or now + PAUSE
        self._begin()

    def _begin(self) -> None:
        """Show that a run has begun, since its first round may take minutes."""
        try:
            if not self.earlier:
                self.tell(f"{self.title}: {self.progress()}, starting")
        except Exception:  # reported at the first round
            return

    def conclude(self, text: str) -> None:
        """Replace the figure by one line."""
        self._closed = True
        if in_notebook():
            self.screen.show({"text/plain": text})
        else:
            print(f"\r{text}".ljust(shutil.get_terminal_size((120, 0)).columns - 1), file=sys.stderr)

    def tell(self, text: str) -> None:
        """Replace the figure by one line of progress, while other processes train."""
        if in_notebook():
            self.screen.show({"text/plain": text})
        else:
            width = shutil.get_terminal_size((120, 0)).columns - 1
            print(f"\r{text[:width].ljust(width)}", end="", file=sys.stderr, flush=True)

    @property
    def pace(self) -> float | None:
        """Mean seconds of a round since the start; None while unknown.

        The time before the end of the first round (loading, compiling) counts only while there is no other round.
        """
        marks = list(self._finished.items())
        (first, start), (last, end) = marks[1 if marks[0][0] == 0 and len(marks) > 2 else 0], marks[-1]
        return (end - start) / (last - first) if last > first else None

    @property
    def speed(self) -> float | None:
        """Training images a second since the end of the first round; None while there is no other round.

        Time includes evaluation and aggregation.
        """
        marks = [(number, when) for number, when in self._finished.items() if number > 0]
        if len(marks) < 2 or "samples" not in self.frame:
            return None
        (first, start), (last, end) = marks[0], marks[-1]
        images = trained_images(self.frame[self.frame["round"].between(first + 1, last)])
        return images / (end - start) if end > start else None

    def progress(self, width: int | None = None) -> str:
        """Write the line of progress: round, time a round, time left, images a second, device, metric.

        Parts that do not fit into `width` characters are dropped, the least important first.
        """
        parts = self._parts()
        for name in () if width is None else LEFT_OUT:
            if len("".join(parts.values())) <= (width or 0):
                break
            parts.pop(name, None)
        return "".join(parts.values())

    def _parts(self) -> dict[str, str]:
        """Return the parts of the line in reading order."""
        many = f"run {self._number} of {len(self._plan)}, " if len(self._plan) > 1 and self._number else ""
        parts = {"round": f"{many}round {self.round} of {self.rounds}"}
        if self._closed and self.round < self.rounds:
            parts = {"round": f"{many}ended after round {self.round} of {self.rounds}"}
        if self.pace is not None:
            parts["pace"] = f", {duration(self.pace)} a round"
            if not self._closed and self.round < self.rounds:
                parts["left"] = f", about {duration(self.pace * (self.rounds - self.round))} left"
        if (left := self._left_for_all()) is not None:
            parts["all"] = f", about {duration(left)} for all runs"
        speed = self.speed
        if speed is not None:
            parts["speed"] = f", {throughput(speed)}"
        if self.device:
            parts["device"] = f"{',' if speed is None else ''} on {self.device}"
        return parts | self._level()

    def _left_for_all(self) -> float | None:
        """Seconds that the rest of a grid takes, by the rounds so far; None while unknown, or without later runs."""
        later = sum(self._plan[self._number :])
        if not later or self.pace is None:
            return None
        done, took = self._trained + self.round, self._spent + self.pace * self.round
        return self.pace * max(0, self.rounds - self.round) + took / max(done, 1) * later

    def _level(self) -> dict[str, str]:
        """Return the newest value of the metric; empty before the first one."""
        if not len(self.frame):
            return {}
        metric, split = self._watched()
        last = site_means(self.frame, metric, split).iloc[-1]
        return {
            "level": f", {SPLITS[split]} {style.metric_label(metric)} {last['value']:.3f}",
            "mean": " (mean over sites)",
        }

    def _watched(self) -> tuple[str, str]:
        """Return (metric, split): a validation metric once there is one, the training loss until then."""
        known = list(self.frame.loc[self.frame["split"] == "val", "metric"].unique())
        if self.metric in known:
            return str(self.metric), "val"
        return (known[0], "val") if known and self.metric is None else ("loss", "train")

    def _show(self) -> None:
        """Redraw the display, or rewrite the line of progress, and set when the next redraw is due."""
        if self._broken:
            return
        begun = time.perf_counter()
        try:
            if in_notebook():
                self._display()
            else:
                width = shutil.get_terminal_size((120, 0)).columns - 1
                line = f"{self.title}: {self.progress(width - len(self.title) - 2)}"[:width].ljust(width)
                print(f"\r{line}", end="\n" if self._closed else "", file=sys.stderr, flush=True)
        except Exception as error:  # an error in drawing must not end the training
            self._broken = True
            print(f"the live figure stopped ({error!r}); training continues", file=sys.stderr)
        now = time.perf_counter()
        self._next = now + max(PAUSE, (now - begun) / SHARE)

    def _display(self) -> None:
        """Redraw the display of this run; readers without pictures get the line of progress."""
        self.screen.show(*picture(self._figure(), f"{self.title}: {self.progress()}"))

    def _figure(self) -> Any:
        """Draw the mean over sites so far, in a band from the worst to the best site, on an axis of all rounds."""
        method = self.title.split(" on ")[0]
        with style.page(None, 8, 3.2) as ax:
            if len(self.frame):
                metric, split = self._watched()
                roles = style.roles([method, *(name for name, _ in self.earlier)])
                for name, frame in [*self.earlier, (method, self.frame)]:
                    if (frame["split"].eq(split) & frame["metric"].eq(metric)).any():
                        draw(ax, site_means(frame, metric, split).assign(method=name), roles)
                if self.earlier:
                    _legend(ax)
                ax.set_ylabel(f"{style.metric_label(metric)} on {SPLITS[split]} cases,\nmean and range of sites")
            ax.set_xlim(1, max(2, self.rounds))
            ax.set_xlabel("communication round")
            look: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8.5, "color": "#555555"}
            ax.annotate(self.progress(WIDE), (0, 1), xycoords="axes fraction", xytext=(0, 7), **look)
            style.headline(ax, self.title, pad=24)
        return style.root(ax)


def _legend(ax: Any) -> None:
    """Name each method once."""
    lines = {line.get_label(): line for line in ax.get_lines()}
    ax.legend(lines.values(), lines.keys(), loc="best", ncols=min(4, len(lines)), fontsize=8)


def in_notebook() -> bool:
    """Return whether this process is a Jupyter kernel, whose displays can be redrawn."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None
