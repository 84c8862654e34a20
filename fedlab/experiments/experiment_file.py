"""Experiments as text: YAML with one line a field, `field=value` on a command line, and files of one's own code."""

import importlib.util
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from fedlab.core import files
from fedlab.core.registry import nearest
from fedlab.experiments.experiment import Experiment

KINDS = (bool, int, float, list, type(None))  # what a value on the command line is read as; anything else is text


def load_fields(path: str | Path, kind: str = "experiment", example: str = "method: fedavg") -> dict[str, Any]:
    """The fields in a YAML file, one a line, as they are written there; kind: what the file is, in an error.

    Raises ValueError if the file is no mapping of names to values.
    """
    try:
        fields = yaml.safe_load(files.read_text(files.resolve(path)))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(
            f"{path} is no file: give the YAML file of the {kind}, with a line for each field"
        ) from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(fields, dict) or not all(isinstance(name, str) for name in fields):
        raise ValueError(f"{path} is no {kind}: write a line for each field, such as {example!r}")
    return fields


def load_experiment(path: str | Path, changes: dict[str, Any] | None = None) -> Experiment:
    """The experiment of a YAML file, with some fields changed; validated as `Experiment(...)` is.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from fedlab.experiments.experiment_file import load_experiment
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "experiment.yaml"
    ...     _ = path.write_text("method: local\\nrounds: 3\\n")
    ...     load_experiment(path, {"seed": 2})
    Experiment(dataset='phantoms', method='local', rounds=3, seed=2)
    """
    return Experiment(**{**load_fields(path), **(changes or {})})


def read_fields(texts: Iterable[str]) -> dict[str, Any]:
    """Fields of the form `name=value`.

    Examples
    --------
    >>> from fedlab.experiments.experiment_file import read_fields
    >>> read_fields(["lr=0.1", "method=fedprox(mu=0.01)", "patience=null"])
    {'lr': 0.1, 'method': 'fedprox(mu=0.01)', 'patience': None}
    """
    return {name: read_value(value) for name, value in _split(texts)}


def read_axes(texts: Iterable[str]) -> dict[str, list[Any]]:
    """Fields of the form `name=value,value`, for a grid; commas in brackets and quotes separate nothing.

    Examples
    --------
    >>> from fedlab.experiments.experiment_file import read_axes
    >>> read_axes(["seed=0,1", "method=local,ditto(lam=0.1, local_steps=2)"])
    {'seed': [0, 1], 'method': ['local', 'ditto(lam=0.1, local_steps=2)']}
    """
    return {name: [read_value(value) for value in _at_commas(values)] for name, values in _split(texts)}


def _split(texts: Iterable[str]) -> list[tuple[str, str]]:
    """The names and values of fields, each name once."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name.isidentifier() or not value:
            raise ValueError(f"{text!r} is no field: write field=value, such as rounds=5, without spaces around '='")
        if name not in Experiment.model_fields:
            raise ValueError(f"unknown parameter {name!r}: {nearest(name, Experiment.model_fields)}")
        if name in found:
            raise ValueError(f"{name} is given twice, as {found[name]!r} and {value!r}: give it once")
        found[name] = value
    return list(found.items())


def read_value(text: str) -> Any:
    """The value that a text spells: a number, a list, true, false or null as in YAML; anything else is the text itself.

    Examples
    --------
    >>> from fedlab.experiments.experiment_file import read_value
    >>> [read_value(text) for text in ("3", "1e-3", "[1, 2]", "null", "local", "'3'")]
    [3, 0.001, [1, 2], None, 'local', '3']
    """
    if text == "None":
        return None
    try:
        return float(text) if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+", text) else _as_yaml(text)
    except yaml.YAMLError:
        return text


def _as_yaml(text: str) -> Any:
    """The value that YAML reads, if it is of a kind that fields have and no number that only YAML writes so."""
    value = yaml.safe_load(text)
    quoted = isinstance(value, str) and text[0] in "'\"" and text[-1] == text[0]
    odd = isinstance(value, int) and not isinstance(value, bool) and not re.fullmatch(r"[-+]?(0|[1-9][\d_]*)", text)
    return value if quoted or (isinstance(value, KINDS) and not odd) else text


def _at_commas(text: str) -> list[str]:
    """The parts of a text between the commas that are in no bracket and no quotes."""
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        else:
            depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += sign
    parts = [part.strip() for part in parts]
    if "" in parts:
        raise ValueError(f"{text!r} has an empty value: write values with a comma between two, such as 0,1,2")
    return parts


def load_code(paths: Sequence[str | Path]) -> None:
    """Run files of Python that register functions of one's own, each as the module of its name.

    Raises ValueError if a file is missing, and the error of a file that fails, with a note that names it.
    """
    for path in map(files.resolve, paths):
        if not path.is_file() or path.suffix != ".py":
            raise ValueError(f"{path} is no Python file: give the file that registers your functions, such as own.py")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None or not _free(path):
            raise ValueError(f"{path} has the name of an installed module, {path.stem!r}: rename the file")
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))  # for modules next to it
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        try:
            exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)  # not of a cache of compiled files
        except Exception as error:
            del sys.modules[path.stem]
            raise ValueError(f"{path} cannot be run ({type(error).__name__}: {error})") from error


def _free(path: Path) -> bool:
    """Whether no other module has the name of this file."""
    known = sys.modules.get(path.stem)
    if known is not None:
        file = getattr(known, "__file__", None)
    else:
        spec = importlib.util.find_spec(path.stem)
        if spec is None:
            return True
        file = spec.origin
    return file is not None and files.resolve(file) == path
