"""Image transforms of stains, lamps, cameras and image files in colour; and a burned-in marker."""

import io

import numpy as np

from fedlab.core.typing import Bools
from fedlab.heterogeneity.acquisition.optics import Pixels, ScanContext

STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])  # optical density in R, G, B of each
DARK = 1 / 255  # light that passes the densest stain
MAX_ROWS = 60_000  # of one JPEG file
BLOCK = 8  # pixels of a JPEG block


def haematoxylin(x: Pixels, change: float, scan: ScanContext) -> Pixels:
    """Change the blue stain of nuclei (in a blood smear, the azure dyes) by this share."""
    return _stained(x, 0, change)


def eosin(x: Pixels, change: float, scan: ScanContext) -> Pixels:
    """Change the pink stain of cytoplasm by this share."""
    return _stained(x, 1, change)


def residual(x: Pixels, change: float, scan: ScanContext) -> Pixels:
    """Change the brown residual that neither stain explains by this share."""
    return _stained(x, 2, change)


def _stained(x: Pixels, stain: int, change: float) -> Pixels:
    """Change the concentration c of one stain: c' = c + change (c + sd of c in the image) (Tellez 2019).

    Only this concentration changes, so that the density moves along the colour of the stain. Difference from the paper:
    the constant part decreases with the transmitted light, so that bare glass takes no stain.
    """
    c = concentration(x, stain)
    spread = c.std(axis=tuple(range(1, c.ndim)), keepdims=True)
    more = np.float32(change) * (c + spread * (1 - x.min(axis=1)))
    passed = [np.exp(more * np.float32(-density)) for density in STAINS[stain]]
    return (x + np.float32(DARK)) * np.stack(passed, axis=1) - np.float32(DARK)


def concentration(x: Pixels, stain: int) -> Pixels:
    """Concentration of haematoxylin (0), eosin (1) or the residual (2), (n, ...), by colour deconvolution.

    Ruifrok and Johnston 2001. Optical density is -ln of the transmitted light, of which DARK always passes.
    """
    density = np.log(np.float32(1 + DARK)) - np.log(x + np.float32(DARK))
    weights = np.linalg.inv(STAINS)[:, stain].astype(np.float32)
    return weights[0] * density[:, 0] + weights[1] * density[:, 1] + weights[2] * density[:, 2]


def transmitted(c: Pixels) -> Pixels:
    """Return RGB images (n, 3, ...) of concentrations (n, 3, ...): the inverse of `concentration`."""
    density = np.einsum("sd,ns...->nd...", STAINS.astype(np.float32), c)
    return np.exp(-density) * np.float32(1 + DARK) - np.float32(DARK)


def temperature(x: Pixels, warmth: float, scan: ScanContext) -> Pixels:
    """White balance: red times e^warmth, blue times e^-warmth."""
    factors = np.exp(np.float32(warmth) * np.array([1, 0, -1], np.float32))
    return x * factors.reshape(3, *(1,) * (x.ndim - 2))


def saturation(x: Pixels, factor: float, scan: ScanContext) -> Pixels:
    """Saturation: multiply the distance of each colour from the grey of the same mean."""
    grey = x.mean(axis=1, keepdims=True)
    return grey + np.float32(factor) * (x - grey)


def vignette(x: Pixels, loss: float, scan: ScanContext) -> Pixels:
    """Vignetting: light 1 - loss r^2 at distance r from the centre, r = 1 in the corners."""
    y, z = np.ogrid[-1 : 1 : x.shape[2] * 1j, -1 : 1 : x.shape[3] * 1j]
    fall = (1 - loss * (y**2 + z**2) / 2).astype(np.float32)
    return x * fall.reshape(*fall.shape, *(1,) * (x.ndim - 4))


def jpeg(x: Pixels, quality: float, scan: ScanContext) -> Pixels:
    """JPEG compression of this quality (1 to 95), colours at full resolution; volumes slice by slice.

    The images of a batch share one file, each a whole number of blocks, which JPEG codes independently.
    """
    slices = x if x.ndim == 4 else np.moveaxis(x, -1, 1).reshape(-1, x.shape[1], *x.shape[2:4])
    n, channels, height, width = slices.shape
    kind = 3 if channels == 3 else 1
    pages = slices.reshape(-1, kind, height, width)
    tall = -(-height // BLOCK) * BLOCK
    step = max(1, MAX_ROWS // tall)
    coded = np.concatenate([_coded(pages[i : i + step], round(quality), tall) for i in range(0, len(pages), step)])
    coded = coded.reshape(n, channels, height, width)
    if x.ndim == 4:
        return coded
    return np.moveaxis(coded.reshape(len(x), x.shape[4], *x.shape[1:4]), 1, -1)


def _coded(pages: Pixels, quality: int, tall: int) -> Pixels:
    """Compress pages (n, 1 or 3, height, width) in one file of n pages above each other, padded with their edges."""
    from PIL import Image

    n, _, height, width = pages.shape
    margins = ((0, 0), (0, 0), (0, tall - height), (0, -width % BLOCK))
    whole = np.rint(np.clip(np.pad(pages, margins, mode="edge"), 0, 1) * 255).astype(np.uint8)
    sheet = np.moveaxis(whole, 1, -1).reshape(n * tall, whole.shape[3], -1)
    file = io.BytesIO()
    Image.fromarray(sheet.squeeze(-1) if sheet.shape[-1] == 1 else sheet).save(
        file, "JPEG", quality=quality, subsampling=0
    )
    back = np.asarray(Image.open(file)).reshape(n, tall, whole.shape[3], -1)[:, :height, :width]
    return np.moveaxis(back, -1, 1).astype(np.float32) / np.float32(255)


def marker(x: Pixels, correlation: float, scan: ScanContext) -> Pixels:
    """Burned-in marker: a bright letter in a corner with probability 1/2 + correlation / 2 (2 positive - 1).

    At correlation 1 it reveals the disease, at -1 its absence: a shortcut (Zech 2018,
    doi:10.1371/journal.pmed.1002683).
    """
    if scan.positive is None:
        raise ValueError("a marker depends on the labels: call apply(images, case_ids, labels) with labels in [0, 1]")
    probability = 0.5 + correlation / 2 * (2 * np.asarray(scan.positive) - 1)
    has_marker = np.array([rng.random() for rng in scan.case_rngs("marker")]) < probability
    marked = x.copy()
    letter = _letter(x.shape[2:4]).reshape(*x.shape[2:4], *(1,) * (x.ndim - 4))
    marked[has_marker] = np.where(letter, 1, x[has_marker])
    return marked


def _letter(size: tuple[int, ...]) -> Bools:
    """Return a mask (height, width) of a letter L, a seventh of the image high."""
    unit = max(1, round(min(size) / 28))
    letter = np.zeros(size, bool)
    letter[unit : 5 * unit, unit : 2 * unit] = True
    letter[4 * unit : 5 * unit, unit : 4 * unit] = True
    return letter
