"""Draw every plot of partitions and runs with 2, 8 and 40 sites, to be looked at: python tests/plots/many_sites.py DIR.

Runs are of a logistic model on small phantoms, two rounds each; about two minutes on one core.
"""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fedlab
from fedlab import plots

SITES = (2, 8, 40)
DIFFER = {"quantity": 0.5, "prevalence": 0.6, "population": 0.4, "acquisition": 0.3}


def drawn(sites: int, runs_in: Path) -> dict[str, Callable[[], Any]]:
    """The plots of a federation of so many sites."""
    dataset = f"phantoms(cases={60 * sites + 240}, size=16)"
    base = fedlab.Experiment(dataset=dataset, sites=sites, model="logistic", rounds=2, batch_size=16, **DIFFER)
    part = base.make_partition()
    runs = fedlab.grid(base, method=["local", "fedavg", "scaffold", "swarm", "centralized"], folder=runs_in)
    passed_on = fedlab.run(base.with_(method="cyclic", watch_visits=True), folder=runs_in)
    compared = fedlab.compare(runs)
    measured = part.shift(brief=True)
    return {
        "partition": lambda: plots.partition(part),
        "samples": lambda: plots.samples(part),
        "population": lambda: plots.population(part, "age"),
        "shift": lambda: plots.shift(measured),
        "sites": lambda: plots.sites(part, measured=measured),
        "flow": lambda: plots.flow(part),
        "curves": lambda: plots.curves(runs),
        "local-vs-global": lambda: plots.local_vs_global(runs),
        "differences": lambda: plots.differences(compared),
        "transfer": lambda: plots.transfer(runs),
        "ranking": lambda: plots.ranking(runs),
        "communication-cost": lambda: plots.communication_cost(runs),
        "forgetting": lambda: plots.forgetting(passed_on),
        "participation": lambda: plots.participation(runs[3]),
        "verdict": lambda: plots.verdict(fedlab.verdict(runs)),
        "conformal": lambda: plots.conformal(fedlab.conformal(runs[1])),
    }


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    for sites in SITES:
        for name, draw in drawn(sites, folder / "runs").items():
            try:
                draw().save(folder, f"{name}-{sites:02d}")
            except ValueError as reason:  # not every plot is for every number of sites
                print(f"{name} of {sites} sites: {reason}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
