"""Medical Segmentation Decathlon (Antonelli 2022): the labelled volumes of its ten tasks, resampled to one grid.

From the official archive, which is downloaded and checked against the md5 in MONAI's `DecathlonDataset`, or from a
folder with the `dataset.json` of a task. Structures and channels are those of `dataset.json`. The unlabelled test
volumes are left out. Task 4 has a dataset of its own, `hippocampus`, which crops its volumes and resamples nothing.
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from data_prep import annotated, local
from data_prep.fetch import fetch
from data_prep.importing.matching import natural

URL = "http://medicaldecathlon.com"
STORE = "https://msd-for-monai.s3-us-west-2.amazonaws.com"  # named by MONAI, apps/datasets.py, with the md5 of each
STATED = "dataset.json"
LICENCE = "CC BY-SA 4.0"


@dataclass(frozen=True)
class Task:
    """One task: folder, md5 of its archive, subject, what is outlined, modality, window of grey values, source."""

    folder: str
    md5: str
    subject: str
    outlined: str
    modality: str
    window: str
    source: str


MRI = ("mri", "percentiles")
CT = ("ct", "soft-tissue")
NEW_YORK = "Memorial Sloan Kettering Cancer Center"
TASKS = {
    "decathlon_brain": Task(
        "Task01_BrainTumour",
        "240a19d752f0d9e9101544901065d872",
        "glioma",
        "oedema and parts of gliomas in MRI of four sequences",
        *MRI,
        "BraTS 2016 and 2017",
    ),
    "decathlon_heart": Task(
        "Task02_Heart", "06ee59366e1e5124267b774dbd654057", "heart", "left atrium in MRI", *MRI, "King's College London"
    ),
    "decathlon_liver": Task(
        "Task03_Liver", "a90ec6c4aa7f6a3d087205e23d4e6397", "liver", "liver and its tumours in CT", *CT, "LiTS"
    ),
    "decathlon_hippocampus": Task(
        "Task04_Hippocampus",
        "9d24dba78a72977dbd1d2e110310f31b",
        "hippocampus",
        "anterior and posterior hippocampus in MRI, resampled",
        *MRI,
        "Vanderbilt University Medical Center",
    ),
    "decathlon_prostate": Task(
        "Task05_Prostate",
        "35138f08b1efaef89d7424d2bcc928db",
        "prostate",
        "peripheral and transition zone of the prostate in MRI, T2 and ADC",
        *MRI,
        "Radboud University Medical Centre, Nijmegen",
    ),
    "decathlon_lung": Task(
        "Task06_Lung", "8afd997733c7fc0432f71255ba4e52dc", "lung", "lung tumours in CT", "ct", "lung", "TCIA"
    ),
    "decathlon_pancreas": Task(
        "Task07_Pancreas",
        "4f7080cfca169fa8066d17ce6eb061e4",
        "pancreas",
        "pancreas and its tumours in CT",
        *CT,
        NEW_YORK,
    ),
    "decathlon_hepatic_vessel": Task(
        "Task08_HepaticVessel",
        "641d79e80ec66453921d997fbf12a29c",
        "liver",
        "vessels and tumours of the liver in CT",
        *CT,
        NEW_YORK,
    ),
    "decathlon_spleen": Task(
        "Task09_Spleen", "410d4a301da4e5b2f6f86ec3ddba524e", "spleen", "spleen in CT", *CT, NEW_YORK
    ),
    "decathlon_colon": Task(
        "Task10_Colon", "bad7a188931dc2f6acf72b08eb6202d0", "colon", "tumours of the colon in CT", *CT, NEW_YORK
    ),
}
DATASETS = {
    name: f"{task.outlined}; {task.folder} of the Medical Segmentation Decathlon, segmentation, any size, {LICENCE};"
    " from the official archive"
    for name, task in TASKS.items()
}


def cases(task: str, files: local.Files) -> annotated.Found:
    """The labelled cases of `dataset.json`, in the order of their names."""
    stated, below = _stated(task, files)
    try:
        structures = {int(value): str(name).lower() for value, name in stated["labels"].items()}
        channels = [str(stated["modality"][key]) for key in sorted(stated["modality"], key=int)]
        pairs = [(_path(below, each["image"]), _path(below, each["label"])) for each in stated["training"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{files.where(f'{below}{STATED}')} lacks labels, modality or training as the Decathlon writes them"
            f" ({error!r}): use the original file"
        ) from None
    pairs.sort(key=lambda pair: natural(pair[0]))
    table = pd.DataFrame(
        {
            "case": [PurePosixPath(image).name.removesuffix(".gz").removesuffix(".nii") for image, _ in pairs],
            "images": [(image,) for image, _ in pairs],
            "mask": [mask for _, mask in pairs],
        }
    )
    return annotated.Found(table, dict(sorted(structures.items())), channels, [f"{below}{STATED}"])


def _stated(task: str, files: local.Files) -> tuple[dict[str, Any], str]:
    """The content of `dataset.json`, and the folder that it is in, if the download holds several tasks."""
    known = [path for path in files.paths if PurePosixPath(path).name == STATED]
    if not known:
        raise FileNotFoundError(f"{files.folder} has no {STATED}: {files.terms.advice}")
    below = f"{task}/" if any(f"/{path}".endswith(f"/{task}/{STATED}") for path in known) else ""
    content = files.read(f"{below}{STATED}")
    try:
        stated = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{files.where(f'{below}{STATED}')} is no JSON ({error}): use the original file") from None
    return stated, below


def _path(below: str, path: str) -> str:
    """The end of a path by which a file is found: `./imagesTr/la_007.nii.gz` of a task."""
    return f"{below}{PurePosixPath(path)}"


def _described(name: str, task: Task) -> annotated.Annotated:
    archive = f"{task.folder}.tar"
    terms = local.Terms(
        name=name,
        licence=LICENCE,
        duty="name the Medical Segmentation Decathlon and the source of its data, and share what you derive from them"
        " under the same licence",
        url=URL,
        needed=f"{archive} (packed or not, with {STATED}, imagesTr and labelsTr)",
    )
    return annotated.Annotated(
        terms=terms,
        find=partial(cases, task.folder),
        title=f"{task.outlined[0].upper()}{task.outlined[1:]} (Medical Segmentation Decathlon)",
        subject=task.subject,
        modality=task.modality,
        source=f"{URL} ({task.source})",
        citation="Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 13, 4128 (2022);"
        " Simpson et al., arXiv:1902.09063",
        caution="no patients and no sites are published; the unlabelled test volumes are left out",
        archives=("Task*.tar*",),
        published={archive: f"md5:{task.md5}"},
        window=task.window,
        download=partial(fetch, f"{STORE}/{archive}", archive, f"md5:{task.md5}"),
    )


SETS = {name: _described(name, task) for name, task in TASKS.items()}
prepare = partial(annotated.prepare, SETS)
