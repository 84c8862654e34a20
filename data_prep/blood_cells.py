"""White blood cells of two laboratories: PBC (Barcelona) and segmentation_WBC (Jiangxi), their five common classes.

Barcelona: 80 cells of each class, every n-th file of the class among the 17,092 of PBC (Acevedo 2020), so that the
laboratories are of similar size. Jiangxi: all 300 of Dataset 1 (Zheng 2018). It has a single basophil, so a metric that
needs every class (e.g. AUROC) is undefined there unless `classes=4`. Each image is checked against its sha256 in
`blood_cells.json`. The files of Jiangxi are those of the commit in its url. No checksum of the whole PBC archive is
known: it was not verified that its url still gives the listed images.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_prep import reader, tables, writer
from data_prep.collection import Collection

DATASETS = {
    "blood_cells": "white blood cells from two laboratories (Barcelona, Jiangxi); 700 cases, multiclass,"
    " size 16 to 120, CC BY 4.0 and GPL-3.0"
}

FACTS: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
CLASSES = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil")  # as Jiangxi numbers them from 1
LABELS = "Class Labels of Dataset 1.csv"
SCANNERS = {"Barcelona": "CellaVision DM96", "Jiangxi": "Motic Moticam Pro 252A on N800-D"}
STAINS = {"Barcelona": "May Grünwald-Giemsa", "Jiangxi": "rapid"}
# Edge in pixels of the central square that is kept. A red cell (7.5 um) measures 75 pixels at Barcelona (median of 231)
# and about 40 at Jiangxi (a few, by eye): the squares show about 22 um of both smears.
FIELDS = {"Barcelona": 220, "Jiangxi": 120}
SIZES = (16, 120)


def prepare(name: str, folder: Path, *, limit: int | None = None, size: int = 64, classes: int = 5) -> Path:
    """Write both laboratories as one folder.

    size: edge length in pixels, 16 to 120, by averaging over areas. classes: 5, or 4 to leave out the basophils, of
    which Jiangxi has one; then there are 619 cases.
    """
    writer.edge(size, SIZES)
    if not isinstance(classes, int) or classes not in (4, 5):
        raise ValueError(f"classes is {classes!r}: give 5, or 4 to leave out the basophils")
    collections = {site: Collection(**facts) for site, facts in FACTS.items()}
    card = _card(name, collections, CLASSES[:classes], {"size": size, "classes": classes, "limit": limit})
    if writer.ready(folder, card):
        return folder
    table = _table(collections)
    table = table[table["label"] < classes]
    chosen = table.iloc[writer.subset(table, limit, "multiclass", by=["site"])].reset_index(drop=True)
    with writer.canvas(folder, (len(chosen), 3, size, size)) as images:
        for site, collection in collections.items():
            rows = np.flatnonzero(chosen["site"] == site)
            _fill(images, rows, collection, chosen["file"][rows].tolist(), FIELDS[site])
        return writer.write(folder, images, chosen.drop(columns="file"), card)


def _card(
    name: str, collections: dict[str, Collection], classes: Sequence[str], options: dict[str, Any]
) -> dict[str, Any]:
    return writer.card(
        name,
        title="White blood cells from two laboratories",
        task="multiclass",
        classes=classes,
        licence="Barcelona: CC BY 4.0; Jiangxi: GPL-3.0, acknowledge Jiangxi Tecom Science Corporation, China",
        source="Barcelona: https://doi.org/10.17632/snkd93bnjr.1; Jiangxi: https://github.com/zxaoyou/segmentation_WBC,"
        " Dataset 1",
        citation="Acevedo et al., A dataset of microscopic peripheral blood cell images for development of automatic"
        " recognition systems, Data in Brief 30, 105474 (2020); Zheng et al., Fast and robust segmentation of white"
        " blood cell images by self-supervised learning, Micron 107, 55-71 (2018)",
        caution="no patient identifiers are published; Barcelona is a part of PBC with equal classes, not its own"
        " frequencies; some labels of Jiangxi were added by its authors and not checked by experts; Jiangxi has one"
        " basophil, and one lymphocyte twice (112, 139); images were cropped to about the same 22 um, estimated from"
        " the size of red cells",
        checksums={name: value for part in collections.values() for name, value in part.checksums.items()},
        options=options,
        modality="blood_smear",
    )


def _table(collections: dict[str, Collection]) -> pd.DataFrame:
    """case, label, site, scanner, stain and file of every image, sorted by site and file."""
    numbers = tables.read(LABELS, next(collections["Jiangxi"].read([LABELS])))
    identity, label = (
        tables.numbers(numbers[column], LABELS).astype("int64") for column in ("image ID", "class label")
    )
    kinds = dict(zip(identity, label - 1, strict=True))
    rows = [
        (site, file, CLASSES.index(Path(file).parent.name) if site == "Barcelona" else kinds[int(Path(file).stem)])
        for site, collection in collections.items()
        for file in sorted(collection.files)
        if file != LABELS
    ]
    table = pd.DataFrame(rows, columns=["site", "file", "label"])
    table.insert(0, "case", table["site"] + "-" + table["file"].map(lambda file: Path(file).stem))
    return table.assign(scanner=table["site"].map(SCANNERS), stain=table["site"].map(STAINS))


def _fill(
    images: NDArray[np.uint8], rows: NDArray[np.int64], collection: Collection, files: Sequence[str], field: int
) -> None:
    from tqdm.auto import tqdm

    contents = zip(rows, files, collection.read(files), strict=True)
    for row, file, content in tqdm(contents, "blood_cells", len(rows), unit="case", delay=2):
        images[row] = _central(reader.picture(content, file), field, images.shape[-1])


def _central(image: Any, field: int, size: int) -> NDArray[np.uint8]:
    """The central square of at most `field` pixels, averaged over areas to (3, size, size)."""
    from PIL import Image

    width, height = image.size
    edge = min(field, width, height)
    left, top = (width - edge) / 2, (height - edge) / 2
    square = image.convert("RGB").resize(
        (size, size), Image.Resampling.BOX, box=(left, top, left + edge, top + edge), reducing_gap=None
    )
    return np.moveaxis(np.asarray(square), 2, 0)
