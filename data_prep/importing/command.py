"""`python -m data_prep import FOLDER --table cases.csv --image file --label diagnosis NAME`"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from data_prep.fetch import show
from data_prep.importing.imports import IMPORT, NOT_STATED, import_images, place
from data_prep.importing.settings import COLOURS, FITS, WINDOWS
from data_prep.reader import FRAMES
from fedlab.core.registry import nearest

COLUMNS = {
    "image": "path of the image, or of the folder of a DICOM series",
    "case": "name of the case, by default that of its file",
    "label": "class; repeat it with one column for each finding, or give --task multilabel if cells list several",
    "mask": "path of the mask; may be repeated, for structures that overlap",
    "site": "site",
    "patient": "patient, who becomes a number",
    "split": "train, val or test",
}
ABOUT = (
    "Import a folder of images (PNG, JPEG, TIFF, DICOM, NIfTI, NRRD, MetaImage) as a dataset that fedlab.load reads,"
    " and print its folder. Without --table, FOLDER holds one folder for each class, or two folders images and labels,"
    " or what fedlab.export_sites wrote."
)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are exceptions."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting."""
        raise ValueError(message)


def run(arguments: Sequence[str]) -> None:
    """Import, and print the folder."""
    chosen = _chosen(arguments)
    import_images(**chosen)
    if not chosen.get("dry_run"):
        show(str(place(chosen["name"], chosen.get("to"))), sys.stdout)


def _chosen(arguments: Sequence[str]) -> dict[str, Any]:
    """The arguments that were given; refuses unknown ones."""
    parser = _parser()
    flags = sorted(flag for action in parser._actions for flag in action.option_strings if flag.startswith("--"))
    known, unknown = parser.parse_known_args(_joined(list(arguments)))
    if unknown:
        raise ValueError(f"cannot use {unknown[0]!r}: {nearest(unknown[0].split('=')[0], flags)}")
    return {key: value for key, value in vars(known).items() if value is not None}


def _joined(arguments: list[str]) -> list[str]:
    """Join `--window -1000:400`, whose value looks like another flag."""
    found: list[str] = []
    for word in arguments:
        if found and found[-1] == "--window" and word.startswith("-") and not word.startswith("--"):
            found[-1] = f"--window={word}"
        else:
            found.append(word)
    return found


def _parser() -> Parser:
    """The parser of the command."""
    parser = Parser(prog=f"python -m data_prep {IMPORT}", description=ABOUT, allow_abbrev=False)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of the images")
    parser.add_argument("name", metavar="NAME", help="name of the dataset, letters, digits and -_.")
    parser.add_argument("--table", type=Path, help="CSV, tab-separated or Excel file with one row for each case")
    for role, meaning in COLUMNS.items():
        several: dict[str, Any] = {"action": "append"} if role in ("label", "mask") else {}
        parser.add_argument(f"--{role}", metavar="COLUMN", help=f"column of the table: {meaning}", **several)
    parser.add_argument("--keep", metavar="COLUMN", action="append", help="further column to copy; may be repeated")
    parser.add_argument("--pseudonyms", action="store_true", help="keep the names of patients, which name nobody")
    parser.add_argument("--numbered", action="store_true", help="number cases, rather than name them after their files")
    parser.add_argument(
        "--size",
        help="pixels or voxels of the result: 64 or 64x48x32; keep: each image its own, for crops; by default 64",
    )
    parser.add_argument("--spacing", help="mm of a pixel or voxel: 1.0 or 1x1x2; with --size, cropped or padded to it")
    parser.add_argument("--fit", choices=FITS, help="how another aspect ratio gets its size; by default pad")
    windows = ", ".join(WINDOWS)
    parser.add_argument("--window", help=f"{windows}, header, percentiles, LOW:HIGH or LOW%%:HIGH%%")
    parser.add_argument("--colour", choices=COLOURS, help="channels of the result; by default as the images are")
    parser.add_argument("--frames", choices=FRAMES, help="of a file that holds several pictures or volumes")
    parser.add_argument(
        "--task",
        help="binary, multiclass, ordinal, multilabel, segmentation or regression; by default what labels suggest",
    )
    parser.add_argument("--target", metavar="COLUMN", help="column of numbers that is predicted: task regression")
    parser.add_argument("--classes", type=_list, help="names of the classes in their order, with commas between")
    parser.add_argument("--structures", type=_list, help="names of the structures of masks, background first")
    parser.add_argument("--overlap", action="store_true", help="values of masks have one bit for each structure")
    parser.add_argument("--licence", help=f"licence of the images, for the card; by default {NOT_STATED!r}")
    parser.add_argument("--modality", help="kind of image, e.g. ct, mri, xray; by default what DICOM headers say")
    parser.add_argument("--to", type=Path, help="folder to write; by default in $FEDLAB_DATA or the user's cache")
    parser.add_argument("--workers", type=int, help="number of processes; by default one for each core")
    parser.add_argument("--strict", action="store_true", help="stop at the first file or row that cannot be used")
    parser.add_argument("--dry-run", action="store_true", help="write a picture of twelve cases and nothing else")
    return parser


def _list(text: str) -> list[str]:
    """Names with commas between."""
    return [part.strip() for part in text.split(",") if part.strip()]
