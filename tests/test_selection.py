"""Which combinations of parameters run without --every-method."""

import itertools
from types import SimpleNamespace

import pytest
from selection import covering


class Item:
    """A test with these parameters, as far as its selection goes."""

    def __init__(self, params: dict) -> None:
        self.callspec = SimpleNamespace(params=params)


@pytest.mark.parametrize("sizes", [(1,), (5,), (2, 3), (4, 1), (3, 3, 3), (2, 5, 3, 4)])
def test_a_covering_of_all_combinations_has_each_value_as_seldom_as_possible(sizes):
    items = [Item(dict(zip("abcd", values, strict=False))) for values in itertools.product(*map(range, sizes))]
    chosen = covering(items)
    for name, size in zip("abcd", sizes, strict=False):
        assert {item.callspec.params[name] for item in chosen} == set(range(size))
    assert len(chosen) == max(sizes)


def test_a_covering_of_some_combinations_has_each_value():
    pairs = [("adam", "fedavg"), ("adam", "ditto"), ("median", "fedavg"), ("krum", "fedavg"), ("krum", "swarm")]
    items = [Item({"setting": setting, "method": method}) for setting, method in pairs]
    chosen = [tuple(item.callspec.params.values()) for item in covering(items)]
    assert {value for pair in chosen for value in pair} == {value for pair in pairs for value in pair}
    assert len(chosen) == 4  # the first is of two new values, and no pair has the other three
