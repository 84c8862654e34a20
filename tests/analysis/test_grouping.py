"""Runs are put together only if they share a federation, and as seeds only if they differ in nothing else."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import cases

import fedlab
from fedlab.algorithms import METHODS, algorithm
from fedlab.analysis.client_drift import drift, weight_divergence
from fedlab.analysis.comparison import compare, transfer
from fedlab.core.warnings import ProtocolWarning
from fedlab.data.cases import Cases
from fedlab.federation import Round

BASE = fedlab.Experiment(model="logistic", rounds=1, local_steps=1, batch_size=8, device="cpu")
DATA = cases(80, (1, 4, 4))
NUMBERS = ["value", "low", "high", "difference", "difference_low", "difference_high"]
quick = settings(max_examples=8, deadline=None)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def runs(home):
    """local and fedavg with three seeds each."""
    return fedlab.grid(
        BASE, partition=fedlab.partition(DATA, 2), folder=home, method=["local", "fedavg"], seed=[0, 1, 2]
    )


@pytest.fixture(scope="module")
def compared(runs):
    """What is compared of all runs in their order."""
    return compare(runs).set_index(["method", "site"]).sort_index()


def like(run, seed=None, **changes):
    """A run with the same files and another description."""
    fields = run.experiment.model_dump() | changes | ({} if seed is None else {"seed": seed})
    names = ("partition_table", "rounds", "predictions", "ledger", "events", "classes", "unseen", "task", "headline")
    facts = {name: getattr(run, name) for name in (*names, "partition_fingerprint", "fingerprints", "code")}
    experiment = fedlab.Experiment(**fields)
    return SimpleNamespace(experiment=experiment, method=experiment.method, **facts)


# -- one federation --------------------------------------------------------------------------------------------------


def other(**changes) -> fedlab.Partition:
    """The same sites of cases with the same ids that differ in one thing."""
    table, images = changes.get("table", DATA.table), changes.get("images", DATA.images)
    return fedlab.partition(Cases(images, table, DATA.card, changes.get("masks")), 2, **changes.get("axes", {}))


ALTERED = {
    "pixels": {"images": 255 - DATA.images},
    "labels, masks or other columns": {"table": DATA.table.assign(age=np.arange(len(DATA)))},
    "masks": {"masks": np.ones((len(DATA), 4, 4), np.uint8)},
    "scanners": {"axes": {"acquisition": 0.8}},
    "readers": {"axes": {"annotation": 0.8}},
    "sites or splits": {"axes": {"partition_seed": 1}},
    "held-out sites": {"axes": {"unseen": 1}},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", ALTERED)
def test_runs_of_another_federation_are_refused_by_all_that_puts_runs_together(runs, tmp_path, what):
    changes = ALTERED[what]
    axes = {{"partition_seed": "seed"}.get(name, name): value for name, value in changes.get("axes", {}).items()}
    one = fedlab.run(BASE, other(**{**changes, "axes": axes}), folder=tmp_path)
    local = runs[0]
    for together in (compare, transfer, fedlab.costs, drift, fedlab.plots.curves, fedlab.plots.ranking):
        with pytest.raises(ValueError, match=f"'fedavg' \\(seed 0\\) and 'local' \\(seed 0\\) differ in .*{what}"):
            together([local, one])
    with pytest.raises(ValueError, match=what):
        weight_divergence(one, local)


def test_runs_that_store_one_fingerprint_for_all_are_told_apart_by_it(runs):
    """As earlier versions wrote them."""
    first, second = (vars(like(run)) | {"fingerprints": {}, "code": {}} for run in (runs[0], runs[3]))
    assert len(compare([SimpleNamespace(**first), SimpleNamespace(**second)])) == 10
    with pytest.raises(ValueError, match="differ in pixels, masks, readers or other facts of the cases"):
        compare([SimpleNamespace(**first), SimpleNamespace(**second | {"partition_fingerprint": "another"})])


def test_the_name_of_a_dataset_does_not_matter(tmp_path):
    DATA.save(tmp_path / "here")
    DATA.save(tmp_path / "there")
    local, fedavg = (
        fedlab.run(BASE.with_(dataset=str(tmp_path / place), sites=2, method=method), folder=tmp_path / "runs")
        for place, method in (("here", "local"), ("there", "fedavg"))
    )
    assert compare([local, fedavg]).query("site != 'worst site'")["value"].notna().all()
    again = fedlab.run(BASE.with_(dataset=str(tmp_path / "there"), sites=2, method="local", seed=1), folder=tmp_path)
    assert set(compare([local, again])["seeds"]) == {2}


def test_leakage_is_measured_on_the_partition_of_the_run(runs, home):
    own, images = fedlab.partition(DATA, 2), fedlab.partition(Cases(255 - DATA.images, DATA.table, DATA.card), 2)
    run = fedlab.run(BASE.with_(model="small_cnn(width=4, depth=1)"), own, folder=home)
    assert len(fedlab.leakage(run, [1], partition=own, known=20, cases=8).table) == 1
    with pytest.raises(ValueError, match="other cases, sites or scanners than this partition: pass its own"):
        fedlab.leakage(run, [1], partition=images, known=20, cases=8)
    with pytest.raises(ValueError, match="pass its `partition`"):
        fedlab.leakage(run, [1], known=20, cases=8)


# -- seeds -----------------------------------------------------------------------------------------------------------

OTHER_VALUES = {
    "model": "small_cnn", "rounds": 7, "patience": 3, "local_epochs": 4, "local_steps": 9, "batch_size": None,
    "loss": "focal", "target_scale": "none", "class_weights": "balanced", "optimizer": "adam", "lr": 0.01,
    "momentum": 0.5, "weight_decay": 0.1, "schedule": "cosine",
    "local_optimizer": "keep", "participation": "sample(0.5)", "availability": 0.5, "stragglers": 0.2,
    "failures": 0.1, "aggregate": "median", "attack": "signflip(1)", "secure_sum": True, "watch_visits": True,
    "batchnorm": "fedbn", "normalisation": "image", "augment": "flip", "crop": "random(8)",
    "precision": "float64", "device": "auto",
    "evaluate_every": 3, "weights": "w.pt", "trainable": "head",
}  # fmt: skip


def test_runs_that_differ_in_any_field_are_never_averaged(runs):
    first, second = runs[3], runs[4]  # fedavg, seeds 0 and 1
    described = {"dataset", "target", "sites", "unseen", "splits", "leakage", "partition_seed", *fedlab.AXES}
    assert set(OTHER_VALUES) | described | {"seed", "execution", "method"} == set(fedlab.Experiment.model_fields)
    for field, value in OTHER_VALUES.items():
        changed = like(second, **{field: value})
        with pytest.raises(ValueError, match=f"differ in {field} .*by='{field}'"):
            compare([first, changed])
        with pytest.raises(ValueError, match=f"differ in {field} .*over='{field}'"):
            fedlab.costs([first, changed])
        for together in (drift, transfer, fedlab.plots.curves):
            with pytest.raises(ValueError, match=f"differ in {field} "):
                together([first, changed])
    assert set(compare([first, like(second, execution="sequential")])["seeds"]) == {2}
    table = compare([first, like(second, method="fedprox(mu=0.1)")])
    assert set(table["method"]) == {"fedavg", "fedprox(mu=0.1)"} and set(table["seeds"]) == {1}


@pytest.mark.filterwarnings("ignore")
def test_a_named_field_makes_rows_and_a_second_one_is_refused(runs):
    first, second = runs[3], like(runs[4], lr=0.01)
    assert set(compare([first, second], by="lr")["method"]) == {"fedavg (lr=0.05)", "fedavg (lr=0.01)"}
    with pytest.raises(ValueError, match=r"differ in momentum \(0.0 and 0.5\).*one setting at a time$"):
        compare([first, second, like(runs[5], momentum=0.5)], by="lr")
    with pytest.raises(ValueError, match="seed 0 and the same settings"):
        compare([first, first])


@pytest.mark.filterwarnings("ignore")
def test_versions_of_own_code_are_no_seeds_of_each_other(home):
    def run(keep: float, seed: int):
        @algorithm
        def halfway(fed):
            "A method whose code holds a number."
            state = fed.memory(w=fed.start)
            for number in fed.rounds(state):
                state.w = fed.merge(state.w, fed.gather(fed.fit(fed.broadcast(state.w), number)))
                yield Round({"global": state.w if keep else fed.start})

        try:
            return fedlab.run(BASE.with_(method="halfway", seed=seed), fedlab.partition(DATA, 2), folder=home)
        finally:
            METHODS.remove("halfway")

    first, second, changed = run(1.0, 0), run(1.0, 1), run(0.0, 2)
    assert first.code and first.code == second.code != changed.code

    @algorithm
    def halfway(fed):
        "Known again, so that the runs can be read."

    try:
        assert set(compare([first, second])["seeds"]) == {2}
        with pytest.raises(ValueError, match=r"differ in the code of halfway .*one setting at a time$"):
            compare([first, second, changed])
    finally:
        METHODS.remove("halfway")


@settings(max_examples=6, deadline=None)
@given(order=st.permutations(range(6)))
def test_the_order_of_runs_never_changes_a_number(runs, compared, order):
    found = compare([runs[k] for k in order]).set_index(["method", "site"]).sort_index()
    pd.testing.assert_frame_equal(found, compared, check_exact=True)


@quick
@given(st.sets(st.integers(0, 2), min_size=1), st.sets(st.integers(0, 2), min_size=1))
def test_differences_are_over_shared_seeds_and_the_table_says_so(runs, local, fedavg):
    chosen = [runs[k] for k in local] + [runs[3 + k] for k in fedavg]
    both = sorted(local & fedavg)
    with pytest.warns(ProtocolWarning, match="shared seeds") if local != fedavg else _nothing():
        table = compare(chosen)
    rows = table[table["method"] == "fedavg"]
    assert set(table.loc[table["method"] == "local", "difference"].dropna()) == {0.0}
    if not both:
        assert rows["difference"].isna().all() and rows["note"].str.contains("no seed in common with 'local'").all()
        return
    paired = compare([runs[k] for k in both] + [runs[3 + k] for k in both])
    wanted = paired[paired["method"] == "fedavg"]
    np.testing.assert_array_equal(rows[NUMBERS[3:]].to_numpy(), wanted[NUMBERS[3:]].to_numpy())
    words = f"difference over the {len(both)} seed{'s' * (len(both) != 1)} that 'local' shares"
    assert rows["note"].str.contains(words).all() == (local != fedavg)


def _nothing():
    return pytest.MonkeyPatch.context()


# -- budgets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rounds": 3}, "'fedavg' rounds=3"),
        ({"local_steps": 2}, "'fedavg' local_steps=2"),
        ({"local_steps": None, "local_epochs": 2}, "'fedavg' local_epochs=2, local_steps=none"),
        ({"batch_size": 4}, "'fedavg' batch_size=4"),
        ({"rounds": 30, "patience": 1, "lr": 0.0}, "'fedavg' rounds=2"),  # ended early
    ],
)
def test_unequal_budgets_are_in_a_warning_and_in_the_table(runs, home, changes, told):
    fedavg = fedlab.run(BASE.with_(**changes), fedlab.partition(DATA, 2), folder=home)
    with pytest.warns(ProtocolWarning, match="unequal budgets") as caught:
        table = compare([runs[0], fedavg])
    assert told in str(caught[0].message)
    rows = table[table["method"] == "fedavg"]
    assert rows["note"].str.contains(f"budget: {told.split(' ', 1)[1]}").all()
    assert set(rows["rounds"]) == {fedavg.rounds["round"].max()}


def test_equal_budgets_say_nothing(runs, recwarn):
    table = compare([runs[0], runs[3]])
    assert (
        not [one for one in recwarn if one.category is ProtocolWarning]
        and not table["note"].str.contains("budget").any()
    )
    rounds = compare([runs[3], like(runs[4], rounds=1)])
    assert set(rounds["rounds"]) == {1.0}
