"""ISIC 2019: dermatoscopic images of six centres, with FLamby's centres and published fold, from a local download."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep import local, tables, writer
from data_prep.fetch import fetch, say

DATASETS = {
    "isic2019": "dermatoscopic images of skin lesions from six centres, with age, sex and FLamby's split; 23,247 cases,"
    " multiclass, any size, CC BY-NC 4.0; from a local download"
}

TERMS = local.Terms(
    name="isic2019",
    licence="CC BY-NC 4.0",
    duty="no commercial use, and name BCN_20000, HAM10000 and MSK as sources",
    url="https://challenge.isic-archive.com/data/#2019",
    needed="ISIC_2019_Training_Input.zip (packed or not), ISIC_2019_Training_GroundTruth.csv and"
    " ISIC_2019_Training_Metadata.csv",
)
ARCHIVE = "ISIC_2019_Training_Input.zip"
TRUTH = "ISIC_2019_Training_GroundTruth.csv"
METADATA = "ISIC_2019_Training_Metadata.csv"
METADATA_COLUMNS = ("image", "age_approx", "anatom_site_general", "lesion_id", "sex")
FOLDS = "train_test_split"  # FLamby's table of centres and folds; fetched if the download lacks it
FOLDS_COLUMNS = ("image", "target", "center", "fold")
FOLDS_URL = (
    "https://raw.githubusercontent.com/owkin/FLamby/edacf54d5211520583b0133d55ac39b6fda8324b/flamby/datasets/"
    "fed_isic2019/dataset_creation_scripts/train_test_split"
)
PUBLISHED = {FOLDS: "sha256:d0f9d0d0102f60d78b4c5f9f0ef32100881a8e92fe6c38644f980b3eb4e1a86c"}  # ISIC gives none
CLASSES = {
    "MEL": "melanoma",
    "NV": "melanocytic nevus",
    "BCC": "basal cell carcinoma",
    "AK": "actinic keratosis",
    "BKL": "benign keratosis",
    "DF": "dermatofibroma",
    "VASC": "vascular lesion",
    "SCC": "squamous cell carcinoma",
}
SEXES = {"female": "female", "male": "male"}
CENTRES = ("Barcelona", "vidir_molemax", "vidir_modern", "rosendahl", "MSK", "vienna_dias")  # FLamby's numbers 0 to 5


def prepare(
    name: str,
    folder: Path,
    *,
    limit: int | None = None,
    size: int = 64,
    source: object = None,
    accept_licence: bool = False,
) -> Path:
    """Write ISIC 2019 as a folder: the central square of each image whose centre is known. size: edge length in pixels.

    source: the folder of the download. accept_licence: True if you accept CC BY-NC 4.0.
    """
    card = _card(name, {"size": writer.edge(size, local.EDGES), "limit": limit})
    if local.prepared(folder, card, TERMS, source):
        return folder
    TERMS.consent(accept_licence)
    files = local.Files(TERMS, source, ARCHIVE)
    _, truth = files.table(("image", *CLASSES), TRUTH)
    _, metadata = files.table(METADATA_COLUMNS, METADATA)
    if FOLDS not in files.places:
        files.adopt(fetch(FOLDS_URL, FOLDS, PUBLISHED[FOLDS]))
    _, folds = files.table(FOLDS_COLUMNS, FOLDS)
    table = cases(truth, metadata, folds)
    images = table["case"] + ".jpg"
    return local.convert(
        folder,
        files,
        table,
        images,
        (3, size, size),
        partial(local.picture, size=size),
        card,
        [TRUTH, METADATA, FOLDS],
        PUBLISHED,
    )


def cases(truth: pd.DataFrame, metadata: pd.DataFrame, folds: pd.DataFrame) -> pd.DataFrame:
    """Images of known centre in the order of the ground truth; the three tables are joined by the image's name."""
    for name, frame in ((TRUTH, truth), (FOLDS, folds), (METADATA, metadata)):
        if (twice := frame["image"][frame["image"].duplicated() | frame["image"].isna()]).size:
            raise ValueError(f"{name} names {twice.iloc[0]!r} twice, or an image without a name: use the original file")
    joined = _labelled(truth).merge(folds[list(FOLDS_COLUMNS)], on="image")
    say(f"{TRUTH}: {len(joined):,} of {len(truth):,} images are used; of the others {FOLDS} knows no centre")
    joined = joined.merge(metadata[list(METADATA_COLUMNS)], on="image")
    if lost := sorted(set(folds["image"]) - set(joined["image"])):
        raise ValueError(
            f"{TRUTH} or {METADATA} lacks {len(lost):,} images of {FOLDS}, first {lost[0]}: use the original files"
        )
    differing = joined["label"] != tables.whole(joined["target"], f"{FOLDS}, column target", len(CLASSES))
    if differing.any():
        raise ValueError(f"{TRUTH} and {FOLDS} differ in the class of {joined['image'][differing].iloc[0]}")
    centre = tables.whole(joined["center"], f"{FOLDS}, column center", len(CENTRES))
    return pd.DataFrame(
        {
            "case": joined["image"],
            "label": joined["label"],
            "patient": tables.names(joined["lesion_id"]),
            "site": centre.map(dict(enumerate(CENTRES))),
            "split": joined["fold"],
            "age": tables.ages(joined["age_approx"], f"{METADATA}, column age_approx"),
            "sex": tables.words(joined["sex"], SEXES, f"{METADATA}, column sex").astype("string"),
            "localization": joined["anatom_site_general"],
        }
    )


def _labelled(truth: pd.DataFrame) -> pd.DataFrame:
    """image and label: the class whose column holds a one."""
    marks = np.stack([tables.numbers(truth[code], f"{TRUTH}, column {code}") for code in CLASSES], axis=1) == 1
    if unclear := truth["image"][marks.sum(1) != 1].tolist():
        raise ValueError(f"{TRUTH} gives {unclear[0]} no class, or several, of {list(CLASSES)}: download it again")
    return pd.DataFrame({"image": truth["image"], "label": marks.argmax(1)})


def _card(name: str, options: dict[str, Any]) -> dict[str, Any]:
    return writer.card(
        name,
        title="ISIC 2019, images of known centre",
        task="multiclass",
        classes=list(CLASSES.values()),
        licence=TERMS.licence,
        source=TERMS.url,
        citation="Tschandl P. et al., Scientific Data 5, 180161 (2018), https://doi.org/10.1038/sdata.2018.161; Codella"
        " N. et al., arXiv:1710.05006; Combalia M. et al., BCN20000, arXiv:1908.02288; centres and folds: du Terrail J."
        " et al., FLamby, NeurIPS 2022, arXiv:2210.04620",
        caution="patients are not published: `patient` is the lesion; FLamby's folds split images, so a lesion may have"
        " images in both train and test (leakage='drop', or splits='site'); 2,084 images of unknown centre are left"
        " out; images are cropped to their central square",
        checksums={},
        options=options,
        modality="dermatoscopy",
    )
