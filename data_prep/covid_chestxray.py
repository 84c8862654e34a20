"""COVID-19 image data collection: chest X-rays gathered from publications and hospitals, from a local copy."""

from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pandas as pd

from data_prep import local, tables, writer
from data_prep.fetch import say

DATASETS = {
    "covid_chestxray": "chest X-rays of pneumonia, COVID-19 or another cause, from many hospitals, with age and sex;"
    " some 600 cases, binary, any size, a licence per image; from a local copy"
}

TERMS = local.Terms(
    name="covid_chestxray",
    licence="a licence per image (column license: CC BY-NC-SA, CC BY, ..., of many none is stated)",
    duty="abide by each image's own licence, do not pass images on, and name the collection (Cohen et al. 2020)",
    url="https://github.com/ieee8023/covid-chestxray-dataset",
    needed="the repository, cloned, unpacked or as covid-chestxray-dataset-master.zip: metadata.csv and images/",
)
ARCHIVE = "covid-chestxray-dataset*.zip"
METADATA = "metadata.csv"
IMAGES = "images"  # the folder that the table speaks of; others hold masks and volumes
COLUMNS = ("patientid", "sex", "age", "finding", "view", "modality", "location", "filename", "url", "license")
COVID = "COVID-19"
UNNAMED = ("Pneumonia", "Pneumonia/Viral")  # may be COVID-19 or not
CLASSES = ("other pneumonia", "COVID-19 pneumonia")
SEXES = {"F": "female", "M": "male"}
OTHER = "other"


def prepare(
    name: str,
    folder: Path,
    *,
    limit: int | None = None,
    size: int = 64,
    smallest_site: int = 20,
    source: object = None,
    accept_licence: bool = False,
) -> Path:
    """Write the frontal X-rays of pneumonia with a named cause, central squares. size: edge length in pixels.

    smallest_site: smallest number of cases of a separate site; smaller places form the site "other". source: the
    folder of the copy. accept_licence: True if you will abide by the licence of each image.
    """
    if not isinstance(smallest_site, int) or isinstance(smallest_site, bool) or smallest_site < 1:
        raise ValueError(f"smallest_site is {smallest_site!r}: give a number of cases of at least 1")
    card = _card(name, {"size": writer.edge(size, local.EDGES), "smallest_site": smallest_site, "limit": limit})
    if local.prepared(folder, card, TERMS, source):
        return folder
    TERMS.consent(accept_licence)
    files = local.Files(TERMS, source, ARCHIVE, folder=IMAGES)
    origin, metadata = files.table(COLUMNS, METADATA)
    table = cases(metadata, smallest_site)
    decode = partial(local.picture, size=size, mode="L")
    return local.convert(folder, files, table, table["case"], (1, size, size), decode, card, [origin], {})


def cases(metadata: pd.DataFrame, smallest_site: int) -> pd.DataFrame:
    """Frontal X-rays (views PA and AP, supine or erect) of pneumonia whose cause is named; `finding` names it."""
    finding = metadata["finding"].fillna("").str.strip()
    xray = metadata["modality"].fillna("").str.strip().str.casefold() == "x-ray"
    frontal = xray & metadata["view"].fillna("").str.strip().str.match(r"PA|AP")
    kept = frontal & finding.str.startswith("Pneumonia/") & ~finding.isin(UNNAMED)
    say(
        f"{METADATA}: {int(kept.sum()):,} of {len(kept):,} rows are used; {int((~xray).sum()):,} are no X-rays,"
        f" {int((xray & ~frontal).sum()):,} not frontal, {int((frontal & ~kept).sum()):,} no pneumonia of a named cause"
    )
    if not kept.any():
        raise ValueError(
            f"{METADATA} has no pneumonia of a named cause (findings: {sorted(set(finding))[:5]}): wanted e.g."
            f" 'Pneumonia/Viral/COVID-19'; update the copy from {TERMS.url}"
        )
    chosen = metadata[kept].reset_index(drop=True)
    cause = finding[kept].reset_index(drop=True)
    return pd.DataFrame(
        {
            "case": chosen["filename"],
            "label": cause.str.split("/").map(lambda parts: COVID in parts).astype("int64"),
            "patient": tables.names(chosen["patientid"]),
            "site": sites(chosen, smallest_site),
            "age": tables.ages(chosen["age"], f"{METADATA}, column age"),
            "sex": tables.words(chosen["sex"], SEXES, f"{METADATA}, column sex"),
            "finding": cause,
            **{column: chosen[column] for column in ("view", "location", "url", "license")},
        }
    )


def sites(chosen: pd.DataFrame, smallest_site: int) -> pd.Series:
    """The place of each case, or its publisher if no place is stated; small sites are pooled as "other"."""
    publisher = chosen["url"].fillna("").map(lambda url: urlparse(str(url).strip()).netloc.removeprefix("www."))
    place = tables.names(chosen["location"].str.strip()).fillna(publisher)
    counts = place.map(place.value_counts())
    return place.where((counts >= smallest_site) & (place != ""), OTHER)


def _card(name: str, options: dict[str, Any]) -> dict[str, Any]:
    return writer.card(
        name,
        title="COVID-19 image data collection, frontal X-rays",
        task="binary",
        classes=CLASSES,
        licence=TERMS.licence,
        source=TERMS.url,
        citation="Cohen J. P. et al., COVID-19 Image Data Collection: Prospective Predictions Are the Future,"
        " arXiv:2006.11988 (2020)",
        caution="gathered from publications: cause, place, view and image quality are confounded, so a model may learn"
        " where an image comes from; pneumonia of unnamed cause, other findings, lateral views and CT are left out;"
        " licences differ from image to image",
        checksums={},
        options=options,
        modality="xray",
    )
