"""Optic disc and cup in fundus photographs of four sites (Wang 2020, Liu 2021), from a local download.

The regions about the disc that the authors of DoFE publish and FedDG uses as a federation: Drishti-GS, RIM-ONE r3, and
the training and the validation images of REFUGE, which come from two cameras. ORIGA is used too if the download has a
folder ORIGA of the same form. The split is that of the folders.
"""

import re
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_prep import annotated, local
from data_prep.importing.matching import natural

DATASETS = {
    "fundus_disc_cup": "optic disc and cup in fundus photographs from four sites (Drishti-GS, RIM-ONE, REFUGE),"
    " segmentation, any size, terms of its sources; from a local download"
}

TERMS = local.Terms(
    name="fundus_disc_cup",
    licence="the terms of Drishti-GS, RIM-ONE r3 and REFUGE",
    duty="research only, and cite Wang et al. (2020) and the three sources",
    url="https://github.com/emma-sjwang/Dofe",
    needed="the folders Domain1 to Domain4 (packed or not), each with train/ROIs/image and train/ROIs/mask, and the"
    " same for test, pictures and masks of the same names",
)
SITES = {
    "domain1": "Drishti-GS",
    "domain2": "RIM-ONE",
    "domain3": "REFUGE-train",
    "domain4": "REFUGE-val",
    "origa": "ORIGA",
}
OPTIONAL = ("origa",)
IMAGE = re.compile(
    rf"(?:^|.*/)({'|'.join(SITES)})/(train|test)/(?:ROIs/)?image/([^/]+)\.(?:png|jpe?g|bmp|tiff?)", re.IGNORECASE
)
CUP, RIM = 50, 200  # largest grey values of the cup, and of the rim of the disc about it; brighter is background
LEVELS = (0, 128, 255)  # that masks hold, but for their edges, which some resize
NEAR, SHARE = 16, 0.9  # grey values from a level, in this share of a mask at least
STRUCTURES = {0: annotated.BACKGROUND, 1: "rim of the disc", 2: "cup"}


def cases(files: local.Files) -> annotated.Found:
    """One case for each picture; its folders are its site and its split."""
    found = [match for match in map(IMAGE.fullmatch, sorted(files.paths, key=natural)) if match]
    folders = {match[1].casefold() for match in found}
    if missing := [folder for folder in SITES if folder not in folders and folder not in OPTIONAL]:
        wanted = ", ".join(f"{folder.capitalize()} ({SITES[folder]})" for folder in missing)
        raise FileNotFoundError(f"{files.folder} has no pictures in {wanted}: {TERMS.advice}")
    written = {path.rpartition(".")[0]: path for path in files.paths}
    masks = [re.sub(r"/image/([^/]+)$", r"/mask/\1", match[0], flags=re.IGNORECASE) for match in found]
    table = pd.DataFrame(
        {
            "case": [f"{SITES[match[1].casefold()]}-{match[3]}" for match in found],
            "site": [SITES[match[1].casefold()] for match in found],
            "split": [match[2].casefold() for match in found],
            "images": [(match[0],) for match in found],
            "mask": [written.get(mask.rpartition(".")[0], mask) for mask in masks],  # may have another format
        }
    )
    return annotated.Found(table, STRUCTURES)


def disc_and_cup(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """From grey values, 0 cup, 128 rim, 255 background, to structures; ValueError for a mask of other values."""
    distance = np.abs(values.astype(np.int64)[..., None] - np.array(LEVELS)).min(-1)
    if np.mean(distance <= NEAR) < SHARE or values.max(initial=0) <= RIM:
        held, counts = np.unique(values, return_counts=True)
        most = ", ".join(str(value) for value in held[np.argsort(-counts)][:3])
        raise ValueError(
            f"{name} holds mostly the values {most}: wanted 0 (cup), 128 (rim of the disc) and 255 (background), use"
            " the original file"
        )
    return np.where(values <= CUP, 2, np.where(values <= RIM, 1, 0)).astype(np.uint8)


SETS = {
    "fundus_disc_cup": annotated.Annotated(
        terms=TERMS,
        find=cases,
        title="Optic disc and cup of four sites",
        subject="optic disc",
        modality="fundus",
        source=TERMS.url,
        citation="Wang et al., DoFE, IEEE TMI 39(12) (2020); Liu et al., FedDG, CVPR 2021, arXiv:2103.06030; Sivaswamy"
        " et al., Drishti-GS (2014); Fumero et al., RIM-ONE (2011); Orlando et al., REFUGE, Medical Image Analysis 59"
        " (2020)",
        caution="no patients are published; structures exclude each other: the disc is its rim and the cup",
        archives=("*.zip", "*.tar*"),
        recode=disc_and_cup,
        window="0:255",
    )
}
prepare = partial(annotated.prepare, SETS, size=128)
