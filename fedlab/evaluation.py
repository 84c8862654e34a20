"""One evaluation for every topology: each model on validation and test cases, kept case by case."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.federation import DivergedError, Ensemble, Federation, Localised, Model
from fedlab.metrics import METRICS
from fedlab.weights import Weights

SPLITS = ("val", "test")
UNASSIGNED = "unassigned"
Models = dict[str, Model]


class Evaluation:
    """Scores and predictions of a federation's models.

    Reading rule: the model a site uses is its own if it has one, else the global one.
    """

    def __init__(self, fed: Federation) -> None:
        self.fed = fed
        self.sites = [site.name for site in fed.sites]
        part = fed.partition
        self.index = {(site, split): part.index(site, split) for site in self.sites for split in SPLITS}
        self.outside = part.unassigned("test")
        self.targets = fed.task.targets(part.cases.labels)

    def scores(self, models: Models) -> Iterator[tuple[str, str, str, str, float]]:
        """(model, site, split, metric, value) of the model that each site uses."""
        for name, model in models.items():
            for site, p in self._each_site(model).items():
                if not np.isfinite(p).all():
                    raise DivergedError(
                        f"{site}, round {self.fed.round}: training diverged (predictions are not finite): lower `lr`"
                        " (try a tenth), or shorten local work; this round was not kept"
                    )
                bounds = np.cumsum([0] + [len(self.index[site, split]) for split in SPLITS])
                for split, (low, high) in zip(SPLITS, pairwise(bounds), strict=True):
                    y = self.targets[self.index[site, split]]
                    for metric in self.fed.task.metrics:
                        value = METRICS.function(metric)(y, p[low:high]) if high > low else np.nan
                        yield name, site, split, metric, float(value)

    def predictions(self, models: Models, choice: str) -> pd.DataFrame:
        """Every model on every site's validation and test cases: the transfer matrix, case by case."""
        frames = []
        for owner, model in owners(models, self.sites).items():
            for k, site in enumerate(self.sites):
                used = model.sites[k] if isinstance(model, Localised) else model
                frames += [self._frame(used, owner, choice, site, split, self.index[site, split]) for split in SPLITS]
            anywhere = model.shared if isinstance(model, Localised) else model
            frames.append(self._frame(anywhere, owner, choice, UNASSIGNED, "test", self.outside))
        return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)

    def _each_site(self, model: Model) -> dict[str, NDArray[np.float64]]:
        """Probabilities of each site's validation, then test cases; all sites in one pass where they share a model."""
        fed = self.fed
        both = {site: np.concatenate([self.index[site, split] for split in SPLITS]) for site in self.sites}
        own = model.sites if isinstance(model, Localised) else model
        if isinstance(own, Weights) and own.stacked:
            return {site: fed.predict(own[k], both[site]) for k, site in enumerate(self.sites)}
        assert not isinstance(model, Localised)
        together = fed.predict(model, np.concatenate(list(both.values())))
        ends = np.cumsum([len(index) for index in both.values()])
        return dict(zip(both, np.split(together, ends[:-1]), strict=True))

    def _frame(
        self, model: Weights | Ensemble, owner: str, choice: str, site: str, split: str, index: NDArray[np.int64]
    ) -> pd.DataFrame:
        cases = self.fed.partition.cases
        p = self.fed.predict(model, index)
        return pd.DataFrame(
            {
                "model": owner,
                "choice": choice,
                "site": site,
                "split": split,
                "case": cases.table["case"].to_numpy()[index],
                "unit": cases.units[index],
                "label": cases.labels[index],
            }
            | {f"p{c}": p[:, c] for c in range(p.shape[1])}
        )


def owners(models: Models, sites: list[str]) -> Models:
    """Model by owner: "global", or the name of the site whose own model it is."""
    owned: Models = {}
    for name, model in models.items():
        if isinstance(model, Weights) and model.stacked:
            owned |= {site: model[k] for k, site in enumerate(sites)}
        else:
            owned[name] = model
    return owned
