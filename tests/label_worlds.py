"""Cases whose labels matter and whose images do not, for laws of which site gets which case."""

import numpy as np
import pandas as pd
import pytest

from fedlab.data.cases import Cases

quiet = pytest.mark.filterwarnings("ignore::fedlab.core.warnings.HeterogeneityWarning")
CLASSES = {"binary": 2, "ordinal": 4, "multiclass": 5, "multilabel": 3}


def made(n=400, task="binary", classes=0, labels=None, split=True, patients=None, seed=0) -> Cases:
    """Tiny images that all differ; classes grow rarer with their number; 60/10/30 official splits if `split`."""
    rng, classes = np.random.default_rng(seed), classes or CLASSES[task]
    if labels is None and task == "multilabel":
        labels = (rng.random((n, classes)) < np.linspace(0.5, 0.2, classes)) @ 2 ** np.arange(classes)
    elif labels is None:
        labels = rng.choice(classes, n, p=np.arange(classes, 0, -1) * 2 / (classes * (classes + 1)))
    table = pd.DataFrame({"case": [f"case-{i:05d}" for i in range(n)], "label": labels})
    if split and patients is None:
        table["split"] = np.repeat(["train", "val", "test"], [n - 2 * n // 5, n // 10, 2 * n // 5 - n // 10])
    if patients:
        table["patient"] = rng.integers(0, patients, n)
    images = rng.integers(0, 256, (n, 1, 4, 4)).astype(np.uint8)
    card = {"name": "made", "task": task, "classes": [f"class {c}" for c in range(classes)]}
    return Cases(images, table, card)
