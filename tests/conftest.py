"""One thread a test: sums have one order, and tests can run side by side."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(params=["float64", "float32"])
def precision(request) -> str:
    return request.param


@pytest.fixture
def tolerance(precision: str) -> float:
    """Relative error that rounding may leave."""
    return {"float64": 1e-12, "float32": 2e-6}[precision]
