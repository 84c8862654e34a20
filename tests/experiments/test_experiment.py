"""Experiments: flat, frozen, JSON, and refused with the nearest name where something is misspelt."""

import json
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from cells import defined
from worlds import cases, federation, partition

import fedlab
from fedlab.data.cases import Cases
from fedlab.experiments.experiment import CODE
from fedlab.federation.aggregation import median
from fedlab.heterogeneity.acquisition.presets import Requested
from fedlab.learning.models import MODELS, build
from fedlab.learning.patches import Crop
from fedlab.learning.settings import Training
from fedlab.notebook.parameter_cell import parameters
from fedlab.partitioning import validation
from fedlab.partitioning.partitions import Partition

REFUSED = {
    "rouns": ({"rouns": 3}, "unknown parameter 'rouns': did you mean 'rounds'"),
    "method": ({"method": "fedavgg"}, "unknown method 'fedavgg': did you mean 'fedavg'"),
    "argument": ({"method": "fedprox(nu=1)"}, "'fedprox' has no argument 'nu': did you mean 'mu'"),
    "no argument": ({"method": "local(mu=1)"}, "no argument 'mu': it has none"),
    "call": ({"method": "fedprox(mu="}, "cannot read method"),
    "model": ({"model": "resnet19"}, "did you mean 'resnet18'"),
    "rounds": ({"rounds": 0}, "rounds=0: give a whole number from 1 to 1,000,000"),
    "optimizer": ({"optimizer": "rmsprop"}, "optimizer='rmsprop': choose one of 'sgd', 'adam', 'adamw'"),
    "momentum": ({"optimizer": "adam", "momentum": 0.9}, "belongs to optimizer='sgd'"),
    "schedule": ({"schedule": "cosinus"}, "unknown schedule 'cosinus': did you mean 'cosine'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_misspelt_experiments_are_refused(name):
    values, message = REFUSED[name]
    with pytest.raises(ValueError) as caught:
        fedlab.Experiment(**values)
    assert message in str(caught.value)


def test_experiments_are_json_frozen_and_equal_by_value():
    one = fedlab.Experiment(method="fedprox(mu=0.1)", prevalence=[0.2, 0.4, 0.6, 0.8])
    assert fedlab.Experiment(**json.loads(json.dumps(one.model_dump()))) == one
    with pytest.raises(ValueError):
        one.rounds = 3  # type: ignore[misc]
    assert one.with_(rounds=3).rounds == 3 and one.rounds == 20
    with pytest.raises(ValueError, match="did you mean 'rounds'"):
        one.with_(round=3)


def test_cuda_where_there_is_none():
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ValueError, match="finds no CUDA here: use device='cpu'"):
        federation(device="cuda")
    with pytest.raises(ValueError, match="unknown device 'gpu9'"):
        federation(device="gpu9")


def test_schedules_are_functions_of_the_round():
    one = Training(rounds=100, lr=1.0, schedule="cosine(final=0.01)")
    assert one.lr_at(1) == 1.0 and abs(one.lr_at(51) - 0.505) < 1e-12 and one.lr_at(100) < 0.011
    steps = Training(rounds=8, lr=1.0, schedule="step")
    assert np.allclose([steps.lr_at(r) for r in range(1, 9)], [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 32, 32, 32)])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "timm"])  # an extra, and 2D only
def test_models_take_2d_and_3d_images(name, shape):
    if name == "densenet121" and 28 in shape:
        with pytest.raises(ValueError, match=r"does not fit images of shape .* choose a smaller model"):
            build(name, shape, 4, seed=0)
        return
    dense = getattr(MODELS.function(name), "output", "cases") == "voxels"
    assert isinstance(build(name, shape, 4, seed=0, dense=dense), torch.nn.Sequential)


def test_initial_weights_have_a_name_not_an_ambient_seed():
    torch.manual_seed(1)
    a = build("small_cnn", (1, 28, 28), 2, seed=5)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    b = build("small_cnn", (1, 28, 28), 2, seed=5)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_model_that_returns_the_wrong_number_of_outputs_is_named():
    def two(shape, outputs):
        """Wrong."""
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 2))

    MODELS.add(two)
    try:
        with pytest.raises(ValueError, match=r"'two' returns .2,. numbers a case, the task needs 5"):
            build("two", (1, 28, 28), 5, seed=0)
    finally:
        MODELS.remove("two")


def test_the_protocol_names_the_site_that_must_change_something():
    data = cases(152)
    images, part = data.images.copy(), partition(data=data)
    of_c = np.concatenate([part.index("Site C", split) for split in ("train", "val", "test")])
    images[of_c] = images[of_c] > 128
    with pytest.raises(validation.ProtocolError, match=r"Site C: pixels lie in 0..1, agreed is 0..255: multiply"):
        federation(partition(data=Cases(images, data.table, data.card)))


def test_the_protocol_names_columns_that_a_site_lacks():
    data = cases(152)
    part = partition(data=data)
    of_a = data.table["case"].isin(part.table[part.table["site"] == "Site A"]["case"])
    table = data.table.assign(age=np.where(of_a, np.nan, 50.0))
    with pytest.warns(validation.ProtocolWarning, match="'age' is empty at Site A"):
        federation(partition(data=Cases(data.images, table, data.card)))


def test_a_column_is_named_if_some_sites_but_not_all_lack_it():
    """Text and numbers; a site is named even if other columns, or cases of no site, are filled."""
    data = cases(152)
    part = partition(data=data)
    site = data.table["case"].map(part.table.set_index("case")["site"])
    table = data.table.assign(
        age=np.where(site == "Site B", 50.0, np.nan),
        sex=np.where(site == "Site C", None, "F"),
        weight=np.nan,
        height=np.where(np.arange(152) % 2, np.nan, 1.7),
    )
    kept = part.table["site"].ne("Site C") | (part.table.index % 5 > 0)
    made = Cases(data.images, table, data.card)
    fewer = Partition.from_sites(made, part.table[kept])
    with pytest.warns(validation.ProtocolWarning) as found:
        validation.check(fewer)
    named = [str(one.message).split(" and filled")[0] for one in found]
    assert named == ["column 'age' is empty at Site A, Site C, Site D", "column 'sex' is empty at Site C"]


DECLARED = "rounds: int = 20  # rounds\nlr: float = 0.1\n"


def test_misspelt_notebook_parameters_are_refused():
    given = {"In": ["", DECLARED, "# Parameters\nrounds = 5\n", "import fedlab"], "rounds": 5, "lr": 0.1}
    assert parameters(given) == {"rounds": 5, "lr": 0.1}
    with pytest.raises(ValueError, match="unknown parameter 'rouns': did you mean 'rounds'"):
        parameters({"In": ["", DECLARED, "# Parameters\nrouns = 5\n", "import fedlab"], "rouns": 5})


def test_cells_may_be_run_again_in_any_order():
    history = [
        "",
        DECLARED,
        "import fedlab",
        "x = 3\n%matplotlib inline",
        "rounds: int = 7",
        "y = rounds",
        "import fedlab",
    ]
    assert parameters({"In": history, "rounds": 7, "lr": 0.1, "x": 3, "y": 7}) == {"rounds": 7, "lr": 0.1}


OWN = {  # a field, the text in it, and a function of the user's own that the text names, before and after an edit
    "method": "def mine(fed, mu=0.1):\n    return {}",
    "topology": "def mine(sites, rng):\n    return {}",
    "model": "def mine(shape, outputs, width=4):\n    return {}",
    "trainable": "def mine(model, generator, share=1):\n    return set({})",
    "loss": "def mine(logits, targets, weights, share=0.5):\n    return {}",
    "schedule": "def mine(progress, final=0.1):\n    return {}",
    "participation": "def mine(draw, share=0.5):\n    return {}",
    "stragglers": "def mine(share=0.5):\n    return {} * share, False",
    "aggregate": "def mine(models, shares, w, trim=0.1):\n    return {}",
    "attack": "def mine(models, w, sites, shares, rng, count=1):\n    return {}",
    "augment": "def mine(rng, count, shape, share=0.5):\n    return {}",
    "crop": "def mine(share=0.5):\n    return Crop((8 * {},), share)",
    "quantity": "def mine(beta=0.5):\n    return {}",
    "prevalence": "def mine(alpha=0.5):\n    return {}",
    "presentation": "def mine(cases, atlas, dose):\n    return {}",
    "population": "def mine(cases, atlas, dose):\n    return {}",
    "acquisition": "def mine(dose=0.5):\n    return Requested(dose, jitter={} / 8)",
    "annotation": "def mine(reader, cases, rows, labels):\n    return {}",
    "geography": "def mine(dose=0.5):\n    return {} * dose, 2, 0.0",
}


@contextmanager
def registered(function, field="aggregate", name="mine"):
    CODE[field].add(function, name)
    try:
        yield
    finally:
        CODE[field].remove(name)


def identity(part, **changes) -> str:
    return fedlab.Experiment(dataset="phantoms(cases=60)", **changes).identity(part, 3)


@pytest.mark.parametrize("field", CODE)
def test_an_edited_function_of_ones_own_is_another_experiment(field):
    part, text = partition(), "mine(0.5)" if field not in ("attack", "model", "method") else "mine"
    changes = {"method": "gossip('mine')"} if field == "topology" else {field: text}
    with registered(defined(OWN[field].format(1), Crop=Crop, Requested=Requested), field):
        before, again = (identity(part, **changes) for _ in range(2))
    with registered(defined(OWN[field].format(2), Crop=Crop, Requested=Requested), field):
        after = identity(part, **changes)
    assert before == again != after


@pytest.mark.parametrize("field", CODE)
def test_functions_of_fedlab_leave_an_identity_alone(field):
    own = [name for name in CODE[field] if CODE[field].function(name).__module__.startswith("fedlab.")]
    assert own and not any(CODE[field].fingerprint(name) for name in own)


def test_only_functions_of_ones_own_are_code_of_ones_own():
    changes = {"method": "fedprox(mu=0.1)", "aggregate": "trimmed(0.2)", "attack": "signflip(count=1)"}
    axes = {
        "quantity": "like(fed_isic2019)",
        "acquisition": "styles(ct_soft, ct_sharp)",
        "presentation": "subtype(0.5)",
    }
    assert fedlab.Experiment(**changes, **axes, prevalence=[0.1, 0.2, 0.3, 0.4]).user_code() == []
    with registered(lambda models, shares, w: models):
        (source,) = fedlab.Experiment(aggregate=" mine ").user_code()
        assert "lambda models, shares, w: models" in source


class Rule:
    """A rule with a setting."""

    def __init__(self, setting):
        self.setting = setting

    def __call__(self, models, shares, w):
        return self.setting


class Edited(Rule):
    """A rule of another class."""


def test_a_setting_inside_a_rule_of_ones_own_counts():
    found = []
    rules = [Rule(1), Rule(2), Edited(1), partial(median, weighted=True), partial(median, weighted=False), Rule, Edited]
    for rule in rules:
        with registered(rule):
            found.append(CODE["aggregate"].fingerprint("mine"))
    assert len(set(found)) == len(rules) and all(found)
    with registered(Rule(1)):
        assert CODE["aggregate"].fingerprint("mine") == found[0]


@pytest.mark.parametrize("edit", ["x = 2", "share=0.2", "lambda: 2"])
def test_an_edited_cell_is_another_function(edit):
    source = "def mine(models, shares, w, share=0.1):\n    x = 1\n    return lambda: 1"
    changed = source.replace({"x = 2": "x = 1", "share=0.2": "share=0.1", "lambda: 2": "lambda: 1"}[edit], edit)
    found = []
    for text in (source, source, changed):
        with registered(defined(text)):
            found.append(CODE["aggregate"].fingerprint("mine"))
    assert found[0] == found[1] != found[2]
    assert all(text in one for text, one in zip((source, source, changed), found, strict=True))


def test_a_function_typed_at_a_prompt_is_told_from_its_edited_version():
    found = []
    for value in (1, 1, 2):
        names: dict = {}
        exec(f"def mine(models, shares, w):\n    return lambda: {value}", names)
        with registered(names["mine"]):
            found.append(CODE["aggregate"].fingerprint("mine"))
    assert found[0] == found[1] != found[2] and all(found)


def test_a_function_that_is_no_python_is_refused():
    with registered(max), pytest.raises(ValueError, match=r"'mine' is not written in Python.*wrap it"):
        identity(partition(), aggregate="mine")


def test_a_worker_identifies_a_function_by_the_source_that_came_with_it():
    names: dict = {}
    exec("def mine(models, shares, w):\n    return models", names)
    CODE["aggregate"].add(names["mine"], "mine", "", "the source")
    try:
        assert CODE["aggregate"].fingerprint("mine") == "the source"
    finally:
        CODE["aggregate"].remove("mine")
