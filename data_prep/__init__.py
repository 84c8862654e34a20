"""Public datasets as folders that `fedlab` reads: one script for each source, one shared writer.

A script defines `DATASETS`, name -> one-line meaning, and `prepare(name, folder, *, limit=None, ...) -> Path`. Every
script in this folder is found, here and by `fedlab.load`. `import_images` does the same for images of one's own.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from data_prep.importing.imports import import_images
from fedlab.core.files import resolve, sweep
from fedlab.core.registry import Registry, nearest
from fedlab.data.home import home

__all__ = ["import_images", "options", "prepare", "sources"]

ACCESS = ("source", "accept_licence")  # how a user obtains a dataset: not part of its identity or its folder's name


@cache
def sources() -> Registry:
    """All datasets that can be prepared: name -> one-line meaning.

    Returns
    -------
    Registry
        A read-only mapping.

    Examples
    --------
    >>> import data_prep
    >>> "pneumoniamnist" in data_prep.sources()
    True
    """
    registry = Registry("dataset")
    for source in _scripts():
        for name, meaning in source.DATASETS.items():
            registry.add(partial(source.prepare, name), name=name, meaning=meaning)
    return registry


def _scripts() -> Iterator[Any]:
    """The scripts in this folder, each for the datasets of one source."""
    for script in pkgutil.iter_modules(__path__):
        source = None if script.name.startswith("_") else importlib.import_module(f"{__name__}.{script.name}")
        if hasattr(source, "DATASETS"):
            yield source


def explain(name: str) -> str:
    """What a dataset is, what it needs, and under which licence: paragraphs for the help of the command."""
    source = next(source for source in _scripts() if name in source.DATASETS)
    terms = getattr(source, "TERMS", None) or (source.SETS[name].terms if hasattr(source, "SETS") else None)
    parts = [f"{name}: {source.DATASETS[name]}", *str(source.__doc__).strip().split("\n\n")]
    parts += [f"Licence: {terms.licence}: {terms.duty}. See {terms.url}", terms.advice] if terms else []
    return "\n\n".join(" ".join(part.split()) for part in parts)


def options(name: str) -> dict[str, Any]:
    """The options of a dataset and their defaults.

    Parameters
    ----------
    name : str
        A name of `sources()`.

    Returns
    -------
    dict
        Option -> default.

    Raises
    ------
    ValueError
        If the name is unknown.

    Examples
    --------
    >>> import data_prep
    >>> data_prep.options("pneumoniamnist")
    {'limit': None, 'size': 28}
    """
    parameters = inspect.signature(sources().function(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def prepare(name: str, folder: str | Path | None = None, limit: int | None = None, **chosen: Any) -> Path:
    """Download and convert a dataset, unless its folder holds it already, undamaged.

    Parameters
    ----------
    name : str
        A name of `sources()`.
    folder : str or Path, optional
        The folder to write. By default in `$FEDLAB_DATA`, or in the user's cache, named after dataset and options.
    limit : int, optional
        Largest number of cases, a sample stratified by split and class. By default all.
    **chosen
        Options of the dataset, see `options`. Some datasets need `source`, the folder of files that you downloaded
        yourself, and `accept_licence=True`, the first time they are prepared. A `source` given later must hold the
        files that the folder was prepared from.

    Returns
    -------
    Path
        The folder, which `fedlab.load` reads.

    Raises
    ------
    ValueError
        If the name or an option is unknown, or a value is not possible.
    ConnectionError
        If a file cannot be downloaded.
    FileExistsError
        If the folder holds another dataset, or one from other files than those in `source`.
    PermissionError
        If the licence was not accepted.
    FileNotFoundError
        If `source` lacks a file.
    OSError
        If the disk is too full.

    Warns
    -----
    UserWarning
        If the folder is damaged and prepared again, with the damage; or if cells of a table cannot be read, with their
        number and examples.

    Examples
    --------
    >>> import data_prep
    >>> data_prep.prepare("pneumoniamnist", limit=100)  # doctest: +SKIP
    """
    known = options(name)
    for option in chosen:
        if option not in known:
            raise ValueError(f"dataset {name!r} has no option {option!r}: {nearest(option, known)}")
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise ValueError(f"limit is {limit!r}: give the largest number of cases, a whole number of at least 1")
    wanted = {**known, **chosen, "limit": limit}
    target = resolve(folder) if folder is not None else home() / _folder_name(name, wanted, known)
    sweep(target.parent)
    return sources().function(name)(target, **wanted)


def _folder_name(name: str, wanted: dict[str, Any], known: dict[str, Any]) -> str:
    """Name a folder after the options that differ from the defaults: `pneumoniamnist_64_limit500`."""
    parts = [
        f"{'' if key == 'size' else key}{value}"
        for key, value in sorted(wanted.items(), reverse=True)
        if key not in ACCESS and value != known[key]
    ]
    return re.sub(r"[^\w.-]+", "-", "_".join([name, *parts]))
