"""Laws of scanners."""

import time

import numpy as np
import pytest

from fedlab.heterogeneity.acquisition import Scanner, draw, intensity_field
from fedlab.heterogeneity.coordinates import Atlas

HARSH = Scanner("Site A", 3, 0.6, (0.2, -0.1, 0.3, 0.1, 0.2, 0.1, -0.2, 0.1, 0.1), 1.2, 0.05, 1.4, 0.08)


def images(n=6, shape=(1, 12, 12), dtype=np.uint8):
    x = np.random.default_rng(0).random((n, *shape))
    return (255 * x).astype(np.uint8) if dtype == np.uint8 else x.astype(dtype)


def names(n=6):
    return [f"case-{i}" for i in range(n)]


def flat(value, n=4, shape=(1, 40, 40)):
    return np.full((n, *shape), value, np.float16)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16])
@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 9, 14), (1, 7, 8, 6)])
def test_a_case_looks_the_same_in_any_order_and_any_batch(dtype, shape, monkeypatch):
    x, ids = images(6, shape, dtype), names()
    whole = HARSH.apply(x, ids)
    assert whole.dtype == dtype and whole.shape == x.shape and (whole != x).any()
    order = np.array([4, 0, 5])
    np.testing.assert_array_equal(HARSH.apply(x[order], [ids[i] for i in order]), whole[order])
    monkeypatch.setattr("fedlab.heterogeneity.acquisition.CHUNK", 1)  # an image at a time
    np.testing.assert_array_equal(HARSH.apply(x, ids), whole)


def test_noise_belongs_to_site_and_case():
    x = images()
    grainy = Scanner("Site A", 1, noise=0.1)
    same = grainy.apply(x, names())
    assert (grainy.apply(x, names()) == same).all()
    assert (Scanner("Site B", 1, noise=0.1).apply(x, names()) != same).any()
    assert (grainy.apply(x, ["another", *names()[1:]])[0] != same[0]).any()
    assert (grainy.apply(x, ["another", *names()[1:]])[1:] == same[1:]).all()


def test_no_dose_returns_the_very_same_bytes():
    assert draw(["Site A", "Site B"], 0.0, Atlas(2, 1)) == {}
    x = images()
    assert Scanner("Site A", 7).neutral
    assert Scanner("Site A", 7).apply(x, names()) is x


def test_noise_has_its_standard_deviation():
    shown = Scanner("Site A", 0, noise=0.1).apply(flat(0.5), names(4)).astype(float)
    assert shown.std() == pytest.approx(0.1, rel=0.03)
    assert shown.mean() == pytest.approx(0.5, abs=0.005)


def test_gamma_contrast_and_offset_have_their_closed_forms():
    assert Scanner(gamma=2.0).apply(flat(0.25), names(4)).mean() == pytest.approx(0.0625, abs=1e-4)
    assert Scanner(contrast=1.4).apply(flat(0.75), names(4)).mean() == pytest.approx(0.85, abs=1e-3)
    assert Scanner(contrast=0.8, offset=0.05).apply(flat(0.5), names(4)).mean() == pytest.approx(0.55, abs=1e-3)
    assert Scanner(contrast=1.4).apply(flat(1.0), names(4)).max() == 1.0  # clipped


def test_blur_keeps_flat_images_and_spreads_a_point_by_its_width():
    np.testing.assert_allclose(Scanner(blur=1.0).apply(flat(0.5), names(4)), flat(0.5), atol=1e-3)
    point = np.zeros((1, 1, 56, 56), np.float16)
    point[0, 0, 28, 28] = 1
    spread = Scanner(blur=1.0).apply(point, ["a"])[0, 0].astype(float)  # 1 pixel in 28 is 2 pixels in 56
    assert spread.sum() == pytest.approx(1, abs=0.01)
    assert np.sqrt((spread.sum(axis=1) * (np.arange(56) - 28) ** 2).sum()) == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("size", [(9, 12), (6, 7, 8)])
def test_the_intensity_field_changes_no_geometric_mean(size):
    field = intensity_field((0.3, -0.2, 0.1, 0.2, -0.3, 0.1, 0.2, 0.1, -0.1), size)
    assert field.shape == size and field.std() > 0.05
    assert np.log(field).mean() == pytest.approx(0, abs=1e-6)


def test_a_dose_scales_every_effect_of_the_same_scanner():
    sites = [f"Site {letter}" for letter in "ABCDE"]
    full, half = draw(sites, 1.0, Atlas(len(sites), 4)), draw(sites, 0.5, Atlas(len(sites), 4))
    for site in sites:
        assert np.log(full[site].gamma) == pytest.approx(2 * np.log(half[site].gamma))
        assert full[site].noise == pytest.approx(2 * half[site].noise)
        np.testing.assert_allclose(full[site].bias, 2 * np.array(half[site].bias))
        assert 0.5 <= full[site].gamma <= 2 and 0.7 <= full[site].contrast <= 1.4 and 0 <= full[site].noise <= 0.1
    assert sorted(full[site].gamma for site in sites) == pytest.approx([0.5, 2**-0.5, 1, 2**0.5, 2])
    orders = {tuple(np.argsort([getattr(full[s], e) for s in sites])) for e in ("blur", "contrast", "gamma", "noise")}
    assert len(orders) > 1  # each effect has its own order of sites


@pytest.mark.parametrize("value", [-0.1, 1.5, True, "strong", None, float("nan")])
def test_what_is_not_a_dose_is_refused(value):
    with pytest.raises(ValueError, match=r"acquisition is .*between 0"):
        draw(["Site A"], value, Atlas(1, 0))


def test_five_thousand_small_images_in_a_moment():
    x, ids = images(5000, (1, 28, 28)), names(5000)
    start = time.perf_counter()
    HARSH.apply(x, ids)
    assert time.perf_counter() - start < 1.5
