"""Functions of the user's own: what is registered under a name can be written in an experiment and takes effect."""

import textwrap
import warnings

import numpy as np
import pytest
import torch
from cells import defined
from worlds import cases

import fedlab
from fedlab.core.weights import weighted_mean
from fedlab.experiments.experiment import CODE
from fedlab.federation import Round
from fedlab.federation.aggregation import Merged
from fedlab.heterogeneity.acquisition.presets import Requested
from fedlab.heterogeneity.log_odds import LogOdds, column_levels
from fedlab.heterogeneity.population import Preferences
from fedlab.learning.augmentation import Change
from fedlab.learning.patches import Crop

KNOWN = {  # what the cells below have imported
    "Change": Change,
    "Crop": Crop,
    "LogOdds": LogOdds,
    "Merged": Merged,
    "Preferences": Preferences,
    "Requested": Requested,
    "Round": Round,
    "column_levels": column_levels,
    "np": np,
    "torch": torch,
    "weighted_mean": weighted_mean,
}
CELLS = {  # field -> the text of the experiment, a cell, and an edit of it
    "method": (
        {"method": "mine(share=0.5)"},
        """
        def mine(fed, share: float = 1.0):
            s = fed.memory(w=fed.start)
            for r in fed.rounds(s):
                mean = fed.average(fed.broadcast(s.w), r)
                s.w = mean.with_parameters(s.w.parameters + share * BY * (mean.parameters - s.w.parameters))
                yield Round({"global": s.w})
        """,
    ),
    "topology": (
        {"method": "gossip(topology='mine')"},
        """
        def mine(sites, rng):
            return ~np.eye(sites, dtype=bool) if BY > 1 else np.zeros((sites, sites), bool)
        """,
    ),
    "model": (
        {"model": "mine(width=3)"},
        """
        def mine(shape, outputs, width: int = 2):
            nn = torch.nn
            size, hidden = int(np.prod(shape)), BY * width
            return nn.Sequential(nn.Flatten(), nn.Linear(size, hidden), nn.Linear(hidden, outputs))
        """,
    ),
    "schedule": ({"schedule": "mine(0.5)"}, "def mine(progress, final=0.1):\n    return final * BY"),
    "loss": (
        {"loss": "mine(2.0)"},
        """
        def mine(logits, targets, class_weights, power: float = 1.0):
            return BY * (logits[:, 0].sigmoid() - targets).abs() ** power
        """,
    ),
    "trainable": (
        {"trainable": "mine"},
        """
        def mine(model, generator):
            return {name for name, _ in list(model.named_parameters())[:BY]}
        """,
    ),
    "participation": (
        {"participation": "mine(1)"},
        """
        def mine(sampling, count: int = 1):
            return sampling.first(count * BY), np.full(len(sampling.names), 0.5)
        """,
    ),
    "stragglers": ({"stragglers": "mine(0.5)"}, "def mine(share):\n    return share * BY, False"),
    "aggregate": (
        {"aggregate": "mine"},
        """
        def mine(models, shares, w):
            p = np.eye(len(models))[0] if BY > 1 else shares
            return Merged(weighted_mean(models, p), p)
        """,
    ),
    "attack": (
        {"attack": "mine(count=1)"},
        """
        def mine(models, w, rows, shares, rng, count=1):
            models[rows] = w + BY
            return models
        """,
    ),
    "augment": (
        {"augment": "flip + mine(0.2)"},
        """
        def mine(rng, n, shape, by=0.1):
            return Change(gain=np.full(n, by * BY))
        """,
    ),
    "crop": ({"crop": "mine(3)"}, "def mine(edge):\n    return Crop((edge * BY,))"),
    "quantity": (
        {"quantity": "mine(2)"},
        """
        def mine(by: float = 1.0):
            return lambda effects: np.arange(effects.sites) + by * BY
        """,
    ),
    "prevalence": (
        {"prevalence": "mine(0.5)"},
        """
        def mine(strength: float = 1.0):
            def draw(cases):
                odds = 1 + strength * BY * np.arange(cases.sites * cases.classes)
                return LogOdds(cases.labels, odds.reshape(cases.sites, -1))
            return draw
        """,
    ),
    "presentation": (
        {"presentation": "mine(0.5)"},
        """
        def mine(cases, effects, dose):
            found = column_levels(cases, "kind", cases.labels)
            return found, found.odds(dose, BY * effects.of("presentation") / 2)
        """,
    ),
    "population": (
        {"population": "mine(0.5)"},
        """
        def mine(cases, effects, dose):
            found = column_levels(cases, "age")
            return Preferences(found, found.odds(dose, BY * effects.of("population") / 2), ["site -> age"])
        """,
    ),
    "acquisition": ({"acquisition": "mine(0.4)"}, "def mine(dose=0.5):\n    return Requested(dose * BY, 'generic')"),
    "annotation": (
        {"annotation": "mine(1.0)"},
        """
        def mine(reader, cases, rows, labels):
            marked = labels.copy()
            marked[: BY * max(1, int(reader.amount * len(labels)) // 2)] = 1
            return marked
        """,
    ),
    "geography": (
        {"prevalence": 0.5, "geography": "mine(0.5)"},
        """
        def mine(dose=0.5):
            return dose * BY / 2, 2, 0.1
        """,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    data, folder = cases(96, shape=(1, 8, 8)), tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    columns = {"kind": rng.choice(["round", "ring"], 96), "age": rng.integers(20, 90, 96)}
    fedlab.data.cases.Cases(data.images, data.table.assign(**columns), data.card).save(folder / "data")
    return folder


@pytest.fixture
def registered():
    """A function that runs a cell in which BY has a value, and registers its `mine` for a field."""
    added = []

    def add(field: str, by: int) -> None:
        CODE[field].add(defined(textwrap.dedent(CELLS[field][1]).strip(), BY=by, **KNOWN))
        added.append(field)

    yield add
    for field in added:
        CODE[field].remove("mine")


def test_every_registry_has_an_example():
    assert CELLS.keys() == CODE.keys()


@pytest.mark.parametrize("field", CELLS)
def test_what_the_user_registers_runs_and_takes_effect(field, registered, folder):
    base = fedlab.Experiment(
        dataset=str(folder / "data"), sites=3, model="logistic", rounds=1, local_steps=2, batch_size=4, device="cpu"
    )
    runs = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for by in (1, 1, 2):
            registered(field, by)
            runs.append(fedlab.run(base.with_(**CELLS[field][0]), folder=folder / "runs"))
        if field in ("population", "presentation"):
            assert field in set(runs[0].experiment.make_partition().shift(brief=True)["axis"])
    first, again, edited = runs
    assert first.folder == again.folder != edited.folder
    one, other = first.weights(first.models[0]), edited.weights(edited.models[0])
    same = one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert not same or not first.partition_table.equals(edited.partition_table)
