"""Public datasets as folders that `fedlab` reads: one script a source, one shared writer.

A script defines `DATASETS`, name -> one-line meaning, and `prepare(name, folder, *, limit=None, ...) -> Path`. Lying in
this folder is all it takes for its datasets to be known, here and in `fedlab.load`.
"""

import importlib
import inspect
import pkgutil
import re
from functools import cache, partial
from pathlib import Path
from typing import Any

from fedlab.core.registry import Registry, nearest
from fedlab.data.home import home

MEANS = ("source", "accept_licence")  # how a user comes by a dataset: no part of what it is, nor of its folder's name


@cache
def sources() -> Registry:
    """Every dataset that a script in this folder can prepare: name -> one-line meaning."""
    registry = Registry("dataset")
    for script in pkgutil.iter_modules(__path__):
        if script.name.startswith("_"):
            continue
        source = importlib.import_module(f"{__name__}.{script.name}")
        for name, meaning in getattr(source, "DATASETS", {}).items():
            registry.add(partial(source.prepare, name), name=name, meaning=meaning)
    return registry


def options(name: str) -> dict[str, Any]:
    """What a dataset lets a user choose, with the defaults, e.g. {"limit": None, "size": 28}."""
    parameters = inspect.signature(sources().function(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def prepare(name: str, folder: str | Path | None = None, limit: int | None = None, **chosen: Any) -> Path:
    """The folder of a dataset, fetched and converted unless it is there already.

    folder: where to; by default in `$FEDLAB_DATA`, named after dataset and options. limit: at most so many cases,
    stratified by split and class. The rest are the dataset's own options, see `options`: some ask for `source`, the
    folder of a download made by hand, and `accept_licence`, and only until the dataset is prepared.
    """
    known = options(name)
    for option in chosen:
        if option not in known:
            raise ValueError(f"dataset {name!r} has no option {option!r}: {nearest(option, known)}")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit is {limit!r}: give the most cases to keep, a whole number of at least 1")
    wanted = {**known, **chosen, "limit": limit}
    target = Path(folder).expanduser() if folder else home() / _folder_name(name, wanted, known)
    return sources().function(name)(target, **wanted)


def _folder_name(name: str, wanted: dict[str, Any], known: dict[str, Any]) -> str:
    """`pneumoniamnist_64_limit500`: what differs from the defaults; a size is written as in the published files."""
    parts = [
        f"{'' if key == 'size' else key}{value}"
        for key, value in sorted(wanted.items(), reverse=True)
        if key not in MEANS and value != known[key]
    ]
    return re.sub(r"[^\w.-]+", "-", "_".join([name, *parts]))
