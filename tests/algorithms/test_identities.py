"""Laws that every registered method keeps, the present ones and those to come.

The numbers O1, O2, ... are those of the oracles that the methods' mathematics fixes.
"""

import ast
import inspect
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from worlds import at_sites, ends, federation, last, parameters, partition, same

from fedlab import algorithms
from fedlab.algorithms import METHODS
from fedlab.core.weights import Weights
from fedlab.federation import Ensemble, Federation

pytestmark = pytest.mark.filterwarnings("ignore:scaffold with momentum")
TRAINED = {"ditto": 2}  # how many models a site trains in a round, where it is not one
BEYOND = {"finetune": 2}  # finetune goes on after each evaluated round: as many steps again
ALONE = ("local", "centralized", "ensemble", "single_pass")  # where nobody can be absent


@pytest.mark.parametrize("method", METHODS)
def test_without_a_learning_rate_nothing_moves(method, precision):  # O54
    fed = federation(lr=0.0, precision=precision)
    for found in parameters(ends(method, fed)):
        assert torch.equal(found, fed.start.parameters.expand_as(found))


@pytest.mark.parametrize("method", METHODS)
def test_the_same_experiment_gives_the_same_bits(method):
    first, second = (ends(method, federation(momentum=0.9)) for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(a, b) for a, b in zip(parameters(first), parameters(second), strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_stays_finite(method):
    fed = federation(rounds=3)
    for found in parameters(ends(method, fed)):
        assert torch.isfinite(found).all() and not torch.equal(found, fed.start.parameters.expand_as(found))


@pytest.mark.parametrize("unit", ["steps", "epochs"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_the_budget(method, unit):
    """In every round each site takes the experiment's optimizer steps: local_steps, or those of its epochs."""
    work = {"local_steps": 3} if unit == "steps" else {"local_steps": None, "local_epochs": 2}
    fed = federation(rounds=3, **work)
    budget = {site.name: 3 * site.steps(fed.settings) for site in [*fed.sites, fed.union]}
    taken = dict.fromkeys(budget, 0)
    for _ in algorithms.start(method, fed):
        for site, cost in fed.costs.items():
            taken[site] += cost.steps
    where = [fed.union.name] if method == "centralized" else list(fed.names)
    times = TRAINED.get(method, BEYOND.get(method, 1))
    assert {site: steps for site, steps in taken.items() if steps} == {site: times * budget[site] for site in where}


@pytest.mark.parametrize("policy", ["avg", "pooled", "silobn", "fedbn", "params_only", "frozen", "group"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_works_with_every_normalisation(method, policy):
    fed = federation(rounds=2, batchnorm=policy)
    assert all(torch.isfinite(found).all() for found in parameters(ends(method, fed)))
    if method != "ensemble":
        assert len(at_sites(method, federation(rounds=1, batchnorm=policy))) == 4


@pytest.mark.parametrize("knobs", [{"momentum": 0.9}, {"optimizer": "adam", "lr": 0.01}, {"optimizer": "adamw"}])
@pytest.mark.filterwarnings("ignore:fednova with")
@pytest.mark.filterwarnings("ignore:scaffold with")
@pytest.mark.parametrize("method", METHODS)
def test_every_method_works_with_every_optimizer(method, knobs):
    found = ends(method, federation(**knobs, weight_decay=0.01))
    assert all(torch.isfinite(each).all() for each in parameters(found))


@pytest.mark.parametrize("method", METHODS)
def test_a_round_in_which_nobody_answers_changes_nothing(method):
    """Nobody is ever there: the models are those of the start, and the rounds are counted all the same."""
    if method in ALONE:
        pytest.skip("every site trains by itself, or is awaited")
    fed = federation(rounds=3, availability=0.0)
    for name, model in ends(method, fed).items():
        if name == "global":
            assert torch.equal(model.parameters, fed.start.parameters), method
    assert fed.round == 3 and set(fed.journal.event_frame()["event"]) >= {"absent"}
    assert fed.ledger.frame()["bytes"].sum() == 0
    assert not fed.costs or method == "finetune"  # which a site can do by itself


@pytest.mark.parametrize("method", METHODS)
def test_absent_sites_do_no_work_and_nothing_crosses_their_border(method):
    if method in ALONE:
        pytest.skip("every site trains by itself, or is awaited")
    fed = federation(rounds=4, availability=[1.0, 1.0, 0.0, 1.0])
    models = ends(method, fed)
    assert all(torch.isfinite(found).all() for found in parameters(models))
    ledger = fed.ledger.frame()
    assert "Site C" not in set(ledger["site"]) | set(ledger["other"])
    assert method == "finetune" or "Site C" not in fed.costs


@pytest.mark.parametrize("method", METHODS)
def test_faults_of_all_kinds_leave_finite_models(method):
    faults = {"availability": 0.6, "failures": 0.3, "stragglers": 0.4, "participation": "sample(0.75)"}
    fed = federation(rounds=6, **faults)
    assert all(torch.isfinite(found).all() for found in parameters(ends(method, fed)))


@pytest.mark.parametrize("method", METHODS)
def test_the_ledger_is_what_taps_on_the_wire_see(method):  # O55
    """Every byte in the ledger is a byte of a tensor that was handed over."""
    fed, seen = federation(), []
    fed.wire.taps.append(lambda message: seen.append((message.site, message.direction, message.what, message.nbytes)))
    last(method, fed)
    frame = fed.ledger.frame()
    assert frame["bytes"].sum() == sum(nbytes for *_, nbytes in seen)
    assert frame["messages"].sum() == len(seen)
    told = frame.groupby(["site", "direction", "what"])["bytes"].sum().to_dict()
    counted: dict = {}
    for *kind, nbytes in seen:
        counted[tuple(kind)] = counted.get(tuple(kind), 0) + nbytes
    assert told == counted


@pytest.mark.parametrize("method", METHODS)
def test_the_critical_path_is_no_longer_than_all_work(method):
    fed = federation(rounds=1)
    last(method, fed)
    path, frame = fed.wire.path, fed.ledger.frame()
    assert 3 <= path.steps <= sum(cost.steps for cost in fed.costs.values())
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
    assert fed.costs["all sites"].steps == MATCHES[match, unit]


def test_a_new_method_is_a_function_in_a_cell():
    from fedlab.algorithms import algorithm
    from fedlab.core.weights import mix
    from fedlab.federation import Round

    @algorithm
    def average_once(fed: Federation):
        """Local training, averaged at the end of each round but never sent back."""
        s = fed.memory(w=fed.start.expand(len(fed.sites)))
        for r in fed.rounds(s):
            s.w = fed.fit(s.w, r)
            yield Round({"global": mix(fed.gather(s.w), fed.shares)})

    try:
        assert "average_once" in METHODS and last("average_once", federation()).vector.ndim == 1
    finally:
        METHODS.remove("average_once")


def test_a_method_that_mixes_by_shares_of_all_sites_works_when_some_are_absent():
    """`mix(fed.gather(back), fed.shares)` renormalises over those that answered."""
    from fedlab.core.weights import mix
    from fedlab.federation import Round

    def plain(fed: Federation):
        s = fed.memory(w=fed.start)
        for r in fed.rounds(s):
            s.w = mix(fed.gather(fed.fit(fed.broadcast(s.w), r)), fed.shares)
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
def test_a_method_is_short_and_says_where_it_comes_from(method):
    told = METHODS.explain(method)
    assert len(body_of(method)) <= 40 and told.startswith(f"{method}: ")
    assert re.search(r"arXiv:\d{4}\.\d{4,5}|doi:10\.|PMC\d+", told) or method in ("local", "centralized", "finetune")
    own = [name for name in inspect.signature(METHODS.function(method)).parameters if name not in ("fed", "weighting")]
    for knob in own:
        assert re.search(rf"\b{knob}\b", told), knob


def test_no_method_has_a_training_loop_of_its_own():
    folder = Path(algorithms.__file__).parent
    for path in folder.glob("*.py"):
        source = path.read_text()
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
