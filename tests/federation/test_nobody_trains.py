"""Rounds in which no site reports, and sites with hardly anything to train on."""

import warnings

import numpy as np
import pytest
import torch
from worlds import cases, ends, federation, parameters, partition

import fedlab
from fedlab.data.cases import Cases

IMPOSSIBLE = [{"availability": 0.0}, {"failures": 1.0}, {"stragglers": "drop(1.0)"}, {"availability": [0.0, 0.0, 0.0]}]
ALONE = {"centralized", "ensemble", "local", "single_pass"}  # methods without common rounds


def world(data=None, sizes=(9, 6, 5)):
    return partition(sizes, data=data or cases(sum(sizes) + 6 * len(sizes), (1, 4, 4)), held_out=3)


def warnings_of(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("settings", IMPOSSIBLE, ids=lambda settings: next(iter(settings)))
def test_a_run_in_which_no_site_can_report_warns_when_it_begins(settings, tmp_path):
    experiment = fedlab.Experiment(model="logistic", rounds=2, local_steps=1, device="cpu", **settings)
    found = warnings_of(lambda: fedlab.run(experiment, world(), folder=tmp_path))
    name, value = next(iter(settings.items()))
    assert [text.split(" (")[0] for text in found] == ["no site can ever report"]
    assert f"{name}={value!r}" in found[0]


@pytest.mark.every_method
@pytest.mark.parametrize("method", sorted(fedlab.METHODS))
def test_a_method_ends_without_an_error_though_nobody_reports(method):
    fed = federation(world(), "logistic", rounds=2, local_steps=1, availability=0.0)
    outcome = []
    found = warnings_of(lambda: outcome.append(ends(method, fed)))
    assert any(text.startswith("no site can ever report") for text in found) is (method not in ALONE)
    assert all(torch.isfinite(vector).all() for vector in parameters(outcome[0]))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"secure_sum": True, "participation": "sample(0.3)"}, "2 times 'nothing merged'"),
        ({"availability": 1e-9}, "6 times 'absent'"),
        ({"failures": 1 - 1e-9}, "6 times 'failed'"),
    ],
)
def test_a_run_that_changed_no_model_says_why(settings, why, tmp_path):
    experiment = fedlab.Experiment(model="logistic", rounds=2, local_steps=1, device="cpu", **settings)
    found = warnings_of(lambda: fedlab.run(experiment, world(), folder=tmp_path))
    assert [text for text in found if "still the initial ones" in text and why in text], found


def test_a_run_that_trains_says_nothing(tmp_path):
    experiment = fedlab.Experiment(model="logistic", rounds=2, local_steps=1, device="cpu", availability=0.7)
    assert warnings_of(lambda: fedlab.run(experiment, world(), folder=tmp_path)) == []


@pytest.mark.every_method
@pytest.mark.parametrize("method", sorted({*fedlab.METHODS} - {"swarm"}))
@pytest.mark.parametrize("sizes", [(1, 1, 6), (5, 4, 3)])
def test_sites_of_one_case_and_of_one_class_train(method, sizes):
    """The first site has class 0 only, the second class 1; batches are larger than any site."""
    data = cases(sum(sizes) + 6 * len(sizes), (1, 4, 4))
    labels = np.concatenate([np.zeros(sizes[0]), np.ones(sizes[1]), data.labels[sizes[0] + sizes[1] :]]).astype(int)
    data = Cases(data.images, data.table.assign(label=labels), data.card)
    fed = federation(world(data, sizes), "logistic", rounds=1, local_steps=None, batch_size=1000)
    assert all(torch.isfinite(vector).all() for vector in parameters(ends(method, fed)))
