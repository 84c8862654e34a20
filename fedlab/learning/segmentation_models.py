"""Networks of MONAI that segment, as a sequence of stages: each has the weights and the outputs of MONAI's own.

A network returns logits of each structure and voxel, (b, outputs, height, width[, depth]). A stage takes and returns
either a tensor or a tuple (x, *skips): x goes to the next stage, the skips wait for the stages of the decoder that use
them, the last one first. So split learning can cut between any two stages, and what crosses a cut is that tuple. No
tensor is in it twice: a stage of the encoder keeps the x that it receives as a skip.

A function registered in `MODELS` has the attribute `output = "voxels"` if its network segments.
"""

import math
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from fedlab.core.arguments import Bounds
from fedlab.learning.models import MODELS

State = Tensor | tuple[Tensor, ...]  # x, or (x, *skips)
Width = Annotated[int, Bounds(1, 1024)]
Depth = Annotated[int, Bounds(1, 7)] | None
Units = Annotated[int, Bounds(0, 8)]
DEEPEST = 4  # halvings that are chosen by default
LEAST = 4  # pixels of the smallest edge after these halvings
FILTERS = {2: 512, 3: 320}  # most channels of nnU-Net, by dimensions


class Encode(nn.Module):
    """A stage of the encoder: keeps the x that it receives as a skip, unless that is the image."""

    def __init__(self, block: nn.Module, first: bool = False) -> None:
        super().__init__()
        self.block, self.first = block, first

    def forward(self, state: State) -> State:
        """(x, *skips) -> (block(x), *skips, x); of the first stage, image -> block(image)."""
        if self.first:
            return self.block(state)  # type: ignore[no-any-return]
        x, skips = _parts(state)
        return self.block(x), *skips, x


class Decode(nn.Module):
    """A stage of the decoder: uses the last skip."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, state: State) -> State:
        """(x, *skips, skip) -> (merged, *skips); without further skips the tensor alone."""
        x, skips = _parts(state)
        merged = self.merge(x, skips[-1])
        return (merged, *skips[:-1]) if len(skips) > 1 else merged

    def merge(self, x: Tensor, skip: Tensor) -> Tensor:
        """How x and a skip become one tensor."""
        raise NotImplementedError


class ConcatenateThenUp(Decode):
    """UNet: the block of the skip and x."""

    def merge(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.blocks[0](torch.cat([skip, x], 1))  # type: ignore[no-any-return]


class UpThenAdd(Decode):
    """SegResNet: x is enlarged, the skip is added, then come the blocks."""

    def merge(self, x: Tensor, skip: Tensor) -> Tensor:
        enlarge, blocks = self.blocks
        return blocks(enlarge(x) + skip)  # type: ignore[no-any-return]


class UpWithSkip(Decode):
    """DynUNet: a block of two inputs."""

    def merge(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.blocks[0](x, skip)  # type: ignore[no-any-return]


def _parts(state: State) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(x, skips) of what a stage receives."""
    return (state, ()) if isinstance(state, Tensor) else (state[0], tuple(state[1:]))


@MODELS.add
def unet(
    shape: tuple[int, ...],
    outputs: int,
    width: Width = 16,
    depth: Depth = None,
    residual_units: Units = 2,
    norm: Literal["batch", "instance"] = "batch",
) -> nn.Sequential:
    """MONAI's UNet with residual units (Ronneberger 2015, Kerfoot 2018).

    Parameters
    ----------
    shape : tuple of int
        (channels, height, width[, depth]) of an image; each edge a multiple of 2**depth.
    outputs : int
        Structures, background included.
    width : int
        Channels of the first stage; each halving doubles them.
    depth : int, optional
        Number of halvings. By default as many as the edges allow, at most 4, to edges of no less than 4 pixels.
    residual_units : int
        Convolutions in each stage of the encoder, with a shortcut; 0 for one convolution without.
    norm : {"batch", "instance"}
        Normalisation.

    Returns
    -------
    torch.nn.Sequential
        One stage for each halving, the bottom, and one stage for each doubling:
        `monai.networks.nets.UNet(channels=(width, 2 * width, ...), strides=2, num_res_units=residual_units)`.

    References
    ----------
    Ronneberger et al. 2015, arXiv:1505.04597; Kerfoot et al. 2018, doi:10.1007/978-3-030-12029-0_40.

    Examples
    --------
    >>> from fedlab.learning.segmentation_models import unet
    >>> model = unet((1, 28, 28), outputs=2)
    >>> len(model), sum(p.numel() for p in model.parameters())
    (5, 96005)
    """
    from monai.networks.nets import UNet

    depth = _halvings("unet", shape, depth)
    net = UNet(
        spatial_dims=len(shape) - 1,
        in_channels=shape[0],
        out_channels=outputs,
        channels=[width * 2**level for level in range(depth + 1)],
        strides=[2] * depth,
        num_res_units=residual_units,
        norm=norm,
    )
    encoder: list[nn.Module] = []
    decoder: list[nn.Module] = []
    level: Any = net.model
    for _ in range(depth):
        down, inner, up = level
        encoder.append(down)
        decoder.insert(0, ConcatenateThenUp(up))
        level = inner.submodule
    return nn.Sequential(*_encoder([*encoder, level]), *decoder)


@MODELS.add
def segresnet(
    shape: tuple[int, ...],
    outputs: int,
    width: Width = 8,
    depth: Depth = None,
    norm: Literal["group", "batch", "instance"] = "group",
    upsampling: Literal["deconv", "linear"] = "deconv",
) -> nn.Sequential:
    """MONAI's SegResNet: residual blocks with group normalisation (Myronenko 2018).

    Parameters
    ----------
    shape : tuple of int
        (channels, height, width[, depth]) of an image; each edge a multiple of 2**depth.
    outputs : int
        Structures, background included.
    width : int
        Channels of the first stage; each halving doubles them.
    depth : int, optional
        Number of halvings. By default as many as the edges allow, at most 3, to edges of no less than 4 pixels.
    norm : {"group", "batch", "instance"}
        Normalisation; groups are 8, or the largest divisor of 8 and width.
    upsampling : {"deconv", "linear"}
        Transposed convolutions, or linear interpolation, whose gradient is not deterministic on a GPU.

    Returns
    -------
    torch.nn.Sequential
        One stage for each resolution of the encoder, one for each doubling, and the last convolution:
        `monai.networks.nets.SegResNet(init_filters=width)` with 1, 2, 2 and 4 residual blocks in the encoder.

    References
    ----------
    Myronenko 2018, arXiv:1810.11654.

    Examples
    --------
    >>> from fedlab.learning.segmentation_models import segresnet
    >>> model = segresnet((1, 32, 32), outputs=2)
    >>> len(model), sum(p.numel() for p in model.parameters())
    (8, 400418)
    """
    from monai.networks.nets import SegResNet

    depth = _halvings("segresnet", shape, depth, deepest=3)
    net = SegResNet(
        spatial_dims=len(shape) - 1,
        init_filters=width,
        in_channels=shape[0],
        out_channels=outputs,
        norm=_norm(norm, width),
        blocks_down=(1, 2, 2, 4, 4, 4, 4, 4)[: depth + 1],
        blocks_up=(1,) * depth,
        upsample_mode="deconv" if upsampling == "deconv" else "nontrainable",
    )
    first, *encoder = net.down_layers
    decoder = [UpThenAdd(*parts) for parts in zip(net.up_samples, net.up_layers, strict=True)]
    return nn.Sequential(*_encoder([nn.Sequential(net.convInit, first), *encoder]), *decoder, net.conv_final)


@MODELS.add
def dynunet(
    shape: tuple[int, ...],
    outputs: int,
    width: Width = 8,
    depth: Depth = None,
    residual: bool = False,
    norm: Literal["instance", "batch", "group"] = "instance",
) -> nn.Sequential:
    """MONAI's DynUNet, the network of nnU-Net (Isensee 2021), without deep supervision.

    Parameters
    ----------
    shape : tuple of int
        (channels, height, width[, depth]) of an image; each edge a multiple of 2**depth.
    outputs : int
        Structures, background included.
    width : int
        Channels of the first stage; each halving doubles them, up to 512 in 2D and 320 in 3D. nnU-Net has 32.
    depth : int, optional
        Number of halvings, at least 2. By default as many as the edges allow, at most 4, to edges of no less than 4
        pixels.
    residual : bool
        Whether convolutions of the encoder have a shortcut.
    norm : {"instance", "batch", "group"}
        Normalisation; groups are 8, or the largest divisor of 8 and width.

    Returns
    -------
    torch.nn.Sequential
        One stage for each resolution of the encoder, one for each doubling, and the last convolution:
        `monai.networks.nets.DynUNet(kernel_size=3, strides=(1, 2, 2, ...), filters=(width, 2 * width, ...))`.

    References
    ----------
    Isensee et al. 2021, doi:10.1038/s41592-020-01008-z.

    Examples
    --------
    >>> from fedlab.learning.segmentation_models import dynunet
    >>> model = dynunet((1, 28, 28), outputs=2)
    >>> len(model), sum(p.numel() for p in model.parameters())
    (6, 29466)
    """
    from monai.networks.nets import DynUNet

    depth, dimensions = _halvings("dynunet", shape, depth, shallowest=2), len(shape) - 1
    net = DynUNet(
        spatial_dims=dimensions,
        in_channels=shape[0],
        out_channels=outputs,
        kernel_size=[3] * (depth + 1),
        strides=[1, *[2] * depth],
        upsample_kernel_size=[2] * depth,
        filters=[min(width * 2**level, max(width, FILTERS[dimensions])) for level in range(depth + 1)],
        norm_name=_norm(norm, width),
        res_block=residual,
    )
    encoder = [net.input_block, *net.downsamples, net.bottleneck]
    return nn.Sequential(*_encoder(encoder), *(UpWithSkip(up) for up in net.upsamples), net.output_block)


unet.output = segresnet.output = dynunet.output = "voxels"  # type: ignore[attr-defined]


def _encoder(blocks: list[nn.Module]) -> list[Encode]:
    """The stages of the encoder, bottom included."""
    return [Encode(block, first=level == 0) for level, block in enumerate(blocks)]


def _norm(name: str, width: int) -> tuple[str, dict[str, object]]:
    """A normalisation in MONAI's words; batch and instance normalisation have weights."""
    return (name, {"num_groups": math.gcd(8, width)}) if name == "group" else (name, {"affine": True})


def _halvings(
    model: str, shape: tuple[int, ...], depth: int | None, shallowest: int = 1, deepest: int = DEEPEST
) -> int:
    """The number of halvings: as given, or as many as the edges allow; ValueError where they do not fit."""
    edges = shape[1:]
    allowed = 0
    while all(edge % 2 ** (allowed + 1) == 0 for edge in edges):
        allowed += 1
    if depth is None:
        suits = min(deepest, allowed, int(math.log2(max(1, min(edges) // LEAST))))
        chosen = max(shallowest, suits)
    else:
        chosen = depth
    if chosen < shallowest:
        raise ValueError(f"depth={chosen}: {model} has at least {shallowest} halvings")
    if chosen > allowed:
        step = 2**chosen
        padded = " x ".join(str(-(-edge // step) * step) for edge in edges)
        shallower = f", or choose depth={allowed}" if shallowest <= allowed else ""
        raise ValueError(
            f"{model} halves images {chosen} times, so each edge must be a multiple of {step}, and these are"
            f" {' x '.join(map(str, edges))}: pad them to {padded}{shallower}"
        )
    if math.prod(edges) == 2 ** (chosen * len(edges)):
        raise ValueError(
            f"{model} halves images of {' x '.join(map(str, edges))} {chosen} times, to a single voxel, which no layer"
            " can normalise: " + (f"choose depth={chosen - 1}" if chosen > shallowest else "use larger images")
        )
    return chosen
