"""Figures, one function a question: `(thing, *, ax=None) -> (figure, table)`. A plot never sees a model.

Of cases: `cases` (examples by site and class, with masks and intensities), `intensity` (histograms of each site),
`duplicates` (identical images side by side).

Of a partition: `partition` (cases by site and class), `samples` (example images), `population` (patients), `shift`
(measured shift against its null), `sites` (all of these in one figure), `doses` (requested against measured shift),
`flow` (from the dataset to the splits of the sites).

Of runs: `curves` (metric by round), `local_vs_global` (gain of each site), `differences` (paired, to any reference),
`ranking` (methods by performance, with costs), `communication_cost` (performance against cost), `transfer`
(cross-site generalization), `forgetting` (between visits of a model that travels), `participation` (sites by round),
`leakage` (images reconstructed at each cut layer).

Of test predictions, for all cases and at each site: `roc`, `reliability`, `net_benefit` (decision curves),
`risk_coverage` (error among the cases of which a model is most sure).

Of sites that may join: `verdict` (the gain of each site, the verdict, and the counts behind it), `conformal` (coverage
and size of prediction sets), `recalibration` (gain in log loss),
`contributions` (of each site).

Of runs that segment: `contours` (true and predicted masks of the worst and the median case), `case_scores` (a metric
of every case by site and method), `volume_agreement` (predicted against true volume), and of regression
`predicted_vs_true`.

Of a study: `costs_of_heterogeneity` (performance against the dose of each axis), `distance` (what a method loses
against the measured shift).

`save` writes a figure to files, `save_for_print` as PDF and TIFF at the width of a journal's column or page; `theme`
and `dark` are for dark pages.
"""

from fedlab.plots.calibrated_sites import conformal, recalibration
from fedlab.plots.case_flow import flow
from fedlab.plots.case_mix import partition, population
from fedlab.plots.case_sheet import cases
from fedlab.plots.forest import differences
from fedlab.plots.identical import duplicates
from fedlab.plots.images import leakage, samples
from fedlab.plots.intensities import intensity
from fedlab.plots.joining import contributions, verdict
from fedlab.plots.journal import save_for_print
from fedlab.plots.measured_shift import doses, shift
from fedlab.plots.method_comparison import communication_cost, ranking
from fedlab.plots.operating_curves import net_benefit, reliability, risk_coverage, roc
from fedlab.plots.predicted_numbers import predicted_vs_true
from fedlab.plots.rounds import curves, forgetting, participation
from fedlab.plots.segmentation import case_scores, contours, volume_agreement
from fedlab.plots.site_overview import sites
from fedlab.plots.site_performance import local_vs_global, transfer
from fedlab.plots.study_costs import costs_of_heterogeneity
from fedlab.plots.study_distance import distance
from fedlab.plots.style import save
from fedlab.plots.themes import dark, theme

institutions, presence, price = sites, participation, communication_cost  # earlier names

__all__ = [
    "case_scores",
    "cases",
    "communication_cost",
    "conformal",
    "contours",
    "contributions",
    "costs_of_heterogeneity",
    "curves",
    "dark",
    "differences",
    "distance",
    "doses",
    "duplicates",
    "flow",
    "forgetting",
    "institutions",
    "intensity",
    "leakage",
    "local_vs_global",
    "net_benefit",
    "participation",
    "partition",
    "population",
    "predicted_vs_true",
    "presence",
    "price",
    "ranking",
    "recalibration",
    "reliability",
    "risk_coverage",
    "roc",
    "samples",
    "save",
    "save_for_print",
    "shift",
    "sites",
    "theme",
    "transfer",
    "verdict",
    "volume_agreement",
]
