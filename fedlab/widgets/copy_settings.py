"""Arguments of `fedlab.partition` as text to copy: options of papermill and YAML."""

import inspect
import json
import shlex
from typing import Any

import yaml

from fedlab.heterogeneity.axes import AXES
from fedlab.partitioning.build import partition
from fedlab.plots.measured_shift import NAMES

ORDER = tuple(NAMES)  # of the axes on the panel
NOTEBOOK = {"seed": "partition_seed"}  # its name in notebooks and experiments, whose `seed` is that of training
COUNTS = ("sites", "unseen", "seed")
DIGITS = 10  # a slider's 0.1 + 0.05 is 0.15


def signature() -> dict[str, Any]:
    """Return the arguments of `fedlab.partition` except the cases, with their defaults."""
    parameters = list(inspect.signature(partition).parameters.values())[1:]
    return {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD}


def axes() -> list[str]:
    """Return the axes of heterogeneity that `fedlab.partition` takes."""
    known = signature()
    return [axis for axis in ORDER if axis in known and axis in AXES]


def plain(value: Any) -> Any:
    """Convert a value for YAML and papermill: no numpy, no trailing digits."""
    if isinstance(value, float):
        return round(value, DIGITS)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def as_papermill(values: dict[str, Any]) -> str:
    """Write sites, seed and everything that differs from its default as options of papermill, by notebook names."""
    defaults = signature()
    shown = {k: v for k, v in values.items() if k in ("sites", "seed") or v != defaults.get(k)}
    return " ".join(_option(NOTEBOOK.get(name, name), value) for name, value in shown.items())


def _option(name: str, value: Any) -> str:
    """Write one option, as YAML where papermill would read a list or another type."""
    if isinstance(value, int | float) or (isinstance(value, str) and yaml.safe_load(value) == value):
        return f"-p {name} {shlex.quote(str(value))}"
    return f"-y {shlex.quote(f'{name}: {json.dumps(value)}')}"  # a list, or a text that would be read as another type


def as_yaml(values: dict[str, Any]) -> str:
    """Write sites, axes, held-out sites, seed and everything that differs from its default, for `papermill -f`.

    Names are those of the notebooks' parameters and of `fedlab.Experiment`.
    """
    defaults = signature()
    shown = {k: v for k, v in values.items() if k in (*COUNTS, *ORDER) or v != defaults.get(k)}
    named = {NOTEBOOK.get(name, name): value for name, value in shown.items()}
    return yaml.safe_dump(named, sort_keys=False, allow_unicode=True, default_flow_style=False)
