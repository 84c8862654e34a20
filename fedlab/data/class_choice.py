"""Some classes of a dataset: the option `only_classes`, which every known dataset takes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fedlab.core.registry import nearest, split_call
from fedlab.data.cases import Cases

OPTION = "only_classes"
TASKS = ("multiclass", "ordinal")
SOURCE = "source_classes"  # field of the card: the classes that could be chosen


def split_choice(dataset: str) -> tuple[str, list[str] | None]:
    """Return a dataset's text without its choice of classes, and that choice, None for all.

    Examples
    --------
    >>> from fedlab.data.class_choice import split_choice
    >>> split_choice("retinamnist(size=28, only_classes=['0', '4'])")
    ('retinamnist(size=28)', ['0', '4'])
    """
    if OPTION not in dataset:
        return dataset, None
    name, values, named = split_call(dataset, "dataset")
    if OPTION not in named:
        return dataset, None
    chosen = named.pop(OPTION)
    if not isinstance(chosen, list | tuple) or not all(isinstance(each, str) for each in chosen):
        raise ValueError(f"{OPTION} is {chosen!r}: list the names of classes, e.g. {name}({OPTION}=['a', 'b'])")
    return _written(name, values, named), list(chosen)


def with_choice(dataset: str, chosen: Sequence[str] | None) -> str:
    """Return a dataset's text with another choice of classes, None for all.

    Examples
    --------
    >>> from fedlab.data.class_choice import with_choice
    >>> with_choice("retinamnist", ["0", "4"])
    "retinamnist(only_classes=['0', '4'])"
    """
    whole, _ = split_choice(dataset)
    if chosen is None:
        return whole
    name, values, named = split_call(whole, "dataset")
    return _written(name, values, {**named, OPTION: list(chosen)})


def _written(name: str, values: Sequence[Any], named: dict[str, Any]) -> str:
    """Write a call; without arguments its name alone."""
    words = [*map(repr, values), *(f"{key}={value!r}" for key, value in named.items())]
    return f"{name}({', '.join(words)})" if words else name


def only_classes(cases: Cases, chosen: Sequence[str]) -> Cases:
    """Return the cases of the chosen classes, in the dataset's order of classes; two classes are a binary task."""
    if cases.task not in TASKS:
        raise ValueError(
            f"{OPTION} was given for {cases.name}, whose task is {cases.task}: choose classes of a task of several,"
            f" one of {', '.join(TASKS)}"
        )
    for name in chosen:
        if name not in cases.classes:
            raise ValueError(f"{cases.name} has no class {name!r}: {nearest(name, cases.classes)}")
    kept = [name for name in cases.classes if name in chosen]
    if len(kept) < 2 or len(chosen) > len(set(chosen)):
        raise ValueError(f"{OPTION} is {list(chosen)!r}: name at least two different classes of {cases.classes}")
    place = np.full(len(cases.classes), -1)
    place[[cases.classes.index(name) for name in kept]] = np.arange(len(kept))
    some = cases.take(place[cases.labels] >= 0)
    card = {**cases.card, "classes": kept, SOURCE: cases.classes, **({"task": "binary"} if len(kept) == 2 else {})}
    return replace(some, table=some.table.assign(label=place[some.labels]), card=card)


def source_classes(cases: Cases) -> list[str]:
    """Return the classes that can be chosen; none for a task whose classes cannot."""
    return list(cases.card.get(SOURCE, cases.classes if cases.task in TASKS else []))
