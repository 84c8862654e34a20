"""Which files are one case, with which label: from a table, from folders named after classes, or from pairs of folders.

What cannot be used is listed with its reason; nothing is decoded here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from data_prep import reader, tables
from data_prep.importing.labels import FINDING, Cells, labelling
from data_prep.importing.matching import Files, natural, stem
from data_prep.reading import dicom
from fedlab.core.files import resolve
from fedlab.core.registry import nearest
from fedlab.data.checks import SPLITS

ROLES = ("image", "case", "label", "mask", "site", "patient", "split")
IMAGES = ("images", "imagestr", "image", "imgs", "img")  # names of folders, in small letters
MASKS = ("labels", "labelstr", "masks", "mask", "label", "annotations", "segmentations")
ENDINGS = ("", "_mask", "-mask", "_seg", "-seg", "_label", "_labels")  # of a mask's name after that of its image
CHANNEL = "_0000"  # what nnU-Net adds to the names of images
WORDS = {"training": "train", "validation": "val", "valid": "val", "dev": "val", "testing": "test"}
Columns = Mapping[str, str | Sequence[str] | None]  # role -> column of the table; of labels and masks perhaps several
STRUCTURE = "mask:"  # before the name of a column of masks, where there are several
UNNAMED = "no row of the table names it"
RESERVED = ("case", "label", "patient", "split", "site")


@dataclass(frozen=True)
class Item:
    """The files of one case and of its masks, below the folder, and what the table says of it: column -> text."""

    files: tuple[str, ...]
    masks: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)
    row: str = ""  # where it is in the table, for messages


@dataclass(frozen=True)
class Problem:
    """A file or a row that is not imported, and why."""

    file: str
    row: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """The cases of an import, in their order, what is left out, and what a reader should know."""

    folder: Path
    items: list[Item]
    problems: list[Problem]
    notes: list[str]
    table: Path | None = None
    segmentation: bool = False
    multilabel: bool = False
    findings: tuple[str, ...] = ()  # of a table with one column for each
    structures: tuple[str, ...] = ()  # of a table with one column of masks for each


def plan(
    folder: str | Path,
    table: str | Path | None,
    columns: Columns,
    keep: Sequence[str],
    multilabel: bool = False,
    classes: Sequence[str] = (),
) -> Plan:
    """Find the cases. keep: columns to copy. multilabel: cells of the label may hold several of the classes."""
    root = resolve(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder: give the folder that holds the images")
    files = Files(root)
    if table is None:
        if named := [role for role in ROLES if columns.get(role)] + list(keep):
            raise ValueError(f"{named[0]} names a column and there is no table: give the table (--table cases.csv)")
        if multilabel:
            raise ValueError(
                "task is 'multilabel' and there is no table: give the table with the findings of each case"
            )
        found = _from_pairs(files) or _from_classes(files)
    else:
        found = _from_table(files, _table(root, table), columns, keep, multilabel, classes)
    if not found.items:
        reasons = "; ".join(f"{each.file or each.row}: {each.reason}" for each in found.problems[:3])
        raise ValueError(f"{root}: no case was found ({reasons or 'the table has no rows'}): see `--help`")
    return found


def _table(root: Path, table: str | Path) -> Path:
    """The path of the table: as given, or below the folder."""
    for path in (resolve(table), root / table):
        if path.is_file():
            return path
    raise FileNotFoundError(f"there is no table {resolve(table)}, nor is it in {root}: give its path")


def _from_table(
    files: Files, table: Path, columns: Columns, keep: Sequence[str], multilabel: bool, classes: Sequence[str]
) -> Plan:
    """One case for each row."""
    try:
        frame = tables.read(table.name, table.read_bytes())
    except ValueError as error:
        raise ValueError(f"{table} cannot be read as a table ({error}): save it again as CSV") from None
    used = _columns(frame, table, columns, keep)
    texts = [{key: _text(value) for key, value in zip(used, row, strict=True)} for row in _rows(frame, used)]
    findings = tuple(key.removeprefix(FINDING) for key in used if key.startswith(FINDING))
    structures = tuple(key.removeprefix(STRUCTURE) for key in used if key.startswith(STRUCTURE))
    label = labelling(texts, multilabel, classes) if "label" in used or findings else None
    problems: list[Problem] = []
    items: dict[tuple[str, ...], Item] = {}
    rejected: set[tuple[str, ...]] = set()
    copies = 0
    for number, cells in enumerate(texts, start=2):
        row = f"row {number}"
        file = cells["image"]
        try:
            file = files.find(file)
            item = _item(files, file, cells, row, label)
        except LookupError as error:
            problems.append(Problem(file, row, str(error)))
            continue
        other = items.get(item.files)
        if other is None and item.files not in rejected:
            items[item.files] = item
        elif other is not None and (other.masks, other.values) == (item.masks, item.values):
            copies += 1
        else:
            rejected.add(item.files)
            problems += [
                Problem(item.files[0], each.row, "rows say different things of it") for each in (other, item) if each
            ]
            items.pop(item.files, None)
    named = {path for item in items.values() for path in (*item.files, *item.masks)} | {each.file for each in problems}
    below = tuple(f"{each.file}/" for each in problems if each.file)
    left = [path for path in files.paths if path not in named and not path.startswith(below)]
    unnamed = [path for path in left if files.is_image(path)]
    problems += [Problem(path, "", UNNAMED) for path in unnamed]
    notes = [f"{copies:,} rows that repeat another row are left out"] if copies else []
    return Plan(
        files.folder,
        list(items.values()),
        problems,
        notes,
        table,
        segmentation="mask" in used or bool(structures),
        multilabel=multilabel or bool(findings),
        findings=findings,
        structures=structures,
    )


def _columns(frame: pd.DataFrame, table: Path, columns: Columns, keep: Sequence[str]) -> dict[str, str]:
    """Role, finding, or name of a kept column -> column of the table; ValueError for one that it has not."""
    used = {role: name for role in ROLES if isinstance(name := columns.get(role), str) and name}
    if isinstance(several := columns.get("label"), list | tuple):
        used |= {f"{FINDING}{name}": str(name) for name in several}
    if isinstance(several := columns.get("mask"), list | tuple):
        used |= {f"{STRUCTURE}{name}": str(name) for name in several}
    if "image" not in used:
        raise ValueError(f"image is missing: name the column of {table.name} that holds the files (--image COLUMN)")
    if not any(columns.get(role) for role in ("label", "mask", "target")):
        raise ValueError(f"label is missing: name the column of {table.name} that holds the classes (--label COLUMN)")
    names = list(map(str, frame.columns))
    for name in (*used.values(), *keep):
        if name not in names:
            raise ValueError(f"{table} has no column {name!r}, found {names}: {nearest(name, names)}")
        if names.count(name) > 1:
            raise ValueError(f"{table} has column {name!r} twice: rename one")
    for name in keep:
        if name in RESERVED or name in ROLES:
            raise ValueError(f"keep names the column {name!r}, which has a meaning of its own: use --{name} {name}")
    return used | {f"keep:{name}": name for name in dict.fromkeys(keep)}


def _rows(frame: pd.DataFrame, used: Mapping[str, str]) -> Iterable[tuple[object, ...]]:
    return frame[list(used.values())].itertuples(index=False, name=None)


def _text(value: object) -> str:
    """A cell as text without blanks around it; empty if it is missing."""
    return "" if value is None or pd.isna(value) else str(value).strip()  # type: ignore[call-overload]


def _item(files: Files, file: str, cells: Cells, row: str, label: Callable[[Cells], str] | None) -> Item:
    """The case of one row; LookupError with the reason if there is none."""
    members = _members(files, file)
    masks = []
    for text in (text for key, text in cells.items() if key == "mask" or key.startswith(STRUCTURE)):
        try:
            masks.append(files.find(text))
        except LookupError as error:
            raise LookupError(f"mask {text!r}: {error}") from None
    values = {
        key: text
        for key, text in cells.items()
        if key not in ("image", "mask") and not key.startswith((FINDING, STRUCTURE))
    }
    if label is not None:
        values["label"] = label(cells)
    if not values.get("case", "-"):
        raise LookupError("the name of its case is missing")
    if (split := values.get("split")) is not None:
        values["split"] = _split(split)
    return Item(members, tuple(masks), values, row)


def _split(text: str) -> str:
    """train, val or test; LookupError for another word."""
    word = WORDS.get(text.casefold(), text.casefold())
    if word not in SPLITS:
        raise LookupError(f"its split is {text!r}: wanted {', '.join(SPLITS)}")
    return word


def _members(files: Files, path: str) -> tuple[str, ...]:
    """A file, or the DICOM files of a folder."""
    if not (files.folder / path).is_dir():
        return (path,)
    inside = [each for each in files.paths if each.startswith(f"{path}/")]
    images = [each for each in inside if files.is_image(each)]
    if not images:
        raise LookupError("it is a folder without images")
    if len(images) > 1 and any(reader.kind(files.folder / each) != "dicom" for each in images):
        raise LookupError(f"it is a folder of {len(images)} files that are no DICOM series: name one file")
    return tuple(images)


def _from_pairs(files: Files) -> Plan | None:
    """One case for each image that has a mask in the folder next to it; None if there are no such folders."""
    tops = {path.split("/")[0] for path in files.paths if "/" in path}
    images = next((top for name in IMAGES for top in sorted(tops) if top.lower() == name), None)
    masks = next((top for name in MASKS for top in sorted(tops) if top.lower() == name), None)
    if images is None or masks is None:
        return None
    by_stem: dict[str, list[str]] = {}
    for path in _below(files, masks):
        by_stem.setdefault(stem(path.removeprefix(f"{masks}/")), []).append(path)
    items, problems, used = [], [], set()
    groups, notes = _grouped(files, _below(files, images))
    for group in groups:
        name = (stem(group[0]) if len(group) == 1 else group[0].rpartition("/")[0]).removeprefix(f"{images}/")
        names = (name, name.removesuffix(CHANNEL))
        found = [mask for each in dict.fromkeys(names) for end in ENDINGS for mask in by_stem.get(f"{each}{end}", [])]
        if len(found) == 1:
            items.append(Item(group, (found[0],)))
            used.add(found[0])
        else:
            reason = f"{masks} holds {len(found)} masks for it" if found else f"{masks} holds no mask for it"
            problems.append(Problem(group[0], "", reason))
    left = [path for paths in by_stem.values() for path in paths if path not in used]
    problems += [Problem(path, "", f"{images} holds no image for it") for path in left]
    return Plan(files.folder, items, problems, notes, segmentation=True)


def _below(files: Files, top: str) -> list[str]:
    """Images below a folder, in natural order."""
    found = [path for path in files.paths if path.startswith(f"{top}/") and files.is_image(path)]
    return sorted(found, key=natural)


def _from_classes(files: Files) -> Plan:
    """One case for each image, or DICOM series, in a folder named after its class."""
    images = [path for path in sorted(files.paths, key=natural) if files.is_image(path)]
    problems = [Problem(path, "", "it is in no folder that names its class") for path in images if "/" not in path]
    inside = [path for path in images if "/" in path]
    splits = {path.split("/")[0] for path in inside}
    divided = bool(splits) and all(_is_split(name) for name in splits)
    groups, notes = _grouped(files, inside)
    items = []
    for group in groups:
        parts = group[0].split("/")
        if divided and len(parts) < 3:
            problems.append(
                Problem(group[0], "", "it is in a folder that names a split, and in none that names its class")
            )
            continue
        values = {"label": parts[1], "split": _split(parts[0])} if divided else {"label": parts[0]}
        items.append(Item(group, (), values))
    return Plan(files.folder, items, problems, notes)


def _is_split(name: str) -> bool:
    return WORDS.get(name.casefold(), name.casefold()) in SPLITS


def _grouped(files: Files, paths: Sequence[str]) -> tuple[list[tuple[str, ...]], list[str]]:
    """Files that are one case: slices of one DICOM series in one folder, and every other file for itself."""
    from tqdm.auto import tqdm

    groups: dict[tuple[str, str], list[str]] = {}
    for path in tqdm(paths, unit="file", desc="reading headers", delay=2, leave=False):
        key = (path, "")
        if reader.kind(files.folder / path) == "dicom":
            header = _header(files.folder / path)
            if header is not None and not header.pixels:
                continue
            if header is not None and header.placed and header.frames == 1 and header.series:
                key = (path.rpartition("/")[0], header.series)
        groups.setdefault(key, []).append(path)
    series = sum(len(group) > 1 for group in groups.values())
    kept = sum(map(len, groups.values()))
    notes = [f"{series:,} DICOM series of several slices are volumes"] if series else []
    notes += [f"{len(paths) - kept:,} DICOM files hold no image (reports, contours and the like)"] * (kept < len(paths))
    return [tuple(group) for group in groups.values()], notes


def _header(path: Path) -> dicom.Header | None:
    """What decides how files belong together; None if it cannot be read, which conversion will report."""
    try:
        return dicom.header(path)
    except ValueError:
        return None
