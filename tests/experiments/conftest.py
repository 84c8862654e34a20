"""A run of a second that several modules damage, interrupt and read."""

import pytest

import fedlab

TINY = {"dataset": "phantoms(cases=120, size=16)", "sites": 2, "model": "logistic", "rounds": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def one() -> fedlab.Experiment:
    return fedlab.Experiment(**TINY)


@pytest.fixture(scope="module")
def part(one) -> fedlab.Partition:
    return one.make_partition()
