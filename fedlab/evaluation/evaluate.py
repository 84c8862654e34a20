"""One evaluation for every topology: scores and per-case predictions of each model on validation and test cases."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedlab.core.typing import Floats, Ints
from fedlab.core.weights import Weights
from fedlab.evaluation.class_coverage import warn_of_absent_classes
from fedlab.evaluation.surfaces import surfaces_of
from fedlab.federation import DivergedError, Ensemble, Federation, Localised, Model
from fedlab.learning.metrics import METRICS

SPLITS = ("val", "test")
UNSEEN = "unseen"  # the split of a held-out site's test cases, so that they are in no mean over the training sites
UNASSIGNED = "unassigned"
ADAPTED = "global, own statistics"  # second model of a held-out site: batch norm re-estimated on its unlabelled images
CROSS_SITES = 32  # sites up to which own models are tried at every site: rows grow with their square, and a figure of
# more sites x sites cannot be read
LIMITED = "cross-site predictions limited"  # the event in `run.events` of a run with more sites
Models = dict[str, Model]
Place = tuple[str, str]  # site and split
Request = tuple[Weights | Ensemble, str, str, str, Ints]  # model, its owner, site, split, cases


class Evaluation:
    """Scores and predictions of a federation's models.

    A site uses its own model if it has one, else the global one. A held-out site has no own model; without a global
    one it tries the model of every site, and its score is the mean of their scores. Its local (private) parameters are
    the mean over sites; predictions with batch norm adapted to its images are stored as well. Validation cases have
    the labels that the site's readers wrote, since a site has no others; test cases have the true ones. Of more than
    CROSS_SITES sites, each site's model predicts its own cases only, and a held-out site tries the models of
    CROSS_SITES sites, evenly spaced in their order.
    """

    def __init__(self, fed: Federation) -> None:
        self.fed = fed
        self.sites, self.unseen = [site.name for site in fed.sites], list(fed.partition.unseen)
        part = fed.partition
        self.index = {(site, split): part.index(site, split) for site in self.sites for split in SPLITS}
        self.index |= {(site, UNSEEN): part.index(site, "test") for site in self.unseen}
        self.unassigned = part.unassigned("test")
        self.targets = {place: fed.task.targets(self._labels(place)) for place in self.index}
        self._surfaces = surfaces_of(part.cases) if fed.task.dense else None
        self._ids, self._limited = part.cases.table["case"].to_numpy(), False
        spaced = np.linspace(0, len(self.sites) - 1, min(len(self.sites), CROSS_SITES)).round().astype(int)
        self.travelling = [self.sites[k] for k in spaced]  # whose own models are tried at held-out sites
        everything = fed.task.targets((part.cases.targets if fed.task.numeric else part.cases.labels)[part.rows])
        warn_of_absent_classes(fed.task, everything, {place: self.targets[place] for place in self.index})

    def scores(self, models: Models) -> Iterator[tuple[str, str, str, str, float]]:
        """Yield (model, site, split, metric, value) of the model that each site uses."""
        for name, model in models.items():
            for (site, split), predicted in self._predicted(model).items():
                if not all(self.fed.task.is_finite(p) for p in predicted):
                    raise DivergedError(
                        f"{site}, round {self.fed.round}: training diverged (predictions are not finite): lower `lr`"
                        " (try a tenth), or shorten local work; this round was not kept"
                    )
                y = self.targets[site, split]
                for metric in self.fed.task.round_metrics:
                    measure = METRICS.function(metric)
                    value = np.mean([measure(y, p) for p in predicted]) if len(y) else np.nan
                    yield name, site, split, metric, float(value)

    def _labels(self, place: Place) -> NDArray[Any]:
        """The labels, or the numbers of a regression, of the cases of a site and split."""
        if self.fed.task.numeric:
            return self.fed.partition.cases.targets[self.index[place]]
        labels = self.fed.labels if place[1] == "val" else self.fed.partition.cases.labels
        return labels[self.index[place]]

    def predictions(self, models: Models, choice: str) -> pd.DataFrame:
        """Predict every site's validation and test cases with every model: the transfer matrix, case by case.

        Of many sites, own models predict what `_tried` names.
        """
        requests: list[Request] = []
        for owner, model in owners(models, self.sites).items():
            shared = model.shared if isinstance(model, Localised) else model
            for (site, split), index in self._tried(owner).items():
                used = shared
                if isinstance(model, Localised) and split != UNSEEN:
                    used = model.sites[self.sites.index(site)]
                requests.append((used, owner, site, split, index))
            if not self._is_limited(owner):
                requests.append((shared, owner, UNASSIGNED, "test", self.unassigned))
            if owner == "global" and isinstance(shared, Weights):
                requests += self._adapted(shared)
        found = self.fed.predictor.predict([(model, index) for model, _, _, _, index in requests], self._surfaces)
        return self._frame(np.concatenate(found), choice, requests)

    def _is_limited(self, owner: str) -> bool:
        """Whether a model predicts the cases of a few places only, as that of one of many sites; an event says so."""
        if len(self.sites) <= CROSS_SITES or (owner, "test") not in self.index:
            return False
        if not self._limited:
            self.fed.note(
                LIMITED, f"more than {CROSS_SITES} sites: each site's model predicts its own site's cases only"
            )
        self._limited = True
        return True

    def _tried(self, owner: str) -> dict[Place, Ints]:
        """The cases that a model predicts; of many sites, own models predict their site's and some held-out cases."""
        if not self._is_limited(owner):
            return self.index
        places = [(owner, split) for split in SPLITS]
        places += [place for place in self._places(held_out=True) if owner in self.travelling]
        return {place: self.index[place] for place in places}

    def _adapted(self, w: Weights) -> Iterator[Request]:
        """The model with batch norm adapted to the test images of each held-out site; none for models without it."""
        for site in self.unseen if any(entry.kind == "mean" for entry in w.layout.entries) else ():
            index = self.index[site, UNSEEN]
            yield self.fed.trainer.adapt_batchnorm(w, index), ADAPTED, site, UNSEEN, index

    def _predicted(self, model: Model) -> dict[Place, list[Floats]]:
        """Probabilities for the cases of each site and split, from the model used there or from each that it tries.

        All training sites in one pass where they share a model. Held-out sites are predicted separately, so that they
        change no bit of the others.
        """
        own = model.sites if isinstance(model, Localised) else model
        requests: list[tuple[Weights | Ensemble, list[Place]]]
        if isinstance(own, Weights) and own.stacked:
            requests = [(own[k], [(site, split) for split in SPLITS]) for k, site in enumerate(self.sites)]
        else:
            requests = [(own, self._places(held_out=False))]
        found = {place: [p] for place, p in self._predict_places(requests).items()}
        for place in self._places(held_out=True):
            found[place] = self.fed.predictor.predict(
                [(one, self.index[place]) for one in self._external_models(model)]
            )
        return found

    def _external_models(self, model: Model) -> list[Weights | Ensemble]:
        """The models that a held-out site can use: the shared one, or those of all sites."""
        shared = model.shared if isinstance(model, Localised) else model
        if isinstance(shared, Weights) and shared.stacked:
            return [shared[self.sites.index(site)] for site in self.travelling]
        return [shared]

    def _places(self, held_out: bool) -> list[Place]:
        return [place for place in self.index if (place[1] == UNSEEN) == held_out]

    def _predict_places(self, requests: list[tuple[Weights | Ensemble, list[Place]]]) -> dict[Place, Floats]:
        """Predict the cases of several sites and splits with each model, in one pass."""
        each = [(model, np.concatenate([self.index[place] for place in places])) for model, places in requests]
        found: dict[Place, Floats] = {}
        for (_, places), p in zip(requests, self.fed.predictor.predict(each), strict=True):
            ends = np.cumsum([len(self.index[place]) for place in places])
            found |= dict(zip(places, np.split(p, ends[:-1]), strict=True))
        return found

    def _frame(self, p: Floats, choice: str, requests: list[Request]) -> pd.DataFrame:
        """The rows of `run.predictions`, request after request."""
        cases, (_, *names, each) = self.fed.partition.cases, zip(*requests, strict=True)
        index, sizes = np.concatenate(each), [len(one) for one in each]
        owner, site, split = (np.repeat(np.array(name, object), sizes) for name in names)
        by_readers = self.fed.partition.annotators and not self.fed.task.dense
        annotated = {"annotated": self.fed.labels[index]} if by_readers else {}
        annotated |= {"target": cases.targets[index]} if self.fed.task.numeric else {}
        return pd.DataFrame(
            {
                "model": owner,
                "choice": choice,
                "site": site,
                "split": split,
                "case": self._ids[index],
                "unit": cases.units[index],
                "label": cases.labels[index],
            }
            | annotated
            | {column: p[:, c] for c, column in enumerate(self.fed.task.columns)}
        )


def owners(models: Models, sites: list[str]) -> Models:
    """Models by owner: "global", or the name of a site that has its own model."""
    owned: Models = {}
    for name, model in models.items():
        if isinstance(model, Weights) and model.stacked:
            owned |= {site: model[k] for k, site in enumerate(sites)}
        else:
            owned[name] = model
    return owned
