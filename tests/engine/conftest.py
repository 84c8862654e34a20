"""A residual network of a few thousand parameters; ResNet-18 itself takes seconds a step in float64."""

import pytest
from torch import nn

from fedlab.learning import models
from fedlab.learning.models import MODELS, Residual


def narrow_resnet(shape, outputs):
    d = len(shape) - 1
    stem = nn.Sequential(
        models.CONV[d](shape[0], 8, 3, padding=1, bias=False), models.NORM[d](8), nn.ReLU(inplace=True)
    )
    blocks = nn.Sequential(Residual(d, 8, 8, 1), Residual(d, 8, 16, 2))
    return nn.Sequential(stem, blocks, *models._head(16, outputs, 0))


@pytest.fixture(autouse=True)
def _narrow_resnet(monkeypatch):
    monkeypatch.setattr(MODELS, "_functions", {**MODELS._functions, "narrow_resnet": narrow_resnet})
