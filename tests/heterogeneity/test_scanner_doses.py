"""The dose-response of scanners: the higher the dose, the more the images of sites differ."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from fedlab.data.phantoms import phantoms
from fedlab.heterogeneity.acquisition.scanner import draw
from fedlab.heterogeneity.shift.embedding import Embedding
from fedlab.heterogeneity.site_effects import SiteEffects

SITES = [f"Site {letter}" for letter in "ABCD"]
MIRROR = [Path(part) for part in os.environ.get("FEDLAB_MIRROR", "").split(os.pathsep) if part]
mirror_needed = pytest.mark.skipif(not MIRROR, reason="set FEDLAB_MIRROR to the official files")


def differences(x, value, seed) -> list[float]:
    """Mean squared MMD between four sites of a fixed embedding, over doses 0, 0.2, ..., 1."""
    look, ids = Embedding.fit(x), np.array([f"case-{i}" for i in range(len(x))])
    site = np.random.default_rng(seed).permutation(np.arange(len(x)) % 4)
    found = []
    for h in np.linspace(0, 1, 6):
        shown = x.copy()
        for k, scanner in enumerate(draw(SITES, value.format(h), SiteEffects(4, seed)).values()):
            shown[site == k] = scanner.apply(x[site == k], ids[site == k])
        found.append(mmd2(look(shown), site))
    return found


def mmd2(features, site) -> float:
    norms = (features**2).sum(axis=1)
    squares = np.maximum(norms[:, None] + norms - 2 * features @ features.T, 0)
    kernel = np.exp(-squares / (2 * np.median(squares[np.triu_indices(len(features), 1)])))
    np.fill_diagonal(kernel, 0)
    size = np.bincount(site)
    sums = np.array([[kernel[np.ix_(site == a, site == b)].sum() for b in range(4)] for a in range(4)])
    within = np.diag(sums) / (size * (size - 1))
    gaps = [within[a] + within[b] - 2 * sums[a, b] / (size[a] * size[b]) for a in range(4) for b in range(a)]
    return float(np.mean(gaps))


def rank_correlation(x, value, seeds=3) -> float:
    """Median over seeds of Spearman's correlation between dose and difference."""
    found = [differences(x, value, seed) for seed in range(seeds)]
    assert abs(np.median([row[0] for row in found])) < 0.02 < np.median([row[-1] for row in found])
    return float(np.median([np.corrcoef(np.arange(6), np.argsort(np.argsort(row)))[0, 1] for row in found]))


def test_sites_differ_more_with_every_dose_on_phantoms():
    assert rank_correlation(phantoms(160).images, "xray({})") >= 0.99


def test_sites_differ_more_with_every_dose_on_volumes():
    assert rank_correlation(phantoms(80, size=16, dimensions=3).images, "mri({})") >= 0.99


def official(name: str) -> Path:
    found = [path for root in MIRROR for path in sorted(root.rglob(name))]
    return found[0] if found else pytest.skip(f"no {name} in FEDLAB_MIRROR")


@mirror_needed
@pytest.mark.parametrize(("name", "value"), [("pneumoniamnist", "xray({})"), ("retinamnist", "fundus({})")])
def test_sites_differ_more_with_every_dose_on_real_images(name, value):
    x = np.load(official(f"{name}.npz"))["train_images"][:160]
    assert rank_correlation(np.moveaxis(x, 3, 1) if x.ndim == 4 else x[:, None], value) >= 0.99


@mirror_needed
def test_sites_differ_more_with_every_dose_on_real_volumes():
    folder = official("hippocampus_001.nii.gz").parent.with_name("imagesTr")
    volumes = np.stack([middle(path) for path in sorted(folder.glob("hippocampus_*.nii.gz"))[:60]])[:, None]
    assert rank_correlation(volumes, "mri({})") >= 0.99


def middle(path: Path, edge: int = 24) -> np.ndarray:
    """The middle of a NIfTI volume, uint8, its 99.5th percentile white."""
    raw = gzip.decompress(path.read_bytes())
    shape = struct.unpack("<8h", raw[40:56])[1:4]
    kind = {2: np.uint8, 16: np.float32}[struct.unpack("<h", raw[70:72])[0]]
    start = int(struct.unpack("<f", raw[108:112])[0])
    volume = np.frombuffer(raw, kind, int(np.prod(shape)), start).reshape(shape, order="F").astype(float)
    cut = tuple(slice((n - edge) // 2, (n - edge) // 2 + edge) for n in shape)
    return np.rint(255 * np.clip(volume[cut] / np.percentile(volume, 99.5), 0, 1)).astype(np.uint8)
