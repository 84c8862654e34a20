"""A synthetic patient covariate whose confounding is known, for cases that come without metadata."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlab.cases import Cases
from fedlab.randomness import stream

Bits = NDArray[np.int64]


@dataclass(frozen=True)
class Covariate:
    """A ~ Bernoulli(sigmoid(-c/2 + c y)), so that the odds ratio of covariate and disease is e^c; one draw a patient.

    confounding: c. visible: how strongly the covariate shows in the image, 0 not at all.
    """

    seed: int
    confounding: float = 0.0
    visible: float = 0.0

    def draw(self, cases: Cases) -> Bits:
        """(n,) 0 or 1; y is whether the patient has any finding."""
        _, unit = np.unique(cases.units, return_inverse=True)
        ill = np.zeros(unit.max(initial=-1) + 1, bool)
        np.logical_or.at(ill, unit, cases.labels > 0)
        chance = 1 / (1 + np.exp(-self.confounding * (ill - 0.5)))
        drawn = stream(self.seed, "population", "covariate").random(len(ill)) < chance
        return drawn[unit].astype(np.int64)

    def show(self, images: NDArray[np.generic], bits: Bits) -> NDArray[np.generic]:
        """Images (n, channels, height, width[, depth]) in which a covariate of 1 widens the body and brightens it.

        At visible = 1 the habitus is a tenth larger and a twentieth of the range brighter.
        """
        if not self.visible or not bits.any():
            return images
        shown = np.array(images)
        full = 255.0 if images.dtype == np.uint8 else 1.0
        for row in np.flatnonzero(bits):
            wide = _enlarged(shown[row].astype(np.float32), 1 + 0.1 * self.visible)
            wide = np.clip(wide + 0.05 * self.visible * full, 0, full)
            shown[row] = np.rint(wide) if full == 255 else wide
        return shown


def _enlarged(image: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """(channels, ...) seen `factor` times larger about its centre, by linear interpolation."""
    from scipy.ndimage import affine_transform

    space = np.array(image.shape[1:])
    centre = (space - 1) / 2
    scale = np.full(len(space), 1 / factor)
    return np.stack([affine_transform(part, scale, centre - scale * centre, order=1, mode="nearest") for part in image])
