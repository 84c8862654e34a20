"""The folder of prepared datasets."""

import os
from pathlib import Path

from fedlab.core.files import resolve


def home() -> Path:
    """`$FEDLAB_DATA`, or the user's cache folder."""
    if chosen := os.environ.get("FEDLAB_DATA"):
        return resolve(chosen)
    import pooch

    return resolve(pooch.os_cache("fedlab"))
