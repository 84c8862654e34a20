"""Retinal vessels of two sites: CHASE_DB1 (children in schools in England) and HRF (patients of an eye clinic).

CHASE_DB1: all 28 images of 14 children, vessels of the first observer (Fraz 2012). HRF: numbers 01 to 05 of each group,
15 of the 45 images (Budai 2013). Each photograph is cropped to the square inscribed in the circular field of view. All
of it is retina, so no field-of-view mask is needed and no black frame distinguishes the sites; the rim, with 15 to 29%
of the annotated vessels, is lost. Each file is checked against its sha256 in `retinal_vessels.json`; it was not
verified that the urls still give these files. The task is vessels alone: every label is 0, disease is a column.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_prep import reader, writer
from data_prep.collection import Collection

DATASETS = {
    "retinal_vessels": "vessels in fundus photographs from two sites (CHASE_DB1, HRF); 43 cases, segmentation,"
    " size 64 to 512, CC BY 4.0"
}

FACTS: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
GROUPS = {"h": "healthy", "dr": "diabetic retinopathy", "g": "glaucoma"}  # column `group`; the children's is not stated
SCANNERS = {"CHASE_DB1": "Nidek NM-200-D, 30 degrees", "HRF": "Canon CR-1, 45 degrees"}
EYES = {"L": "left", "R": "right"}
DARK = 20  # of 255: brighter is retina, in photographs that come without a mask of their field of view
SIZES = (64, 512)


def prepare(name: str, folder: Path, *, limit: int | None = None, size: int = 256) -> Path:
    """Write both sites as one folder. size: edge length in pixels, 64 to 512. A pixel at least half vessel is one."""
    writer.edge(size, SIZES)
    collections = {site: Collection(**facts) for site, facts in FACTS.items()}
    card = _card(name, collections, {"size": size, "limit": limit})
    if writer.ready(folder, card):
        return folder
    table = pd.DataFrame([*_children(collections["CHASE_DB1"]), *_clinic(collections["HRF"])])
    chosen = table.iloc[writer.subset(table, limit, "segmentation", by=["site", "group"])].reset_index(drop=True)
    masks = np.zeros((len(chosen), size, size), np.uint8)
    with writer.canvas(folder, (len(chosen), 3, size, size)) as images:
        for site, collection in collections.items():
            rows = np.flatnonzero(chosen["site"] == site)
            _fill(images, masks, rows, collection, chosen["files"][rows].tolist())
        return writer.write(folder, images, chosen.drop(columns="files"), card, masks)


def _card(name: str, collections: dict[str, Collection], options: dict[str, Any]) -> dict[str, Any]:
    return writer.card(
        name,
        title="Retinal vessels from two sites",
        task="segmentation",
        classes=["retina"],
        structures=("background", "vessel"),
        licence="CC BY 4.0 (both sites)",
        source="CHASE_DB1: Kingston University, https://researchdata.kingston.ac.uk/96/; HRF: FAU Erlangen-Nürnberg,"
        " https://www5.cs.fau.de/research/data/fundus-images/",
        citation="Fraz et al., An ensemble classification-based approach applied to retinal blood vessel segmentation,"
        " IEEE TBME 59(9) (2012); Budai et al., Robust vessel segmentation in fundus images, Int. J. Biomedical Imaging"
        " 2013, 154860",
        caution="CHASE_DB1 does not state the children's health; HRF names no patients, so images of one patient cannot"
        " be matched, and 15 of its 45 images are used; images are cropped to the square inscribed in the field of"
        " view; vessels thinner than half a pixel are lost",
        checksums={name: value for part in collections.values() for name, value in part.checksums.items()},
        options=options,
        modality="fundus",
    )


def _children(collection: Collection) -> list[dict[str, Any]]:
    """One row for each image of CHASE_DB1: `Image_07L.jpg` is the left eye of child 07."""
    stems = sorted(Path(file).stem for file in collection.files if file.endswith(".jpg"))
    return [
        {
            "case": f"CHASE-{stem[-3:]}",
            "label": 0,
            "site": "CHASE_DB1",
            "group": "not stated",
            "patient": f"CHASE-{stem[-3:-1]}",
            "eye": EYES[stem[-1]],
            "scanner": SCANNERS["CHASE_DB1"],
            "files": (f"{stem}.jpg", f"{stem}_1stHO.png"),
        }
        for stem in stems
    ]


def _clinic(collection: Collection) -> list[dict[str, Any]]:
    """One row for each image of HRF: `images/03_dr.JPG` is number 03 of diabetic retinopathy."""
    photographs = sorted(file for file in collection.files if file.startswith("images/"))
    stems = [Path(file).stem for file in photographs]
    return [
        {
            "case": f"HRF-{stem}",
            "label": 0,
            "site": "HRF",
            "group": GROUPS[stem.split("_")[1]],
            "patient": None,
            "eye": None,
            "scanner": SCANNERS["HRF"],
            "files": (photograph, f"manual1/{stem}.tif", f"mask/{stem}_mask.tif"),
        }
        for photograph, stem in zip(photographs, stems, strict=True)
    ]


def _fill(
    images: NDArray[np.uint8],
    masks: NDArray[np.uint8],
    rows: NDArray[np.int64],
    collection: Collection,
    files: list[tuple[str, ...]],
) -> None:
    from tqdm.auto import tqdm

    contents = collection.read([path for paths in files for path in paths])
    for row, paths in tqdm(zip(rows, files, strict=True), "retinal_vessels", len(rows), unit="case", delay=2):
        photograph, vessels, *field = [reader.picture(next(contents), path) for path in paths]
        square = _inscribed((field or [photograph])[0], paths[0])
        images[row] = np.moveaxis(_shrunk(photograph.convert("RGB"), square, images.shape[-1]), 2, 0)
        masks[row] = _shrunk(vessels.convert("L"), square, images.shape[-1]) >= 128


def _inscribed(field: Any, name: str) -> tuple[float, float, float, float]:
    """The square inscribed in a bright circular field of view: left, top, right, bottom.

    The diameter of the circle is the width of the field, since HRF crops it above and below.
    """
    bounds = field.point(lambda value: 255 * (value > DARK)).getbbox()
    if bounds is None:
        raise ValueError(
            f"{name} shows no field of view: every pixel is darker than {DARK} of 255; use the original file"
        )
    left, top, right, bottom = bounds
    edge = min((right - left) / math.sqrt(2), bottom - top)
    middle, centre = (left + right) / 2, (top + bottom) / 2
    return middle - edge / 2, centre - edge / 2, middle + edge / 2, centre + edge / 2


def _shrunk(image: Any, square: tuple[float, float, float, float], size: int) -> NDArray[np.uint8]:
    """Average the square over areas to size x size."""
    from PIL import Image

    return np.asarray(image.resize((size, size), Image.Resampling.BOX, box=square))
