"""MedNIST: 58,954 grey thumbnails of six kinds of radiology images."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_prep import reader, writer
from data_prep.archives import Archive
from data_prep.fetch import fetch, found

DATASETS = {
    "mednist": "six kinds of radiology thumbnail, easy to tell apart; 58,954 cases, multiclass, size 64, CC BY-SA 4.0"
}

URL = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/MedNIST.tar.gz"
OFFICIAL = ("MedNIST.tar.gz", "md5:0bc7306e7427e00ad1c5526a6677552d")
REPACKED = ("MedNIST_jpeg_58954.tar.gz", "sha256:640c897ee1453b2c65e10f57fd2e6235ab9d3c24e6f2e0ea5cef234dd9cd0d5f")
CLASSES = ("AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT")
EDGE = 64


def prepare(name: str, folder: Path, *, limit: int | None = None) -> Path:
    """Write MedNIST as a folder, from the official archive or from a repacked one (same images) in a mirror."""
    cards = [_card(name, dict([origin]), limit) for origin in (OFFICIAL, REPACKED)]
    if writer.ready(folder, *cards):
        return folder
    archive = found(*OFFICIAL) or found(*REPACKED) or fetch(URL, *OFFICIAL)
    with Archive(archive) as packed:
        table, members = _table(packed.names)
        rows = writer.subset(table, limit, "multiclass")
        with writer.canvas(folder, (len(rows), 1, EDGE, EDGE)) as images:
            _decode(packed, {members[row]: place for place, row in enumerate(rows)}, images)
            return writer.write(folder, images, table.iloc[rows], cards[archive.name == REPACKED[0]])


def _card(name: str, checksums: dict[str, str], limit: int | None) -> dict[str, Any]:
    return writer.card(
        name,
        title="MedNIST",
        task="multiclass",
        classes=CLASSES,
        licence="CC BY-SA 4.0",
        source="https://github.com/Project-MONAI/tutorials (2d_classification); images from TCIA, the RSNA Bone Age"
        " Challenge and the NIH Chest X-ray dataset",
        citation="MedNIST, made available by Dr. Bradley J. Erickson, Department of Radiology, Mayo Clinic",
        caution="no patient identifiers and no official split; some files repeat others byte for byte",
        checksums=checksums,
        options={"limit": limit},
    )


def _table(names: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """case and label of every image, sorted by path, and its path in the archive."""
    members = sorted(name for name in names if name.endswith(".jpeg") and _class(name) in CLASSES)
    cases = [f"{_class(member)}-{Path(member).stem}" for member in members]
    return pd.DataFrame({"case": cases, "label": [CLASSES.index(_class(m)) for m in members]}), members


def _class(member: str) -> str:
    """`MedNIST/Hand/000000.jpeg` -> `Hand`"""
    return Path(member).parent.name


def _decode(packed: Archive, places: dict[str, int], images: NDArray[np.uint8]) -> None:
    from tqdm.auto import tqdm

    for name, content in tqdm(packed.each(places), "MedNIST", len(places), unit="case", delay=2):
        image = reader.picture(content, f"{name} in {packed.path}")
        if (image.mode, image.size) != ("L", (EDGE, EDGE)):
            raise ValueError(f"{name} is {image.mode} {image.size}: wanted grey {EDGE} x {EDGE}")
        images[places[name], 0] = np.asarray(image)
