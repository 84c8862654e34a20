"""One evaluation for every topology: each model on validation and test cases, kept case by case."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.core.typing import Floats, Ints
from fedlab.core.weights import Weights
from fedlab.federation import DivergedError, Ensemble, Federation, Localised, Model
from fedlab.learning.metrics import METRICS

SPLITS = ("val", "test")
UNSEEN = "unseen"  # the split of an unseen site's test cases, so that they are in no mean over the sites that train
UNASSIGNED = "unassigned"
ACQUAINTED = "global, own statistics"  # an unseen site's second model: statistics re-estimated on its unlabelled images
Models = dict[str, Model]
Place = tuple[str, str]  # site and split
Asked = tuple[Weights | Ensemble, str, str, str, Ints]  # model, its owner, site, split, cases


class Evaluation:
    """Scores and predictions of a federation's models.

    Reading rule: the model a site uses is its own if it has one, else the global one. An unseen site has none of its
    own; where there is no global one either, it is offered every site's, and its score is the mean of theirs. What
    stays at sites is for an unseen one the mean over sites; beside that its predictions by the shared model with
    normalisation statistics of its own images are kept. Validation cases count as the site's readers labelled them,
    since a site does not know better; test cases as they are.
    """

    def __init__(self, fed: Federation) -> None:
        self.fed = fed
        self.sites, self.unseen = [site.name for site in fed.sites], list(fed.partition.unseen)
        part = fed.partition
        self.index = {(site, split): part.index(site, split) for site in self.sites for split in SPLITS}
        self.index |= {(site, UNSEEN): part.index(site, "test") for site in self.unseen}
        self.outside = part.unassigned("test")
        self.targets = {place: fed.task.targets(self._labels(place)) for place in self.index}

    def scores(self, models: Models) -> Iterator[tuple[str, str, str, str, float]]:
        """(model, site, split, metric, value) of the model that each site uses."""
        for name, model in models.items():
            for (site, split), answers in self._answers(model).items():
                if not all(np.isfinite(p).all() for p in answers):
                    raise DivergedError(
                        f"{site}, round {self.fed.round}: training diverged (predictions are not finite): lower `lr`"
                        " (try a tenth), or shorten local work; this round was not kept"
                    )
                y = self.targets[site, split]
                for metric in self.fed.task.metrics:
                    measure = METRICS.function(metric)
                    value = np.mean([measure(y, p) for p in answers]) if len(y) else np.nan
                    yield name, site, split, metric, float(value)

    def _labels(self, place: Place) -> NDArray[np.int64]:
        known = self.fed.labels if place[1] == "val" else self.fed.partition.cases.labels
        return known[self.index[place]]

    def predictions(self, models: Models, choice: str) -> pd.DataFrame:
        """Every model on every site's validation and test cases: the transfer matrix, case by case."""
        asked: list[Asked] = []
        for owner, model in owners(models, self.sites).items():
            anywhere = model.shared if isinstance(model, Localised) else model
            for (site, split), index in self.index.items():
                used = anywhere
                if isinstance(model, Localised) and split != UNSEEN:
                    used = model.sites[self.sites.index(site)]
                asked.append((used, owner, site, split, index))
            asked.append((anywhere, owner, UNASSIGNED, "test", self.outside))
            if owner == "global" and isinstance(anywhere, Weights):
                asked += self._acquainted(anywhere)
        found = self.fed.predict_each([(model, index) for model, _, _, _, index in asked])
        frames = [self._frame(p, choice, one) for p, one in zip(found, asked, strict=True)]
        return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)

    def _acquainted(self, w: Weights) -> Iterator[Asked]:
        """At unseen sites: the model with normalisation statistics of their own test images, where there are any."""
        for site in self.unseen if any(entry.kind == "mean" for entry in w.layout.entries) else ():
            index = self.index[site, UNSEEN]
            yield self.fed.acquainted(w, index), ACQUAINTED, site, UNSEEN, index

    def _answers(self, model: Model) -> dict[Place, list[Floats]]:
        """Probabilities for the cases of each site and split: of the model used there, or of each that is offered.

        All sites in one pass where they share a model; unseen ones apart, so that they change no bit of the others.
        """
        own = model.sites if isinstance(model, Localised) else model
        at_home: list[tuple[Weights | Ensemble, list[Place]]]
        if isinstance(own, Weights) and own.stacked:
            at_home = [(own[k], [(site, split) for split in SPLITS]) for k, site in enumerate(self.sites)]
        else:
            at_home = [(own, self._places(at_home=True))]
        found = {place: [p] for place, p in self._together(at_home).items()}
        for place in self._places(at_home=False):
            offered = [(one, self.index[place]) for one in self._offered(model)]
            found[place] = self.fed.predict_each(offered)
        return found

    def _offered(self, model: Model) -> list[Weights | Ensemble]:
        """What an institution gets that took no part."""
        anywhere = model.shared if isinstance(model, Localised) else model
        if isinstance(anywhere, Weights) and anywhere.stacked:
            return [anywhere[k] for k in range(len(anywhere))]
        return [anywhere]

    def _places(self, at_home: bool) -> list[Place]:
        return [place for place in self.index if (place[1] != UNSEEN) == at_home]

    def _together(self, asked: list[tuple[Weights | Ensemble, list[Place]]]) -> dict[Place, Floats]:
        """Each model's probabilities for the cases of several sites and splits, in one pass."""
        each = [(model, np.concatenate([self.index[place] for place in places])) for model, places in asked]
        found: dict[Place, Floats] = {}
        for (_, places), p in zip(asked, self.fed.predict_each(each), strict=True):
            ends = np.cumsum([len(self.index[place]) for place in places])
            found |= dict(zip(places, np.split(p, ends[:-1]), strict=True))
        return found

    def _frame(self, p: Floats, choice: str, asked: Asked) -> pd.DataFrame:
        cases, (_, owner, site, split, index) = self.fed.partition.cases, asked
        marked = {"marked": self.fed.labels[index]} if self.fed.partition.annotators else {}
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
            | marked
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
