"""Classes that no case has are reported before training, and models are chosen by the classes that are there."""

import warnings

import numpy as np
import pytest
from worlds import cases, federation

import fedlab
from fedlab.core.warnings import ProtocolWarning
from fedlab.data.cases import Cases
from fedlab.evaluation.evaluate import Evaluation

EXPERIMENT = fedlab.Experiment(model="logistic", rounds=2, local_steps=1, batch_size=8, device="cpu")


def world(labels, classes: int, task: str = "multiclass", sites: int = 2) -> fedlab.Partition:
    made = cases(len(labels), (1, 4, 4))
    card = {"name": "world", "task": task, "classes": [f"class {c}" for c in range(classes)]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fedlab.partition(Cases(made.images, made.table.assign(label=labels), card), sites)


def told(part: fedlab.Partition) -> str:
    """What is reported before the first round."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Evaluation(federation(part, "logistic"))
    return "; ".join(str(one.message) for one in caught if one.category is ProtocolWarning)


SCATTERED = world(np.array([0, 2, 5])[np.arange(120) % 3], 6)


def test_classes_without_a_case_are_named_and_the_others_counted():
    text = told(SCATTERED)
    assert "class 'class 1', 'class 3' or 'class 4' (3 of 6 classes)" in text and "over the other 3" in text
    assert "(45 of 50 classes)" in (many := told(world(np.arange(80) % 5, 50))) and "or 40 more" in many
    assert "has class 'class 2' or 'class 4'" in (labels := told(world((np.arange(80) % 4) | 8, 5, "multilabel")))
    assert "every case of every site has class 'class 3'" in labels and "over the other 2" in labels
    assert told(world(np.arange(80) % 3, 3)) == ""


def test_a_dataset_without_any_positive_case_is_reported():
    text = told(world(np.zeros(60, int), 2, "binary"))
    assert "no case of any site has class 'class 1'" in text
    assert "auroc is undefined on the val cases of every site" in text and "give `compare` another metric" in text


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", [SCATTERED, world(np.arange(300) % 50, 50, sites=3)], ids=["3 of 6", "50"])
def test_models_are_chosen_and_compared_by_the_classes_that_are_there(part, tmp_path):
    runs = fedlab.grid(EXPERIMENT, partition=part, method=["local", "fedavg"], folder=tmp_path)
    for run in runs:
        scores = run.rounds.query("metric == 'auroc' and split in ['val', 'test']")["value"]
        assert scores.notna().all() and len(scores)
    table = fedlab.compare(runs)
    assert table.query("site != 'worst site'")["value"].notna().all()
    there = {site: len(np.unique(part.cases.labels[part.index(site, "test")])) for site in part.sites}
    assert table.set_index("site").loc[part.sites, "classes"].to_dict() == there
    assert set(table.loc[table["site"] == "worst site", "classes"]) == {min(there.values())}
    site, classes = part.sites[0], len(part.cases.classes)
    assert table.loc[0, "note"].split(";")[0].endswith(f": {there[site]} of {classes} classes can be scored")
