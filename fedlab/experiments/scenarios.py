"""Named scenarios: heterogeneity that people recognise, each a YAML file of parameters that papermill reads, too."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from fedlab.core.registry import nearest

FOLDER = Path(__file__).with_name("scenario_files")


class Scenarios(Mapping[str, str]):
    """Names of scenarios and their one-line meanings.

    Examples
    --------
    >>> import fedlab
    >>> fedlab.SCENARIOS["one_old_scanner"].split(":")[0]
    'One old scanner, for radiographs'
    >>> fedlab.Experiment(rounds=5, **fedlab.SCENARIOS.fields("a_new_hospital")).unseen
    1
    """

    def __getitem__(self, name: str) -> str:
        return _read()[name][0]

    def __iter__(self) -> Iterator[str]:
        return iter(_read())

    def __len__(self) -> int:
        return len(_read())

    def __repr__(self) -> str:
        width = max(map(len, self))
        return "\n".join(f"{name:{width}}  {meaning}" for name, meaning in self.items())

    def fields(self, name: str) -> dict[str, Any]:
        """Return the fields of `fedlab.Experiment` that a scenario sets: sites, all axes, held-out sites.

        Raises ValueError with the nearest name if there is none of this name.
        """
        self.path(name)
        return {field: list(value) if isinstance(value, list) else value for field, value in _read()[name][1].items()}

    def path(self, name: str) -> Path:
        """Return the YAML file of a scenario, for `papermill -f`."""
        if name not in self:
            raise ValueError(f"unknown scenario {name!r}: {nearest(name, self)}")
        return FOLDER / f"{name}.yaml"


@cache
def _read() -> dict[str, tuple[str, dict[str, Any]]]:
    """Name -> (meaning, fields) of all files."""
    found = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        found[path.stem] = text.split("\n")[0].removeprefix("#").strip(), yaml.safe_load(text)
    return found


SCENARIOS = Scenarios()
