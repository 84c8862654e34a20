"""Prostate in T2-weighted MRI from six sites (Liu 2020, SAML), from a local download.

One folder for each site, as the authors publish them: RUNMC and BMC (NCI-ISBI 2013), I2CVB, UCL, BIDMC and HK
(PROMISE12). Some masks number two zones, which are one prostate, as in the authors' code.
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
    "prostate_six_sites": "prostate in T2 MRI from six sites; 116 cases, segmentation, any size, terms of its sources;"
    " from a local download"
}

TERMS = local.Terms(
    name="prostate_six_sites",
    licence="the terms of NCI-ISBI 2013, I2CVB and PROMISE12",
    duty="research only, and cite Liu et al. (2020) and the three sources",
    url="https://liuquande.github.io/SAML/",
    needed="the folders RUNMC, BMC, I2CVB, UCL, BIDMC and HK (packed or not) with Case00.nii.gz and"
    " Case00_segmentation.nii.gz, ...",
)
VENDORS = {  # of the scanners, from the table of protocols on the authors' page
    "RUNMC": "Siemens",
    "BMC": "Philips",
    "I2CVB": "Siemens",
    "UCL": "Siemens",
    "BIDMC": "GE",
    "HK": "Siemens",
}
IMAGE = re.compile(rf"(?:^|.*/)({'|'.join(VENDORS)})/(Case\d+)(\.nii(?:\.gz)?)", re.IGNORECASE)
STRUCTURES = {0: annotated.BACKGROUND, 1: "prostate"}


def cases(files: local.Files) -> annotated.Found:
    """One case for each image; its folder is its site."""
    found = [match for match in map(IMAGE.fullmatch, sorted(files.paths, key=natural)) if match]
    sites = [match[1].upper() for match in found]
    if missing := [site for site in VENDORS if site not in sites]:
        raise FileNotFoundError(f"{files.folder} has no images in {', '.join(missing)}: {TERMS.advice}")
    written = {path.casefold(): path for path in files.paths}
    masks = [f"{match[0].removesuffix(match[3])}_segmentation{match[3]}" for match in found]
    names = [f"{site}-{match[2].lower()}" for site, match in zip(sites, found, strict=True)]
    table = pd.DataFrame(
        {
            "case": names,
            "patient": names,
            "site": sites,
            "vendor": [VENDORS[site] for site in sites],
            "images": [(match[0],) for match in found],
            "mask": [written.get(mask.casefold(), mask) for mask in masks],  # some are written _Segmentation
        }
    )
    return annotated.Found(table, STRUCTURES)


def one_gland(values: NDArray[Any], name: str) -> NDArray[Any]:
    """Number both zones of the prostate 1; other values stay, and are refused."""
    return np.where(values == 2, 1, values)


SETS = {
    "prostate_six_sites": annotated.Annotated(
        terms=TERMS,
        find=cases,
        title="Prostate of six sites",
        subject="prostate",
        modality="mri",
        source=TERMS.url,
        citation="Liu Q., Dou Q., Heng P.-A., Shape-aware meta-learning for generalizing prostate MRI segmentation to"
        " unseen domains, MICCAI 2020, arXiv:2007.02035; NCI-ISBI 2013 Challenge (Bloch et al. 2015); Lemaitre et al.,"
        " Comput. Biol. Med. 60 (2015); Litjens et al., PROMISE12, Medical Image Analysis 18 (2014)",
        caution="no split is published; grey values are scaled volume by volume",
        archives=("*.zip", "*.tar*"),
        recode=one_gland,
    )
}
prepare = partial(annotated.prepare, SETS, size="128x128x24", spacing="1x1x3")
