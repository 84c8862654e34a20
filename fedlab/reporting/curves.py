"""Curves of test predictions, and methods in groups of patients."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from fedlab.analysis.patient_groups import subgroups
from fedlab.core.summary import plural
from fedlab.experiments.run_folder import Run
from fedlab.plots.style import family
from fedlab.reporting.gather import Federation, names_of
from fedlab.reporting.markup import Markup, element, folded, joined, table
from fedlab.reporting.paper_tables import paper_table
from fedlab.reporting.pieces import figure

REFERENCES = ("local", "centralized")
MOST = 3  # methods whose curves are drawn
NOTE = "Largest sites first; methods: {}. Others with fedlab.plots.roc, reliability, net_benefit and risk_coverage."


def curves_of(federation: Federation, chosen: str, options: dict[str, Any]) -> Markup:
    """ROC, reliability, decision and risk-coverage curves of the judged method and its references.

    Empty for masks and numbers.
    """
    from fedlab import plots

    if federation.runs[0].task in ("segmentation", "regression"):
        return Markup("")
    runs, shown = few(federation.runs, chosen), {"by": options.get("by"), "choice": options.get("choice", "best")}
    methods = names_of(dict.fromkeys(run.method for run in runs))
    drawn: list[Markup] = []
    if federation.runs[0].task == "binary":
        drawn += [figure(partial(draw, runs, **shown)) for draw in (plots.roc, plots.net_benefit)]
    if federation.runs[0].task != "multilabel":
        drawn += [figure(partial(draw, runs, **shown)) for draw in (plots.reliability, plots.risk_coverage)]
    if not drawn:
        return Markup("")
    return folded("Curves: all test cases and each site", element("p", NOTE.format(methods), kind="note"), *drawn)


def few(runs: Sequence[Run], chosen: str) -> list[Run]:
    """The runs of the judged method, or of the first federated one, and of the references."""
    federated = [run.method for run in runs if family(run.method) not in REFERENCES]
    wanted = [*REFERENCES, chosen if chosen in federated else next(iter(federated), "")][:MOST]
    return [run for run in runs if run.method in wanted or family(run.method) in wanted]


def groups_of(federation: Federation, columns: Sequence[str], metric: str | None, options: dict[str, Any]) -> Markup:
    """The table of each column, folded; the reason where the dataset is not at hand."""
    pieces = []
    for column in columns:
        title = f"Groups: {column}"
        if federation.partition is None:
            pieces.append(folded(title, element("p", f"No table: {federation.missing}.", kind="note")))
            continue
        given = {"by": options.get("by"), "choice": options.get("choice", "best")}
        found = subgroups(federation.runs, column, federation.partition, metric=metric, **given)
        shown, groups = paper_table(found), found["group"].nunique()
        note = (
            f"Test cases of all sites in {plural(groups - 1, 'group')}; differences are to all other cases, and are not"
            " adjusted for the number of groups."
        )
        pieces.append(folded(title, element("p", note, kind="note"), table(shown.head, shown.rows)))
    return joined(pieces)
