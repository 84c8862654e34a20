"""One thread a test: sums have one order, and tests can run side by side."""

import gc
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import warm_kernel
from selection import a_third, covered, in_turn

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


def pytest_collection_finish() -> None:
    """Leave modules and tests out of later searches for garbage, which took a twentieth of the time of all tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)
