"""Print the lowest versions that pyproject.toml allows, as constraints for pip: `make test-lowest`.

    python tests/lowest.py [PACKAGE ...]

Packages that are named keep the version of requirements.lock.
"""

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def lowest(requirements: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(package, lowest version) of each requirement that states one."""
    for requirement in requirements:
        name, bound = re.fullmatch(r"([\w.-]+)(?:\[.*\])?\s*(.*)", requirement.split(";")[0].strip()).groups()
        if found := re.search(r">=\s*([\w.]+)", bound):
            yield name.lower(), found[1]


def constraints(locked: Iterable[str] = ()) -> list[str]:
    """The lines of a constraints file. locked: packages that keep the version of requirements.lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    found = dict(pair for group in groups for pair in lowest(group))
    pinned = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines())
    return [f"{name}=={version}" for name, version in sorted((found | {name: pinned[name] for name in locked}).items())]


if __name__ == "__main__":
    print("\n".join(constraints(sys.argv[1:])))
