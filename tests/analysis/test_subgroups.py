"""A group's score is that of scikit-learn on its cases; groups are those of the column, and few patients show."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import fedlab
from fedlab.analysis.patient_groups import ALL, SHARED, UNKNOWN
from fedlab.data.cases import Cases

BINS = [40, 65]


@pytest.fixture(scope="module")
def mine() -> Cases:
    rng, n = np.random.default_rng(1), 360
    label = rng.integers(0, 2, n)
    images = (rng.integers(0, 150, (n, 1, 6, 6)) + 4 * label[:, None, None, None]).astype(np.uint8)
    table = pd.DataFrame({"case": [f"c{k}" for k in range(n)], "label": label, "patient": np.arange(n) // 2})
    table["sex"] = rng.choice(["F", "M", "<b>$x$"], n // 2).repeat(2)
    table["age"] = rng.integers(20, 90, n // 2).repeat(2).astype(float)
    table.loc[table["patient"] % 9 == 0, "age"] = np.nan
    table["side"] = np.tile(["left", "right"], n // 2)
    return Cases(images, table, {"name": "mine", "task": "binary", "classes": ["healthy", "ill"]})


@pytest.fixture(scope="module")
def runs(mine, tmp_path_factory):
    part = fedlab.Partition.from_sites(mine, mine.table["patient"].to_numpy() % 2)
    base = fedlab.Experiment(model="logistic", rounds=1, batch_size=16)
    return fedlab.grid(base, partition=part, folder=tmp_path_factory.mktemp("runs"), method=["local", "fedavg"])


def predictions(run, mine) -> pd.DataFrame:
    found = run.predictions.query("choice == 'best' and split == 'test'")
    found = found[found["model"] == (found["site"] if run.method == "local" else "global")]
    return found.merge(mine.table.drop(columns="label"), on="case", suffixes=("", "_of"))


def test_each_group_has_the_score_of_its_cases(runs, mine):
    table = fedlab.subgroups(runs, "sex", mine, metric="auroc").set_index(["method", "group"])
    for run in runs:
        cases = predictions(run, mine)
        assert table.loc[run.method].index.tolist() == [ALL, "<b>$x$", "F", "M"]
        for group, rows in [(ALL, cases), *cases.groupby("sex")]:
            row = table.loc[(run.method, group)]
            assert row["value"] == pytest.approx(roc_auc_score(rows["label"], rows["p1"]))
            assert (row["cases"], row["patients"]) == (len(rows), rows["patient"].nunique())
            assert row["low"] < row["value"] < row["high"]
            if group != ALL:
                rest = cases[cases["sex"] != group]
                assert row["difference"] == pytest.approx(row["value"] - roc_auc_score(rest["label"], rest["p1"]))
                assert row["difference_low"] < row["difference"] < row["difference_high"]


def test_all_cases_have_the_pooled_row_of_the_comparison(runs, mine):
    pooled = fedlab.compare(runs, "accuracy").query("site == 'pooled'")[["value", "low", "high"]]
    table = fedlab.subgroups(runs, "sex", mine, metric="accuracy").query("group == @ALL")
    np.testing.assert_array_equal(table[["value", "low", "high"]], pooled)


def test_numbers_are_divided_at_the_given_limits_and_missing_ones_are_counted(runs, mine):
    cases = predictions(runs[0], mine)
    table = fedlab.subgroups(runs[:1], "age", mine, bins=BINS).set_index("group")["cases"]
    expected = [cases["age"].lt(40).sum(), cases["age"].between(40, 65, "left").sum(), cases["age"].ge(65).sum()]
    assert table.drop(ALL).to_dict() == dict(
        zip(
            ["below 40", "from 40 to below 65", "at least 65", UNKNOWN],
            [*expected, cases["age"].isna().sum()],
            strict=True,
        )
    )
    quarters = fedlab.subgroups(runs[:1], "age", mine)["cases"].tolist()
    assert len(quarters) == 6 and sum(quarters[1:]) == quarters[0]


def test_groups_that_share_patients_have_no_difference_and_few_patients_no_interval(runs, mine):
    table = fedlab.subgroups(runs[:1], "side", mine).set_index("group")
    assert table.loc[["left", "right"], "difference"].isna().all() and table.loc["left", "note"] == SHARED
    one = mine.table[["case"]].assign(
        rare=np.where(mine.table["patient"] == predictions(runs[0], mine)["patient"].iloc[0], "yes", "no")
    )
    rare = fedlab.subgroups(runs[:1], "rare", one, metric="accuracy").set_index("group").loc["yes"]
    assert rare["patients"] == 1 and np.isnan(rare["low"])


@pytest.mark.parametrize(
    "column, given, message",
    [
        ("sx", {}, "no column 'sx'.*sex"),
        ("age", {"bins": [65, 40]}, "ascending"),
        ("sex", {"bins": [1]}, "holds no numbers"),
    ],
)
def test_what_cannot_be_grouped_is_named(column, given, message, runs, mine):
    with pytest.raises(ValueError, match=message):
        fedlab.subgroups(runs, column, mine, **given)
    with pytest.raises(ValueError, match="pass"):
        fedlab.subgroups(runs, "sex", mine.table.iloc[1:])
    with pytest.raises(ValueError, match="cases="):
        fedlab.subgroups(runs, "sex")
