"""What a comparison says in one sentence: the mean of sites, and how many sites gain, lose, are no different."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fedlab.analysis.alignment import HELD_OUT, MEAN, POOLED, WORST
from fedlab.evaluation import report_metrics
from fedlab.evaluation.intervals.decisions import GAINS, LOSES, SAME, UNKNOWN
from fedlab.evaluation.intervals.repeats import SEEDS

FEW = "too few test cases"
WORDS = (GAINS, LOSES, SAME, UNKNOWN)
SUMMARIES = (MEAN, POOLED, WORST)
IN_WORDS = {GAINS: ("gains", "gain"), LOSES: ("loses", "lose"), SAME: ("is no different", "are no different")}


@dataclass(frozen=True)
class Finding:
    """What a method reaches in the mean of sites, its difference to the reference, and what is found at the sites.

    value, reference, difference: (number, low, high). sites: finding -> names of sites; empty where nothing is found.
    why: the reason why the difference has no interval.
    """

    method: str
    metric: str
    versus: str
    value: tuple[float, float, float]
    reference: tuple[float, float, float]
    difference: tuple[float, float, float]
    sites: dict[str, list[str]]
    count: int
    why: str = ""

    def sentences(self) -> str:
        """The finding in words."""
        label = report_metrics.metric_label(self.metric)
        over = f"in the mean of {self.count} sites" if self.count != 1 else "at the one site"
        text = f"{self.method} reaches {label} {interval(*self.value)} {over}"
        if self.method == self.versus or np.isnan(self.difference[0]):
            return f"{text}."
        difference = interval(*self.difference, True)
        unsure = f" (no interval: {self.why or FEW})" if np.isnan(self.difference[1]) else ""
        text += f", {self.versus} {interval(*self.reference)}; the difference is {difference}{unsure}."
        return f"{text} {self._counts()}." if self.sites else f"{text} At no site can a difference be shown."

    def _counts(self) -> str:
        """At how many sites the method gains, loses, is no different, or nothing can be said."""
        many = {word: len(sites) for word, sites in self.sites.items()}
        said = ["none gains or loses"]
        if many[GAINS] or many[LOSES]:
            said = [f"{many[word] or 'none'} {IN_WORDS[word][many[word] > 1]}" for word in (GAINS, LOSES)]
        said += [f"{many[SAME]} {IN_WORDS[SAME][many[SAME] > 1]}"] * (many[SAME] > 0)
        left = self.count - sum(many.values())
        open_ = [f"at {many[UNKNOWN]} the test cases cannot tell"] * (many[UNKNOWN] > 0)
        open_ += [f"at {left} there are too few to test"] * (left > 0)
        sites = f"{self.count} sites" if self.count != 1 else "one site"
        return f"Of {sites} {', '.join(said)}{'; ' * bool(open_)}{' and '.join(open_)}"


def findings(compared: pd.DataFrame) -> list[Finding]:
    """The finding of each method of a comparison by one metric, in its order."""
    table = pd.DataFrame(compared)
    mean = table[table["site"] == MEAN].set_index("method")
    found = []
    for method, rows in table.groupby("method", sort=False):
        inside = rows[~rows["site"].isin(SUMMARIES) & ~rows["site"].str.startswith(HELD_OUT)]
        one, versus = mean.loc[method], str(rows["versus"].iloc[0])
        said = {word: list(inside.loc[inside["finding"] == word, "site"]) for word in WORDS}
        found.append(
            Finding(
                str(method),
                str(one["metric"]),
                versus,
                _three(one, "value", "low", "high"),
                _three(mean.loc[versus], "value", "low", "high") if versus else (np.nan,) * 3,
                _three(one, "difference", "difference_low", "difference_high"),
                said if any(said.values()) else {},
                len(inside),
                _why(rows),
            )
        )
    return found


def _why(rows: pd.DataFrame) -> str:
    """The reason why a mean of sites has no interval, by the number of seeds; empty if it lies in the test cases."""
    seeds = int(rows["seeds"].max())
    return f"{seeds} seeds allow none, one or {SEEDS} and more do" if 1 < seeds < SEEDS else ""


def _three(row: pd.Series, *columns: str) -> tuple[float, float, float]:
    value, low, high = (float(row[column]) for column in columns)
    return value, low, high


def interval(value: float, low: float, high: float, signed: bool = False) -> str:
    """A number and its 95 % interval, as "0.871 (0.840 to 0.902)"; a dash where there is none."""
    ends = "" if np.isnan(low) else f"{number(low, signed)} to {number(high, signed)}"
    if np.isnan(value):
        return ends or "–"
    return f"{number(value, signed)} ({ends})" if ends else number(value, signed)


def number(value: float, signed: bool = False) -> str:
    """A number of three decimals, perhaps with its sign; a dash for none."""
    if np.isnan(value):
        return "–"
    rounded = round(float(value), 3) + 0.0  # -0.0004 is 0.000, without a sign
    return f"{rounded:{'+' * (signed and rounded != 0)}.3f}".replace("-", "−")
