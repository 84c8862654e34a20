"""The folder of prepared datasets."""

import os
from pathlib import Path


def home() -> Path:
    """`$FEDLAB_DATA`, or the user's cache folder."""
    if chosen := os.environ.get("FEDLAB_DATA"):
        return Path(chosen).expanduser()
    import pooch

    return Path(pooch.os_cache("fedlab"))
