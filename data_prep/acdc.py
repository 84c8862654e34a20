"""ACDC: both ventricles and the myocardium in cardiac MRI of one hospital, from a local download.

Automated Cardiac Diagnosis Challenge (Bernard 2018): 150 patients of Dijon in five groups, end-diastole and
end-systole as `Info.cfg` names them. Volumes keep their axes, since short-axis slices are oblique.
"""

import re
from functools import partial

import pandas as pd

from data_prep import annotated, local, tables

DATASETS = {
    "acdc": "ventricles and myocardium in cardiac MRI at end-diastole and end-systole, with diagnosis; 300 cases of 150"
    " patients, segmentation, any size, CC BY-NC-SA 4.0; from a local download"
}

TERMS = local.Terms(
    name="acdc",
    licence="CC BY-NC-SA 4.0",
    duty="no commercial use, cite Bernard et al. (2018), and share what you derive under the same licence",
    url="https://www.creatis.insa-lyon.fr/Challenge/acdc/databases.html",
    needed="ACDC.zip (packed or not), folders training and testing with a folder for each patient: Info.cfg,"
    " patient001_frame01.nii.gz, patient001_frame01_gt.nii.gz, ...",
)
INFO = re.compile(r"(?:.*/)?((patient(\d+))/Info\.cfg)")
GROUPS = {
    "NOR": "healthy",
    "MINF": "myocardial infarction",
    "DCM": "dilated cardiomyopathy",
    "HCM": "hypertrophic cardiomyopathy",
    "RV": "abnormal right ventricle",
}
TRAINING = 100  # patients; those with higher numbers are for testing
STRUCTURES = {0: annotated.BACKGROUND, 1: "right ventricle", 2: "myocardium", 3: "left ventricle"}


def cases(files: local.Files) -> annotated.Found:
    """Two cases for each patient, from the frames that `Info.cfg` names."""
    found = sorted(filter(None, map(INFO.fullmatch, files.paths)), key=lambda match: int(match[3]))
    if not found:
        raise FileNotFoundError(f"{files.folder} has no patient001/Info.cfg or the like: {TERMS.advice}")
    rows = []
    for match in found:
        stated = _info(match[1], files)
        for phase in ("ED", "ES"):
            stem = f"{match[2]}/{match[2]}_frame{int(stated[phase]):02d}"
            rows.append(
                {
                    "case": f"{match[2]}-{phase}",
                    "patient": match[2],
                    "site": "Dijon",
                    "split": "train" if int(match[3]) <= TRAINING else "test",
                    "phase": phase,
                    "group": GROUPS.get(stated.get("Group", "")),
                    "height": stated.get("Height"),
                    "weight": stated.get("Weight"),
                    "images": (f"{stem}.nii.gz",),
                    "mask": f"{stem}_gt.nii.gz",
                }
            )
    table = pd.DataFrame(rows)
    for column in ("height", "weight"):
        table[column] = tables.numbers(table[column], f"Info.cfg, {column}", low=0)
    return annotated.Found(table, STRUCTURES)


def _info(name: str, files: local.Files) -> dict[str, str]:
    """Key and value of each line of an `Info.cfg`; ValueError if it does not name both frames."""
    lines = files.read(name).decode("utf-8", "replace").splitlines()
    stated = {key.strip(): value.strip() for key, colon, value in (line.partition(":") for line in lines) if colon}
    for phase in ("ED", "ES"):
        if not stated.get(phase, "").isdigit():
            raise ValueError(
                f"{files.where(name)} names no frame of {phase}, found {stated.get(phase)!r}: wanted a line such as"
                f" '{phase}: 12', use the original file"
            )
    return stated


SETS = {
    "acdc": annotated.Annotated(
        terms=TERMS,
        find=cases,
        title="Cardiac MRI of five groups (ACDC)",
        subject="heart",
        modality="mri",
        source=TERMS.url,
        citation="Bernard et al., Deep learning techniques for automatic MRI cardiac multi-structures segmentation and"
        " diagnosis: is the problem solved?, IEEE TMI 37(11), 2514-2525 (2018)",
        caution="one hospital: a federation of it is simulated; two cases of one patient; slices are oblique, so axes"
        " are those of the scanner",
        archives=("*.zip", "*.tar*"),
        acquired=True,
    )
}
prepare = partial(annotated.prepare, SETS, size="128x128x12", spacing="1.5x1.5x10")
