"""Annotation in training: sites learn and choose by what their readers wrote, and are judged by what is true."""

import numpy as np
import pandas as pd
import pytest
import torch
from worlds import CNN, cases, partition

import fedlab
from fedlab.federation import Federation
from fedlab.learning.metrics import METRICS
from fedlab.partitioning.partitions import Partition

KNOBS = {"model": CNN, "rounds": 3, "local_steps": 4, "batch_size": 8, "device": "cpu"}
SIZES = (40, 40, 30, 30)


def experiment(**changes) -> fedlab.Experiment:
    return fedlab.Experiment(**{**KNOBS, **changes})


def noisy(dose: float) -> Partition:
    data = cases(sum(SIZES) + 2 * 20 * 4)
    clean = partition(SIZES, data=data, held_out=20)
    return Partition.from_sites(data, clean.table[["case", "site", "split"]], annotation=dose)


@pytest.fixture(scope="module")
def part():
    return noisy(1.0)


@pytest.fixture(scope="module")
def run(part, tmp_path_factory):
    return fedlab.run(experiment(), part, folder=tmp_path_factory.mktemp("runs"))


def test_training_targets_are_what_the_readers_wrote(part):
    fed = Federation(part, CNN, experiment())
    store, labels = fed.execution.dataset, part.cases.labels
    changed = 0
    for site in part.sites:
        for split in ("train", "val"):
            index = part.index(site, split)
            used = store.targets[store.rows(index)].numpy() if split == "train" else fed.labels[index]
            assert (used == part.training_labels(index, site)).all()
            changed += int((used != labels[index]).sum())
    assert changed > 20


def test_a_model_of_noisy_labels_is_that_of_data_with_these_labels(part, run, tmp_path):
    """The same weights, bit for bit, as with the wrong labels in the table itself."""
    table = part.cases.table.assign(label=part.annotated_labels(np.arange(len(part.cases))))
    wrong = type(part.cases)(part.cases.images, table, part.cases.card)
    plain = Partition(wrong, part.table[["case", "site", "split"]], part.spec)
    other = fedlab.run(experiment(), plain, folder=tmp_path)
    for choice in ("last", "best"):
        first, second = run.weights("global", choice), other.weights("global", choice)
        assert all(torch.equal(first[name], second[name]) for name in first)
    numbers = ["round", "site", "split", "metric", "value"]
    mine, theirs = (r.rounds.query("split != 'test'")[numbers] for r in (run, other))
    pd.testing.assert_frame_equal(mine, theirs)
    assert not run.rounds.query("split == 'test'")["value"].equals(other.rounds.query("split == 'test'")["value"])


def test_the_clean_score_comes_first_and_the_noisy_one_beside_it(part, run):
    rows = run.predictions.query("choice == 'best'").set_index("case")
    position = pd.Series(np.arange(len(part.cases)), index=part.cases.table["case"])[rows.index]
    assert (rows["label"] == part.cases.labels[position]).all()
    assert (rows["annotated"] == part.annotated_labels(position)).all()
    for labels, column in (("true", "label"), ("annotated", "annotated")):
        frame = fedlab.compare([run], "accuracy", labels=labels).set_index("site")["value"]
        for site in part.sites:
            tested = rows[(rows["site"] == site) & (rows["split"] == "test")]
            expected = METRICS.function("accuracy")(tested[column], tested[["p0", "p1"]].to_numpy())
            assert frame[site] == pytest.approx(expected, abs=1e-12)
    scores = run.rounds.query("round == 3 and split == 'test' and metric == 'accuracy'")
    last = run.predictions.query("choice == 'last' and split == 'test'")
    for site, value in zip(scores["site"], scores["value"], strict=True):
        tested = last[last["site"] == site]
        assert value == METRICS.function("accuracy")(tested["label"], tested[["p0", "p1"]].to_numpy())


def test_validation_scores_are_by_the_readers(run):
    scores = run.rounds.query("round == 3 and split == 'val' and metric == 'accuracy'")
    last = run.predictions.query("choice == 'last' and split == 'val'")
    for site, value in zip(scores["site"], scores["value"], strict=True):
        checked = last[last["site"] == site]
        assert value == METRICS.function("accuracy")(checked["annotated"], checked[["p0", "p1"]].to_numpy())


def test_without_annotation_nothing_is_added(tmp_path):
    run = fedlab.run(experiment(rounds=1), noisy(0.0), folder=tmp_path)
    columns = ["model", "choice", "site", "split", "case", "unit", "label", "p0", "p1"]
    assert list(run.predictions) == columns
    with pytest.raises(ValueError, match="all its sites label in the same way: compare with labels='true'"):
        fedlab.compare([run], labels="annotated")
    with pytest.raises(ValueError, match="labels is 'anotated': did you mean 'annotated'"):
        fedlab.compare([run], labels="anotated")
