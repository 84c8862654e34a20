"""Laws of networks that segment: outputs and gradients are those of MONAI's own, and any two cuts give the same."""

import pytest
import torch
from monai.networks.nets import DynUNet, SegResNet, UNet
from torch import nn
from torch.func import functional_call, grad, vmap

from fedlab.learning.segmentation_models import MODELS

SHAPES = {"2D": (2, 24, 32), "3D": (1, 8, 16, 12)}
NAMES = ["unet", "segresnet", "dynunet"]
TEXTS = [
    "unet(width=4, depth=2)",
    "unet(width=4, depth=1, residual_units=0, norm='instance')",
    "segresnet(width=4, depth=2)",
    "segresnet(width=4, depth=1, norm='batch', upsampling='linear')",
    "dynunet(width=4, depth=2)",
    "dynunet(width=4, depth=2, residual=True, norm='group')",
]


def build(text, shape, outputs=3, seed=0):
    function, values, named = MODELS.parse(text, given=2)
    torch.manual_seed(seed)
    return function(shape, outputs, *values, **named)


def of_monai(text, shape, seed=0):
    """The network as MONAI's documentation builds it."""
    common = {"spatial_dims": len(shape) - 1, "in_channels": shape[0], "out_channels": 3}
    dyn = {"kernel_size": [3] * 3, "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 8, 16]}
    affine = {"affine": True}
    torch.manual_seed(seed)
    return {
        TEXTS[0]: lambda: UNet(**common, channels=(4, 8, 16), strides=(2, 2), num_res_units=2, norm="batch"),
        TEXTS[1]: lambda: UNet(**common, channels=(4, 8), strides=(2,), num_res_units=0, norm="instance"),
        TEXTS[2]: lambda: SegResNet(
            **common,
            init_filters=4,
            blocks_down=(1, 2, 2),
            blocks_up=(1, 1),
            norm=("group", {"num_groups": 4}),
            upsample_mode="deconv",
        ),
        TEXTS[3]: lambda: SegResNet(
            **common, init_filters=4, blocks_down=(1, 2), blocks_up=(1,), norm=("batch", affine)
        ),
        TEXTS[4]: lambda: DynUNet(**common, **dyn, norm_name=("instance", affine)),
        TEXTS[5]: lambda: DynUNet(**common, **dyn, res_block=True, norm_name=("group", {"num_groups": 4})),
    }[text]()


def images(shape, cases=2):
    return torch.randn(cases, *shape, generator=torch.Generator().manual_seed(3))


def step(model, x):
    """Train on one batch; the outputs before."""
    out = model(x)
    out.square().mean().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
    return out


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("text", TEXTS)
def test_outputs_before_and_after_a_step_are_those_of_monai(text, shape):
    x, ours, theirs = images(shape), build(text, shape), of_monai(text, shape)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    torch.testing.assert_close(step(ours, x), step(theirs, x), rtol=0, atol=0)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    other = (shape[0], *(2 * edge for edge in shape[1:]))  # weights do not depend on the size
    torch.testing.assert_close(ours.eval()(images(other)), theirs.eval()(images(other)), rtol=0, atol=0)


@pytest.mark.parametrize("text", TEXTS[::2])
def test_parts_between_any_two_cuts_have_the_gradients_of_the_whole(text):
    shape = SHAPES["2D"]
    model, x = build(text, shape), images(shape)
    model(x).square().mean().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    for first in range(1, len(model)):
        for second in range(first + 1, len(model)):
            model.zero_grad()
            left, crossings = x, []
            for part in (model[:first], model[first:second], model[second:]):
                sent = part(left)
                crossings.append((left, sent))
                tensors = sent if isinstance(sent, tuple) else (sent,)
                assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors)  # nothing crosses twice
                received = tuple(tensor.detach().requires_grad_() for tensor in tensors)
                left = received if isinstance(sent, tuple) else received[0]
            left.square().mean().backward()
            for i in (2, 1, 0):  # the gradients of what was received go back
                received, sent = (crossings[i + 1][0] if i < 2 else left), crossings[i][1]
                pairs = zip(received, sent, strict=True) if isinstance(sent, tuple) else [(received, sent)]
                torch.autograd.backward(*zip(*[(s, r.grad) for r, s in pairs], strict=True))
            for parameter, gradient in zip(model.parameters(), expected, strict=True):
                torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=0)


@pytest.mark.parametrize("text", [TEXTS[1], TEXTS[2], TEXTS[4]])
def test_several_models_train_as_one_under_vmap(text):
    shape = SHAPES["2D"]
    model, x = build(text, shape).double(), images(shape, 4).double().unflatten(0, (2, 2))
    weights = dict(model.named_parameters())

    def loss(weights, x):
        return functional_call(model, weights, (x,)).square().mean()

    both = vmap(grad(loss), (None, 0))(weights, x)
    for i in range(2):
        for key, value in grad(loss)(weights, x[i]).items():
            torch.testing.assert_close(both[key][i], value)


@pytest.mark.parametrize("name", NAMES)
def test_depth_follows_the_image_and_what_does_not_fit_is_refused_with_a_remedy(name):
    halvings = {edge: _halvings_of(name, edge) for edge in (28, 32, 64, 128)}
    assert halvings == {28: 2, 32: 3, 64: 3 if name == "segresnet" else 4, 128: 3 if name == "segresnet" else 4}
    with pytest.raises(
        ValueError, match="multiple of 8, and these are 20 x 28: pad them to 24 x 32, or choose depth=2"
    ):
        build(f"{name}(depth=3)", (1, 20, 28))
    with pytest.raises(ValueError, match=r"pad them to (28 x 36|26 x 34)$"):
        build(name, (1, 25, 33))
    with pytest.raises(ValueError, match="single voxel"):
        build(f"{name}(depth=3)", (1, 8, 8))
    assert MODELS.function(name).output == "voxels"
    assert type(build(name, (1, 28, 28))) is nn.Sequential


def _halvings_of(name, edge):
    """How often a network halves an image of this edge: from what leaves its encoder."""
    smallest = edge
    state = images((1, edge, edge))
    with torch.no_grad():
        for stage in build(f"{name}(width=4)", (1, edge, edge)).eval():
            state = stage(state)
            x = state if isinstance(state, torch.Tensor) else state[0]
            smallest = min(smallest, x.shape[-1])
    return (edge // smallest).bit_length() - 1
