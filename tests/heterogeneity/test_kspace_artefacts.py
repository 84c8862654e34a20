"""Laws of the artefacts of MRI: identities, energy, position of ghosts, motion, spikes, and scanners with them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import fedlab
from fedlab.data.cases import Cases
from fedlab.data.phantoms import phantoms
from fedlab.heterogeneity.acquisition import kspace, mri, optics
from fedlab.heterogeneity.acquisition.modalities import ARTEFACTS, TRANSFORMS
from fedlab.heterogeneity.acquisition.optics import ScanContext
from fedlab.heterogeneity.acquisition.presets import settings_of
from fedlab.heterogeneity.acquisition.scanner import Scanner, draw
from fedlab.heterogeneity.site_effects import SiteEffects

NAMES = ARTEFACTS["mri"]
SHAPES = [(1, 24, 18), (2, 15, 11), (1, 12, 10, 8)]
SITES = [f"Site {letter}" for letter in "ABCD"]


def at(n: int, site="Site A") -> ScanContext:
    return ScanContext(site, 3, [f"case-{i}" for i in range(n)])


def blobs(n, shape) -> np.ndarray:
    """Objects that vanish at the borders, in 0 .. 0.8."""
    x = np.random.default_rng(0).random((n, *shape)).astype(np.float32)
    for axis in range(2, x.ndim):
        hat = np.sin(np.pi * (np.arange(x.shape[axis]) + 0.5) / x.shape[axis]) ** 2
        x = x * hat.reshape(-1, *(1,) * (x.ndim - 1 - axis)).astype(np.float32)
    return x * np.float32(0.8)


def scans(n=40, shape=(1, 16, 16), modality="mri", name="scans") -> Cases:
    images = np.rint(255 * blobs(n, shape)).astype(np.uint8)
    table = pd.DataFrame({"case": [f"case-{i}" for i in range(n)], "label": np.arange(n) % 2})
    card = {"name": name, "task": "segmentation", "classes": ["no", "yes"], "structures": ["background", "bright"]}
    return Cases(images, table, card | {"modality": modality}, (images[:, 0] > 60).astype(np.uint8))


# all of them


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_strength_zero_is_the_identity_bit_for_bit(name, shape):
    x = blobs(2, shape)
    assert TRANSFORMS[name].value(0.0) == 0
    np.testing.assert_array_equal(TRANSFORMS[name].function(x, 0.0, at(2)), x)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_an_artefact_belongs_to_its_site_and_case_and_to_no_other(name, shape):
    x, function = blobs(5, shape), TRANSFORMS[name].function
    value = TRANSFORMS[name].value(0.7)
    whole = function(x, value, at(5))
    assert whole.shape == x.shape and whole.dtype == np.float32 and (whole != x).any(axis=tuple(range(1, x.ndim))).all()
    order = [3, 0]
    alone = function(x[order], value, replace(at(5), cases=["case-3", "case-0"]))
    np.testing.assert_allclose(alone, whole[order], rtol=0, atol=1e-6)
    if name != "ghosting":  # whose distance is that of the site
        same = np.repeat(x[:1], 5, axis=0)
        assert len(np.unique(function(same, value, at(5)).reshape(5, -1), axis=0)) == 5
    others = [function(x, value, at(5, f"Site {k}")) for k in range(9)]
    assert any((other != whole).any() for other in others)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_images_keep_their_type_and_range(shape, dtype):
    x = blobs(3, shape) / 0.8
    x = np.rint(255 * x).astype(np.uint8) if dtype == np.uint8 else x
    seen = Scanner("Site A", 0, "mri", dict.fromkeys(NAMES, 1.0), jitter=0.3).apply(x, ["a", "b", "c"])
    assert seen.dtype == dtype and seen.shape == x.shape
    assert seen.min() >= 0 and seen.max() <= (255 if dtype == np.uint8 else 1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 1, 9), (3, 9, 1), (1, 1, 1, 1), (1, 9, 9, 1), (1, 1, 1, 8), (3, 2, 2)]
)
def test_images_of_any_shape_have_artefacts(shape):
    x = np.random.default_rng(0).random((2, *shape)).astype(np.float32)
    seen = Scanner("Site A", 0, "mri", dict.fromkeys(NAMES, 1.0)).apply(x, ["a", "b"])
    assert seen.shape == x.shape and np.isfinite(seen).all()


# bias field: in the chain of MRI


@pytest.mark.parametrize("size", [(14, 11), (9, 8, 7)])
def test_the_ratio_of_a_bias_field_is_smooth_and_its_log_proportional_to_the_strength(size):
    x = 0.2 + blobs(1, (1, *size)) / 2
    logs = [np.log(mri.bias(x, strength, at(1)).astype(float) / x)[0, 0] for strength in (0.1, 0.3)]
    np.testing.assert_allclose(3 * logs[0], logs[1], atol=2e-6)
    for axis in range(len(size)):  # a cubic polynomial along every axis
        assert np.abs(np.diff(logs[1], n=4, axis=axis)).max() < 1e-5
    terms = len(mri._orders(len(size)))
    assert 0.05 < np.abs(logs[1]).max() <= 2 * 0.3 * terms  # Legendre terms and their mean are at most 1


# ghosting


@pytest.mark.parametrize("shape", [*SHAPES, (1, 25, 9)])
@pytest.mark.parametrize("shots", kspace.SHOTS)
@pytest.mark.parametrize("intensity", [0.02, 0.2, 0.5])
def test_ghosts_keep_the_energy(shape, shots, intensity):
    x = blobs(2, shape).astype(np.float32)
    seen = kspace.ghosts(x, intensity, shots).astype(float)
    np.testing.assert_allclose((seen**2).sum(axis=2), (x.astype(float) ** 2).sum(axis=2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shots", kspace.SHOTS)
@pytest.mark.parametrize("shape", [(1, 24, 5), (1, 24, 5, 3)])
def test_ghosts_have_the_stated_distance_number_and_intensity(shape, shots):
    intensity, x = 0.15, np.zeros((1, *shape), np.float32)
    x[0, 0, 3, 2] = 0.8
    seen = kspace.ghosts(x, intensity, shots) / np.float32(0.8)
    column = seen[0, 0, :, 2].reshape(24, -1)
    rows = (3 + 24 // shots * np.arange(shots)) % 24
    assert np.flatnonzero(column[:, 0] > 1e-5).tolist() == sorted(rows)
    np.testing.assert_allclose(column[rows[1:], 0], intensity, atol=1e-6)
    assert column[3, 0] == pytest.approx(np.sqrt(1 - (shots - 1) * intensity**2), abs=1e-6)
    assert np.count_nonzero(seen > 1e-5) == shots * column.shape[1]  # nothing off the phase-encoding axis


def test_the_distance_of_ghosts_is_that_of_the_site():
    x = blobs(2, (1, 24, 8))
    found = set()
    for k in range(12):
        seen = kspace.ghosting(x, 0.2, at(2, f"Site {k}"))
        fits = [p for p in kspace.SHOTS if np.array_equal(seen, kspace.ghosts(x, 0.2, p))]
        assert len(fits) == 1
        found |= set(fits)
    assert found == set(kspace.SHOTS)


# motion


@pytest.mark.parametrize("space", [(12, 13), (9, 8, 7)])
def test_lines_of_one_pose_are_the_moved_image(space):
    image = blobs(1, (2, *space))[0]
    shift = np.array([[2.0, -1.0, 1.0][: len(space)]])
    angles = np.zeros((1, {2: 1, 3: 3}[len(space)]))
    moved = kspace.rigid_copies(image, shift, angles)
    oracle = np.pad(image, [(0, 0), *[(3, 3)] * len(space)], mode="reflect")
    oracle = oracle[(slice(None), *(slice(3 - int(s), 3 - int(s) + n) for s, n in zip(shift[0], space, strict=True)))]
    np.testing.assert_allclose(moved[0], oracle, atol=1e-5)
    seen = kspace.composed(moved, np.zeros(space[0], int))
    np.testing.assert_allclose(seen, oracle, atol=1e-5)


def test_a_quarter_turn_is_numpys():
    for size, axes, angles in [((9, 9), (1, 2), [1]), ((7, 7, 7), (1, 3), [0, 1, 0]), ((7, 7, 7), (2, 3), [0, 0, 1])]:
        image = blobs(1, (1, *size))[0]
        turned = kspace.rigid_copies(image, np.zeros((1, len(size))), np.array([angles]) * np.pi / 2)[0]
        np.testing.assert_allclose(turned, np.rot90(image, 1, axes), atol=1e-5)
    turn = kspace.rotation(np.array([0.3, -0.2, 0.5]))
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)


def test_a_composed_image_has_the_lines_of_its_copies():
    copies = [blobs(1, (1, 12, 7))[0], np.roll(blobs(1, (1, 12, 7))[0], 2, axis=2)]
    held = kspace.poses_of_lines(12, np.array([0.25]))  # the first three of twelve lines are held in pose 0
    line = np.fft.fftfreq(12) * 12
    np.testing.assert_array_equal(held == 0, line < -3)
    spectra = np.fft.fft2(np.stack(copies))
    oracle = np.where((line < -3)[:, None], spectra[0], spectra[1])
    np.testing.assert_allclose(kspace.composed(copies, held), np.abs(np.fft.ifft2(oracle)), atol=1e-6)


def test_patients_stay_over_their_mask_and_brightness_hardly_changes():
    x = optics.blur(blobs(30, (1, 28, 28)), 1.5, at(30))
    seen = kspace.motion(x, 2.0, at(30)).astype(float)
    grid = np.arange(28)
    centres = [(each.sum(axis=(1, 3)) @ grid) / each.sum(axis=(1, 2, 3)) for each in (x.astype(float), seen)]
    moved = np.abs(centres[1] - centres[0])  # pixels, of the 2 that patients move
    assert moved.max() < 1 and np.median(moved) < 0.2
    np.testing.assert_allclose(seen.mean(axis=(1, 2, 3)), x.mean(axis=(1, 2, 3)), rtol=0.1)


# spikes


@pytest.mark.parametrize("shape", SHAPES)
def test_a_spike_is_one_point_of_k_space(shape):
    wave = kspace.plane_wave(shape[1:], np.random.default_rng(4))
    spectrum = np.abs(np.fft.fftn(wave))
    assert np.count_nonzero(spectrum > 1e-6) == 1 and spectrum.ravel()[0] < 1e-6
    assert spectrum.max() == pytest.approx(wave.size)
    np.testing.assert_allclose(np.abs(wave), 1)


def test_a_spike_has_its_ratio_to_the_centre_of_k_space():
    ratio, x = 0.1, blobs(3, (1, 16, 12))
    seen = kspace.spikes(x, ratio, at(3)).astype(float)
    for image, striped, rng in zip(x.astype(float), seen, at(3).case_rngs("spikes"), strict=True):
        spectrum = np.fft.fftn(image[0])
        wave = np.fft.fftn(kspace.plane_wave((16, 12), rng))
        assert np.abs(wave).max() * ratio * image.mean() == pytest.approx(ratio * abs(spectrum[0, 0]))
        whole = spectrum + ratio * image.mean() * wave
        assert (striped**2).sum() == pytest.approx((np.abs(whole) ** 2).sum() / image.size, rel=1e-5)  # Parseval


# scanners with artefacts


def test_a_dose_scales_the_artefacts_and_leaves_the_other_transforms_alone():
    full, half = (draw(SITES, f"artefacts({h})", SiteEffects(4, 0), scans()) for h in (1.0, 0.5))
    for site in SITES:
        assert tuple(full[site].settings) == NAMES and full[site].modality == "mri"
        assert half[site].settings == pytest.approx({name: s / 2 for name, s in full[site].settings.items()})
    assert draw(SITES, "artefacts(0)", SiteEffects(4, 0), scans()) == {}
    assert not set(NAMES) & set(draw(SITES, "mri(1.0)", SiteEffects(4, 0))["Site A"].settings)
    assert list(draw(SITES, "mri(1.0, only=('motion', 'bias'))", SiteEffects(4, 0))["Site A"].settings) == [
        "motion",
        "bias",
    ]
    assert draw(SITES, "artefacts(1, only='motion')", SiteEffects(4, 0))["Site A"].settings.keys() == {"motion"}
    with pytest.raises(ValueError, match="mri scanners have no transform 'ghost': did you mean 'ghosting'"):
        draw(SITES, "artefacts(0.5, only='ghost')", SiteEffects(4, 0))


SINGLY = [f"artefacts({{}}, only='{name}')" for name in NAMES]


@pytest.mark.parametrize(("dimensions", "value"), [(2, "artefacts({})"), *((2, one) for one in SINGLY), (3, SINGLY[0])])
def test_sites_differ_more_with_every_dose(dimensions, value):
    cases = phantoms(12, size=16, dimensions=dimensions)
    cases = replace(cases, images=cases.images[:4], masks=cases.masks[:4], table=cases.table[:4])
    cases = replace(cases, card=cases.card | {"modality": "mri"})
    ids, distances = cases.table["case"].tolist(), []
    for h in (0.0, 0.25, 0.5, 0.75, 1.0):
        drawn = draw(SITES, value.format(h), SiteEffects(4, 1), cases)
        shown = [drawn[site].apply(cases.images, ids).astype(float) if drawn else cases.images for site in SITES]
        distances.append(np.sqrt(np.mean(np.var(shown, axis=0))))
    assert distances[0] == 0 and (np.diff(distances) > 0).all(), distances


def test_masks_stay_and_a_case_does_not_depend_on_other_sites():
    cases = scans()
    part = fedlab.partition(cases, 2, acquisition="artefacts(1.0)")
    np.testing.assert_array_equal(part.cases.masks, cases.masks)
    more = draw(["Site A", "Site B", "Site Z"], "artefacts(1.0)", SiteEffects(3, 0), cases)
    for site in part.sites:
        rows = part.index(site, "train")
        whole = part.pixels(rows, site)
        assert (whole != cases.images[rows]).any()
        np.testing.assert_array_equal(part.pixels(rows[3:4], site)[0], whole[3])
        same_scanner = Scanner(site, part.scanners[site].seed, "mri", part.scanners[site].settings)
        np.testing.assert_array_equal(
            same_scanner.apply(cases.images[rows], cases.table["case"].iloc[rows].tolist()), whole
        )
    assert set(more) == {"Site A", "Site B", "Site Z"}


def test_artefacts_of_mri_are_refused_for_other_modalities_unless_mri_is_named():
    for modality in ("ct", "xray", "fundus"):
        with pytest.raises(ValueError, match=f"motion, ghosting, spikes arise in the k-space of MRI.*are {modality}"):
            draw(SITES, "artefacts(0.5)", SiteEffects(4, 0), scans(modality=modality))
    with pytest.raises(ValueError, match=r"scans images are ct: choose ct\(0.5\), or, .*mri\(0.5, only='motion'\)"):
        draw(SITES, "artefacts(0.5, only='motion')", SiteEffects(4, 0), scans(modality="ct"))
    with pytest.raises(ValueError, match="'mri_motion' is for mri, but the images are fundus"):
        draw(SITES, "styles(mri_motion)", SiteEffects(4, 0), scans(modality="fundus"))
    draw(SITES, "mri(0.5, only='motion')", SiteEffects(4, 0), scans(modality="ct"))
    draw(SITES, "artefacts(0.5)", SiteEffects(4, 0), scans(modality="unknown"))


def test_presets_have_the_artefacts_that_they_describe():
    described = {
        "mri_old_coil": "ghosting",
        "mri_echo_planar": "ghosting",
        "mri_motion": "motion",
        "mri_spikes": "spikes",
    }
    part = fedlab.partition(scans(), 4, acquisition=list(described))
    for (preset, name), scanner in zip(described.items(), part.scanners.values(), strict=True):
        assert set(NAMES) & set(scanner.settings) == {name} and scanner.settings == settings_of(preset)
