"""One thread a test: sums have one order, and tests can run side by side."""

import gc
import itertools
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import warm_kernel

# MONAI imports jsonschema, which builds 38 grammars of addresses by this package, if there is one: half of that import.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]


@pytest.fixture(params=["float64", "float32"])
def precision(request) -> str:
    return request.param


@pytest.fixture
def tolerance(precision: str) -> float:
    """Relative error that rounding may leave."""
    return {"float64": 1e-12, "float32": 2e-6}[precision]


@pytest.fixture(scope="session")
def kernel() -> Iterator[str]:
    """The name of a kernel that starts at once; its tests are in the xdist group "notebooks", to share the process."""
    with tempfile.TemporaryDirectory() as folder, warm_kernel.kernels(Path(folder)) as name:
        yield name


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):  # the process that runs tests
        import torch

        torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    help = "run laws of all methods with each, not a third, and all combinations of parameters"
    parser.addoption("--every-method", action="store_true", help=help)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = in_turn(items)
    if not config.getoption("--every-method"):
        left_out |= a_third(items) | covered([item for item in items if item not in left_out])
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


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
    """Few items with all values of all parameters: the one with most new values first."""
    values = {item: {(name, repr(value)) for name, value in item.callspec.params.items()} for item in items}
    missing, chosen = set().union(*values.values()), set()
    while missing:
        best = max(items, key=lambda item: len(values[item] & missing))
        chosen.add(best)
        missing -= values[best]
    return chosen


def pytest_collection_finish() -> None:
    """Leave modules and tests out of later searches for garbage, which took a twentieth of the time of all tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)
