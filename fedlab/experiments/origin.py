"""Where a run comes from: versions of packages, commits, and the text and file of functions of one's own."""

import inspect
import re
import subprocess
from contextlib import suppress
from functools import cache, lru_cache, partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from fedlab.experiments.experiment import CODE, Experiment

FEDLAB = "fedlab-workbench"
FURTHER = ("timm", "torchvision")  # packages that a model may come from and that fedlab does not require
SECONDS = 5  # that git may take


def packages() -> dict[str, str]:
    """The version of fedlab, of each package that it requires, and of those that models may come from."""
    return dict(_installed())


@cache
def _installed() -> dict[str, str]:
    """The versions, read once a process."""
    try:
        needed = [
            re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in requires(FEDLAB) or () if "extra ==" not in text
        ]
    except PackageNotFoundError:  # a checkout that is not installed
        needed = ["torch", "monai", "numpy", "pandas", "scikit-learn", "scipy"]
    found = {FEDLAB: "not installed as a package"}
    for name in (FEDLAB, *needed, *FURTHER):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@lru_cache(maxsize=64)
def commit(folder: Path) -> str:
    """The commit of the git repository of a folder, with "-dirty" if files differ from it; empty if there is none."""
    try:
        describe = ("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
        command = ["git", "--no-optional-locks", "-C", str(folder), *describe]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, encoding="utf-8")
        return done.stdout.strip() if done.returncode == 0 else ""
    except (OSError, subprocess.SubprocessError, ValueError):
        return ""


def fedlab_commit() -> str:
    """The commit of the checkout that fedlab runs from; empty if it is installed as a package."""
    root = Path(__file__).parents[2]
    return commit(root) if (root / ".git").exists() else ""


def own_code(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """Of each function of the user's own that the experiment names: registry, file, line, commit, and the whole text.

    The text is that of the fingerprint: the function, all that it calls of the user's own, and the values that it uses.
    """
    found = {}
    for field, name in dict.fromkeys(experiment.user_names()):
        place = _place(CODE[field].function(name))
        found[name] = {"kind": CODE[field].kind, **place, "text": CODE[field].fingerprint(name)}
    return found


def _place(function: Any) -> dict[str, Any]:
    """The file and line of a function, and the commit of its repository; empty if it was typed at a prompt."""
    try:
        called = inspect.unwrap(function.func if isinstance(function, partial) else function)
        file = Path(inspect.getsourcefile(called) or "").resolve()
        if not file.is_file():
            return {"file": "", "line": 0}
        at = {"file": str(file), "line": inspect.getsourcelines(called)[1]}
        return at | ({"commit": found} if (found := commit(file.parent)) else {})
    except (OSError, TypeError, ValueError):
        return {"file": "", "line": 0}
