"""A filled checklist: its numbers are those of the run folders, and what runs cannot know is left to the authors."""

import json
import re

import numpy as np
import pandas as pd
import pytest

import fedlab
from fedlab.reporting.checklist_items import CHECKLISTS, CLAIM, TRIPOD
from fedlab.reporting.filled_checklist import AUTHORS, REPORTED, SIMULATED, Facts, filled
from fedlab.reporting.findings import interval
from fedlab.reporting.gather import federations

NUMBER = r"\d[\d,]*\.?\d*"


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    base = fedlab.Experiment(
        dataset="phantoms(cases=310, size=16)", sites=3, prevalence=0.35, unseen=1, model="logistic", rounds=2,
        batch_size=17, partition_seed=3,
    )  # fmt: skip
    runs = fedlab.grid(base, folder=tmp_path_factory.mktemp("runs"), method=["local", "fedavg"], seed=[7])
    return federations(runs)[0]


def numbers(text: str) -> set[float]:
    return {float(one.replace(",", "")) for one in re.findall(NUMBER, text.replace("−", ""))}


def known(federation) -> set[float]:
    """Every number of the run folders, counts of their tables, and the comparison as it is printed."""
    runs, part = federation.runs, federation.partition
    texts = [json.dumps(part.cases.card), str(part.cases.images.shape)]
    for run in runs:
        texts += [(run.folder / name).read_text("utf-8") for name in ("experiment.json", "environment.json")]
    for row in fedlab.compare(runs).to_dict("records"):
        texts += [interval(row["value"], row["low"], row["high"]), str(row["cases"]), str(row["support"])]
        texts += [interval(np.nan, row["low"], row["high"])]
    table = runs[0].partition_table.assign(held=lambda t: t["site"].isin(runs[0].unseen))
    for columns in (["split"], ["site"], ["held"], ["held", "split"], ["site", "split"]):
        texts += [str(n) for n in table.groupby(columns).size()]
    for split in (None, "train", "val", "test"):
        texts += [f"{n:g}" for n in pd.DataFrame(part.describe(split=split))[["value", "missing"]].to_numpy().ravel()]
    counts = {len(table), len(part.cases), table["site"].nunique(), len(runs[0].unseen), len(runs), 95}
    counts |= {table["site"].nunique() - len(runs[0].unseen), runs[-1].trainable().numel(), 0.5, 1}
    return set().union(*map(numbers, texts)) | {float(one) for one in counts}


@pytest.mark.parametrize("which", CHECKLISTS)
def test_every_number_of_an_answer_is_of_the_run_folders(which, federation):
    table = filled(federation, which)
    allowed = known(federation)
    for row in table[table["state"] == REPORTED].itertuples():
        answer = row.answer.split(" (for the authors")[0]
        answer = answer.replace(federation.runs[0].experiment.dataset, "").replace("Table 1", "")
        assert numbers(answer) <= allowed, (row.item, numbers(answer) - allowed, row.answer)
        assert row.source


def test_the_test_of_numbers_can_fail(federation):
    assert not numbers("12345 cases") <= known(federation)


def test_every_item_is_there_once_and_in_its_order():
    assert [item.number for item in CLAIM] == [str(k) for k in range(1, 45)]
    found = [item.number for item in TRIPOD]
    assert len(set(found)) == len(found) and {re.sub(r"\D", "", one) for one in found} == {str(k) for k in range(1, 28)}
    assert found == sorted(found, key=lambda one: (int(re.sub(r"\D", "", one)), one))
    for item in (*CLAIM, *TRIPOD):
        assert item.answer in ("", "simulation") or isinstance(getattr(Facts, item.answer), property)
        assert item.answer or item.authors


def test_an_item_is_reported_or_left_to_the_authors_and_what_needs_patients_is_not_applicable(federation):
    for which in CHECKLISTS:
        table = filled(federation, which)
        assert set(table["state"]) == {REPORTED, SIMULATED, AUTHORS}
        for row in table.itertuples():
            start = {SIMULATED: "not applicable: simulation", AUTHORS: "for the authors: "}.get(row.state, "")
            assert row.answer.startswith(start) and len(row.answer) > 3
    assert filled(federation, "claim").set_index("item").loc["34", "state"] == SIMULATED


def test_sites_of_a_dataset_make_the_items_of_patients_those_of_the_authors(federation, monkeypatch):
    monkeypatch.setattr(Facts, "simulated", False)
    table = filled(federation, "tripod")
    assert SIMULATED not in set(table["state"]) and table.set_index("item").loc["6c", "state"] == AUTHORS


def test_other_lists_and_several_federations_are_refused(federation):
    with pytest.raises(ValueError, match="which"):
        fedlab.checklist(federation.runs, "stard")
