"""M&Ms: both ventricles and the myocardium in cardiac MRI of six centres and four vendors, from a local download.

Multi-Centre, Multi-Vendor and Multi-Disease Cardiac Image Segmentation Challenge (Campello 2021). Each patient is one
file of many frames, of which the table names end-diastole and end-systole. The split is the published one. Volumes keep
their axes, since short-axis slices are oblique.
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import PurePosixPath

import pandas as pd

from data_prep import annotated, local, tables
from data_prep.fetch import say

DATASETS = {
    "mnms": "ventricles and myocardium in cardiac MRI from six centres and four vendors, with diagnosis, age and sex;"
    " two cases a patient, segmentation, any size, terms of the challenge; from a local download"
}

TERMS = local.Terms(
    name="mnms",
    licence="terms of the M&Ms challenge",
    duty="research only, and cite Campello et al. (2021)",
    url="https://www.ub.edu/mnms/",
    needed="OpenDataset (packed or not), folders Training/Labeled, Validation and Testing with a folder for each"
    " patient: A0S9V9_sa.nii.gz, A0S9V9_sa_gt.nii.gz, and the table"
    " 211230_M&Ms_Dataset_information_diagnosis_opendataset.csv",
)
TABLE = re.compile(r".*M&Ms.*information.*\.csv", re.IGNORECASE)
COLUMNS = ("External code", "Vendor", "Centre", "ED", "ES")
KEPT = {"VendorName": "vendor", "Pathology": "group"}  # columns that not every version of the table has
SPLITS = {"training": "train", "validation": "val", "testing": "test"}  # names of folders
UNLABELLED = "unlabeled"
FRAMES = 1000  # more than any file holds
SEXES = {"f": "female", "m": "male"}
STRUCTURES = {0: annotated.BACKGROUND, 1: "left ventricle", 2: "myocardium", 3: "right ventricle"}


def cases(files: local.Files) -> annotated.Found:
    """Two cases for each labelled patient of the table; the centre is the site."""
    names = sorted(name for name in files.places if TABLE.fullmatch(name))
    name, frame = files.table(COLUMNS, *(names or ["211230_M&Ms_Dataset_information_diagnosis_opendataset.csv"]))
    folders = {PurePosixPath(path).name: [part.casefold() for part in path.split("/")] for path in files.paths}
    where = [folders.get(f"{code}_sa.nii.gz", []) for code in frame["External code"]]
    unlabelled = pd.Series([UNLABELLED in parts for parts in where], index=frame.index)
    if unlabelled.any():
        say(f"mnms: {int(unlabelled.sum()):,} of {len(frame):,} patients have no masks and are left out")
    frame, where = frame[~unlabelled], [parts for parts in where if UNLABELLED not in parts]
    code = frame["External code"]
    patients = pd.DataFrame(
        {
            "patient": code,
            "site": "centre-" + frame["Centre"],
            "split": [_split(parts, patient, files) for parts, patient in zip(where, code, strict=True)],
            "vendor": frame["Vendor"],
            "images": [(f"{patient}_sa.nii.gz",) for patient in code],
            "mask": code + "_sa_gt.nii.gz",
        }
    )
    for column, kept in KEPT.items():
        if column in frame:
            patients[kept] = frame[column]
    if "Age" in frame:
        patients["age"] = tables.ages(frame["Age"], f"{name}, column Age")
    if "Sex" in frame:
        patients["sex"] = tables.words(frame["Sex"], SEXES, f"{name}, column Sex").astype("string")
    phases = [
        patients.assign(
            case=code + f"-{phase}", phase=phase, frame=tables.whole(frame[phase], f"{name}, column {phase}", FRAMES)
        )
        for phase in ("ED", "ES")
    ]
    table = pd.concat(phases).sort_values("case", kind="stable").reset_index(drop=True)
    return annotated.Found(table, STRUCTURES, tables=[name])


def _split(parts: Sequence[str], patient: str, files: local.Files) -> str | None:
    """The split of the folder in which a patient is; None if there is no file, which is reported later."""
    if parts and not any(part in SPLITS for part in parts):
        raise ValueError(
            f"{files.where(f'{patient}_sa.nii.gz')} is in none of the folders Training, Validation and Testing, which"
            " are the published split: keep the folders as they are published"
        )
    return next((SPLITS[part] for part in parts if part in SPLITS), None)


SETS = {
    "mnms": annotated.Annotated(
        terms=TERMS,
        find=cases,
        title="Cardiac MRI of six centres and four vendors (M&Ms)",
        subject="heart",
        modality="mri",
        source=TERMS.url,
        citation="Campello et al., Multi-centre, multi-vendor and multi-disease cardiac segmentation: the M&Ms"
        " challenge, IEEE TMI 40(12), 3543-3554 (2021)",
        caution="two cases of one patient; the site is the centre, and `vendor` divides the cases by scanner; patients"
        " without masks are left out; slices are oblique, so axes are those of the scanner",
        archives=("*.zip", "*.tar*"),
        acquired=True,
    )
}
prepare = partial(annotated.prepare, SETS, size="128x128x12", spacing="1.5x1.5x10")
