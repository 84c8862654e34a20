"""About how long the next redraw of a panel takes, announced before it begins if it is long."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from fedlab.engine.devices import duration

LONG = 3.0  # seconds: shorter ones need no announcement
EACH, CASE, SITE = 0.1, 1.5e-5, 0.01  # seconds of a redraw, of a case and of a site, until one was measured
SMALL = 0.5  # seconds at that pace: how long smaller ones take depends on what is loaded meanwhile


class RedrawTime:
    """The seconds that redraws took, and what the next one will take: as its size requires, at the last one's pace.

    Examples
    --------
    >>> from fedlab.widgets.redraw_time import RedrawTime
    >>> RedrawTime().announcement(100_000, 500)
    'partitioning 100,000 cases into 500 sites, about 6.6 s …'
    >>> RedrawTime().announcement(10_000, 4)
    ''
    """

    def __init__(self) -> None:
        self.pace = 1.0  # measured seconds of the last redraw, divided by those of its size

    def announcement(self, cases: int, sites: int) -> str:
        """Return what is announced; empty for a short redraw."""
        seconds = self.pace * _seconds(cases, sites)
        if seconds < LONG:
            return ""
        return f"partitioning {cases:,} cases into {sites:,} sites, about {duration(seconds)} …"

    @contextmanager
    def measured(self, cases: int, sites: int) -> Iterator[None]:
        """Measure a redraw of this size; a small one, or one that fails, says nothing of the others."""
        begun = time.perf_counter()
        yield
        if _seconds(cases, sites) >= SMALL:
            self.pace = (time.perf_counter() - begun) / _seconds(cases, sites)


def _seconds(cases: int, sites: int) -> float:
    """Return the seconds of a redraw of this size at pace 1."""
    return EACH + CASE * cases + SITE * sites
