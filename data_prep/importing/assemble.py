"""From converted cases to the parts of a dataset: table, classes, structures, one shape, and names without persons."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_prep import tables
from data_prep.importing.grid import centred
from data_prep.importing.matching import natural, stem
from data_prep.importing.plan import UNNAMED, Item, Plan, Problem
from data_prep.importing.work import Result
from fedlab.core.registry import nearest
from fedlab.data.checks import TASKS

HEADER = ("modality", "manufacturer", "model", "field_strength", "body_part")  # columns from headers
BACKGROUND = "background"
ONLY = "case"  # class of all cases of a dataset without labels
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
    numbers: dict[int, int]  # in a mask -> in the dataset
    shape: tuple[int, ...]
    checksums: list[str]
    notes: Counter[str] = field(default_factory=Counter)


def draft(
    plan: Plan,
    results: Iterable[Result],
    keep: Sequence[str],
    hide: Hide,
    task: str | None,
    classes: Sequence[str] | None,
    structures: Sequence[str] | None,
) -> Draft:
    """Everything that must be known before the first pixel is written."""
    entries, problems, checksums = _entries(plan, results)
    if not entries:
        reasons = Counter(each.reason for each in problems).most_common(3)
        stated = "; ".join(f"{count} x {reason}" for reason, count in reasons)
        raise ValueError(f"none of {len(plan.items):,} cases could be imported: {stated}")
    names, labels = _labels(plan, entries, classes)
    numbers, parts = _structures(plan, entries, structures)
    table = _table(plan, entries, keep, hide).assign(label=labels)
    table = table[["case", "label", *(column for column in table if column not in ("case", "label"))]]
    channels = max(entry.shape[0] for entry in entries)
    shape = (channels, *np.max([entry.shape[1:] for entry in entries], axis=0).tolist())
    notes = Counter(note for entry in entries for note in entry.record["notes"])
    return Draft(entries, problems, table, _task(task, names, plan), names, parts, numbers, shape, checksums, notes)


def fill(found: Draft, results: Iterable[Result], images: NDArray[np.uint8], masks: NDArray[np.uint8] | None) -> None:
    """Write images and masks into their rows."""
    rows = {(entry.index, entry.frame): row for row, entry in enumerate(found.entries)}
    lookup = np.zeros(256, np.uint8)
    for number, position in found.numbers.items():
        lookup[number] = position
    for result in results:
        for frame, image in enumerate(result.images):
            row = rows.get((result.index, frame))
            if row is None:
                continue
            full = np.broadcast_to(image, (found.shape[0], *image.shape[1:])) if len(image) == 1 else image
            images[row] = centred(np.ascontiguousarray(full), found.shape)
            if masks is not None:
                masks[row] = centred(lookup[result.masks[frame]], found.shape[1:])


def _entries(plan: Plan, results: Iterable[Result]) -> tuple[list[Entry], list[Problem], list[str]]:
    """Images of the kind, picture or volume, that most cases are; the others are problems."""
    entries, problems, checksums = [], list(plan.problems), []
    for result in results:
        item = plan.items[result.index]
        checksums.append(f"{result.checksum}\n")
        if result.problem:
            problems.append(Problem(item.files[0], item.row, result.problem))
        for frame, (image, record) in enumerate(zip(result.images, result.records, strict=True)):
            numbers = tuple(map(int, np.unique(result.masks[frame]))) if result.masks else ()
            entries.append(Entry(result.index, frame, len(result.images), image.shape, record, numbers))
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
    """The classes in their order, of the whole plan, and the label of each entry."""
    found = {item.values["label"] for item in plan.items if "label" in item.values}
    if not found:
        return [ONLY], [0] * len(entries)
    names = list(classes) if classes else sorted(found, key=natural)
    if unknown := sorted(found - set(names)):
        raise ValueError(f"the label {unknown[0]!r} is none of the classes {names}: {nearest(unknown[0], names)}")
    return names, [names.index(plan.items[entry.index].values["label"]) for entry in entries]


def _task(task: str | None, classes: Sequence[str], plan: Plan) -> str:
    """The task that was wished, or the one that classes and masks suggest."""
    if task is not None and task not in TASKS:
        raise ValueError(f"task is {task!r}: {nearest(task, TASKS)}")
    if task == "multilabel":
        raise ValueError("task is 'multilabel', which is not imported: write a script with Cases(images, table, card)")
    if task is not None:
        return task
    if plan.segmentation:
        return "segmentation"
    if len(classes) < 2:
        raise ValueError(f"all cases have the label {classes[0]!r}: wanted at least two classes, or masks")
    return "binary" if len(classes) == 2 else "multiclass"


def _structures(
    plan: Plan, entries: Sequence[Entry], structures: Sequence[str] | None
) -> tuple[dict[int, int], list[str]]:
    """Number in a mask -> number in the dataset, and the names of the structures, background first."""
    if not plan.segmentation:
        return {}, []
    found = sorted({number for entry in entries for number in entry.numbers} | {0})
    if structures and max(found) < len(structures):
        return {number: number for number in found}, list(structures)
    if structures and len(structures) != len(found):
        raise ValueError(f"masks hold the values {found}: wanted a name for each, found {list(structures)}")
    if len(found) < 2:
        raise ValueError("all masks are empty: wanted the number of a structure in some pixels")
    numbers = {number: place for place, number in enumerate(found)}
    return numbers, list(structures or [BACKGROUND, *(f"structure {number}" for number in found[1:])])


def _table(plan: Plan, entries: Sequence[Entry], keep: Sequence[str], hide: Hide) -> pd.DataFrame:
    """One row for each entry, without anything that names a person."""
    cells = [plan.items[entry.index].values for entry in entries]
    known = _patients(cells, entries)
    columns: dict[str, Any] = {"case": _cases(plan, entries)}
    if any(known):
        columns["patient"] = _numbered(known, "patient")
    for role in ("site", "split"):
        if any(role in each for each in cells):
            columns[role] = _texts([each.get(role, "") for each in cells])
    if "site" in columns:
        columns["site"] = tables.names(columns["site"])
    for name in keep:
        texts = _texts([each[f"keep:{name}"] for each in cells])
        columns[name] = tables.ages(texts, f"column {name!r}") if name == "age" else _plain(texts)
    _check_words({name: columns[name] for name in ("site", *keep) if name in columns}, entries, hide)
    for name in HEADER:
        values = [entry.record["facts"].get(name) for entry in entries]
        if name not in columns and any(value is not None for value in values):
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


def _cases(plan: Plan, entries: Sequence[Entry]) -> list[str]:
    """A name for each case: the path of its file; a number if the path may tell who it is."""
    width = len(str(len(plan.items)))
    if any(entry.record["tags"] for entry in entries) or any(map(_tells, plan.items)):
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
    """Whether the path of a case holds the name of its patient."""
    name = item.values.get("patient", "").casefold()
    return len(name) >= SHORT and name in str(PurePosixPath(item.files[0])).casefold()


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


def _texts(values: Sequence[str]) -> pd.Series:
    """Text, missing where it is empty."""
    return pd.Series([value or None for value in values], dtype="string")


def _plain(texts: pd.Series) -> pd.Series:
    """Numbers if every cell that is not missing is one and has no leading zero, else text."""
    known = texts.dropna()
    if len(known) and not known.str.match(r"^[-+]?0\d").any():
        numbers = pd.to_numeric(known.str.replace(",", ".", regex=False), errors="coerce")
        if numbers.notna().all() and np.isfinite(numbers.to_numpy(np.float64)).all():
            return pd.to_numeric(texts.str.replace(",", ".", regex=False)).astype("float64")
    return texts


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
