"""Functions as a notebook cell defines them: in no file, but with a source that `inspect` finds."""

import itertools
import linecache
from typing import Any

CELLS = itertools.count()


def defined(source: str, **names: Any) -> Any:
    """The function `mine` of a cell in which these names are known."""
    cell = f"<cell {next(CELLS)}>"
    linecache.cache[cell] = (len(source), None, source.splitlines(keepends=True), cell)
    known = {"__name__": "__main__", **names}
    exec(compile(source, cell, "exec"), known)
    return known["mine"]
