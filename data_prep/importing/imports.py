"""`import_images`: from a folder of images and a table to a dataset folder."""

import csv
import hashlib
import io
import re
import secrets
import shlex
import shutil
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import writer
from data_prep.fetch import say
from data_prep.importing import look, work
from data_prep.importing.assemble import Draft, check, check_room, draft, fill, summary
from data_prep.importing.convert import digest
from data_prep.importing.exported import exported
from data_prep.importing.matching import stem
from data_prep.importing.plan import UNNAMED, Plan, plan
from data_prep.importing.settings import KEEP, Settings, settings
from fedlab.core.files import read_text, resolve, write_text
from fedlab.data.cases import Cases, read
from fedlab.data.catalogue import DATASETS
from fedlab.data.columns import look_alike
from fedlab.data.home import home

LOOK = 12  # cases in the picture of a dry run
LINES = 12  # of the table of a dry run
NOT_STATED = "not stated"
MODALITIES = {"CT": "ct", "MR": "mri", "CR": "xray", "DX": "xray", "MG": "xray", "US": "ultrasound"}
RAS = "RAS"  # axes go to the right, to the front and upwards
IMPORT = "import"  # how the command is called


def import_images(
    folder: str | Path,
    table: str | Path | None = None,
    *,
    name: str,
    image: str | None = None,
    label: str | Sequence[str] | None = None,
    mask: str | Sequence[str] | None = None,
    site: str | None = None,
    patient: str | None = None,
    split: str | None = None,
    case: str | None = None,
    keep: Sequence[str] = (),
    pseudonyms: bool = False,
    numbered: bool = False,
    size: Any = None,
    spacing: Any = None,
    fit: str = "pad",
    window: Any = None,
    colour: str = "keep",
    frames: str = "refuse",
    task: str | None = None,
    classes: Sequence[str] | None = None,
    structures: Sequence[str] | None = None,
    overlap: bool = False,
    target: str | None = None,
    licence: str = NOT_STATED,
    modality: str | None = None,
    to: str | Path | None = None,
    strict: bool = False,
    dry_run: bool = False,
    workers: int | None = None,
) -> Cases:
    """Import a folder of images as a dataset folder, which `fedlab.load` reads.

    PNG, JPEG, TIFF and other pictures, DICOM files and series, NIfTI, MGH, NRRD and MetaImage are read. Without a
    table, the folder holds one folder for each class, or the two folders `images` and `labels` with masks of the same
    names, or what `fedlab.export_sites` wrote. No field of a header that names a person is copied: patients and
    institutions become numbers.

    Parameters
    ----------
    folder : str or Path
        The folder with the images, and its subfolders.
    table : str or Path, optional
        CSV, tab-separated or Excel file with one row for each case.
    name : str
        Name of the dataset and of its folder.
    image, label, mask, site, patient, split, case : str, optional
        Columns of the table: path of the image (a file, or the folder of a DICOM series), class, path of the mask (of a
        volume also a DICOM segmentation), site, patient (becomes a number; for DICOM by default the one of the header),
        split (train, val, test), name of the case (by default that of its file). A sequence of several labels names one
        column for each finding, with 1 or 0: the task is multilabel. With task="multilabel" the cells of one label
        column list findings, with | or ; or , between. A sequence of several masks names one column for each
        structure, which may overlap the others; every value of such a mask but 0 is the structure.
    keep : sequence of str
        Further columns to copy.
    pseudonyms : bool
        The names of patients in the table stand for nobody outside of it: keep them.
    numbered : bool
        Number the cases rather than name them after their files. DICOM files that hold identifiers always are.
    size : int or str, optional
        Pixels or voxels of the result: 64, or "64x48", by default 64, if no spacing is given; or "keep", with which
        each image keeps its own size after resampling to the spacing (for training on crops).
    spacing : float or str, optional
        Size of a pixel or voxel in mm: 1.0, or "1x1x2". With a size, the result is cropped or padded to it.
    fit : {"pad", "crop", "stretch"}
        How an image of another aspect ratio gets its size: padded with black, cropped, or distorted.
    window : str, optional
        "lung", "brain", "bone", "soft-tissue" or "wide" (CT, Hounsfield units), "LOW:HIGH" values, "percentiles" or
        "LOW%:HIGH%", or "header". By default 8 bits stay as they are, CT is "wide" (-1000 to 1000 HU) so that all files
        have one scale, and others are shown as their header says, else between two percentiles.
    colour : {"keep", "grey", "rgb"}
        Channels of the result. By default three if any image is in colour.
    frames : {"refuse", "first", "middle", "each"}
        What to do with a file that holds several pictures or volumes.
    task : str, optional
        binary, multiclass, ordinal, multilabel, segmentation or regression. By default what classes, masks and target
        suggest.
    classes : sequence of str, optional
        Names of the classes in their order. By default sorted.
    structures : sequence of str, optional
        Names of the structures of the masks, background first. By default those of several columns of masks.
    overlap : bool
        Values of the masks have one bit for each structure, so that structures may overlap: 1 is the first, 2 the
        second, 3 both. Several columns of masks imply it.
    target : str, optional
        Column of numbers that is predicted, such as the age: the task is regression, and needs neither label nor mask.
    licence : str
        Licence of the images, for the card.
    modality : str, optional
        Kind of image, such as "ct" or "xray". By default what DICOM headers say. With "ct", volumes of other formats
        are taken to hold Hounsfield units.
    to : str or Path, optional
        The folder to write. By default in `$FEDLAB_DATA`, or the user's cache, under its name.
    strict : bool
        Stop at the first file or row that cannot be used, instead of listing it.
    dry_run : bool
        Import twelve cases only, and write a picture of them and the first lines of the table next to the folder.
    workers : int, optional
        Number of processes. By default one for each core.

    Returns
    -------
    Cases
        The imported cases, or those of the dry run.

    Raises
    ------
    ValueError
        If a choice is not possible, no case is found, or, if strict, a file or row cannot be used.
    FileNotFoundError
        If the folder or the table does not exist.
    FileExistsError
        If the folder to write holds something else.
    ModuleNotFoundError
        If a library that reads one of the formats is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import data_prep
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as scans:
    ...     for number, finding in enumerate(["healthy", "ill"] * 3):
    ...         path = Path(scans) / finding / f"{number}.png"
    ...         path.parent.mkdir(exist_ok=True)
    ...         Image.new("L", (32, 24), 40 * number).save(path)
    ...     cases = data_prep.import_images(scans, name="scans", size=16)
    >>> cases.classes, cases.shape, cases.table["case"].tolist()[:2]
    (['healthy', 'ill'], (1, 16, 16), ['healthy/0', 'healthy/2'])
    """
    keep, classes, structures = _names(keep) or [], _names(classes), _names(structures)
    label, mask = (each if isinstance(each, str) or each is None else _single(list(each)) for each in (label, mask))
    orientation = RAS
    columns: dict[str, Any] = {"image": image, "case": case, "label": label, "mask": mask}
    columns |= {"site": site, "patient": patient, "split": split}
    if table is None and not any(columns.values()) and (stored := exported(folder)) is not None:
        table, columns, keep, pseudonyms = stored.table, {**columns, **stored.columns}, keep or stored.keep, True
        size, window = size if size or spacing else stored.size, window or stored.window
        task, classes, structures = task or stored.task, classes or stored.classes, structures or stored.structures
        orientation, overlap, target = stored.orientation, overlap or stored.overlap, target or stored.target
        licence, modality = licence if licence != NOT_STATED else stored.licence, modality or stored.modality
    if target is not None:
        columns, keep = {**columns, "target": target}, [*keep, *[target] * (target not in keep)]
        task = _regression(task, target)
    chosen = settings(size, spacing, fit, window, colour, frames, str(modality).casefold() == "ct")
    written = place(name, to)
    found = plan(folder, table, columns, keep, task == "multilabel", classes or ())
    for note in found.notes:
        say(f"{name}: {note}")
    failed = [each for each in found.problems if each.reason != UNNAMED]
    if strict and failed:
        raise ValueError(f"{failed[0].file or failed[0].row}: {failed[0].reason} (and {len(failed) - 1:,} more)")
    naming: dict[str, Any] = {"pseudonyms": pseudonyms, "numbered": numbered}
    wished: dict[str, Any] = {"keep": keep, "task": task, "classes": classes, "target": target, **naming}
    check(found, **wished)
    make: Any = partial(draft, structures=structures, overlap=overlap, own_size=chosen.own_size, **wished)
    shown = {**{role: column for role, column in columns.items() if column}, "keep": keep, **naming, "overlap": overlap}
    options = {**chosen.plain(), **{key: value for key, value in shown.items() if value}}
    options |= {
        key: value for key, value in {"task": task, "classes": classes, "structures": structures}.items() if value
    }
    if dry_run:
        return _preview(found, chosen, written, make, strict)
    command = _command(table, name, options, licence, modality)
    stated: dict[str, Any] = {"licence": licence, "modality": modality, "orientation": orientation}
    card: Any = partial(_card, name, options, command=command, plan=found, **stated)
    if (held := _held(written, card, found)) is not None:
        return held
    with work.workplace(written) as space:
        parts = work.run(found.items, found.folder, chosen, space, workers, strict, name)
        salt = read_text(space / work.SALT)
        made = make(found, work.results(parts, pixels=False), hide=partial(work.hidden_name, salt=salt))
        check_room(made)
        _write(written, made, parts, card(made))
        _list(written, made, found)
    shutil.rmtree(space, ignore_errors=True)
    _report(name, made, written, found)
    return read(written)


def _regression(task: str | None, target: str) -> str:
    """The task of an import with a target."""
    if task not in (None, "regression"):
        raise ValueError(f"task is {task!r} and target is {target!r}, which a regression predicts: give one of the two")
    return "regression"


def place(name: str, to: str | Path | None = None) -> Path:
    """The folder of a dataset: as given, or in `$FEDLAB_DATA` or the user's cache."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w][\w .=-]*", name) or name.strip() != name:
        raise ValueError(f"name is {name!r}: use letters, digits and -_.= for the name of the dataset's folder")
    if to is None and name in DATASETS:
        raise ValueError(f"name is {name!r}, which is a known dataset: choose another name")
    return resolve(to) if to is not None else home() / name


def _names(names: Sequence[str] | None) -> list[str] | None:
    """Names in a list; a single text holds one, or several with commas between."""
    if names is None:
        return None
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)


def _single(names: list[str]) -> str | list[str] | None:
    """One name alone, or several."""
    return names if len(names) > 1 else next(iter(names), None)


def _held(target: Path, card: Any, found: Plan) -> Cases | None:
    """The cases of a folder that was imported from the same files with the same choices; None if there is none."""
    if not target.exists():
        return None
    wanted = card(None)
    if not writer.ready(target, wanted, but=("checksums", "classes", "task")):
        return None
    say(f"{wanted['name']}: {target} is imported already; its checksums are compared with those of {found.folder}")
    from tqdm.auto import tqdm

    lines = []
    for item in tqdm(found.items, unit="case", desc="comparing", delay=2):
        lines.append(f"{digest(work.sources(item, found.folder))}\n")
    if writer.held(target).get("checksums") != _checksums(lines, found):
        raise FileExistsError(
            f"{target} was imported from other files than {found.folder} holds now: choose another name, or remove it"
        )
    return read(target)


def _checksums(lines: Sequence[str], found: Plan) -> dict[str, str]:
    """One checksum of all images and masks, in the order of the cases, and that of the table."""
    total = hashlib.sha256("".join(lines).encode()).hexdigest()
    checksums = {f"images and masks of {len(found.items):,} cases": f"sha256:{total}"}
    if found.table is not None:
        checksums["table"] = f"sha256:{hashlib.sha256(found.table.read_bytes()).hexdigest()}"
    return checksums


def _card(
    name: str,
    options: dict[str, Any],
    made: Draft | None,
    *,
    licence: str,
    modality: str | None,
    command: str,
    plan: Plan,
    orientation: str,
) -> dict[str, Any]:
    """The card of an import."""
    kinds = set() if made is None else {entry.record["facts"].get("modality") for entry in made.entries}
    stated = MODALITIES.get(str(next(iter(kinds))), "") if len(kinds) == 1 else ""
    card = writer.card(
        name,
        title=name,
        task="" if made is None else made.task,
        classes=[] if made is None else made.classes,
        licence=licence,
        source="own images",
        citation="",
        caution="" if made is None else _caution(made),
        checksums={} if made is None else _checksums(made.checksums, plan),
        options=options,
        modality=modality or stated,
        structures=[] if made is None else made.structures,
        overlap=made is not None and made.overlap,
        orientation=orientation if made is not None and _are_oriented(made) else "",
        spacing=() if made is None else made.spacing,
    )
    notes = {} if made is None else {note: count for note, count in sorted(made.notes.items())}
    changed = {} if made is None else {str(old): new for old, new in made.numbers.items() if old != new}
    extra = {
        "command": command,
        "target": None if made is None else made.target,
        "notes": notes,
        "mask_values": changed,
        "problems": 0 if made is None else _failed(made),
    }
    return {**card, **{key: value for key, value in extra.items() if value}}


def _are_oriented(made: Draft) -> bool:
    """Whether all cases are volumes that state where right, front and up are."""
    return len(made.shape) == 4 and all(entry.record["oriented"] for entry in made.entries)


def _failed(made: Draft) -> int:
    return sum(each.reason != UNNAMED for each in made.problems)


def _caution(made: Draft) -> str:
    """What a reader of the card should know."""
    burned = sum(bool(entry.record["burned"]) for entry in made.entries)
    stated = [f"text may be burned into the pixels of {burned:,} cases"] if burned else []
    stated += ["no patients are known"] if "patient" not in made.table else []
    return "; ".join(stated)


def _command(table: str | Path | None, name: str, options: dict[str, Any], licence: str, modality: str | None) -> str:
    """The command that makes the same import, but for the paths of folder and table, which may name a person."""
    words = ["python", "-m", "data_prep", IMPORT, "FOLDER", *(["--table=TABLE"] if table is not None else [])]
    flags = {**options, "licence": licence if licence != NOT_STATED else None, "modality": modality}
    for key, value in flags.items():
        if value is None:
            continue
        flag = f"--{key}"
        if key in ("size", "spacing"):
            words.append(f"{flag}={'x'.join(f'{each:g}' for each in value)}")
        elif key == "own_size":
            words.append(f"--size={KEEP}")
        elif key == "preset":
            words.append(f"--window={value}")
        elif key == "header":
            words.append("--window=header")
        elif key == "window" and "preset" not in options:
            words.append(f"--window={value[0]:g}:{value[1]:g}")
        elif key == "percentiles":
            words.append(f"--window={value[0]:g}%:{value[1]:g}%")
        elif key in ("keep", "label", "mask") and not isinstance(value, str):
            words += [f"{flag}={each}" for each in value]
        elif key in ("classes", "structures"):
            words.append(f"{flag}={','.join(value)}")
        elif value is True:
            words += [flag] if key in ("pseudonyms", "numbered", "overlap") else []
        elif key != "window":
            words.append(f"{flag}={value}")
    return shlex.join([*words, name])


def _write(target: Path, made: Draft, parts: Sequence[Path], card: dict[str, Any]) -> None:
    """Write the dataset folder."""
    count = len(made.entries)
    with writer.canvas(target, (count, *made.shape)) as images:
        if not made.structures:
            fill(made, work.results(parts), images, None)
            writer.write(target, images, made.table, card, extents=made.extents)
            return
        with writer.canvas(target, (count, *made.shape[1:])) as masks:
            fill(made, work.results(parts), images, masks)
            writer.write(target, images, made.table, card, masks, made.extents)


def _list(target: Path, made: Draft, found: Plan) -> None:
    """Write what was left out, and which file each case is, next to the folder: they may name persons."""
    problems = target.with_name(f"{target.name}-problems.csv")
    problems.unlink(missing_ok=True)
    if made.problems:
        rows = [(each.file, each.row, each.reason) for each in made.problems]
        write_text(problems, _csv(("file", "row", "reason"), rows))
    items = [found.items[entry.index] for entry in made.entries]
    rows = [(case, item.files[0], ";".join(item.masks)) for case, item in zip(made.table["case"], items, strict=True)]
    write_text(target.with_name(f"{target.name}-sources.csv"), _csv(("case", "file", "mask"), rows))


def _csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as CSV."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(header)
    lines.writerows(rows)
    return text.getvalue()


def _report(name: str, made: Draft, target: Path, found: Plan) -> None:
    """Say what was found, what was left out, and what to be careful about."""
    for note, count in made.notes.most_common():
        say(f"{name}: {note} ({count:,} cases)")
    for line in summary(made.problems):
        say(f"{name}: {line}")
    if made.problems:
        say(f"{name}: all reasons are in {target.with_name(f'{target.name}-problems.csv')}")
    shapes = {entry.shape[1:] for entry in made.entries}
    if len(shapes) > 1 and made.extents is None:
        say(
            f"{name}: images of {len(shapes):,} sizes are padded with black to the largest: --size keep keeps their own"
        )
    _warn(name, made, found)
    where = target.with_name(f"{target.name}-sources.csv")
    if any(entry.record["tags"] for entry in made.entries):
        say(f"{name}: cases, patients and institutions are numbered; {where} says which is which: keep it to yourself")
    else:
        say(f"{name}: {where} says which file each case is")


def _warn(name: str, made: Draft, found: Plan) -> None:
    """Say which fields of headers identify, and what else to be careful about."""
    first = str(made.table["case"].iloc[0])
    item = found.items[made.entries[0].index]
    if "case" not in item.values and stem(item.files[0]).endswith(first):
        say(f"{name}: cases are named after their files, e.g. {first!r}: --numbered if such names identify patients")
    tags = Counter(tag for entry in made.entries for tag in entry.record["tags"])
    if tags:
        say(
            f"{name}: headers hold fields that identify, none of which is copied: "
            + ", ".join(f"{tag} ({count:,})" for tag, count in sorted(tags.items()))
        )
    burned = Counter(entry.record["burned"] for entry in made.entries if entry.record["burned"])
    if burned:
        stated = ", ".join(f"{reason}: {count:,}" for reason, count in burned.most_common())
        say(
            f"{name}: text, perhaps names, may be burned into the pixels ({stated}): look at them before you share them"
        )
    if made.task == "binary":
        negative, positive = made.classes
        say(f"{name}: {positive!r} is the positive class (the other: --classes '{positive},{negative}')")
    for group in look_alike(made.classes):
        say(f"{name}: the classes {' and '.join(map(repr, group))} look alike: correct the table if they are one")


def _preview(found: Plan, chosen: Settings, target: Path, make: Any, strict: bool) -> Cases:
    """Import some cases, of all classes, in memory, and draw them."""
    salt = secrets.token_hex(16)
    rows = np.unique(np.linspace(0, len(found.items) - 1, min(LOOK, len(found.items))).round().astype(int))
    by_class = sorted(range(len(found.items)), key=lambda row: found.items[row].values.get("label", ""))
    picked = sorted(by_class[row] for row in rows)
    results = [work.one(found.items[row], found.folder, chosen, salt, row) for row in picked]
    if strict and (wrong := next((each for each in results if each.problem), None)):
        raise ValueError(f"{found.items[wrong.index].files[0]}: {wrong.problem}")
    made = make(found, results, hide=partial(work.hidden_name, salt=salt))
    images = np.zeros((len(made.entries), *made.shape), np.uint8)
    masks = np.zeros((len(made.entries), *made.shape[1:]), np.uint8) if made.structures else None
    fill(made, results, images, masks)
    card = {"name": target.name, "task": made.task, "classes": made.classes}
    card |= {"structures": made.structures, "overlap": made.overlap} if made.structures else {}
    card |= {"target": made.target} if made.target else {}
    cases = Cases(images, made.table, card, masks, made.extents)
    picture, lines = (target.with_name(f"{target.name}-dry-run{end}") for end in (".png", ".csv"))
    look.draw(cases, picture)
    write_text(lines, made.table.head(LINES).to_csv(index=False))
    shape = " x ".join(map(str, made.shape))
    say(f"{target.name}: dry run of {len(cases)} of {len(found.items):,} cases, {shape}, {made.task}, {made.classes}")
    for note, count in made.notes.most_common():
        say(f"{target.name}: {note} ({count:,} of them)")
    for line in summary(made.problems):
        say(f"{target.name}: {line}")
    _warn(target.name, made, found)
    say(f"{target.name}: nothing is imported yet; look at {picture} and {lines}")
    return cases
