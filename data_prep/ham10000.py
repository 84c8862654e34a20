"""HAM10000: dermatoscopic images of pigmented skin lesions from four sources, from a local download."""

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from data_prep import local, tables, writer

DATASETS = {
    "ham10000": "dermatoscopic images of pigmented skin lesions from four sources, with age and sex; 10,015 cases,"
    " multiclass, any size, CC BY-NC 4.0; from a local download"
}

TERMS = local.Terms(
    name="ham10000",
    licence="CC BY-NC 4.0",
    duty="no commercial use, and name the authors (Tschandl et al. 2018)",
    url="https://doi.org/10.7910/DVN/DBW86T",
    needed="HAM10000_images_part_1.zip and HAM10000_images_part_2.zip (packed or not) and HAM10000_metadata"
    " (.csv, .tab or without an ending)",
)
ARCHIVES = "HAM10000_images_part_*.zip"
TABLES = ("HAM10000_metadata.csv", "HAM10000_metadata", "HAM10000_metadata.tab")
COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization", "dataset")
PUBLISHED = {  # by Harvard Dataverse, version 4; its .tab files are generated at each download
    "HAM10000_images_part_1.zip": "md5:4639bfa73ab251610530a97c898e6e46",
    "HAM10000_images_part_2.zip": "md5:da43d6cc50f6613013be07e8986b384b",
    "HAM10000_metadata.csv": "md5:8f85fb1aa29d80a2797247e434deb79d",
    "HAM10000_metadata": "md5:8f85fb1aa29d80a2797247e434deb79d",
}
SEXES = {"female": "female", "male": "male"}
CLASSES = {  # in the order of DermaMNIST, which is made from these images
    "akiec": "actinic keratoses and intraepithelial carcinoma",
    "bcc": "basal cell carcinoma",
    "bkl": "benign keratosis-like lesions",
    "df": "dermatofibroma",
    "mel": "melanoma",
    "nv": "melanocytic nevi",
    "vasc": "vascular lesions",
}


def prepare(
    name: str,
    folder: Path,
    *,
    limit: int | None = None,
    size: int = 64,
    source: object = None,
    accept_licence: bool = False,
) -> Path:
    """Write HAM10000 as a folder: the central square of each image. size: edge length in pixels.

    source: the folder of the download. accept_licence: True if you accept CC BY-NC 4.0.
    """
    card = _card(name, {"size": writer.edge(size, local.EDGES), "limit": limit})
    if local.prepared(folder, card, TERMS, source):
        return folder
    TERMS.consent(accept_licence)
    files = local.Files(TERMS, source, ARCHIVES)
    origin, metadata = files.table(COLUMNS, *TABLES)
    table = cases(metadata)
    images = table["case"] + ".jpg"
    return local.convert(
        folder, files, table, images, (3, size, size), partial(local.picture, size=size), card, [origin], PUBLISHED
    )


def cases(metadata: pd.DataFrame) -> pd.DataFrame:
    """The published metadata as a table of fedlab: a lesion is a patient, a source is a site."""
    unknown = sorted(set(metadata["dx"].dropna()) - set(CLASSES))
    if unknown or metadata["dx"].isna().any():
        raise ValueError(f"column 'dx' holds {unknown or 'nothing in some rows'}: wanted {list(CLASSES)}")
    return pd.DataFrame(
        {
            "case": metadata["image_id"],
            "label": metadata["dx"].map({code: label for label, code in enumerate(CLASSES)}).astype("int64"),
            "patient": tables.names(metadata["lesion_id"]),
            "site": metadata["dataset"],
            "age": tables.ages(metadata["age"], "HAM10000, column age"),
            "sex": tables.words(metadata["sex"], SEXES, "HAM10000, column sex").astype("string"),
            "localization": metadata["localization"].where(metadata["localization"] != "unknown"),
            "confirmed": metadata["dx_type"],
        }
    )


def _card(name: str, options: dict[str, Any]) -> dict[str, Any]:
    return writer.card(
        name,
        title="HAM10000",
        task="multiclass",
        classes=list(CLASSES.values()),
        licence=TERMS.licence,
        source=TERMS.url,
        citation="Tschandl P., Rosendahl C., Kittler H., The HAM10000 dataset, Scientific Data 5, 180161 (2018),"
        " https://doi.org/10.1038/sdata.2018.161",
        caution="patients are not published: `patient` is the lesion, of which there may be several images, some of"
        " them from two sources; images are cropped to their central square",
        checksums={},
        options=options,
        modality="dermatoscopy",
    )
