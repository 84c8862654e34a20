"""What runs and figures show, in sentences: the end of each notebook, computed from its runs."""

from __future__ import annotations

import html
from typing import Any

import numpy as np
import pandas as pd

from fedlab.analysis.alignment import HELD_OUT, MEAN
from fedlab.evaluation.intervals.decisions import GAINS, LOSES, SAME, UNKNOWN
from fedlab.reporting.findings import SUMMARIES

ONE_SEED = "Each method has one random seed: intervals are about other test cases, not about another training run."


class Conclusions:
    """Sentences, shown as a list. sentences: as text."""

    def __init__(self, sentences: tuple[str, ...]) -> None:
        self.sentences = sentences

    def __repr__(self) -> str:
        return "\n".join(f"- {sentence}" for sentence in self.sentences)

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.sentences)
        return f'<ul class="fedlab-conclusions tex2jax_ignore mathjax_ignore">{items}</ul>'


def conclusions(*found: Any) -> Conclusions:
    """Say in sentences what comparisons and figures show, null results included.

    A method is above or below the reference where the 95 % interval of the paired difference of the means over sites
    excludes 0, no different where its 90 % interval lies within the margin of the comparison; else the test cases
    cannot tell. There is no correction for the number of methods; `p_holm` of the comparison has it.

    Parameters
    ----------
    *found : DataFrame of `fedlab.compare`, Drawing of `fedlab.plots`, or str
        Of a comparison each method has a sentence, of a figure its title is the sentence, a text stays as it is.

    Returns
    -------
    Conclusions
        The sentences, which a notebook shows as a list.

    Raises
    ------
    TypeError
        If something is none of the three.

    Examples
    --------
    >>> import tempfile
    >>> import fedlab
    >>> base = fedlab.Experiment(dataset="phantoms(cases=120, size=16)", sites=2, model="logistic", rounds=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = fedlab.compare(fedlab.grid(base, folder=folder, method=["local", "fedavg"]))
    >>> fedlab.conclusions(table, "All runs were short.").sentences[-2]
    'All runs were short.'
    """
    sentences: list[str] = []
    seeds: set[int] = set()
    for one in found:
        if isinstance(one, str):
            sentences.append(one)
        elif isinstance(one, pd.DataFrame) and {"method", "site", "difference", "finding"} <= set(one):
            sentences += [
                line for _, rows in one.groupby("metric", sort=False) for line in compared(pd.DataFrame(rows))
            ]
            seeds |= set(one["seeds"])
        elif isinstance(title := getattr(one, "title", None), str):
            sentences += [title if title.endswith(".") else f"{title}."] * bool(title)
        else:
            raise TypeError(
                f"found a {type(one).__name__}: pass what fedlab.compare or a plot of fedlab.plots returned, or a text"
            )
    return Conclusions(tuple([*sentences, *([ONE_SEED] if seeds == {1} else [])]))


def compared(table: pd.DataFrame) -> list[str]:
    """Say for each method of a comparison by one metric how it differs from the reference."""
    versus = next(iter(table["versus"].unique()), "")
    if not versus:
        return ["The comparison has no reference, so that no difference is known."]
    return [_sentence(str(m), rows, str(versus)) for m, rows in table.groupby("method", sort=False) if m != versus]


def _sentence(method: str, rows: pd.DataFrame, versus: str) -> str:
    """Say how one method differs from the reference, in the mean over sites and at each."""
    from fedlab.plots import titles

    at = rows[~rows["site"].isin(SUMMARIES) & ~rows["site"].str.startswith(HELD_OUT)]
    mean = rows[rows["site"] == MEAN]
    one = (mean if len(mean) else at).iloc[0]
    metric = str(one["metric"])
    numbers = [titles.number(one[name], metric) for name in ("difference", "difference_low", "difference_high")]
    if not np.isfinite(one["difference"]):
        return f"{method}: no difference to {versus} is defined."
    label = titles.metric_label(metric)
    size = f"{numbers[0]} {titles.unit(metric) if not titles.in_natural_unit(metric) else label}"
    interval = f", 95 % CI {numbers[1]} to {numbers[2]}" if np.isfinite(one["difference_low"]) else ""
    verdict = {
        GAINS: "is better than",
        LOSES: "is worse than",
        SAME: "is no different from",
        UNKNOWN: "is not shown to differ from",
    }.get(str(one["finding"]), "is not shown to differ from")
    text = f"{method} {verdict} {versus}: mean {label} over {len(at)} sites {size}{interval}"
    return f"{text}. {_counts(at)}" if len(at) > 1 else f"{text.replace(' over 1 sites', '')}."


def _counts(at: pd.DataFrame) -> str:
    """Count the sites by finding, and name those that gain or lose."""
    said = []
    for word, one, several in ((GAINS, "gains", "gain"), (LOSES, "loses", "lose")):
        sites = list(at.loc[at["finding"] == word, "site"])
        named = f" ({', '.join(sites)})" if 0 < len(sites) <= 4 else ""
        many = "all" if len(sites) == len(at) else str(len(sites) or "none")
        said.append(f"{many} {one if len(sites) == 1 else several}{named if many != 'all' else ''}")
    same, unknown = (int((at["finding"] == word).sum()) for word in (SAME, UNKNOWN))
    said += [f"{same} {'is' if same == 1 else 'are'} no different"] * (same > 0)
    tail = f"; at {unknown} the test cases cannot tell" if unknown else ""
    return f"Of {len(at)} sites {', '.join(said)}{tail}."
