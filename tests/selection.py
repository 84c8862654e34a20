"""Which tests run of those that state one law with many parameters."""

import itertools
import zlib
from collections import Counter

import pytest


def in_turn(items: list[pytest.Item]) -> set[pytest.Item]:
    """Tests that have other parameters besides their precision run with each of these in one precision, in turn."""
    seen: dict[str, dict[str, dict[str, pytest.Item]]] = {}  # test -> other parameters -> precision -> item
    for item in items:
        given = dict(item.callspec.params) if hasattr(item, "callspec") else {}
        precision = given.pop("precision", None)
        if given and precision in ("float64", "float32"):
            others = seen.setdefault(item.nodeid.split("[")[0], {})
            others.setdefault(repr(given), {})[precision] = item
    return {
        both[precision]
        for others in seen.values()
        for both, precision in zip(others.values(), itertools.cycle(["float32", "float64"]))
        if len(both) == 2
    }


def a_third(items: list[pytest.Item]) -> set[pytest.Item]:
    """What tests of all methods leave out: two of three methods, other ones in each test."""
    by_test: dict[str, dict[str, list[pytest.Item]]] = {}  # test -> method -> items
    for item in items:
        if item.get_closest_marker("every_method"):
            methods = by_test.setdefault(item.nodeid.split("[")[0], {})
            methods.setdefault(item.callspec.params["method"], []).append(item)
    return {
        item
        for test, methods in by_test.items()
        for place, same_method in enumerate(methods.values(), start=zlib.crc32(test.encode()))
        if place % 3
        for item in same_method
    }


def covered(items: list[pytest.Item]) -> set[pytest.Item]:
    """What tests of each value leave out: combinations of parameters whose values are all in others that run."""
    by_test: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("each_value"):
            by_test.setdefault(item.nodeid.split("[")[0], []).append(item)
    return {item for combinations in by_test.values() for item in set(combinations) - covering(combinations)}


def covering(items: list[pytest.Item]) -> set[pytest.Item]:
    """Few items with all values of all parameters: that with most new values first, else of values that are in few."""
    values = {item: {(name, repr(value)) for name, value in item.callspec.params.items()} for item in items}
    missing, chosen, used = set().union(*values.values()), set(), Counter[tuple[str, str]]()
    while missing:
        best = max(items, key=lambda item: (len(values[item] & missing), -sum(used[value] for value in values[item])))
        chosen.add(best)
        missing -= values[best]
        used.update(values[best])
    return chosen
