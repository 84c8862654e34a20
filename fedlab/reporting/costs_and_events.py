"""What runs cost, what happened in them, and what they warned of."""

import pandas as pd

from fedlab.analysis.communication import costs
from fedlab.evaluation import report_metrics
from fedlab.experiments.run_folder import Run
from fedlab.plots.titles import megabytes
from fedlab.reporting.markup import Markup, element, folded
from fedlab.reporting.pieces import frame, items

EVENTS = 40  # rows that are shown


def costs_of(runs: list[Run]) -> Markup:
    """The table of costs, a row a run."""
    table = costs(runs, choice="best")
    if not table["hand-overs"].any():
        table = table.drop(columns="hand-overs")
    table["megabytes"] = [megabytes(sent) for sent in table["megabytes"]]
    for name in ("seconds", "estimated minutes"):
        table[name] = [f"{value:,.0f}" if value >= 10 else f"{value:.2g}" for value in table[name]]
    return folded("Costs", frame(table, **{name: _called(name) for name in map(str, table)}))


def _called(column: str) -> str:
    """The name of a column of costs, with its metric as elsewhere in the report."""
    metric, _, rest = column.partition(", ")
    return f"{report_metrics.metric_label(metric)}, {rest}" if rest else column


def events_of(runs: list[Run]) -> Markup:
    """How often each event happened, and the first ones in full; empty without any."""
    each = [run.events.assign(method=run.method, seed=run.experiment.seed) for run in runs if len(run.events)]
    if not each:
        return folded("Events", element("p", "No site was absent, late, failed or excluded."))
    events = pd.concat(each, ignore_index=True)
    columns = ["method", "seed", "round", "site", "event", "detail"]
    counts = events.groupby(["method", "event"], sort=False).size().reset_index(name="times")
    first = frame(events[columns].astype(str).head(EVENTS), f"The first {min(EVENTS, len(events))} of {len(events):,}")
    return folded("Events", frame(counts), first)


def warnings_of(messages: list[str]) -> Markup:
    """What to beware of; empty if nothing."""
    if not messages:
        return Markup("")
    return element("section", element("h2", "Warnings"), items(messages), kind="warnings")
