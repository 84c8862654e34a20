"""Laws of the image transforms of scanners: identities, closed forms, moments."""

import io

import numpy as np
import pytest
from PIL import Image

from fedlab.heterogeneity.acquisition import colour, mri, optics
from fedlab.heterogeneity.acquisition.modalities import CHAINS, TRANSFORMS
from fedlab.heterogeneity.acquisition.mri import intensity_field, resampling, sampled
from fedlab.heterogeneity.acquisition.optics import ScanContext, point_spread, separable

SHAPES = [(1, 12, 15), (3, 14, 11), (1, 9, 8, 10)]


def at(n: int, positive=None) -> ScanContext:
    return ScanContext("Site A", 3, [f"case-{i}" for i in range(n)], positive)


def pictures(n=3, shape=(1, 28, 28), texture=0.1) -> np.ndarray:
    """Blobs with some texture, in 0.1 .. 0.9."""
    rng = np.random.default_rng(0)
    x = separable(rng.random((n, *shape)).astype(np.float32), lambda size: point_spread(size, 2.0))
    x = (x - x.min()) / (x.max() - x.min())
    return (0.1 + (0.8 - texture) * x + texture * rng.random(x.shape)).astype(np.float32)


def flat(value: float, n=4, shape=(1, 64, 64)) -> np.ndarray:
    return np.full((n, *shape), value, np.float32)


# optics and kernels


@pytest.mark.parametrize("size", [1, 2, 7, 28])
def test_the_point_spread_keeps_light_and_adds_variances(size):
    one, other = point_spread(size, 0.4), point_spread(size, 1.1)
    np.testing.assert_allclose(point_spread(size, 0.0), np.eye(size), atol=1e-12)
    for ends in (one.sum(axis=0), one.sum(axis=1)):
        np.testing.assert_allclose(ends, 1, atol=1e-12)
    np.testing.assert_allclose(one @ other, point_spread(size, np.hypot(0.4, 1.1)), atol=1e-12)
    assert one.min() > -1e-12


@pytest.mark.parametrize("sd", [0.3, 1.0, 1.7])
def test_a_point_spreads_by_its_width_also_below_a_pixel(sd):
    point = np.zeros((1, 1, 56, 56), np.float32)
    point[0, 0, 28, 28] = 1
    spread = optics.blur(point, sd / 2, at(1))[0, 0].astype(float)  # half a pixel in 28 is one in 56
    assert spread.sum() == pytest.approx(1, abs=1e-5)
    assert (spread.sum(axis=1) * (np.arange(56) - 28) ** 2).sum() == pytest.approx(sd**2, rel=1e-4)


def test_blur_is_nearly_the_gaussian_filter():
    from scipy.ndimage import gaussian_filter

    x = pictures(1, (1, 56, 56), texture=0.0)
    np.testing.assert_allclose(optics.blur(x, 1.0, at(1))[0, 0], gaussian_filter(x[0, 0], 2.0), atol=5e-3)


def test_a_sharp_kernel_adds_what_a_soft_one_removes():
    x = pictures()
    soft, sharp = optics.kernel(x, -1.0, at(3)), optics.kernel(x, 1.0, at(3))
    np.testing.assert_allclose(soft + sharp, 2 * x, atol=1e-6)
    assert soft.std() < x.std() < sharp.std()


LINEAR = {
    "blur": 0.8, "kernel": 0.7, "voxels": 1.6, "gibbs": 0.3, "undersampling": 2.5, "gamma": 1.7, "saturation": 1.4,
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", LINEAR)
def test_flat_images_stay_flat(name, shape):
    if TRANSFORMS[name].colour and shape[0] != 3:
        shape = (3, *shape[1:])
    x = flat(0.6, 2, shape)
    np.testing.assert_allclose(TRANSFORMS[name].function(x, LINEAR[name], at(2)), x, atol=2e-6)


IDENTITIES = {
    "blur": 0.0, "kernel": 0.0, "bias": 0.0, "voxels": 1.0, "undersampling": 1.0, "gibbs": 0.0, "rician": 0.0,
    "speckle": 0.0, "noise": 0.0, "depth": 0.0, "gain": 1.0, "offset": 0.0, "gamma": 1.0, "vignette": 0.0,
    "temperature": 0.0, "saturation": 1.0, "haematoxylin": 0.0, "eosin": 0.0, "residual": 0.0,
}  # fmt: skip


@pytest.mark.parametrize("name", IDENTITIES)
def test_the_neutral_value_changes_nothing(name):
    x = pictures(2, (3, 16, 16))
    np.testing.assert_allclose(TRANSFORMS[name].function(x, IDENTITIES[name], at(2)), x, atol=3e-6)


@pytest.mark.parametrize("name", [name for name in IDENTITIES if name in TRANSFORMS])
def test_setting_zero_is_the_neutral_value(name):
    assert TRANSFORMS[name].value(0.0) == IDENTITIES[name]


# noise


def test_rician_magnitudes_have_their_moments():
    sd = 0.1
    for x in (0.0, 0.3):
        seen = optics.rician(flat(x, 20), sd, at(20)).astype(float)
        assert (seen**2).mean() == pytest.approx(x**2 + 2 * sd**2, rel=0.02)
    dark = optics.rician(flat(0.0, 20), sd, at(20))
    assert dark.mean() == pytest.approx(sd * np.sqrt(np.pi / 2), rel=0.01)
    assert dark.min() >= 0


@pytest.mark.parametrize("count", [10, 300, 10_000])
def test_photons_are_counted_with_poisson_variance(count):
    for x in (0.2, 0.8):
        seen = optics.photons(flat(x, 20), count, at(20)).astype(float)
        assert seen.mean() == pytest.approx(x, rel=0.02)
        assert seen.var() == pytest.approx(x / count, rel=0.03)
        np.testing.assert_allclose(seen * count, np.rint(seen * count), atol=2e-3)  # whole photons
    assert not optics.photons(flat(0.0), count, at(4)).any()  # no light, no noise


def test_sensor_noise_has_its_standard_deviation():
    seen = optics.noise(flat(0.5, 20), 0.1, at(20))
    assert seen.std() == pytest.approx(0.1, rel=0.01)
    assert seen.mean() == pytest.approx(0.5, abs=0.002)


@pytest.mark.parametrize("contrast", [0.05, 0.2, np.sqrt(0.5)])
def test_speckle_multiplies_and_keeps_the_mean_intensity(contrast):
    gains = optics.speckle(flat(0.5, 40), contrast, at(40)).astype(float) / 0.5
    assert (gains**2).mean() == pytest.approx(1, rel=0.03)
    if contrast < 0.1:
        assert gains.std() == pytest.approx(contrast, rel=0.1)
    if contrast > 0.7:  # fully developed: Rayleigh
        assert gains.mean() == pytest.approx(np.sqrt(np.pi) / 2, rel=0.02)
    assert not optics.speckle(flat(0.0), contrast, at(4)).any()


# display


@pytest.mark.parametrize("exponent", [0.5, 1.3, 2.0])
def test_gamma_and_its_inverse_cancel(exponent):
    x = pictures()
    there = optics.gamma(x, exponent, at(3))
    np.testing.assert_allclose(optics.gamma(there, 1 / exponent, at(3)), x, atol=1e-5)


def test_gamma_is_monais():
    from monai.transforms import AdjustContrast

    x = pictures(4, (3, 10, 12))
    theirs = [np.asarray(AdjustContrast(1.6)(one)) for one in x]
    np.testing.assert_allclose(optics.gamma(x, 1.6, at(4)), theirs, atol=1e-6)


def test_a_window_is_linear_over_soft_tissue_and_leaves_air_and_bone():
    hu = np.array([-60.0, 40.0, 140.0])
    x = ((hu - 40) / 400 + 0.5).astype(np.float32).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(optics.hounsfield(x).ravel(), hu, atol=1e-3)
    np.testing.assert_allclose(optics.window(x, 2.0, at(1)).ravel(), (hu - 40) / 800 + 0.5, atol=1e-5)
    np.testing.assert_allclose(optics.level(x, 50.0, at(1)).ravel(), (hu - 90) / 400 + 0.5, atol=1e-5)
    ends = np.array([0, 1], np.float32).reshape(1, 1, 1, 2)
    for shown in (
        optics.window(ends, 2.0, at(1)),
        optics.level(ends, 50.0, at(1)),
        optics.level(ends, -50.0, at(1)),
    ):
        assert shown.min() <= 0 and shown.max() >= 1
    ramp = np.linspace(0, 1, 999, dtype=np.float32).reshape(1, 1, 1, -1)
    assert (np.diff(optics.hounsfield(ramp).ravel()) > 0).all()


# coil, voxels, k-space


@pytest.mark.parametrize("size", [(9, 12), (6, 7, 8)])
def test_the_bias_field_has_geometric_mean_one(size):
    terms = len(mri._orders(len(size)))
    assert terms == {2: 9, 3: 19}[len(size)]
    field = intensity_field(np.linspace(-0.3, 0.3, terms), size)
    assert field.shape == size and field.std() > 0.05
    assert np.log(field.astype(float)).mean() == pytest.approx(0, abs=1e-6)
    seen = mri.bias(flat(0.5, 1, (1, *size)), 0.3, at(1))
    assert np.log(seen.astype(float)).mean() == pytest.approx(np.log(0.5), abs=1e-6)


def test_a_bias_field_and_its_opposite_cancel():
    x = pictures()
    np.testing.assert_allclose(mri.bias(mri.bias(x, 0.3, at(3)), -0.3, at(3)), x, rtol=1e-5)


@pytest.mark.parametrize("factor", [1.0, 1.3, 2.0])
def test_voxels_average_and_interpolate(factor):
    m = resampling(12, factor)
    np.testing.assert_allclose(m.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(m, m[::-1, ::-1], atol=1e-12)
    assert m.min() >= 0
    if factor == 1:
        np.testing.assert_array_equal(m, np.eye(12))
    if factor == 2:  # the mean of the two grids of pairs of pixels
        grids = []
        for start in (0, 1):
            pairs = np.kron(np.eye(8), [0.5, 0.5])[:, start : start + 12]
            centres = 2 * np.arange(8) + 0.5 - start
            grids.append(np.stack([np.interp(np.arange(12), centres, row) for row in pairs.T], axis=1))
        np.testing.assert_allclose(m[4:8], np.mean(grids, axis=0)[4:8], atol=1e-12)


def test_a_faster_scan_measures_fewer_of_the_same_lines():
    before = np.ones(64, bool)
    for acceleration in (1.0, 1.5, 2.0, 3.0, 4.0):
        lines = sampled(64, acceleration, at(1).site_rng("undersampling"))
        assert not (lines & ~before).any() and lines[0]  # the mean is always measured
        before = lines
    assert sampled(64, 1.0, at(1).site_rng("undersampling")).all()
    kept = [sampled(640, 4.0, np.random.default_rng(seed)).mean() for seed in range(20)]
    assert np.mean(kept) == pytest.approx(0.08 + 0.92 / 4, abs=0.01)


@pytest.mark.parametrize("shape", [(1, 24, 18), (1, 12, 10, 8)])
def test_undersampling_is_a_masked_fourier_transform(shape):
    x = pictures(2, shape)
    lines = sampled(shape[1], 2.5, at(2).site_rng("undersampling"))
    masked = np.fft.fft(x, axis=2) * lines.reshape(-1, *(1,) * (len(shape) - 2))
    np.testing.assert_allclose(mri.undersampling(x, 2.5, at(2)), np.abs(np.fft.ifft(masked, axis=2)), atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 15, 12), (1, 12, 10, 11)])
@pytest.mark.parametrize("cut", [0.1, 0.37, 0.5])
def test_gibbs_ringing_is_monais(shape, cut):
    from monai.transforms import GibbsNoise

    x = pictures(2, shape)
    theirs = np.asarray(GibbsNoise(alpha=cut)(x.reshape(-1, *shape[1:]))).reshape(x.shape)
    np.testing.assert_allclose(mri.gibbs(x, cut, at(2)), theirs, atol=1e-5)


# colour and files


def test_stains_of_a_colour_are_exact():
    x = pictures(2, (3, 16, 16))
    parts = np.stack([colour.concentration(x, stain) for stain in range(3)], axis=1)
    np.testing.assert_allclose(colour.transmitted(parts), x, atol=1e-5)
    white = flat(1.0, 1, (3, 4, 4))
    assert np.abs(colour.concentration(white, 0)).max() < 1e-6
    for stain in range(3):  # one stain alone has its own colour
        alone = np.zeros((1, 3, 2, 2), np.float32)
        alone[:, stain] = 0.8
        found = [colour.concentration(colour.transmitted(alone), other).max() for other in range(3)]
        np.testing.assert_allclose(found, np.eye(3)[stain] * 0.8, atol=1e-5)


def test_more_stain_moves_that_stain_alone_and_leaves_glass_white():
    tissue = np.random.default_rng(1).uniform(0.1, 1.0, (2, 3, 12, 12)).astype(np.float32)
    slide = colour.transmitted(tissue)
    slide[..., :4] = 1
    more = colour.eosin(slide, 0.2, at(2))
    for stain in (0, 2):
        np.testing.assert_allclose(colour.concentration(more, stain), colour.concentration(slide, stain), atol=2e-5)
    gained = colour.concentration(more, 1) - colour.concentration(slide, 1)
    assert (gained[..., 4:] > 0.2 * tissue[:, 1, :, 4:] - 1e-5).all() and np.abs(gained[..., :4]).max() < 1e-5


def test_white_balance_and_vignette_have_closed_forms():
    x = flat(0.5, 1, (3, 5, 5))
    warm = colour.temperature(x, 0.26, at(1))
    np.testing.assert_allclose(warm[0, :, 0, 0], 0.5 * np.exp([0.26, 0, -0.26]), rtol=1e-6)
    np.testing.assert_allclose(colour.temperature(warm, -0.26, at(1)), x, rtol=1e-6)
    dim = colour.vignette(x, 0.4, at(1))[0, 0]
    assert dim[2, 2] == pytest.approx(0.5) and dim[0, 0] == pytest.approx(0.3) and dim[0, 2] == pytest.approx(0.4)
    grey = np.repeat(pictures(1, (1, 8, 8)), 3, axis=1)
    np.testing.assert_allclose(colour.saturation(grey, 1.5, at(1)), grey, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 20, 13), (3, 16, 17, 3)])
def test_jpeg_is_pillows_image_by_image(shape):
    x = np.random.default_rng(2).random((3, *shape)).astype(np.float32)
    ours = colour.jpeg(x, 60.0, at(3))

    def alone(page):  # (channels, height, width)
        pixels = np.moveaxis(np.rint(page * 255).astype(np.uint8), 0, -1)
        file = io.BytesIO()
        Image.fromarray(pixels.squeeze()).save(file, "JPEG", quality=60, subsampling=0)
        return np.moveaxis(np.asarray(Image.open(file)).reshape(pixels.shape), -1, 0) / 255

    pages = [alone(one) if one.ndim == 3 else np.stack([alone(one[..., k]) for k in range(3)], axis=-1) for one in x]
    np.testing.assert_allclose(ours, pages, atol=1e-6)


def test_a_marker_follows_its_rule():
    n, rho = 4000, 0.6
    y = np.arange(n) % 2
    seen = colour.marker(np.zeros((n, 1, 28, 28), np.float32), rho, at(n, y)).max(axis=(1, 2, 3)) == 1
    for label in (0, 1):
        p = 0.5 + rho / 2 * (2 * label - 1)
        assert abs(seen[y == label].mean() - p) < 4 * np.sqrt(p * (1 - p) / (n / 2))
    for sign in (1, -1):  # deterministic
        seen = colour.marker(np.zeros((40, 1, 28, 28), np.float32), sign, at(40, y[:40])).any(axis=(1, 2, 3))
        np.testing.assert_array_equal(seen, (y[:40] == 1) == (sign == 1))
    token = colour.marker(pictures(1, (3, 28, 28)), 1.0, at(1, [1]))
    assert (token[:, :, 14:] == pictures(1, (3, 28, 28))[:, :, 14:]).all()  # the rest of the image is untouched
    with pytest.raises(ValueError, match="labels"):
        colour.marker(np.zeros((2, 1, 28, 28), np.float32), 0.5, at(2))


# all of them


@pytest.mark.parametrize("modality", CHAINS)
@pytest.mark.parametrize("shape", [(3, 16, 16), (3, 12, 10, 11)])
def test_every_modality_runs_every_transform_in_two_and_three_dimensions(modality, shape):
    x = pictures(2, shape)
    for name in CHAINS[modality]:
        for setting in {-1.0, 0.5, 1.0} if TRANSFORMS[name].signed else {0.5, 1.0}:
            seen = TRANSFORMS[name].function(x, TRANSFORMS[name].value(setting), at(2, [0.0, 1.0]))
            assert seen.shape == x.shape and seen.dtype == np.float32 and np.isfinite(seen).all(), name
            assert (seen != x).any(), name


STEPPED = ("undersampling", "jpeg")  # lines are whole, tables are rounded


@pytest.mark.parametrize("name", [name for name in TRANSFORMS if name != "marker"])
def test_the_further_a_setting_the_further_the_image(name):
    x = pictures(6, (3, 28, 28))
    transform = TRANSFORMS[name]
    for sign in (1, -1) if transform.signed else (1,):
        settings = sign * np.linspace(0, 1, 6)[1:]
        seen = [np.clip(transform.function(x, transform.value(s), at(6)), 0, 1) for s in settings]
        distance = np.array([0, *(np.sqrt(((one - x) ** 2).mean()) for one in seen)])
        rising = np.diff(distance) >= 0 if name in STEPPED else np.diff(distance) > 0
        assert rising.all() and distance[-1] > 0.003, (name, sign, distance)
