"""The folder of prepared datasets, and whether others may be downloaded."""

import os
from pathlib import Path

from fedlab.core.files import resolve

OFFLINE = "FEDLAB_OFFLINE"  # environment variable: 1 forbids downloads


def home() -> Path:
    """`$FEDLAB_DATA`, or the user's cache folder."""
    if chosen := os.environ.get("FEDLAB_DATA"):
        return resolve(chosen)
    import pooch

    return resolve(pooch.os_cache("fedlab"))
