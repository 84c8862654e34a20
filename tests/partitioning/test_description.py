"""Laws of the table of sites and of the flow of cases: nothing is lost, and differences follow their formula."""

import numpy as np
import pandas as pd
import pytest

import fedlab
from fedlab.data.cases import Cases

NAMES = ["A&B_1", "<b>$x$</b>", "100 % #3"]


def made(n: int = 90, split: bool = True, twins: bool = False, hospital=None) -> Cases:
    """Small cases of two images a patient; twins: patients whose two images are in different splits."""
    rng = np.random.default_rng(1)
    patient, label = np.arange(n) // 2, np.arange(n) // 2 % 3
    table = pd.DataFrame({"case": [f"c{k}" for k in range(n)], "label": label, "patient": [f"p{k}" for k in patient]})
    table["age"] = np.where(patient % 7 == 0, np.nan, 30 + patient)
    table["sex"] = np.where(patient % 5 == 0, "unknown", np.where(patient % 2, "F", "M"))
    if split:
        order = np.array(["train", "train", "val", "test"])
        table["split"] = order[(np.arange(n) if twins else patient) % 4]
    if hospital is not None:
        table["hospital"] = hospital
    images = rng.integers(0, 255, (n, 1, 4, 4)).astype(np.uint8)
    return Cases(images, table, {"name": "made", "task": "multiclass", "classes": ["a", "<i>b</i>", "c_1"]})


def sites_of(n: int = 90) -> list[str]:
    return [NAMES[k // 2 % 7 % 3] for k in range(n)]


def test_counts_and_missing_values_of_sites_sum_to_those_of_all(recwarn):
    cases = made()
    part = fedlab.Partition.from_sites(cases, sites_of())
    for split in (None, "test"):
        table = pd.DataFrame(part.describe(split))
        counted = table[table["low"].isna()].pivot(index=["characteristic", "level"], columns="site", values="value")
        assert (counted[NAMES].sum(axis=1) == counted["all sites"]).all()
        lost = table.pivot(index=["characteristic", "level"], columns="site", values=["known", "missing"])
        assert (lost["missing"][NAMES].sum(axis=1) == lost["missing"]["all sites"]).all()
    whole = pd.DataFrame(part.describe()).set_index(["characteristic", "level", "site"])
    assert whole.loc[("age", "", "all sites"), "missing"] == cases.table.groupby("patient")["age"].first().isna().sum()
    assert whole.loc[("sex", "F", "all sites"), "missing"] == (np.arange(45) % 5 == 0).sum()
    assert whole.loc[("age", "", "all sites"), "value"] == cases.table.groupby("patient")["age"].first().median()


def test_standardised_differences_follow_their_formulas(recwarn):
    part = fedlab.Partition.from_sites(made(), sites_of())
    table = pd.DataFrame(part.describe()).set_index(["characteristic", "level", "site"])
    people = part.cases.table.assign(site=sites_of()).groupby("patient").first()
    ages = [people.loc[people["site"] == name, "age"].dropna() for name in NAMES]
    pairs = [(0, 1), (0, 2), (1, 2)]
    by_hand = max(abs(ages[i].mean() - ages[j].mean()) / np.sqrt((ages[i].var() + ages[j].var()) / 2) for i, j in pairs)
    assert table.loc[("age", "", NAMES[0]), "smd"] == pytest.approx(by_hand)
    p = [table.loc[("sex", "F", name), "share"] for name in NAMES]
    by_hand = max(abs(p[i] - p[j]) / np.sqrt((p[i] * (1 - p[i]) + p[j] * (1 - p[j])) / 2) for i, j in pairs)
    assert table.loc[("sex", "M", NAMES[0]), "smd"] == pytest.approx(by_hand)


def test_other_names_in_another_order_permute_the_rows(recwarn):
    turned = dict(zip(NAMES, NAMES[1:] + NAMES[:1], strict=True))
    one = pd.DataFrame(fedlab.Partition.from_sites(made(), sites_of()).describe())
    two = pd.DataFrame(fedlab.Partition.from_sites(made(), [turned[site] for site in sites_of()]).describe())
    keys = ["characteristic", "level", "site"]
    one, two = (
        one.assign(site=one["site"].replace(turned)).set_index(keys).sort_index(),
        two.set_index(keys).sort_index(),
    )
    pd.testing.assert_frame_equal(one, two)


def test_names_are_text_in_latex_and_html(recwarn):
    table = fedlab.Partition.from_sites(made(), sites_of()).describe()
    latex, html = table.to_latex(), table.to_html()
    assert r"A\&B\_1" in latex and r"\textless{}b\textgreater{}\$x\$" in latex and r"100 \% \#3" in latex
    assert len({line.count(" & ") for line in latex.splitlines() if line.endswith(r"\\")}) == 1
    assert "<b>" not in html and "<i>" not in html and "&lt;i&gt;b&lt;/i&gt;" in html
    assert html.count("<tr>") == len(table.wide()) + 1


PARTITIONS = {
    "simulated": lambda: fedlab.partition(made(), 3, quantity=0.5),
    "no split": lambda: fedlab.partition(made(split=False), 3, unseen=1),
    "dropped": lambda: fedlab.partition(made(twins=True), 2, leakage="drop"),
    "common": lambda: fedlab.partition(made(), 3, splits="common", unseen=1),
    "some sites": lambda: fedlab.partition(made(hospital=[*sites_of(80), *[None] * 10]), "hospital"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PARTITIONS)
def test_every_case_of_the_dataset_is_in_exactly_one_place(name):
    part = PARTITIONS[name]()
    flow = part.flow()
    assert flow["cases"].sum() == len(part.cases)
    left = flow[flow["split"] == "left out"]
    assert left["cases"].sum() == len(part.cases) - len(part.table)
    inside = flow[flow["split"] != "left out"].groupby(["site", "split"])["cases"].sum()
    pd.testing.assert_series_equal(inside, part.table.groupby(["site", "split"]).size(), check_names=False)
    assert (flow.loc[flow["split"] == "left out", "reason"] != "").all()
    wanted = {"dropped": {"patient or image in another split"}, "some sites": {"no site"},
              "common": {"held-out site has test cases alone"}}  # fmt: skip
    assert set(left["reason"]) == wanted.get(name, set())
    if name == "dropped":
        assert part.spec["notes"][0].startswith(f"{left['cases'].sum()} cases were left out")
