"""Transforms of single training cases on the CPU, such as those of MONAI.

A transform gets {"image": (channels, *space), "mask": (1, *space)} and returns the same; without masks "image" alone.
Its random state is set by seed, site, step and case, so that every execution mode, and a resumed run, sees the same
images.
"""

import ast
import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fedlab.core.registry import nearest
from fedlab.core.rng import stream
from fedlab.core.typing import Ints

RngKey = tuple[int, str, int]  # seed, site, step
MASKED = ("image", "mask")
INTENSITY, SPATIAL = "monai.transforms.intensity.dictionary", "monai.transforms.spatial.dictionary"
HOW = "write them as in 'monai(RandGaussianNoise(prob=0.5, std=0.1), RandFlip(prob=0.5, spatial_axis=0))'"


class CaseTransform:
    """A transform that is run case by case.

    name: as the user wrote it, for errors. transform: a function of a dictionary with `set_random_state`, of which this
    object keeps a copy, since several threads train sites in parallel.
    """

    def __init__(self, name: str, transform: Any) -> None:
        self.name, self._transform, self._tried = name, copy.deepcopy(transform), False

    def __call__(
        self, images: Tensor, masks: Tensor | None, cases: Ints, key: RngKey, number: int = 0
    ) -> tuple[Tensor, Tensor | None]:
        """Transformed images (b, channels, *space) and masks (b, *space) of the cases of a step, on their device.

        number: place of the transform among the augmentations of a run, so that no two draw the same numbers.
        """
        found = []
        for i, case in enumerate(cases):
            seed = int(stream(key[0], "transforms", *key[1:], int(case), number).integers(2**32))
            mask = None if masks is None else masks[i]
            if not self._tried:
                self._try(images[i], mask, seed)
            found.append(self._one(images[i], mask, seed))
        changed = torch.stack([image for image, _ in found]).to(images)
        order = torch.channels_last if images.ndim == 4 else torch.channels_last_3d
        stacked = None if masks is None else torch.stack([mask for _, mask in found if mask is not None]).to(masks)
        return changed.contiguous(memory_format=order), stacked

    def _try(self, image: Tensor, mask: Tensor | None, seed: int) -> None:
        """Refuse a transform that draws from elsewhere than its random state."""
        first, second = (self._one(image, mask, seed) for _ in range(2))
        pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
        if not all(torch.equal(a, b) for a, b in pairs):
            raise ValueError(
                f"augment: {self.name!r} gives another image when it is run again with the same random state, so that"
                " no run could be repeated: let it draw from self.R, see monai.transforms.RandomizableTransform"
            )
        self._tried = True

    def _one(self, image: Tensor, mask: Tensor | None, seed: int) -> tuple[Tensor, Tensor | None]:
        """One transformed image and its mask, on the CPU."""
        self._transform.set_random_state(seed=seed)
        case = {"image": image.cpu().contiguous().clone()}
        if mask is not None:
            case["mask"] = mask.cpu()[None].clone()
        try:
            found = self._transform(case)
            changed, moved = _plain(found["image"]), _plain(found["mask"]) if mask is not None else None
        except Exception as error:
            held = " and ".join(f"{name!r} of shape {tuple(tensor.shape)}" for name, tensor in case.items())
            text = str(error.__cause__ or error).partition("\n")[0]
            raise ValueError(
                f"augment: {self.name!r} fails on a case with {held} ({type(error).__name__}: {text}): give it a"
                " dictionary transform with these keys, which returns them"
            ) from error
        self._check_shape(changed, image.shape)
        if moved is None:
            return changed, None
        self._check_shape(moved, case["mask"].shape)
        if moved.is_floating_point() and not torch.equal(moved, moved.round()):
            raise ValueError(
                f"augment: {self.name!r} interpolates masks, whose values must stay whole numbers: give"
                " mode=('bilinear', 'nearest') for the keys ('image', 'mask')"
            )
        return changed, moved[0].to(torch.uint8)

    def _check_shape(self, found: Tensor, wanted: Sequence[int]) -> None:
        if tuple(found.shape) != tuple(wanted):
            raise ValueError(
                f"augment: {self.name!r} returns the shape {tuple(found.shape)} for {tuple(wanted)}: use transforms"
                " that keep the size, and the field `crop` for crops"
            )


def of_transform(name: str, transform: Any) -> Any:
    """A copy of a transform in a fixed random state; ValueError if its state cannot be set."""
    if not callable(transform) or not hasattr(transform, "set_random_state"):
        raise ValueError(
            f"transform {name!r} is a {type(transform).__name__} without set_random_state, so that its random numbers"
            " would differ from run to run: put it into monai.transforms.Compose([...])"
        )
    fixed = copy.deepcopy(transform)
    fixed.set_random_state(seed=0)
    return fixed


def of_text(text: str, masks: bool) -> CaseTransform:
    """The transforms of "monai(RandFlip(prob=0.5), ...)"; ValueError if they cannot be read or do not exist.

    Transforms of positions move image and mask together, and masks by their nearest voxel; those of intensities change
    the image alone.
    """
    from monai.transforms import Compose

    return CaseTransform(text.strip(), Compose([_built(call, masks) for call in _calls(text)]))


def _calls(text: str) -> list[tuple[str, list[Any], dict[str, Any]]]:
    """(name, values, named values) of each transform."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if not (isinstance(tree, ast.Call) and tree.args and not tree.keywords):
            raise SyntaxError
        found = []
        for each in tree.args:
            call = each if isinstance(each, ast.Call) else ast.Call(each, [], [])
            if not isinstance(call.func, ast.Name) or any(keyword.arg is None for keyword in call.keywords):
                raise SyntaxError
            named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
            found.append((call.func.id, [ast.literal_eval(value) for value in call.args], named))
        return found
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise ValueError(f"cannot read the transforms of augment={text.strip()!r}: {HOW}") from None


def _built(call: tuple[str, list[Any], dict[str, Any]], masks: bool) -> Callable[..., Any]:
    """The dictionary transform of MONAI that a name and its arguments state."""
    name, values, named = call
    kinds = _kinds()
    if name not in kinds:
        why = nearest(name, kinds)
        raise ValueError(
            f"augment: MONAI has no transform {name!r} that keeps the size of images: {why}; others can be registered"
            " with fedlab.learning.augmentation.add_transforms"
            if "did you mean" in why
            else f"augment: MONAI has no transform {name!r} that keeps the size of images: see the intensity and"
            " spatial transforms in its documentation; crops are the field `crop`, and others can be registered with"
            " fedlab.learning.augmentation.add_transforms"
        )
    kind = kinds[name]
    moves = kind.__module__ == SPATIAL
    known = inspect.signature(kind.__init__).parameters
    if masks and moves and "mode" in known:
        first = named.get("mode", known["mode"].default)
        named = {**named, "mode": (first[0] if isinstance(first, list | tuple) else first, "nearest")}
    keys = MASKED if masks and moves else MASKED[:1]
    try:
        return kind(list(keys), *values, **named)
    except (TypeError, ValueError) as error:
        wanted = ", ".join([*known][2:])
        raise ValueError(f"augment: {name!r} refuses its arguments ({error}): it has {wanted}") from error


def _kinds() -> dict[str, Any]:
    """Name -> the dictionary transform, of those that keep the size of images, random or not."""
    from monai import transforms

    found = {}
    for name, kind in vars(transforms).items():
        if name.endswith("d") and inspect.isclass(kind) and kind.__module__ in (INTENSITY, SPATIAL):
            found[name.removesuffix("d")] = kind
    return found


def _plain(value: Any) -> Tensor:
    """A tensor of PyTorch, without what MONAI keeps with it."""
    return torch.as_tensor(value.as_tensor() if hasattr(value, "as_tensor") else value).detach().cpu()
