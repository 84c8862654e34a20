"""Datasets by name: the embedded phantoms, datasets that installed packages prepare, and any folder.

A package that prepares datasets declares a module in the entry point group `fedlab.datasets`, as `data_prep` does. The
module has `sources()`, a registry of names; `options(name)`, keyword arguments and their defaults; and `prepare(name,
**options)`, which returns a folder.
"""

import inspect
import itertools
import os
from collections.abc import Iterator, Mapping
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from fedlab.core.files import read_json, resolve
from fedlab.core.registry import Registry, nearest, split_call
from fedlab.core.warnings import LeakageWarning, warn
from fedlab.data.cases import Cases, read
from fedlab.data.class_choice import only_classes, split_choice
from fedlab.data.home import home
from fedlab.data.phantoms import phantoms

__all__ = ["DATASETS", "load"]


class _Datasets(Mapping[str, str]):
    """Name -> one-line meaning; packages are searched on first use, so that importing fedlab is fast."""

    def __getitem__(self, name: str) -> str:
        return _registry()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_registry())

    def __len__(self) -> int:
        return len(_registry())

    def __repr__(self) -> str:
        return repr(_registry())


DATASETS: Mapping[str, str] = _Datasets()
TABLES = (".csv", ".tsv", ".txt", ".xls", ".xlsx", ".parquet")
IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", ".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")
SEARCHED = 1000  # files of a folder that are looked at
_LOADED: WeakKeyDictionary[Cases, str] = WeakKeyDictionary()


def load(dataset: str | Path, target: str | None = None) -> Cases:
    """Load a dataset by name or from a folder; a known dataset is prepared on first use.

    Parameters
    ----------
    dataset : str or Path
        A name of `fedlab.DATASETS`, with options if wanted, such as "phantoms" or
        "pneumoniamnist(size=64, limit=500)"; or the path of a folder. Every name of several classes also takes some of
        them, "bloodmnist(only_classes=['basophil', 'eosinophil'])".
    target : str, optional
        The column of the table that a regression predicts, see `Cases.with_target`; by default the task of the dataset.

    Returns
    -------
    Cases
        Images, table and card.

    Raises
    ------
    ValueError
        If the name or an option is unknown, or the target holds anything but a number for each case.
    FileNotFoundError
        If the folder lacks a file.

    Warns
    -----
    LeakageWarning
        If there are duplicate images, or patients in more than one split.

    Examples
    --------
    >>> import fedlab
    >>> cases = fedlab.load("phantoms(cases=100)")
    >>> len(cases), cases.shape, cases.classes
    (100, (1, 28, 28), ['normal', 'nodule'])
    >>> cases.table["split"].value_counts().to_dict()
    {'train': 66, 'test': 21, 'val': 13}
    """
    cases = _cases(dataset) if target is None else _cases(dataset).with_target(target)
    _LOADED[cases] = canonical(dataset)
    for kind, groups, found, meaning in cases.audit().itertuples(index=False):
        size = f"{_count(found, 'case')} in {_count(groups, 'group')}"
        warn(f"{cases.name}: {kind}: {size} ({meaning})", LeakageWarning)
    return cases


def explain(dataset: str) -> str:
    """What is written about a known dataset: its docstring, or what its package says of it and its options.

    Raises ValueError if there is none of this name.
    """
    registry = _registry()
    name = split_call(dataset, "dataset")[0]
    function = registry.function(name)
    if not isinstance(function, partial):
        return registry.explain(name)
    source, *_ = function.args
    text = source.explain(name) if hasattr(source, "explain") else f"{name}: {registry[name]}"
    options = ", ".join(f"{option}={value!r}" for option, value in source.options(name).items())
    return f"{text}\n\nOptions and their defaults: {name}({options})" if options else text


def folder_of(dataset: str | Path) -> Path | None:
    """The folder that a path, or the name of a folder of one's own, leads to, in its one form; None for other names."""
    if isinstance(dataset, Path) or "/" in dataset or os.sep in dataset:
        known = isinstance(dataset, str) and dataset.split("(")[0].strip() in DATASETS  # its options may hold a path
        return None if known else resolve(dataset)
    places = (home() / dataset, Path(dataset))
    folders = (resolve(place) for place in places if os.path.isfile(place / "card.json"))  # noqa: PTH113 (a long name)
    found = next(folders, None)
    return None if found and dataset.split("(")[0].strip() in DATASETS else found


def canonical(dataset: str | Path) -> str:
    """The one text of a dataset: a name, or the path of a folder that is not among the prepared ones."""
    folder = folder_of(dataset)
    named = folder is None or (folder.parent, folder.name) == (home(), dataset)
    return str(dataset if named else folder)


def described(cases: Cases) -> str:
    """The text by which these cases were loaded; the name on their card if they were made or chosen otherwise."""
    return _LOADED.get(cases, cases.name)


def loaded_from(cases: Cases) -> str | None:
    """The text by which these cases were loaded; None if they were made or chosen otherwise."""
    return _LOADED.get(cases)


def segments(dataset: str | Path) -> bool:
    """Whether a dataset is for segmentation, from its arguments or its card; nothing is prepared or loaded."""
    name = str(dataset).split("(")[0].strip()
    if isinstance(dataset, str) and name in DATASETS:
        if name != phantoms.__name__:
            return "segmentation" in DATASETS[name]
        bound = inspect.signature(phantoms).bind_partial(
            *(parsed := _registry().parse(split_choice(dataset)[0]))[1], **parsed[2]
        )
        return bool(bound.arguments.get("task") == "segmentation")
    folder = folder_of(dataset)
    try:
        return folder is not None and bool(read_json(folder / "card.json").get("task") == "segmentation")
    except (OSError, ValueError, AttributeError):  # reported when it is loaded
        return False


def _count(number: int, what: str) -> str:
    """`1 case`, `1,200 cases`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _cases(dataset: str | Path) -> Cases:
    """Load a dataset without an audit."""
    if not isinstance(dataset, str | Path):
        raise ValueError(f"dataset is {dataset!r}: give a name such as 'phantoms', or the path of a folder")
    name = str(dataset).split("(")[0].strip()
    if isinstance(dataset, str) and name in DATASETS:  # its options may hold a path
        whole, chosen = split_choice(dataset)
        function, values, named = _registry().parse(whole)
        cases: Cases = function(*values, **named)
        return cases if chosen is None else only_classes(cases, chosen)
    folder = folder_of(dataset)
    if folder is None or not (folder / "cases.parquet").is_file():
        _explain_import(folder or Path(dataset))
    if folder:
        return read(folder)
    raise ValueError(
        f"unknown dataset {dataset!r}: {nearest(name, DATASETS)} The path of a folder with cases.parquet, images.npy"
        " and card.json works too"
    )


def _explain_import(path: Path) -> None:
    """Refuse a table, or a folder of images, with the call that imports it; nothing if it is neither."""
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError:  # a name that is too long
        return
    if is_file and path.suffix.lower() in TABLES:
        raise ValueError(
            f"{path} is a table, and a dataset is a folder of images with their labels: import both once, with"
            f" fedlab.import_images('FOLDER OF IMAGES', '{path.name}', name='mine'), then load 'mine'"
        )
    if is_file:
        raise ValueError(
            f"{path} is a file: give the folder of a dataset, or make one of your images once, with"
            " fedlab.import_images(folder, table, name='mine')"
        )
    if is_folder and (image := _an_image(path)):
        raise FileNotFoundError(
            f"{path} has no cases.parquet: it holds images, such as {image}, that are not imported yet. Import them"
            f" once, with fedlab.import_images({path.name!r}, name='mine') if there is one folder a class, or with a"
            f" table of labels, fedlab.import_images({path.name!r}, 'labels.csv', name='mine'); then load 'mine'"
        )


def _an_image(folder: Path) -> str:
    """The name of an image in a folder or in those below it; empty if the first files are none."""
    first = itertools.islice(folder.rglob("*"), SEARCHED)
    return next((path.name for path in first if path.name.lower().endswith(IMAGES)), "")


@cache
def _registry() -> Registry:
    """The phantoms and all datasets of installed packages."""
    registry = Registry("dataset")
    registry.add(phantoms)
    for source in (point.load() for point in entry_points(group="fedlab.datasets")):
        for name, meaning in source.sources().items():
            registry.add(partial(_prepared, source, name), name=name, meaning=meaning)
    return registry


def _prepared(source: Any, name: str, /, *values: Any, **options: Any) -> Cases:
    """Prepare a dataset of a package and read it."""
    if values:
        example = ", ".join(f"{key}={value!r}" for key, value in source.options(name).items())
        raise ValueError(
            f"dataset {name!r} was given {values} without names: write the options as in {name}({example})"
        )
    _check_options(source, name, options)
    return read(source.prepare(name, **options))


def check(dataset: str) -> None:
    """Refuse options that a known dataset does not take, before it is prepared."""
    name = dataset.split("(")[0].strip()
    if "(" not in dataset or name not in DATASETS:
        return
    function, _, named = _registry().parse(split_choice(dataset)[0])
    if isinstance(function, partial):
        source, *_ = function.args
        _check_options(source, name, named)


def _check_options(source: Any, name: str, options: Mapping[str, Any]) -> None:
    """Refuse what is no option of a dataset; where it is written is no option."""
    known = source.options(name)
    for option in options:
        if option not in known:
            hint = nearest(option, known) if known else "it has none"
            where = f"; the folder is chosen by {source.__name__}.prepare" if option == "folder" else ""
            raise ValueError(f"dataset {name!r} has no option {option!r}: {hint}{where}")
