"""The chapter of one federation: what was compared, what was found, and the tables behind it."""

from collections.abc import Sequence
from typing import Any

from fedlab.analysis.alignment import align, margin_of
from fedlab.analysis.comparison import compare
from fedlab.reporting import costs_and_events, curves, evidence, setting, site_tables
from fedlab.reporting.checklist_items import EDITIONS, TITLES
from fedlab.reporting.filled_checklist import filled
from fedlab.reporting.gather import Federation
from fedlab.reporting.markup import Markup, element, folded, joined
from fedlab.reporting.methods import paragraph
from fedlab.reporting.pieces import figure, frame

STATES = {"item": "item", "topic": "about", "answer": "answer", "source": "source"}


def chapter(
    federation: Federation,
    metric: str | None,
    margin: float | None,
    options: dict[str, Any],
    groups: Sequence[str] = (),
) -> Markup:
    """All sections on one federation."""
    from fedlab import plots

    messages: list[str] = []
    runs, by = federation.runs, options.get("by")
    with evidence.collecting(messages):
        edge = margin_of(align(runs, metric, options.get("choice", "best"), "test", "true")[0], margin)
        compared = compare(runs, metric, margin=edge, **options)
        found, reason = evidence.judged(federation, margin, metric)
        chosen = "" if found is None else str(found["method"].iloc[0])
        sections = [
            evidence.headline(compared, chosen, edge),
            element(
                "section",
                element("h2", "Local and federated models at each site"),
                figure(lambda: plots.local_vs_global(compared, counts_of=runs)),
                evidence.table_of(compared),
            ),
            element("section", element("h2", "Ranking"), figure(lambda: plots.ranking(runs, metric, by=by))),
            evidence.verdicts(found, reason),
            site_tables.sites_of(federation),
        ]
        details = [
            curves.curves_of(federation, chosen, options),
            curves.groups_of(federation, groups, metric, options),
            evidence.calibration(federation, options),
            costs_and_events.costs_of(runs),
            costs_and_events.events_of(runs),
            folded("Methods paragraph", element("p", paragraph(federation))),
            *(
                folded(f"Checklist: {title}", frame(filled(federation, which), EDITIONS[which], **STATES))
                for which, title in TITLES.items()
            ),
            setting.again(federation),
        ]
    warned = costs_and_events.warnings_of([*federation.runs[0].partition_spec.get("notes", []), *messages])
    first = element("section", element("h2", "What was compared"), setting.compared(federation))
    return joined([sections[0], warned, first, *sections[1:], element("section", element("h2", "Details"), *details)])
