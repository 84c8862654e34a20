"""A picture of the first imported cases, to look at before anything is written."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlab.data.cases import Cases
from fedlab.data.structures import region

COLUMNS = 4
INCHES = 2.4  # edge of one case
LONGEST = 28  # characters of a name above a picture


def draw(cases: Cases, path: Path) -> None:
    """Draw each case with its name, class and mask; of a volume its middle, the front or the head at the top."""
    from matplotlib.figure import Figure

    rows = -(-len(cases) // COLUMNS)
    figure = Figure(figsize=(COLUMNS * INCHES, rows * (INCHES + 0.4)), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for number, ax in zip(range(len(cases)), axes, strict=False):
        picture = _flat(cases.image(number))
        ax.imshow(np.moveaxis(picture, 0, -1) if len(picture) == 3 else picture[0], cmap="gray", vmin=0, vmax=255)
        if cases.masks is not None:
            shown = _flat(cases.mask(number)[None])[0]
            for structure in range(1, len(cases.structures)):
                own = region(shown, structure, cases.overlap)
                if not own.any():
                    continue
                ax.contour(own, levels=[0.5], colors=[f"C{structure}"], linewidths=1)
        name = str(cases.table["case"].iloc[number])
        name = name if len(name) <= LONGEST else f"...{name[-LONGEST:]}"
        ax.set_title(f"{name}\n{_class(cases, number)}", fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _class(cases: Cases, number: int) -> str:
    """The class of a case, or its findings."""
    label = int(cases.labels[number])
    if cases.task != "multilabel":
        return cases.classes[label]
    return ", ".join(name for place, name in enumerate(cases.classes) if label >> place & 1) or "no finding"


def _flat(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(channels, height, width); of a volume its middle slice as radiologists see it."""
    if image.ndim == 3:
        return image
    return image[..., image.shape[-1] // 2].transpose(0, 2, 1)[:, ::-1, ::-1]
