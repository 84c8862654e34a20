"""Networks of timm: the real ones where timm is installed, else a package of the same calls with one small network."""

import importlib
import sys
from types import ModuleType

import pytest
import torch
from torch import nn
from worlds import ends, federation

import fedlab
from fedlab.learning import pretrained
from fedlab.learning.models import MODELS, build

SHAPE = (1, 12, 12)


class Small(nn.Module):
    """A network with the calls that networks of timm have."""

    def __init__(self, num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(in_chans, 4, 3), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, num_classes)

    def get_classifier(self):
        return self.fc

    def reset_classifier(self, num_classes):
        assert num_classes == 0
        self.fc = nn.Identity()

    def forward(self, x):
        return self.fc(self.bn1(self.conv1(x)).relu().mean((2, 3)))


@pytest.fixture
def stub(monkeypatch):
    package = ModuleType("timm")
    package.__version__ = "1.0"
    package.is_model = lambda name: name == "small"
    package.list_models = lambda *_: ["small"]
    package.create_model = lambda name, num_classes, in_chans, **options: Small(num_classes, in_chans, **options)
    monkeypatch.setitem(sys.modules, "timm", package)
    return package


def real():
    try:
        return importlib.import_module("timm")
    except Exception:  # also where it is installed and cannot be imported
        return None


def check(name: str, package, shape) -> None:
    """It computes what timm's own network computes from the same file, whose head may have other classes."""
    own = package.create_model(name, num_classes=3, in_chans=1).eval()
    torch.save(own.state_dict(), "w.pt")
    file = pretrained.read("w.pt")
    same, other = (build(f"timm({name!r})", shape, outputs, seed=0) for outputs in (3, 1))
    assert pretrained.load(same, file) == []
    assert pretrained.load(other, file) == ["1.weight", "1.bias"]
    x = torch.rand(4, *shape)
    with torch.no_grad():
        assert torch.equal(same.eval()(x), own(x)) and torch.equal(same[0](x), other.eval()[0](x))


def test_the_stub_is_used_as_timm_is(stub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check("small", stub, SHAPE)
    with pytest.raises(ValueError, match=r"timm 1\.0 has no 'smal': did you mean 'small'\?"):
        build("timm('smal')", SHAPE, 1, seed=0)
    with pytest.raises(ValueError, match=r"pretrained is decided by .* weights="):
        build("timm('small', pretrained=True)", SHAPE, 1, seed=0)
    with pytest.raises(ValueError, match="timm has networks for 2D images"):
        build("timm('small')", (1, 8, 8, 8), 1, seed=0)


@pytest.mark.filterwarnings("ignore")
def test_a_network_of_timm_is_cut_and_frozen(stub, tmp_path):
    torch.save(Small(3, 1).state_dict(), path := str(tmp_path / "w.pt"))
    for method in ("fedavg", "split(cut=1)", "moon"):
        fed = federation(model="timm('small')", weights=path, trainable="head", rounds=1)
        ends(method, fed)
        assert fed.layout.coordinates == 4 + 1
        assert torch.equal(fed.execution.engine.flat.model[0].conv1.weight, torch.load(path)["conv1.weight"])


@pytest.mark.skipif(real() is None, reason="timm is not installed")
@pytest.mark.parametrize(
    "name", ["resnet18", "convnext_atto", "efficientnet_b0", "mobilenetv3_small_050", "densenet121"]
)
def test_real_networks_have_the_names_and_outputs_of_timm(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(name, real(), (1, 32, 32))


def test_without_timm_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"pip install 'fedlab-workbench\[networks\]'"):
        build("timm('resnet18')", SHAPE, 1, seed=0)
    assert "timm" in MODELS and fedlab.Experiment(model="timm('resnet18')").model == "timm('resnet18')"
