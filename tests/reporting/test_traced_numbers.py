"""Each number of Table 1, flow diagram, subgroups, methods paragraph and checklist, recomputed from the files of a run.

The files are read with pandas and json, and the numbers are made by other code than fedlab's.
"""

import itertools
import json
import math
import re

import numpy as np
import pandas as pd
import pytest

import fedlab
from fedlab.reporting.checklist_items import CHECKLISTS
from fedlab.reporting.filled_checklist import REPORTED

SPLITS = {"train": "training", "val": "validation", "test": "test"}
SETTING = {
    "sites": 4,
    "quantity": 0.3,
    "prevalence": 0.4,
    "unseen": 1,
    "rounds": 3,
    "local_steps": 7,
    "batch_size": 19,
    "lr": 0.03,
}
SETTING |= {"momentum": 0.8, "weight_decay": 0.002, "partition_seed": 5, "model": "logistic", "splits": "site"}
SEEDS = [11, 12, 13]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    base = fedlab.Experiment(dataset="phantoms(cases=420, size=16)", **SETTING)
    return fedlab.grid(base, folder=tmp_path_factory.mktemp("runs"), method=["local", "fedavg"], seed=SEEDS)


@pytest.fixture(scope="module")
def part(runs):
    return fedlab.Experiment(dataset="phantoms(cases=420, size=16)", **SETTING).make_partition()


@pytest.fixture(scope="module")
def cases(runs):
    """A row a case at a site: the dataset's table, with site and split from partition.parquet."""
    table = fedlab.load("phantoms(cases=420, size=16)").table
    return table.drop(columns=["site", "split"], errors="ignore").merge(
        pd.read_parquet(runs[0].folder / "partition.parquet"), on="case"
    )


@pytest.fixture(scope="module")
def held_out(runs):
    return list(runs[0].unseen)


def numbers(text: str) -> list[float]:
    """Numbers of a text in their order."""
    return [float(one.replace(",", "").rstrip(".")) for one in re.findall(r"\d[\d,]*\.?\d*", text.replace(" x ", " "))]


def auroc(y: np.ndarray, p: np.ndarray) -> float:
    """The share of pairs of a positive and a negative case in which the positive one has the larger probability."""
    pairs = p[y == 1][:, None] - p[y == 0][None, :]
    return float(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def stored(runs, method: str) -> list[pd.DataFrame]:
    """The test predictions of each seed by the model that a site uses, from predictions.parquet."""
    found = []
    for run in runs:
        if json.loads((run.folder / "experiment.json").read_text("utf-8"))["experiment"]["method"] != method:
            continue
        rows = pd.read_parquet(run.folder / "predictions.parquet").query("choice == 'best' and split == 'test'")
        found.append(rows[(rows["model"] == rows["site"]) | (rows["model"] == "global")])
    return found


# -- Table 1 and flow ------------------------------------------------------------------------------------------------


def difference(one: pd.Series, other: pd.Series) -> float:
    """The standardised difference of a number, or of a share of two levels."""
    if pd.api.types.is_numeric_dtype(one):
        return abs(one.mean() - other.mean()) / math.sqrt((one.var(ddof=1) + other.var(ddof=1)) / 2)
    p, q = ((values == "F").mean() for values in (one, other))
    return abs(p - q) / math.sqrt((p * (1 - p) + q * (1 - q)) / 2)


def shares(held: pd.Series) -> list[float]:
    """How many cases or patients have a level, and in percent; nothing of none but the count."""
    return [int(held.sum()), round(100 * held.mean(), 1)] if len(held) else [0]


@pytest.mark.parametrize("split", [None, "train", "test"])
def test_each_number_of_table_1_is_that_of_the_cases(split, part, cases):
    some = cases if split is None else cases[cases["split"] == split]
    table = fedlab.paper_table(part.describe(split=split))
    rows = {row[0]: row[1:] for row in table.rows}
    sites = [*part.sites, "all sites"]
    assert list(table.head[1:]) == [*sites, "SMD"]
    groups = [some if site == "all sites" else some[some["site"] == site] for site in sites]
    people = [group.groupby("patient")[["age", "sex"]].first() for group in groups]
    assert [numbers(cell) for cell in rows["cases"][:-1]] == [[len(group)] for group in groups]
    assert [numbers(cell) for cell in rows["patients"][:-1]] == [[group["patient"].nunique()] for group in groups]
    for label, name in enumerate(("normal", "nodule")):
        for cell, group in zip(rows[f"class: {name}, n (%)"], groups, strict=False):
            assert numbers(cell) == shares(group["label"] == label)
    for cell, own in zip(rows["age, median [IQR]"], people, strict=False):
        wanted = own["age"].dropna().quantile([0.5, 0.25, 0.75]).to_list() if len(own) else []
        np.testing.assert_allclose(numbers(cell), wanted, rtol=0.006)
    for cell, own in zip(rows["sex: F, n (%)"], people, strict=False):
        assert numbers(cell) == shares(own["sex"].dropna() == "F")
    for row, column in (("age, median [IQR]", "age"), ("sex: F, n (%)", "sex")):
        known = [own[column].dropna() for own in people[:-1] if len(own)]
        largest = max(difference(*pair) for pair in itertools.combinations(known, 2))
        assert float(rows[row][-1]) == pytest.approx(largest, abs=0.0051)


def test_each_count_of_the_flow_is_that_of_the_cases(runs, part, cases):
    figure, table = fedlab.plots.flow(part)
    texts = [text.get_text() for text in figure.axes[0].texts]
    patients = cases["patient"].nunique()
    assert texts.count(f"{len(cases)} cases of {patients} patients") == 2  # of the dataset, and at its sites
    for split, word in SPLITS.items():
        own = cases[cases["split"] == split]
        at = texts.index(f"{word}: {len(own)} cases")
        counts = dict(text.rsplit(": ", 1) for text in texts[at + 1 : at + 1 + len(part.sites)])
        assert {name.removesuffix(" (held out)"): int(n) for name, n in counts.items()} == {
            site: int((own["site"] == site).sum()) for site in part.sites
        }
        assert table.loc[table["split"] == split, "cases"].sum() == len(own)


# -- subgroups -------------------------------------------------------------------------------------------------------


def test_each_number_of_a_subgroup_is_that_of_its_predictions(runs, part, cases, held_out):
    table = fedlab.paper_table(fedlab.subgroups(runs, "sex", part))
    column = {name: table.head.index(name) for name in ("method", "group", "cases", "patients")}
    value = next(k for k, name in enumerate(table.head) if name.startswith("AUROC"))
    inside = cases[~cases["site"].isin(held_out) & (cases["split"] == "test")].set_index("case")
    seen = 0
    for row in table.rows:
        group = row[column["group"]]
        if group not in ("F", "M"):
            continue
        own = inside[inside["sex"] == group]
        assert numbers(row[column["cases"]]) == [len(own)]
        assert numbers(row[column["patients"]]) == [own["patient"].nunique()]
        scores = []
        for rows in stored(runs, row[column["method"]]):
            rows = rows[rows["case"].isin(own.index)]
            scores.append(auroc(rows["label"].to_numpy(), rows["p1"].to_numpy()))
        assert len(scores) == len(SEEDS) and numbers(row[value])[0] == pytest.approx(np.mean(scores), abs=0.00051)
        seen += 1
    assert seen == 4


# -- methods paragraph and checklist ---------------------------------------------------------------------------------


def test_the_numbers_of_the_methods_paragraph_are_in_their_order_those_of_the_files(runs, cases, held_out):
    text = fedlab.methods_paragraph(runs).split(" Software:")[0].replace("phantoms(cases=420, size=16)", "")
    inside = cases[~cases["site"].isin(held_out)]
    sizes = inside[inside["split"] == "train"]["site"].value_counts()
    expected = [
        len(sizes),
        sizes.min(),
        sizes.max(),
        *(int((cases["split"] == split).sum()) for split in SPLITS),
    ]
    expected += [0, 1, SETTING["quantity"], SETTING["prevalence"], len({run.method for run in runs})]
    expected += [SETTING[name] for name in ("rounds", "local_steps", "batch_size", "lr", "momentum", "weight_decay")]
    expected += [len(SEEDS), 95]
    assert numbers(text) == [float(one) for one in expected]


def mean_of_sites(runs, method: str, sites: list[str]) -> float:
    """The mean over sites of the mean over seeds of the AUROC."""
    each = [
        [auroc(own["label"].to_numpy(), own["p1"].to_numpy()) for own in (rows[rows["site"] == site] for site in sites)]
        for rows in stored(runs, method)
    ]
    return float(np.mean(each))


@pytest.fixture(scope="module")
def answers(runs):
    """The answers of both checklists by what they are about, and the same in both."""
    found: dict[str, set[str]] = {}
    for which, items in CHECKLISTS.items():
        table = fedlab.checklist(runs, which=which).set_index("item")
        for item in items:
            if table.loc[item.number, "state"] == REPORTED:
                text = str(table.loc[item.number, "answer"]).split(" (for the authors")[0]
                found.setdefault(item.answer, set()).add(text)
    assert {name: texts for name, texts in found.items() if len(texts) > 1} == {}
    return {name: next(iter(texts)) for name, texts in found.items()}


def expected_answers(runs, cases, held_out) -> dict[str, list[float]]:
    """The numbers of an answer in their order, from the files."""
    inside = cases[~cases["site"].isin(held_out)]
    splits = [int((inside["split"] == split).sum()) for split in SPLITS]
    of_classes = [int(((cases["split"] == s) & (cases["label"] == k)).sum()) for s in SPLITS for k in (0, 1)]
    tests = inside[inside["split"] == "test"].groupby("site")
    rarest = {site: min(own[own["label"] == k]["patient"].nunique() for k in (0, 1)) for site, own in tests}
    return {
        "compared": [2],
        "centres": [inside["site"].nunique()],
        "subset": [len(cases), 420],
        "balance": of_classes,
        "splits": splits,
        "flow": [len(cases), 420, *splits],
        "test_size": [splits[-1]],
        "initial": list(map(float, SEEDS)),
        "robustness": [len(SEEDS), SETTING["quantity"], SETTING["prevalence"]],
        "external": [len(cases) - len(inside)],
        "internal": [n for site in rarest for n in (len(tests.get_group(site)), rarest[site])],
        "model": [16 * 16 + 1],  # weights of the pixels, and the intercept
    }


def test_the_numbers_of_each_answer_are_in_their_order_those_of_the_files(runs, cases, held_out, answers):
    names = [name for name in cases["site"].unique() if any(map(str.isdigit, name))]
    assert not names  # or a name would be taken for a number
    for name, expected in expected_answers(runs, cases, held_out).items():
        assert numbers(answers[name]) == [float(one) for one in expected], (name, answers[name])


def test_the_results_of_an_answer_are_those_of_the_predictions(runs, cases, held_out, answers):
    sites = sorted(set(cases["site"]) - set(held_out))
    compared = fedlab.compare(runs).query("site == 'mean of sites'").set_index("method")
    for method in ("local", "fedavg"):
        (text,) = re.findall(rf"{method} ([^;]*)", answers["performance"])
        low, high = compared.loc[method, ["low", "high"]]
        assert numbers(text)[0] == pytest.approx(mean_of_sites(runs, method, sites), abs=0.00051)
        assert numbers(text)[1:] == ([] if np.isnan(low) else [round(low, 3), round(high, 3)])
        for site in sites:
            (text,) = re.findall(rf"{site}: [^;]*?{method} ([\d.]+)", answers["sites"])
            assert float(text) == pytest.approx(mean_of_sites(runs, method, [site]), abs=0.00051)
