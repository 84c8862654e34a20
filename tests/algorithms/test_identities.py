"""Laws that every registered method keeps, the present ones and those to come.

The numbers O1, O2, ... are those of the oracles that the methods' mathematics fixes.
"""

import ast
import inspect
import itertools
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from worlds import ends, federation, last, parameters, partition, same

from fedlab import algorithms
from fedlab.algorithms import METHODS
from fedlab.core.weights import Weights
from fedlab.federation import Ensemble, Federation
from fedlab.federation.run_state import localised

pytestmark = pytest.mark.filterwarnings("ignore:scaffold with momentum")
TRAINED = {"ditto": 2}  # how many models a site trains in a round, where it is not one
BEYOND = {"finetune": 2}  # finetune trains on after each evaluated round: as many steps again
CARRIED = ("cyclic", "split")  # the model waits at its last site, which may be absent when it leaves
ALONE = ("local", "centralized", "ensemble", "single_pass")  # where nobody can be absent


@pytest.mark.every_method
@pytest.mark.parametrize("method", METHODS)
def test_without_a_learning_rate_nothing_moves(method):  # O54
    fed = federation(lr=0.0)
    for found in parameters(ends(method, fed)):
        assert torch.equal(found, fed.start.parameters.expand_as(found))


@pytest.mark.every_method
@pytest.mark.parametrize("method", METHODS)
def test_the_same_experiment_gives_the_same_bits(method):
    """And every model moves away from the initial one, to finite numbers."""
    a, b = federation(momentum=0.9), federation(momentum=0.9)
    first, second = ends(method, a), ends(method, b)
    assert first.keys() == second.keys()
    for one, other in zip(parameters(first), parameters(second), strict=True):
        assert torch.equal(one, other) and torch.isfinite(one).all()
        assert not torch.equal(one, a.start.parameters.expand_as(one))


@pytest.mark.every_method
@pytest.mark.parametrize("unit", ["steps", "epochs"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_the_budget(method, unit):
    """In every round each site takes the experiment's optimizer steps: local_steps, or those of its epochs."""
    work = {"local_steps": 3} if unit == "steps" else {"local_steps": None, "local_epochs": 2, "batch_size": 16}
    fed = federation(**work)
    budget = {site.name: 2 * site.steps(fed.settings) for site in [*fed.sites, fed.union]}
    taken = dict.fromkeys(budget, 0)
    for _ in algorithms.start(method, fed):
        for site, cost in fed.round_log.costs.items():
            taken[site] += cost.steps
    where = [fed.union.name] if method == "centralized" else list(fed.names)
    times = TRAINED.get(method, BEYOND.get(method, 1))
    assert {site: steps for site, steps in taken.items() if steps} == {site: times * budget[site] for site in where}


@pytest.mark.every_method
@pytest.mark.parametrize(
    ("method", "policy"),
    zip([name for name in METHODS if name not in ("centralized", "ensemble")], itertools.cycle(["silobn", "fedbn"])),
)
def test_private_normalisation_differs_between_sites_and_the_rest_is_shared(method, policy):
    """Centralized training has no sites, an ensemble answers with whole models."""
    fed = federation(batchnorm=policy)
    models = ends(method, fed)
    seen = models["local"] if "local" in models else localised(fed, models["global"]).sites
    statistics = fed.layout.mask("mean", "variance")
    assert not torch.equal(seen.vector[0, statistics], seen.vector[1, statistics])
    if "local" not in models:
        assert torch.equal(*seen.vector[:2, ~fed.private.mask])
        assert bool(fed.private.mask.any()) and not fed.private.mask.all()


@pytest.mark.every_method
@pytest.mark.parametrize("method", METHODS)
def test_frozen_normalisation_never_moves(method):
    fed = federation(rounds=1, batchnorm="frozen")
    statistics = fed.layout.mask("mean", "variance")
    for model in ends(method, fed).values():
        vector = model.models.vector if isinstance(model, Ensemble) else model.vector
        assert torch.equal(vector[..., statistics], fed.start.vector[statistics].expand_as(vector[..., statistics]))


@pytest.mark.every_method
@pytest.mark.filterwarnings("ignore:fednova with")
@pytest.mark.filterwarnings("ignore:scaffold with")
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_with_the_optimizer_of_the_settings(method):
    """Momentum and AdamW with weight decay give finite models, and others than plain SGD does."""
    plain = parameters(ends(method, federation(rounds=1, lr=0.01)))
    for changes in ({"momentum": 0.9}, {"optimizer": "adamw", "weight_decay": 0.01}):
        found = parameters(ends(method, federation(rounds=1, lr=0.01, **changes)))
        for one, other in zip(plain, found, strict=True):
            assert torch.isfinite(other).all() and not torch.equal(one, other)


@pytest.mark.every_method
@pytest.mark.parametrize("method", METHODS)
def test_a_round_in_which_nobody_answers_changes_nothing(method):
    """Nobody is ever there: the models are those of the start, and the rounds are counted all the same."""
    if method in ALONE:
        pytest.skip("every site trains by itself, or is awaited")
    fed = federation(rounds=3, availability=0.0)
    for name, model in ends(method, fed).items():
        if name == "global":
            assert torch.equal(model.parameters, fed.start.parameters), method
    assert fed.round == 3 and set(fed.round_log.event_frame()["event"]) >= {"absent"}
    assert fed.ledger.frame()["bytes"].sum() == 0
    assert not fed.round_log.costs or method == "finetune"  # which a site can do by itself


@pytest.mark.every_method
@pytest.mark.parametrize("method", METHODS)
def test_only_available_sites_work_and_nothing_crosses_the_border_of_others(method):
    """Also with failures and stragglers; fine-tuning happens at a site alone, and models stay finite."""
    if method in ALONE:
        pytest.skip("every site trains by itself, or in every round")
    availability = [0.6, 0.8, 0.0, 1.0]
    fed = federation(rounds=4, availability=availability, failures=0.3, stragglers=0.4, participation="sample(0.75)")
    for outcome in algorithms.start(method, fed):
        available = {fed.names[k] for k in fed.schedule.participants.available}
        assert method == "finetune" or set(fed.round_log.costs) <= available
        crossed = {name for row in fed.ledger.rows if row[0] == fed.round for name in (row[1], row[3])}
        assert crossed <= available | {"server"} or method in CARRIED
        models = outcome.models
    assert all(torch.isfinite(found).all() for found in parameters(models))
    assert "Site C" not in {name for row in fed.ledger.rows for name in (row[1], row[3])}


@pytest.mark.every_method
@pytest.mark.parametrize("method", METHODS)
def test_the_critical_path_is_no_longer_than_all_work(method):
    fed = federation(rounds=1)
    last(method, fed)
    path, frame = fed.channel.path, fed.ledger.frame()
    assert 3 <= path.steps <= sum(cost.steps for cost in fed.round_log.costs.values())
    assert path.bytes <= frame["bytes"].sum() and path.messages <= frame["messages"].sum()


def test_an_ensemble_of_copies_is_the_copy():  # O56
    fed = federation()
    w, index = last("fedavg", fed), fed.partition.index("Site A", "test")
    copies = Ensemble(w.expand(4), np.array([0.1, 0.2, 0.3, 0.4]))
    assert np.abs(fed.predict(copies, index) - fed.predict(w, index)).max() < 1e-12


def test_an_ensemble_does_not_depend_on_the_order_of_its_members():  # O56
    fed = federation()
    models, index = last("local", fed), fed.partition.index("Site A", "test")
    order = [2, 0, 3, 1]
    shuffled = Weights(models.layout, models.vector[order], models.counts[order])
    a = fed.predict(Ensemble(models, fed.shares), index)
    b = fed.predict(Ensemble(shuffled, fed.shares[order]), index)
    assert np.abs(a - b).max() < 1e-12


MATCHES = {  # match, unit of local work: steps in a round on the union of four sites of 24, 40, 16 and 8 cases
    ("unit", "steps"): 3,
    ("steps", "steps"): 3,
    ("epochs", "steps"): 12,
    ("unit", "epochs"): 2 * 11,
    ("steps", "epochs"): round(2 * (3 + 5 + 2 + 1) / 4),
    ("epochs", "epochs"): 2 * 11,
}


@pytest.mark.parametrize("match,unit", MATCHES)
def test_centralized_training_is_matched_as_it_is_asked(match, unit):
    work = {"local_steps": 3} if unit == "steps" else {"local_steps": None, "local_epochs": 2}
    fed = federation(rounds=1, **work)
    last(f"centralized(match={match!r})", fed)
    assert fed.round_log.costs["all sites"].steps == MATCHES[match, unit]


def test_a_new_method_is_a_function_in_a_cell():
    from fedlab.algorithms import algorithm
    from fedlab.core.weights import weighted_mean
    from fedlab.federation import Round

    @algorithm
    def average_once(fed: Federation):
        """Local training, averaged at the end of each round but never sent back."""
        s = fed.memory(w=fed.start.expand(len(fed.sites)))
        for r in fed.rounds(s):
            s.w = fed.fit(s.w, r)
            yield Round({"global": weighted_mean(fed.gather(s.w), fed.shares)})

    try:
        assert "average_once" in METHODS and last("average_once", federation()).vector.ndim == 1
    finally:
        METHODS.remove("average_once")


def test_a_method_that_mixes_by_shares_of_all_sites_works_when_some_are_absent():
    """`weighted_mean(fed.gather(back), fed.shares)` renormalises over those that answered."""
    from fedlab.core.weights import weighted_mean
    from fedlab.federation import Round

    def plain(fed: Federation):
        s = fed.memory(w=fed.start)
        for r in fed.rounds(s):
            s.w = weighted_mean(fed.gather(fed.fit(fed.broadcast(s.w), r)), fed.shares)
            yield Round({"global": s.w})

    faults = {"availability": [1.0, 0.7, 1.0, 0.5], "rounds": 5}
    for outcome in plain(federation(**faults)):
        mine = outcome.models["global"]
    assert same(mine, last("fedavg", federation(**faults)))


def test_one_site_alone_is_every_method_without_a_twist(precision):
    """With one site and plain SGD all that averages, passes on or merges is local training."""
    exact = [
        *("fedavg", "fedprox(mu=0)", "fedsam(rho=0)", "moon(mu=0)", "cyclic", "single_pass", "split", "splitfed"),
        *("splitfed(version=2)", "swarm(min_peers=1)", "gossip", "cyclic(mitigation='iterations')"),
    ]
    one = partition(sizes=(30,))
    alone = last("local", federation(one, precision=precision))[0]
    for method in exact:
        found = last(method, federation(one, precision=precision))
        assert same(found, alone), method


# -- how methods are written -----------------------------------------------------------------------------------------


def body_of(method: str) -> list[str]:
    """The lines of a method's body without its docstring."""
    source = textwrap.dedent(inspect.getsource(METHODS.function(method)))
    function = ast.parse(source).body[0]
    first = function.body[1] if ast.get_docstring(function) else function.body[0]
    return source.splitlines()[first.lineno - 1 :]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_short_and_documented(method):
    """Its source, every argument under "Parameters", and an example."""
    text = METHODS.explain(method)
    assert len(body_of(method)) <= 40 and text.startswith(f"{method}: ")
    assert re.search(r"arXiv:\d{4}\.\d{4,5}|doi:10\.|PMC\d+", text) or method in ("local", "centralized", "finetune")
    assert "\nExamples\n--------\n" in text
    for argument in list(inspect.signature(METHODS.function(method)).parameters)[1:]:
        assert re.search(rf"^(\w+, )*{argument}(, \w+)* : ", text, re.MULTILINE), argument


def test_no_method_has_a_training_loop_of_its_own():
    folder = Path(algorithms.__file__).parent
    for path in folder.glob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert not re.search(r"\.backward\(|optimizer\.step|zero_grad|\.grad\b", source), path.name


def test_an_edited_method_in_a_cell_is_another_experiment(tmp_path):
    """The run of the old version is not taken for the new one."""
    import fedlab
    from fedlab.algorithms import algorithm
    from fedlab.federation import Round

    @algorithm
    def mine(fed: Federation):
        """Shrinks."""
        s = fed.memory(w=fed.start)
        for _ in fed.rounds(s):
            s.w = s.w.with_parameters(s.w.parameters * 0.5)
            yield Round({"global": s.w})

    try:
        one = fedlab.Experiment(model="small_cnn(width=4, depth=2)", rounds=1, device="cpu", method="mine")
        part = partition()
        first = fedlab.run(one, part, folder=tmp_path)
        assert fedlab.run(one, part, folder=tmp_path).folder == first.folder

        @algorithm
        def mine(fed: Federation):
            """Shrinks faster."""
            s = fed.memory(w=fed.start)
            for _ in fed.rounds(s):
                s.w = s.w.with_parameters(s.w.parameters * 0.125)
                yield Round({"global": s.w})

        second = fedlab.run(one, part, folder=tmp_path)
        assert second.folder != first.folder
        assert torch.allclose(second.trainable() * 4, first.trainable())
    finally:
        METHODS.remove("mine")
