"""Networks of timm (PyTorch Image Models), where that package is installed: hundreds of architectures for 2D images."""

import importlib
from typing import Any

from torch import nn

from fedlab.core.arguments import shown
from fedlab.core.registry import nearest
from fedlab.learning.models import MODELS

GIVEN = ("pretrained", "num_classes", "in_chans", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")


@MODELS.add
def timm(shape: tuple[int, ...], outputs: int, name: str = "resnet18", **options: Any) -> nn.Sequential:
    """A network of timm, for 2D images: "timm('convnext_atto')". Needs the extra `networks`.

    Its weights are drawn from the seed; nothing is downloaded. A file of weights that timm published is named by
    the experiment's `weights`: its names are understood, and its classifier may have other classes.

    Parameters
    ----------
    shape : tuple of int
        (channels, height, width) of an image.
    outputs : int
        Numbers a case.
    name : str
        An architecture of `timm.list_models()`.
    **options
        Further arguments of `timm.create_model`, such as `img_size=64` for a vision transformer.

    Returns
    -------
    torch.nn.Sequential
        Two stages: the backbone with its pooling, and the classifier. Split learning can cut between them.

    Raises
    ------
    ValueError
        If timm is not installed, or does not have the architecture.

    References
    ----------
    Wightman 2019, doi:10.5281/zenodo.4414861.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.Experiment(model="timm('resnet18')").model
    "timm('resnet18')"
    """
    package = _package()
    if len(shape) != 3:
        raise ValueError(f"timm has networks for 2D images, these have the shape {shape}: choose model='resnet18'")
    if given := sorted(set(options) & set(GIVEN)):
        raise ValueError(
            f"{given[0]} is decided by the dataset and the experiment: leave it out, and name a file of weights with"
            " weights='...'"
        )
    if not package.is_model(name):
        raise ValueError(f"timm {package.__version__} has no {shown(name)}: {_known(package, name)}")
    whole = package.create_model(name, num_classes=outputs, in_chans=shape[0], **options)
    classifier = whole.get_classifier()
    where = next((at for at, module in whole.named_modules() if module is classifier), "")
    if not isinstance(classifier, nn.Linear) or not where:
        raise ValueError(f"{name!r} does not end with one linear layer, so that it has no stages: choose another one")
    whole.reset_classifier(0)
    model = nn.Sequential(whole, classifier)
    names = {each: f"0.{each}" for each in whole.state_dict()}
    names |= {f"{where}.{each}": f"1.{each}" for each in classifier.state_dict()}
    model.names_in_files = names  # type: ignore[assignment]  # as `pretrained.load` reads them
    return model


def _package() -> Any:
    """The package timm; ValueError that says how to install it."""
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ValueError(
            f"timm cannot be imported ({error}): install it with pip install 'fedlab-workbench[networks]'"
        ) from None


def _known(package: Any, name: str) -> str:
    """The architectures that a name may have meant."""
    return nearest(name, package.list_models()) if package.list_models(f"*{name[:4]}*") else "see timm.list_models()"
