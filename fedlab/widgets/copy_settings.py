"""Arguments of `fedlab.partition` as text to copy: options of papermill and YAML.

All arguments are written, also those at their default: a notebook has defaults of its own in its parameters cell.
"""

import inspect
import shlex
from typing import Any

import yaml

from fedlab.heterogeneity.axes import AXES
from fedlab.partitioning.build import partition
from fedlab.plots.measured_shift import NAMES

ORDER = tuple(NAMES)  # of the axes on the panel
NOTEBOOK = {"seed": "partition_seed"}  # its name in notebooks and experiments, whose `seed` is that of training
COUNTS = ("sites", "unseen", "seed")
READ_AS_VALUES = ("True", "False", "None")  # by papermill -p


def signature() -> dict[str, Any]:
    """Return the arguments of `fedlab.partition` except the cases, with their defaults."""
    parameters = list(inspect.signature(partition).parameters.values())[1:]
    return {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD}


def axes() -> list[str]:
    """Return the axes of heterogeneity that `fedlab.partition` takes."""
    known = signature()
    return [axis for axis in ORDER if axis in known and axis in AXES]


def plain(value: Any) -> Any:
    """Convert a value for YAML and papermill: no numpy, no tuples."""
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def as_papermill(values: dict[str, Any]) -> str:
    """Write all arguments as options of papermill, by the names that notebooks and experiments have for them."""
    return " ".join(_option(name, value) for name, value in _named(values).items())


def as_yaml(values: dict[str, Any]) -> str:
    """Write all arguments for `papermill -f`, by the names that notebooks and experiments have for them."""
    return _yaml(_named(values), flow=False)


def _named(values: dict[str, Any]) -> dict[str, Any]:
    """All arguments of `fedlab.partition` by their names in notebooks; those that are not given at their default.

    values: also `dataset`, `target` and `model`, which come first.
    """
    first = {name: values[name] for name in ("dataset", "target", "model") if name in values}
    return {NOTEBOOK.get(name, name): plain(value) for name, value in (first | signature() | values).items()}


def _option(name: str, value: Any) -> str:
    """Write one option, as YAML where papermill would read a list or another type."""
    if isinstance(value, int | float) or (isinstance(value, str) and _stays_text(value)):
        return f"-p {name} {shlex.quote(str(value))}"
    return f"-y {shlex.quote(_yaml({name: value}, flow=True).strip())}"


def _stays_text(value: str) -> bool:
    """Return whether neither papermill nor YAML reads this text as anything else."""
    try:
        float(value)
        return False
    except ValueError:
        pass
    try:
        return value not in READ_AS_VALUES and bool(yaml.safe_load(value) == value)
    except yaml.YAMLError:
        return False


class _Dumper(yaml.SafeDumper):
    """Writes text with unprintable characters in double quotes, where all of them can be escaped."""


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Choose the quotes of a text."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, None if text.isprintable() else '"')


_Dumper.add_representer(str, _represent)


def _yaml(values: dict[str, Any], flow: bool) -> str:
    """Write YAML that is read as it was written."""
    how: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "width": float("inf")}
    return str(yaml.dump(values, Dumper=_Dumper, default_flow_style=flow, **how))
