"""Networks by name, each a sequence of stages, for 2D and 3D images.

A stage is one element of an `nn.Sequential`; the cut layer of split learning is the index of a stage. The kinds of
layers follow the image: convolutions, pooling and normalisation exist in two and three dimensions.

A model is registered with `@MODELS.add`. It is a function of `shape` (channels, height, width[, depth]) and `outputs`
(numbers a case), and of arguments that a user may set in the text: `model="small_cnn(width=32)"`.
"""

import math
from typing import Annotated, Any, cast

import torch
from torch import Tensor, nn

from fedlab.core.arguments import Bounds
from fedlab.core.layout import BATCH_NORMS
from fedlab.core.registry import Registry
from fedlab.core.rng import seed_global, torch_stream

MODELS = Registry("model")
Width = Annotated[int, Bounds(1, 1024)]
Depth = Annotated[int, Bounds(0, 8)]
Projection = Annotated[int, Bounds(0, 65_536)]
CONV = {2: nn.Conv2d, 3: nn.Conv3d}
NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


def build(
    text: str, shape: tuple[int, ...], outputs: int, seed: int, batchnorm: str = "avg", dense: bool = False
) -> nn.Sequential:
    """Build a model by name, with its initial weights.

    Parameters
    ----------
    text : str
        A name of `fedlab.MODELS`, with arguments if wanted: "small_cnn(width=32)".
    shape : tuple of int
        (channels, height, width[, depth]) of an image.
    outputs : int
        Numbers that the model returns for a case, or for each voxel of it.
    seed : int
        Seed of the initial weights.
    batchnorm : str
        "group" replaces every batch normalisation by group normalisation; other values change nothing here.
    dense : bool, default False
        Whether the model segments: it returns (cases, outputs, height, width[, depth]).

    Returns
    -------
    torch.nn.Sequential
        Stages in training mode, in float32 on the CPU.

    Raises
    ------
    ValueError
        If the name or an argument is unknown, or if the model does not fit the image size.

    Examples
    --------
    >>> from fedlab.learning.models import build
    >>> model = build("small_cnn(width=8)", shape=(1, 28, 28), outputs=2, seed=0)
    >>> len(model), sum(p.numel() for p in model.parameters())
    (5, 6010)
    """
    function, values, named = MODELS.parse(text, given=2)
    with torch.random.fork_rng(devices=[]):
        seed_global(torch_stream(seed, "initial weights").initial_seed())
        try:
            model = function(shape, outputs, *values, **named)
        except Exception as error:
            kind = "" if type(error) in (TypeError, RuntimeError, ValueError) else f"{type(error).__name__}: "
            raise ValueError(f"model {text!r} cannot be built ({kind}{error}): check its arguments") from error
        model = _checked(text, model, shape)
    if batchnorm == "group":
        _to_group_norm(model, {})
    _check_fit(text, model, shape, outputs, dense)
    return model


@MODELS.add
def logistic(shape: tuple[int, ...], outputs: int) -> nn.Sequential:
    """Multinomial logistic regression on pixels, starting at zero: convex, so every run has a known optimum.

    Parameters
    ----------
    shape : tuple of int
        (channels, height, width[, depth]) of an image.
    outputs : int
        Numbers a case.

    Returns
    -------
    torch.nn.Sequential
        Two stages: flattening, and one linear layer.

    Examples
    --------
    >>> from fedlab.learning.models import logistic
    >>> model = logistic((1, 28, 28), outputs=2)
    >>> sum(p.numel() for p in model.parameters())
    1570
    """
    linear = nn.Linear(math.prod(shape), outputs)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.Flatten(), linear)


@MODELS.add
def small_cnn(
    shape: tuple[int, ...], outputs: int, width: Width = 16, depth: Depth = 3, projection: Projection = 0
) -> nn.Sequential:
    """Three convolutions with batch normalisation and pooling, then global average pooling: 24 thousand parameters.

    Parameters
    ----------
    shape : tuple of int
        (channels, height, width[, depth]) of an image; each edge at least 2**depth.
    outputs : int
        Numbers a case.
    width : int
        Channels of the first convolution; each further one has twice as many.
    depth : int
        Number of convolutions.
    projection : int
        Size of a projection before the last layer (Li 2021, arXiv:2103.16257), 0 for none.

    Returns
    -------
    torch.nn.Sequential
        One stage for each convolution, then pooling, the projection if there is one, and the last linear layer.

    Examples
    --------
    >>> from fedlab.learning.models import small_cnn
    >>> model = small_cnn((1, 28, 28), outputs=2)
    >>> sum(p.numel() for p in model.parameters())
    23538
    """
    d = len(shape) - 1
    stages, inputs = [], shape[0]
    for level in range(depth):
        channels = width * 2**level
        conv = CONV[d](inputs, channels, 3, padding=1, bias=False)
        stages.append(nn.Sequential(conv, NORM[d](channels), POOL[d](2), nn.ReLU(inplace=True)))  # after pooling: fewer
        inputs = channels
    return nn.Sequential(*stages, *_head(inputs, outputs, projection))


class GlobalAveragePool(nn.Module):
    """The mean over the image of each channel: (b, channels, height, width[, depth]) -> (b, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(tuple(range(2, x.ndim)))


def _head(inputs: int, outputs: int, projection: int) -> list[nn.Module]:
    """The last stages: global average pooling, a projection unless it is 0 (Li 2021, arXiv:2103.16257), logits.

    The input of the last stage is the representation of a case.
    """
    stages: list[nn.Module] = [GlobalAveragePool()]
    if projection:
        stages.append(nn.Sequential(nn.Linear(inputs, inputs), nn.ReLU(), nn.Linear(inputs, projection)))
    return [*stages, nn.Linear(projection or inputs, outputs)]


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, arXiv:1512.03385)."""

    def __init__(self, d: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = CONV[d](inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = NORM[d](outputs)
        self.conv2 = CONV[d](outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = NORM[d](outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = CONV[d](inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, NORM[d](outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu_(self.norm1(self.conv1(x)))
        return torch.relu_(self.norm2(self.conv2(y)).add_(self.shortcut(x)))


@MODELS.add
def resnet18(shape: tuple[int, ...], outputs: int, projection: Projection = 0) -> nn.Sequential:
    """ResNet-18 for small images: 3x3 stem, no first pooling, as in the MedMNIST v2 benchmark.

    Parameters
    ----------
    shape : tuple of int
        (channels, height, width[, depth]) of an image.
    outputs : int
        Numbers a case.
    projection : int
        Size of a projection before the last layer (Li 2021, arXiv:2103.16257), 0 for none.

    Returns
    -------
    torch.nn.Sequential
        The stem, four stages of two residual blocks, pooling, the projection if there is one, and the last layer.

    References
    ----------
    He et al. 2016, arXiv:1512.03385; Yang et al. 2023 (MedMNIST v2), Scientific Data 10, 41.

    Examples
    --------
    >>> from fedlab.learning.models import resnet18
    >>> model = resnet18((3, 28, 28), outputs=5)
    >>> sum(p.numel() for p in model.parameters())
    11171397
    """
    d = len(shape) - 1
    stem = nn.Sequential(CONV[d](shape[0], 64, 3, padding=1, bias=False), NORM[d](64), nn.ReLU(inplace=True))
    stages, inputs = [stem], 64
    for channels, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        blocks = Residual(d, inputs, channels, stride), Residual(d, channels, channels, 1)
        stages.append(nn.Sequential(*blocks))
        inputs = channels
    return nn.Sequential(*stages, *_head(inputs, outputs, projection))


@MODELS.add
def densenet121(shape: tuple[int, ...], outputs: int) -> nn.Sequential:
    """MONAI's DenseNet-121, for images of 32 pixels and more (Huang et al. 2017, arXiv:1608.06993).

    Parameters
    ----------
    shape : tuple of int
        (channels, height, width[, depth]) of an image.
    outputs : int
        Numbers a case.

    Returns
    -------
    torch.nn.Sequential
        The layers of the feature extractor, then pooling, then the last layer.

    Examples
    --------
    >>> from fedlab.learning.models import build
    >>> model = build("densenet121", (1, 32, 32), outputs=2, seed=0)
    >>> len(model)
    14
    """
    from monai.networks.nets import DenseNet121

    net = DenseNet121(spatial_dims=len(shape) - 1, in_channels=shape[0], out_channels=outputs)
    *pooling, logits = net.class_layers
    return nn.Sequential(*net.features, nn.Sequential(*pooling), logits)


def _checked(text: str, model: Any, shape: tuple[int, ...]) -> nn.Sequential:
    """The network in float32 on the CPU, with all of its parameters; ValueError if it has none that can be trained."""
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model {text!r} is built as a {type(model).__name__}, wanted is a network: let its function return an"
            " nn.Sequential"
        )
    if any(nn.parameter.is_lazy(parameter) for parameter in model.parameters()):
        _blank_outputs(text, model, shape)  # lazy layers get their weights in the first pass
    parameters = list(model.parameters())
    strange = {str(p.dtype).removeprefix("torch.") for p in parameters if not p.is_floating_point()}
    if strange:
        raise ValueError(
            f"model {text!r} has parameters of {', '.join(sorted(strange))}, which cannot be averaged: use real"
            " floating point"
        )
    if not any(p.requires_grad for p in parameters):
        raise ValueError(f"model {text!r} has no parameter to train: give it one, with requires_grad=True")
    if any(p.dtype != torch.float32 or p.device.type != "cpu" for p in parameters):
        model = model.to(device="cpu", dtype=torch.float32)
    return cast(nn.Sequential, model)


def _to_group_norm(module: nn.Module, known: dict[nn.Module, nn.Module]) -> None:
    """Replace batch by group normalisation, in place; 8 channels a group if that divides their number.

    known: the replacement of each layer so far, since a layer may be in several places.
    """
    for name, child in module._modules.items():
        if isinstance(child, BATCH_NORMS):
            groups = math.gcd(child.num_features, max(1, child.num_features // 8))
            module._modules[name] = known.setdefault(child, nn.GroupNorm(groups, child.num_features))
        elif child is not None:
            _to_group_norm(child, known)


def _check_fit(text: str, model: nn.Module, shape: tuple[int, ...], outputs: int, dense: bool = False) -> None:
    """Refuse a model that does not return `outputs` numbers for each of two blank images, or each of their voxels."""
    found = _blank_outputs(text, model, shape, dense)
    if dense:
        _check_masks(text, found, (outputs, *shape[1:]))
        return
    if isinstance(found, Tensor) and found.ndim > 2 and found.shape[2:] == shape[1:]:
        raise ValueError(
            f"model {text!r} segments: it returns {tuple(found.shape[1:])} for a case, and this task needs {outputs}"
            " numbers a case: choose a model that classifies, such as model='small_cnn'"
        )
    if not isinstance(found, Tensor):
        raise ValueError(
            f"model {text!r} returns a {type(found).__name__}, wanted is a tensor of {outputs} numbers a case: let it"
            " return the logits alone"
        )
    if found.ndim < 1 or len(found) != 2:
        raise ValueError(
            f"model {text!r} returns a tensor of shape {tuple(found.shape)} for 2 images, the task needs"
            f" {(2, outputs)}: keep the dimension of the batch, as by .flatten(1)"
        )
    if found.shape != (2, outputs):
        raise ValueError(
            f"model {text!r} returns {tuple(found.shape[1:])} numbers a case, the task needs {outputs}: fix its last"
            " stage"
        )


def _check_masks(text: str, found: Any, wanted: tuple[int, ...]) -> None:
    """Refuse outputs for two blank images that are not logits of each structure and voxel."""
    if isinstance(found, Tensor) and found.shape == (2, *wanted):
        return
    what = f"{tuple(found.shape[1:])} for a case" if isinstance(found, Tensor) else f"a {type(found).__name__}"
    remedy = "let its last stage return logits of each structure and voxel"
    if isinstance(found, Tensor) and found.ndim == 2:
        remedy = "it classifies cases, so choose a model that segments, such as model='unet'"
    raise ValueError(
        f"model {text!r} returns {what}, a segmentation task needs {wanted} (structures, height, width[, depth]):"
        f" {remedy}"
    )


def _blank_outputs(text: str, model: nn.Module, shape: tuple[int, ...], dense: bool = False) -> Any:
    """What the model returns for two blank images, in evaluation mode so that no statistic changes."""
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            return model(torch.zeros(2, *shape))
    except Exception as error:
        kind = "" if isinstance(error, RuntimeError) else f"{type(error).__name__}: "
        raise ValueError(
            f"model {text!r} does not fit images of shape {shape} (channels, height, width[, depth]):"
            f" {kind}{(str(error).splitlines() or [''])[0]}; choose a smaller model"
            f" ({'unet with a lower depth' if dense else 'small_cnn, resnet18'}) or a larger image size"
        ) from error
    finally:
        model.train()
