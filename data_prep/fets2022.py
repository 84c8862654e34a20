"""FeTS 2022: gliomas in MRI of four sequences from 23 institutions, from a local download.

The labelled training data of the Federated Tumor Segmentation challenge (Pati 2022), which are those of BraTS 2021 with
the institution of each patient in `partitioning_1.csv`. Volumes are registered to one atlas, 1 mm, without the skull.
"""

from functools import partial

import pandas as pd

from data_prep import annotated, local, tables

DATASETS = {
    "fets2022": "parts of gliomas in MRI of four sequences from 23 institutions; 1,251 cases, segmentation, any size,"
    " data use agreement; from a local download"
}

TERMS = local.Terms(
    name="fets2022",
    licence="FeTS 2022 data use agreement",
    duty="research only, do not pass the data on, and cite Pati et al. (2021), Reina et al. (2022) and Baid et al."
    " (2021)",
    url="https://www.synapse.org/#!Synapse:syn28546456",
    needed="MICCAI_FeTS2022_TrainingData (packed or not), a folder for each subject with"
    " FeTS2022_00000_flair.nii.gz, _t1, _t1ce, _t2 and _seg, and partitioning_1.csv; register at Synapse and accept the"
    " agreement of the challenge",
)
PARTITION = "partitioning_1.csv"  # partitioning_2.csv divides the five largest institutions further, by tumour size
SITE, SUBJECT = COLUMNS = ("Partition_ID", "Subject_ID")
CHANNELS = ("flair", "t1", "t1ce", "t2")
STRUCTURES = {0: annotated.BACKGROUND, 1: "necrotic core", 2: "oedema", 4: "enhancing tumour"}  # exclusive


def cases(files: local.Files) -> annotated.Found:
    """One case for each subject of the table; its institution is its site."""
    _, frame = files.table(COLUMNS, PARTITION)
    site = tables.names(frame[SITE])
    if site.isna().any() or frame[SUBJECT].isna().any():
        raise ValueError(f"{files.where(PARTITION)} has rows without {SITE} or {SUBJECT}: use the original table")
    table = pd.DataFrame(
        {
            "case": frame[SUBJECT],
            "patient": frame[SUBJECT],
            "site": [f"institution-{name.zfill(2)}" for name in site],
            "images": [tuple(f"{name}_{channel}.nii.gz" for channel in CHANNELS) for name in frame[SUBJECT]],
            "mask": frame[SUBJECT] + "_seg.nii.gz",
        }
    )
    return annotated.Found(table.drop_duplicates(["case", "site"]), STRUCTURES, CHANNELS, [PARTITION])


SETS = {
    "fets2022": annotated.Annotated(
        terms=TERMS,
        find=cases,
        title="Gliomas of 23 institutions (FeTS 2022)",
        subject="glioma",
        modality="mri",
        source=TERMS.url,
        citation="Pati et al., The Federated Tumor Segmentation (FeTS) Challenge, arXiv:2105.05874; Baid et al., The"
        " RSNA-ASNR-MICCAI BraTS 2021 Benchmark, arXiv:2107.02314; Reina et al., OpenFL, Phys. Med. Biol. 67 (2022)",
        caution="two institutions have most of the cases; structures exclude each other: the whole tumour is all three,"
        " its core is the necrotic core and the enhancing tumour; grey values are scaled volume by volume",
        archives=("*FeTS2022*.zip", "*FeTS2022*.tar*"),
    )
}
prepare = partial(annotated.prepare, SETS)
