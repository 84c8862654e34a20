"""Images as scanners show them, kept while a slider moves: most cases stay at their site, and its scanner as it is."""

from collections.abc import Callable
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import Ints
from fedlab.data.cases import Cases

MOST = 2**25  # bytes of images that are kept of a dataset

Images = NDArray[Any]


class ScannedImages:
    """The images of a dataset that scanners showed last, each as the scanner rendered it."""

    def __init__(self, most: int = MOST) -> None:
        self.most, self._kept, self._lock = most, dict[tuple[str, int], Images](), Lock()

    def show(self, rows: Ints, scanner: object, render: Callable[[Ints], Images]) -> Images:
        """Return `render(rows)`, (n, ...), of which only the images are rendered that this scanner did not show yet.

        The representation of a scanner must name all that its images depend on, and an image must not depend on the
        other rows.
        """
        name = repr(scanner)
        with self._lock:
            new = np.array([row for row in {*map(int, rows)} if (name, row) not in self._kept], np.int64)
            fresh = zip(map(int, new), render(new), strict=True) if len(new) else ()
            self._kept |= {(name, row): image.copy() for row, image in fresh}
            found = {row: self._kept.pop((name, row)) for row in map(int, dict.fromkeys(rows))}
            self._kept |= {(name, row): image for row, image in found.items()}  # those shown last come last
            self._forget()
        return np.stack([found[row] for row in map(int, rows)]) if len(rows) else render(rows)

    def _forget(self) -> None:
        """Forget the images that were not shown for longest."""
        size = next((image.nbytes for image in self._kept.values()), 0)
        for _ in range(len(self._kept) - self.most // max(1, size)):
            self._kept.pop(next(iter(self._kept)))


_scanned: WeakKeyDictionary[Cases, ScannedImages] = WeakKeyDictionary()


def scanned_images(cases: Cases) -> ScannedImages:
    """Return what is kept of these cases, as long as they are."""
    return _scanned.setdefault(cases, ScannedImages())
