"""The experiments of a study: the doses of one axis at a time, each with every method, partition seed and seed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from fedlab.core.arguments import shown
from fedlab.core.registry import nearest
from fedlab.experiments.experiment import Experiment
from fedlab.heterogeneity.axes import AXES

RAISED = ("sites", *AXES)  # fields whose values are doses, raised one at a time
CROSSED = ("partition_seed", "method", "seed")  # fields of which every combination is run
BASE = "base"  # the axis of a run in which no axis is raised


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study: the axis that is raised, its dose, and the experiment."""

    axis: str
    dose: Any
    experiment: Experiment

    def federation(self) -> tuple[str, str, int]:
        """What distinguishes the federation of this run from the others of its study."""
        return self.axis, repr(self.dose), self.experiment.partition_seed


@dataclass(frozen=True)
class Design:
    """What varies in a study, and the experiment that the rest describes.

    base: every axis at its first dose, with the first method and seeds. doses: axis -> its doses, base first. crossed:
    values of each field in `CROSSED`.
    """

    base: Experiment
    doses: dict[str, list[Any]]
    crossed: dict[str, list[Any]]

    @classmethod
    def of(cls, base: Experiment, fields: dict[str, Any]) -> "Design":
        """Read a design from an experiment and fields; lists vary. ValueError where a field or value is impossible."""
        for name in fields:
            if name not in Experiment.model_fields:
                raise ValueError(f"unknown parameter {name!r}: {nearest(name, Experiment.model_fields)}")
        varied = {name: _values(name, fields[name]) for name in (*RAISED, *CROSSED) if _is_list(fields.get(name))}
        fixed = {name: value for name, value in fields.items() if name not in varied}
        first = base.with_(**fixed, **{name: values[0] for name, values in varied.items()})
        doses = {name: varied[name] for name in RAISED if len(varied.get(name, ())) > 1}
        if not doses:
            raise ValueError(
                f"no axis has several doses: give a list to at least one of {', '.join(RAISED)}, such as"
                " prevalence=[0, 0.5, 1]; fedlab.grid runs one federation"
            )
        design = cls(first, doses, {name: varied.get(name, [getattr(first, name)]) for name in CROSSED})
        for planned in design.runs:  # each value is validated
            planned.experiment.check_sites()
        return design

    @cached_property
    def runs(self) -> list[PlannedRun]:
        """All runs, each once: federation by federation, the base first; in each the seeds of one method together."""
        return list(self._runs())

    def _runs(self) -> Iterator[PlannedRun]:
        levels = [(BASE, None), *((axis, dose) for axis, doses in self.doses.items() for dose in doses[1:])]
        for (axis, dose), partition_seed in product(levels, self.crossed["partition_seed"]):
            federation = self.base.with_(partition_seed=partition_seed, **({} if axis == BASE else {axis: dose}))
            for method, seed in product(self.crossed["method"], self.crossed["seed"]):
                yield PlannedRun(axis, dose, federation.with_(method=method, seed=seed))

    def levels(self) -> Iterator[tuple[str, Any, str]]:
        """(axis, dose, axis of its runs) for each dose of each axis; the first dose of every axis is the base."""
        for axis, doses in self.doses.items():
            yield axis, doses[0], BASE
            yield from ((axis, dose, axis) for dose in doses[1:])

    def fields(self) -> dict[str, Any]:
        """All fields of the study as they are written, those that vary first; not those that change speed alone.

        Defaults are written too, so that the study is the same where other defaults hold, as in a notebook.
        """
        rest = self.base.model_dump(exclude={"device", "execution"})
        rest |= {name: [rest[name]] for name in RAISED if isinstance(rest[name], list)}
        crossed = {name: values for name, values in self.crossed.items() if len(values) > 1}
        varied = self.doses | crossed
        return varied | {name: value for name, value in rest.items() if name not in varied}


def _is_list(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str)


def _values(name: str, given: Iterable[Any]) -> list[Any]:
    """The values of a field, none of them twice."""
    values = [value.item() if isinstance(value, np.generic) else value for value in given]
    if not values:
        raise ValueError(f"{name}={given!r} has no value: give at least one")
    for place, value in enumerate(values):
        if value in values[:place]:
            raise ValueError(f"{name} lists {shown(value)} twice: give each value once")
    return values
