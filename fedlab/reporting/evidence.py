"""The findings of a federation: the comparison of methods, and the verdict of each site."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd

from fedlab.analysis.alignment import POOLED, align
from fedlab.analysis.comparison import Comparison, family, score_methods
from fedlab.analysis.grouping import by_setting
from fedlab.analysis.joining.verdicts import NOT_METHODS, Verdict, verdict
from fedlab.analysis.scores import Estimate
from fedlab.core.summary import plural
from fedlab.evaluation import report_metrics
from fedlab.experiments.run_folder import Run
from fedlab.reporting.findings import WORDS, Finding, findings, interval, number
from fedlab.reporting.gather import Federation, names_of
from fedlab.reporting.markup import Markup, element, folded, joined, table
from fedlab.reporting.pieces import figure, items
from fedlab.reporting.setting import unknown_patients

CALIBRATION = ("brier", "calibration_slope", "calibration_intercept")
SMALL = 1e-3  # p-values below it are only bounded


@contextmanager
def collecting(messages: list[str]) -> Iterator[None]:
    """Collect each distinct warning instead of showing it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    messages += [text for text in dict.fromkeys(str(one.message) for one in caught) if text not in messages]


def judged(federation: Federation, margin: float | None, metric: str | None) -> tuple[Verdict | None, str]:
    """The verdict of each site, or None and the reason; images are not called patients where none is named."""
    try:
        found = verdict([*federation.runs, *federation.without], margin, metric)
    except ValueError as error:
        return None, str(error)
    if unknown_patients(federation):
        found["sentence"] = found["sentence"].str.replace(r"\btest patient(?=s?\b)", "test image", regex=True)
        found.attrs["unit"] = "image"
    return found, ""


def headline(compared: Comparison, judged_method: str, margin: float) -> Markup:
    """The finding of the method that is judged, else of each federated method, in sentences and as a table."""
    found = findings(compared)
    federated = [one for one in found if family(one.method) not in NOT_METHODS]
    chosen = [one for one in found if one.method == judged_method] or federated[:1] or found[:1]
    lead = element("p", *(one.sentences() for one in chosen), kind="lead")
    if judged_method and len(federated) > 1:
        why = f"{judged_method} is the federated method that is best on validation cases (mean of sites)."
        lead = joined([lead, element("p", why, kind="note")])
    words = (
        "A site gains or loses where the 95 % interval of the difference excludes 0, and is no different where the"
        f" 90 % interval lies within ±{margin:g}; there is no correction for the number of sites."
    )
    below = [element("p", words, kind="note")] * any(one.sites for one in found)
    return element("section", element("h2", "Finding"), lead, _by_method(found), *below, kind="finding")


def _by_method(found: list[Finding]) -> Markup:
    """A row for each method: mean of sites, difference, and the number of sites of each finding."""
    label = report_metrics.metric_label(found[0].metric)
    versus = next((one.versus for one in found if one.versus), "")
    head = ["method", f"{label}, mean of sites (95 % CI)"]
    head += [f"difference to {versus} (95 % CI)", *(f"sites: {word}" for word in WORDS)] if versus else []
    rows = []
    for one in found:
        row = [one.method, interval(*one.value)]
        if versus:
            own = one.method == versus
            row += ["–" if own else interval(*one.difference, True)]
            row += [str(len(one.sites[word])) if one.sites else "–" for word in WORDS]
        rows.append(row)
    return table(head, rows)


def table_of(compared: Comparison) -> Markup:
    """The comparison, folded."""
    versus = str(compared["versus"].iloc[0])
    head = ["method", "site", "test cases", "value (95 % CI)"]
    head += [f"difference to {versus} (95 % CI)", "adjusted p", "finding"] * bool(versus) + ["seeds"]
    rows: list[list[str]] = []
    notes: dict[tuple[str, str], list[str]] = {}  # site, note -> methods
    for row in pd.DataFrame(compared).to_dict("records"):
        cells = [row["method"], row["site"], f"{row['cases']:,}", interval(row["value"], row["low"], row["high"])]
        if versus:
            ends = row["difference"], row["difference_low"], row["difference_high"]
            cells += ["–" if row["method"] == versus else interval(*ends, True), p_value(row["p_holm"]), row["finding"]]
        rows.append([*cells, str(row["seeds"])])
        if row["note"]:
            notes.setdefault((row["site"], row["note"]), []).append(row["method"])
    lines = [f"{site} ({names_of(methods)}): {note}" for (site, note), methods in notes.items()]
    below = [items(lines, "notes")] * bool(lines)
    return folded("Table: every method at every site", table(head, rows), *below)


def p_value(value: float) -> str:
    return f"< {SMALL:g}" if value < SMALL else number(value)


def verdicts(found: Verdict | None, reason: str) -> Markup:
    """The figure of the verdicts, and a sentence for each site."""
    from fedlab import plots

    title = element("h2", "Verdict of each site")
    if found is None:
        return element("section", title, element("p", f"There is no verdict: {reason}", kind="note"))
    lines = repr(found).split("\n")
    drawn = [figure(lambda: plots.verdict(found))] * bool(found["low"].notna().any())
    return element("section", title, _measure(found), *drawn, items(lines))


def _measure(found: Verdict) -> Markup:
    """By which metric each site is judged, and in which direction a gain is better."""
    named = {str(name): report_metrics.metric_label(str(name)) for name in found["metric"].unique()}
    judged_by = [f"{label} at {plural(int((found['metric'] == name).sum()), 'site')}" for name, label in named.items()]
    by = next(iter(named.values())) if len(named) == 1 else ", ".join(judged_by)
    falls = [label for name, label in named.items() if report_metrics.higher_is_better(name) is False]
    sign = (
        f"A gain above 0 is better, also of {' and '.join(falls)}, of which lower values are better. " if falls else ""
    )
    words = f"Sites are judged by {by}. {sign}Intervals hold for one site; Holm's correction is for all of them."
    return element("p", words, kind="note")


def calibration(federation: Federation, options: dict[str, Any]) -> Markup:
    """Brier score, slope and intercept of each method on all test cases; empty unless the task is binary."""
    if federation.runs[0].task != "binary":
        return Markup("")
    rows = [[method] for method in by_setting(federation.runs, options.get("by"))]
    for name in CALIBRATION:
        scores = pooled_scores(federation.runs, name, options)
        for row, score in zip(rows, scores, strict=True):
            row.append(interval(score.value, score.limits.low, score.limits.high))
    head = ["method", *(report_metrics.metric_label(name) for name in CALIBRATION)]
    tests = federation.runs[0].predictions
    tests = tests[tests["split"] == "test"]
    counted = f"{plural(tests['case'].nunique(), 'test case')} of {plural(tests['site'].nunique(), 'site')}"
    best = (
        f"On all {counted}. A slope of 1 and an intercept of 0 are best; with a slope below 1 probabilities are too"
        " extreme."
    )
    return folded("Calibration", element("p", best), table(head, rows))


def pooled_scores(runs: list[Run], metric: str, options: dict[str, Any]) -> list[Estimate]:
    """The score of each method on all test cases, as `fedlab.compare` has it in its rows "pooled"."""
    inside, outside = align(runs, metric, options.get("choice", "best"), "test", "true")
    methods = by_setting(runs, options.get("by"))
    scores = score_methods(methods, inside, outside, options.get("use", "own"))
    return [scores[method][POOLED] for method in methods]
