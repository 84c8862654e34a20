"""From converted cases to the parts of a dataset: table, classes, structures, one shape, and names without persons."""

import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_prep import tables
from data_prep.importing.grid import centred, cornered
from data_prep.importing.labels import JOIN
from data_prep.importing.matching import natural, stem
from data_prep.importing.plan import UNNAMED, Item, Plan, Problem
from data_prep.importing.work import Result
from fedlab.core.registry import nearest
from fedlab.data.checks import TASKS
from fedlab.data.extents import sizes
from fedlab.data.target_column import REGRESSION, check_target

HEADER = ("modality", "manufacturer", "model", "field_strength", "body_part")  # columns from headers
BACKGROUND = "background"
NEGATIVE = r"(no|non|not|none|normal|healthy|negative|absent|benign|controls?|false)\b"  # how its name begins
ONLY = "case"  # class of all cases of a dataset without labels
MOST_BYTES = 100 * 10**9  # that images which keep their sizes may take on disk, with masks
# The record of an image whose header says nothing
SILENT: dict[str, Any] = {"facts": {}, "words": {}, "tags": (), "patient": "", "institution": ""}
EQUAL = 1e-3  # relative difference of spacings that count as equal
SHORT = 3  # characters of a patient's name at least, that is looked for in the names of files
Hide = Callable[[str], str]


@dataclass(frozen=True)
class Entry:
    """One image of the dataset: its case in the plan, the frame, its shape and the record of its header."""

    index: int
    frame: int
    frames: int
    shape: tuple[int, ...]
    record: dict[str, Any]
    numbers: tuple[int, ...] = ()  # in its mask


@dataclass(frozen=True)
class Draft:
    """All of a dataset but the pixels."""

    entries: list[Entry]
    problems: list[Problem]
    table: pd.DataFrame
    task: str
    classes: list[str]
    structures: list[str]
    overlap: bool  # whether structures may overlap, with one bit for each in the masks
    numbers: dict[int, int]  # in a mask -> in the dataset
    shape: tuple[int, ...]
    checksums: list[str]
    notes: Counter[str] = field(default_factory=Counter)
    target: str | None = None  # the column of the table that a regression predicts
    extents: NDArray[np.int64] | None = None  # of images that keep their sizes
    spacing: tuple[float, ...] = ()  # of all voxels, in mm


def draft(
    plan: Plan,
    results: Iterable[Result],
    keep: Sequence[str],
    hide: Hide,
    task: str | None,
    classes: Sequence[str] | None,
    structures: Sequence[str] | None,
    overlap: bool = False,
    pseudonyms: bool = False,
    numbered: bool = False,
    target: str | None = None,
    own_size: bool = False,
) -> Draft:
    """Everything that must be known before the first pixel is written.

    overlap: values of masks have one bit for each structure. pseudonyms: the names of patients are kept. numbered:
    cases are not named after their files. target: column of numbers that is predicted. own_size: images keep their
    sizes.
    """
    entries, problems, checksums = _entries(plan, results)
    if not entries:
        reasons = Counter(each.reason for each in problems).most_common(3)
        stated = "; ".join(f"{count} x {reason}" for reason, count in reasons)
        raise ValueError(f"none of {len(plan.items):,} cases could be imported: {stated}")
    naming: dict[str, Any] = {"pseudonyms": pseudonyms, "numbered": numbered}
    names, table, kind = _described(plan, entries, keep, hide, task, classes, target, **naming)
    overlap = (overlap and plan.segmentation) or bool(plan.structures)
    numbers, parts = _structures(plan, entries, structures, overlap)
    channels = max(entry.shape[0] for entry in entries)
    shape = (channels, *np.max([entry.shape[1:] for entry in entries], axis=0).tolist())
    notes = Counter(note for entry in entries for note in entry.record["notes"])
    made = Draft(entries, problems, table, kind, names, parts, overlap, numbers, shape, checksums, notes, target)
    if not own_size:
        return made
    extents = np.array([entry.shape[1:] for entry in entries], np.int64)
    return replace(made, extents=extents, spacing=_spacing(entries, table["case"]))


def check(
    plan: Plan,
    keep: Sequence[str],
    task: str | None,
    classes: Sequence[str] | None,
    target: str | None,
    pseudonyms: bool = False,
    numbered: bool = False,
) -> None:
    """Raise ValueError, before any image is read, where the table alone shows that the choices are impossible."""
    entries = [Entry(index, 0, 1, (), SILENT) for index in range(len(plan.items))]
    with warnings.catch_warnings():  # of cells that are no age, say, it is warned when the table is made
        warnings.simplefilter("ignore")
        _described(plan, entries, keep, str, task, classes, target, pseudonyms=pseudonyms, numbered=numbered)


def _described(
    plan: Plan,
    entries: Sequence[Entry],
    keep: Sequence[str],
    hide: Hide,
    task: str | None,
    classes: Sequence[str] | None,
    target: str | None,
    **naming: bool,
) -> tuple[list[str], pd.DataFrame, str]:
    """The classes, the table with one row for each entry, and the task."""
    names, labels = _labels(plan, entries, classes)
    table = _table(plan, entries, keep, hide, **naming).assign(label=labels)
    table = table[["case", "label", *(column for column in table if column not in ("case", "label"))]]
    if task == REGRESSION:
        _check_target(table, target)
    return names, table, _task(task, names, plan)


def fill(found: Draft, results: Iterable[Result], images: NDArray[np.uint8], masks: NDArray[np.uint8] | None) -> None:
    """Write images and masks into their rows: in the middle, or, if they keep their sizes, from the first voxel on."""
    rows = {(entry.index, entry.frame): row for row, entry in enumerate(found.entries)}
    placed = centred if found.extents is None else cornered
    lookup = np.zeros(256, np.uint8)
    for number, position in found.numbers.items():
        lookup[number] = position
    for result in results:
        for frame, image in enumerate(result.images):
            row = rows.get((result.index, frame))
            if row is None:
                continue
            full = np.broadcast_to(image, (found.shape[0], *image.shape[1:])) if len(image) == 1 else image
            images[row] = placed(np.ascontiguousarray(full), found.shape)
            if masks is not None:
                masks[row] = placed(lookup[result.masks[frame]], found.shape[1:])


def check_room(found: Draft) -> None:
    """Refuse images of unequal size that would take too much space when all are as large as the largest."""
    if found.extents is None:
        return
    arrays = found.shape[0] + bool(found.structures)
    own = found.extents.prod(axis=1)
    size = arrays * len(own) * math.prod(found.shape[1:])
    if size > MOST_BYTES:
        largest = found.table["case"].iloc[int(own.argmax())]
        raise ValueError(
            f"{len(own):,} images would take {size / 1e9:,.1f} GB on disk, each as large as the largest,"
            f" {sizes(found.shape[1:])} (their own voxels: {arrays * int(own.sum()) / 1e9:,.1f} GB; the largest image:"
            f" {largest!r}); at most {MOST_BYTES / 1e9:,.0f} GB are written: give a coarser --spacing, or a --size with"
            " --spacing that crops them, or leave out the largest"
        )


def _spacing(entries: Sequence[Entry], names: pd.Series) -> tuple[float, ...]:
    """The spacing in mm that all images have; empty if none states one. ValueError if they differ."""
    each = [tuple(entry.record.get("spacing") or ()) for entry in entries]
    for other, name in zip(each, names, strict=True):
        if len(other) != len(each[0]) or not np.allclose(other, each[0], rtol=EQUAL, atol=0):
            raise ValueError(
                "images that keep their sizes have voxels of different sizes"
                f" (case {names.iloc[0]!r}: {_millimetres(each[0])}, case {name!r}: {_millimetres(other)}): give a"
                " --spacing in mm, to which all are resampled, or leave out images without one"
            )
    return each[0]


def _millimetres(spacing: tuple[float, ...]) -> str:
    """`1 x 1 x 2.5 mm`"""
    return f"{' x '.join(f'{edge:.3g}' for edge in spacing)} mm" if spacing else "not stated"


def _entries(plan: Plan, results: Iterable[Result]) -> tuple[list[Entry], list[Problem], list[str]]:
    """Images of the kind, picture or volume, that most cases are; the others are problems."""
    entries, problems, checksums = [], list(plan.problems), []
    for result in results:
        item = plan.items[result.index]
        checksums.append(f"{result.checksum}\n")
        if result.problem:
            problems.append(Problem(item.files[0], item.row, result.problem))
        for frame, (shape, record) in enumerate(zip(result.shapes, result.records, strict=True)):
            numbers = result.numbers[frame] if result.numbers else ()
            entries.append(Entry(result.index, frame, len(result.shapes), shape, record, numbers))
    kinds = Counter(len(entry.shape) for entry in entries)
    if len(kinds) > 1:
        most = kinds.most_common(1)[0][0]
        words = {3: "a picture", 4: "a volume"}
        for entry in entries:
            if len(entry.shape) != most:
                item = plan.items[entry.index]
                reason = f"it is {words[len(entry.shape)]} and most cases are {words[most][2:]}s"
                problems.append(Problem(item.files[0], item.row, reason))
        entries = [entry for entry in entries if len(entry.shape) == most]
    return entries, problems, checksums


def _labels(plan: Plan, entries: Sequence[Entry], classes: Sequence[str] | None) -> tuple[list[str], list[int]]:
    """The classes in their order, of the whole plan, and the label of each entry, of several findings a bit mask."""
    texts = [item.values["label"] for item in plan.items if "label" in item.values]
    if not texts:
        return [ONLY], [0] * len(entries)
    found = {part for text in set(texts) for part in text.split(JOIN) if part}
    names = list(classes or plan.findings or _ordered(found, plan.multilabel))
    if unknown := sorted(found - set(names)):
        raise ValueError(f"the label {unknown[0]!r} is none of the classes {names}: {nearest(unknown[0], names)}")
    place = {name: number for number, name in enumerate(names)}
    labels = [plan.items[entry.index].values["label"] for entry in entries]
    if plan.multilabel:
        return names, [sum(1 << place[part] for part in text.split(JOIN) if part) for text in labels]
    return names, [place[text] for text in labels]


def _ordered(found: Iterable[str], multilabel: bool) -> list[str]:
    """Classes in natural order; of two, the one that says that there is nothing is first, so that 1 is the finding."""
    names = sorted(found, key=natural)
    if len(names) == 2 and not multilabel:
        names.sort(key=lambda name: not re.match(NEGATIVE, name.casefold()))
    return names


def _task(task: str | None, classes: Sequence[str], plan: Plan) -> str:
    """The task that was wished, or the one that classes and masks suggest."""
    if task is not None and task not in TASKS:
        raise ValueError(f"task is {task!r}: {nearest(task, TASKS)}")
    if plan.multilabel and task not in (None, "multilabel"):
        raise ValueError(f"task is {task!r} and the labels are several columns: give one column, or task 'multilabel'")
    if task is not None or plan.multilabel:
        return task or "multilabel"
    if plan.segmentation:
        return "segmentation"
    if len(classes) < 2:
        raise ValueError(f"all cases have the label {classes[0]!r}: wanted at least two classes, or masks")
    return "binary" if len(classes) == 2 else "multiclass"


def _check_target(table: pd.DataFrame, target: str | None) -> None:
    """Raise ValueError unless every case has a number to predict."""
    if target is None:
        raise ValueError("task is 'regression': name the column of numbers that is predicted (--target COLUMN)")
    missing = table[target].isna()
    if missing.any():
        raise ValueError(
            f"{int(missing.sum()):,} of {len(table):,} cases have an empty cell in the target {target!r} (first: case"
            f" {table['case'][missing].iloc[0]!r}): leave these rows out of the table, or fill them in"
        )
    check_target(table, {"target": target})


def _structures(
    plan: Plan, entries: Sequence[Entry], structures: Sequence[str] | None, overlap: bool
) -> tuple[dict[int, int], list[str]]:
    """Number in a mask -> number in the dataset, and the names of the structures, background first."""
    if not plan.segmentation:
        return {}, []
    found = sorted({number for entry in entries for number in entry.numbers} | {0})
    if overlap:
        bits = max(len(plan.structures), max(found).bit_length())
        names = structures or [BACKGROUND, *(plan.structures or [f"structure {bit + 1}" for bit in range(bits)])]
        if not 1 <= bits < len(names) or (plan.structures and bits != len(names) - 1):
            raise ValueError(
                f"masks have {bits} structures that may overlap: wanted a name for each and for the background first,"
                f" found {list(names)}"
            )
        return {number: number for number in found}, list(names)
    if structures and max(found) < len(structures):
        return {number: number for number in found}, list(structures)
    if structures and len(structures) != len(found):
        raise ValueError(f"masks hold the values {found}: wanted a name for each, found {list(structures)}")
    if len(found) < 2:
        raise ValueError("all masks are empty: wanted the number of a structure in some pixels")
    numbers = {number: place for place, number in enumerate(found)}
    return numbers, list(structures or [BACKGROUND, *(f"structure {number}" for number in found[1:])])


def _table(
    plan: Plan, entries: Sequence[Entry], keep: Sequence[str], hide: Hide, pseudonyms: bool, numbered: bool
) -> pd.DataFrame:
    """One row for each entry, without anything that names a person."""
    cells = [plan.items[entry.index].values for entry in entries]
    known = _patients(cells, entries)
    named, pseudonyms = "case" in cells[0], pseudonyms and "patient" in cells[0]
    columns: dict[str, Any] = {"case": _cases(plan, entries, numbered, pseudonyms)}
    if any(known):
        columns["patient"] = _texts(known) if pseudonyms else _numbered(known, "patient")
    for role in ("site", "split"):
        if any(role in each for each in cells):
            columns[role] = _texts([each.get(role, "") for each in cells])
    if "site" in columns:
        columns["site"] = tables.names(columns["site"])
    for name in keep:
        texts = _texts([each[f"keep:{name}"] for each in cells])
        columns[name] = _whole(texts, tables.ages(texts, f"column {name!r}")) if name == "age" else _plain(texts)
    copied = ["site", *keep, *(["case"] if named else []), *(["patient"] if pseudonyms else [])]
    shown = {name: columns[name] for name in copied if name in columns}
    _check_words(shown, entries, hide)
    if not pseudonyms:
        _check_patients(shown, known)
    for name in HEADER:
        values = [entry.record["facts"].get(name) for entry in entries]
        stated = {value for value in values if value is not None}
        if name not in columns and len(stated) > (name == "modality"):  # one modality is on the card
            columns[name] = values
    places = [entry.record["institution"] for entry in entries]
    if any(places) and "institution" not in columns:
        columns["institution"] = _numbered(places, "institution")
    return pd.DataFrame(columns)


def _patients(cells: Sequence[Any], entries: Sequence[Entry]) -> list[str]:
    """What identifies patients: the column of the table, else the header; empty if it is not known."""
    if not any("patient" in each for each in cells):
        return [entry.record["patient"] for entry in entries]
    named = tables.names(_texts([each["patient"] for each in cells]))
    return ["" if pd.isna(value) else " ".join(str(value).split()) for value in named]


def _numbered(known: Sequence[str], what: str) -> list[str | None]:
    """Names in the order of their first case, `patient-01`: nothing of what they stand for is left."""
    order = {name: place for place, name in enumerate(dict.fromkeys(name for name in known if name), start=1)}
    width = len(str(len(order)))
    return [f"{what}-{order[name]:0{width}d}" if name else None for name in known]


def _cases(plan: Plan, entries: Sequence[Entry], numbered: bool, pseudonyms: bool) -> list[str]:
    """A name for each case: that of the table, the path of its file, or a number if the path may tell who it is."""
    width = len(str(len(plan.items)))
    if "case" in plan.items[0].values:
        names = {entry.index: plan.items[entry.index].values["case"] for entry in entries}
        if twice := [name for name, count in Counter(names.values()).items() if count > 1]:
            raise ValueError(
                f"{len(twice):,} names of cases are in several rows (first: {twice[0]!r}): make them unique"
            )
    elif (
        numbered or any(entry.record["tags"] for entry in entries) or (not pseudonyms and any(map(_tells, plan.items)))
    ):
        names = {entry.index: f"case-{entry.index + 1:0{width}d}" for entry in entries}
    else:
        paths = _below({entry.index: plan.items[entry.index].files[0] for entry in entries})
        stems = Counter(map(stem, paths.values()))
        names = {index: path if stems[stem(path)] > 1 else stem(path) for index, path in paths.items()}
    return [names[each.index] + (f"-frame{each.frame + 1}" if each.frames > 1 else "") for each in entries]


def _below(paths: dict[int, str]) -> dict[int, str]:
    """Paths below the folder that holds them all."""
    folders = [path.rpartition("/")[0] for path in paths.values()]
    common = os.path.commonpath(folders) if all(folders) else ""
    return {index: path[len(common) + 1 :] if common else path for index, path in paths.items()}


def _tells(item: Item) -> bool:
    """Whether the path of a case holds the name of its patient, or a part of it."""
    name, path = item.values.get("patient", "").casefold(), item.files[0].casefold()
    return any(part in path for part in (name, *re.findall(r"[^\W\d_]+", name)) if len(part) >= SHORT)


def _check_words(columns: dict[str, pd.Series], entries: Sequence[Entry], hide: Hide) -> None:
    """Refuse columns that repeat what the headers say of the person."""
    for name, values in columns.items():
        fields: Counter[str] = Counter()
        for value, entry in zip(values, entries, strict=True):
            hidden = "" if pd.isna(value) else hide(str(value))
            fields.update(keyword for keyword, word in entry.record["words"].items() if hidden and word == hidden)
        if fields:
            stated = ", ".join(f"{keyword} in {count:,} cases" for keyword, count in fields.most_common())
            raise ValueError(
                f"column {name!r} repeats what the headers say of the person ({stated}): leave it out, or give it as"
                " --patient, which is replaced by numbers"
            )


def _check_patients(columns: dict[str, pd.Series], known: Sequence[str]) -> None:
    """Refuse columns that repeat the names of patients, which are replaced by numbers."""
    names = pd.Series([" ".join(name.split()).casefold() or None for name in known], dtype="string")
    for column, values in columns.items():
        same = pd.Series(values).astype("string").str.casefold() == names
        if len(set(names.dropna())) > 1 and bool(same[names.notna()].fillna(False).all()):
            raise ValueError(
                f"column {column!r} repeats the names of patients, which are replaced by numbers: leave it out, or say"
                " that they are pseudonyms (--pseudonyms)"
            )


def _texts(values: Sequence[str]) -> pd.Series:
    """Text, missing where it is empty."""
    return pd.Series([value or None for value in values], dtype="string")


def _plain(texts: pd.Series) -> pd.Series:
    """Numbers if every cell that is not missing is one and has no leading zero, else text."""
    known = texts.dropna()
    if len(known) and not known.str.match(r"^[-+]?0\d").any():
        numbers = pd.to_numeric(known.str.replace(",", ".", regex=False), errors="coerce")
        if numbers.notna().all() and np.isfinite(numbers.to_numpy(np.float64)).all():
            return _whole(texts, pd.to_numeric(texts.str.replace(",", ".", regex=False)).astype("float64"))
    return texts


def _whole(texts: pd.Series, numbers: pd.Series) -> pd.Series:
    """Numbers as integers if every cell is a whole number, written as one."""
    written = bool(texts.notna().all()) and bool(texts.str.fullmatch(r"[-+]?\d{1,15}").all())
    return numbers.astype(np.int64) if written and numbers.notna().all() else numbers


def summary(problems: Sequence[Problem], most: int = 3) -> Iterator[str]:
    """Lines that say what was left out, the most frequent reasons first."""
    unnamed = [each for each in problems if each.reason == UNNAMED]
    failed = [each for each in problems if each.reason != UNNAMED]
    if failed:
        shown = "; ".join(f"{each.file or each.row}: {each.reason}" for each in failed[:most])
        yield f"not imported, {len(failed):,} of files and rows: {shown}{'; ...' if len(failed) > most else ''}"
    if unnamed:
        shown = ", ".join(each.file for each in unnamed[:most])
        yield f"named by no row, {len(unnamed):,} of files: {shown}{', ...' if len(unnamed) > most else ''}"
