"""Hippocampus in T1-weighted MRI: Task 4 of the Medical Segmentation Decathlon (Antonelli 2022), the labelled volumes.

260 volumes of 1 mm voxels, cropped around one hippocampus, with masks of its anterior and posterior part. Grey values
are float32 or uint8, of very different range, which suggests two unnamed sources: column `storage`. Each file is
checked against its sha256 in `hippocampus.json`, whether it is in the official archive or unpacked.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_prep import annotated, reader, writer
from data_prep.collection import Collection
from data_prep.reader import Scan

DATASETS = {
    "hippocampus": "anterior and posterior hippocampus in MRI volumes; 260 cases, segmentation, size 32 to 64, CC BY-SA"
    " 4.0"
}

FACTS: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
STRUCTURES = ("background", "anterior", "posterior")
RANGE = (1, 99)  # percentiles of a volume that become 0 and 255
SIZES = (32, 64)


def prepare(name: str, folder: Path, *, limit: int | None = None, size: int = 48) -> Path:
    """Write all volumes as cubes, left to right, back to front, bottom to top, cropped or padded with 0 at the edges.

    size: edge length in voxels of 1 mm, 32 to 64. At 48 one volume loses some voxels of its mask, at 64 nothing is cut.
    """
    writer.edge(size, SIZES, "voxels")
    collection = Collection(**FACTS)
    card = _card(name, collection, {"size": size, "limit": limit})
    if writer.ready(folder, card):
        return folder
    files = sorted(Path(file).name for file in collection.files if file.startswith("imagesTr/"))
    table = pd.DataFrame({"case": [file.removesuffix(".nii.gz") for file in files], "label": 0, "file": files})
    chosen = table.iloc[writer.subset(table, limit, "segmentation")].reset_index(drop=True)
    masks = np.zeros((len(chosen), size, size, size), np.uint8)
    with writer.canvas(folder, (len(chosen), 1, size, size, size)) as images:
        rest = annotated.fill(images, masks, _pairs(collection, chosen["file"].tolist(), size), name)
        table = chosen.drop(columns="file").assign(storage=[pair.storage for pair in rest])
        return writer.write(folder, images, table, card, masks)


def _card(name: str, collection: Collection, options: dict[str, Any]) -> dict[str, Any]:
    return writer.card(
        name,
        title="Hippocampus (Medical Segmentation Decathlon, Task 4)",
        task="segmentation",
        classes=["hippocampus"],
        structures=STRUCTURES,
        licence="CC BY-SA 4.0",
        source="http://medicaldecathlon.com (Vanderbilt University Medical Center)",
        citation="Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 13, 4128 (2022);"
        " Simpson et al., arXiv:1902.09063",
        caution="no patient identifiers are published: left and right hippocampus of one person cannot be matched; the"
        " 130 unlabelled test volumes are left out; grey values were scaled volume by volume, percentiles 1 to 99",
        checksums=collection.checksums,
        options=options,
        modality="mri",
        orientation="RAS",
        spacing=(1.0, 1.0, 1.0),
    )


def _pairs(collection: Collection, files: list[str], size: int) -> Iterator[annotated.Pair]:
    """Each volume with its mask, and the data type in which it was stored."""
    paths = [(f"imagesTr/{file}", f"labelsTr/{file}") for file in files]
    contents = collection.read([path for pair in paths for path in pair])
    for names in paths:
        volume, mask = (reader.volume(next(contents), name) for name in names)
        scan, outlined = Scan(volume.voxels), Scan(mask.voxels)
        numbers = annotated.numbered(mask.voxels, outlined, scan, names[::-1], dict(enumerate(STRUCTURES)))
        image = _centred(_scaled(volume.voxels, names[0]), size)[None]
        yield annotated.Pair(image, _centred(numbers, size), storage=volume.stored)


def _scaled(volume: NDArray[Any], file: str) -> NDArray[np.uint8]:
    """Scale grey values between two percentiles of the volume to 0..255."""
    low, high = reader.window(volume, file, RANGE)
    if not high > low:
        raise ValueError(f"{file} has no contrast: its percentiles {RANGE} are {low:g} and {high:g}")
    return reader.scaled(volume, low, high)


def _centred(volume: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A cube of `size` voxels around the volume's centre, cut where it is larger and filled with 0 where smaller."""
    cube = np.zeros((size,) * 3, np.uint8)
    there, here = [], []
    for edge in volume.shape:
        start = (edge - size) // 2
        there.append(slice(max(start, 0), max(start, 0) + min(edge, size)))
        here.append(slice(max(-start, 0), max(-start, 0) + min(edge, size)))
    cube[tuple(here)] = volume[tuple(there)]
    return cube
