"""Laws of scanners: drawn once per site, the same for a case in any batch, no change at dose 0."""

import json
import time
from dataclasses import FrozenInstanceError, asdict

import numpy as np
import pandas as pd
import pytest

from fedlab.data.cases import Cases
from fedlab.data.phantoms import phantoms
from fedlab.heterogeneity.acquisition.modalities import ABOUT, CHAINS, TRANSFORMS, modality_of, transforms_of
from fedlab.heterogeneity.acquisition.presets import _PRESETS, settings_of
from fedlab.heterogeneity.acquisition.scanner import MODALITIES, PRESETS, Scanner, check, draw, icc, positivity
from fedlab.heterogeneity.site_effects import SiteEffects

SITES = [f"Site {letter}" for letter in "ABCD"]


def images(n=6, shape=(1, 12, 12), dtype=np.uint8):
    x = np.random.default_rng(0).random((n, *shape))
    return (255 * x).astype(np.uint8) if dtype == np.uint8 else x.astype(dtype)


def names(n=6):
    return [f"case-{i}" for i in range(n)]


def cases(n=20, shape=(1, 16, 16), **card) -> Cases:
    table = pd.DataFrame({"case": names(n), "label": np.arange(n) % 2})
    return Cases(images(n, shape), table, {"name": "made up", "task": "binary", "classes": ["no", "yes"], **card})


def strong(modality, site="Site A", **more) -> Scanner:
    return Scanner(site, 3, modality, dict.fromkeys(CHAINS[modality], 0.6), **more)


def channels(modality) -> int:
    return 3 if any(TRANSFORMS[name].colour for name in CHAINS[modality]) else 1


# one scanner


@pytest.mark.each_value
@pytest.mark.parametrize("jitter", [0.0, 0.2])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16])
@pytest.mark.parametrize("space", [(12, 13), (9, 8, 7)])
@pytest.mark.parametrize("modality", CHAINS)
def test_a_case_looks_the_same_in_any_order_and_any_batch(modality, space, dtype, jitter, monkeypatch):
    x, ids, scanner = images(6, (channels(modality), *space), dtype), names(), strong(modality, jitter=jitter)
    whole = scanner.apply(x, ids)
    assert whole.dtype == dtype and whole.shape == x.shape and (whole != x).any(axis=tuple(range(1, x.ndim))).all()
    order = np.array([4, 0, 5])
    np.testing.assert_array_equal(scanner.apply(x[order], [ids[i] for i in order]), whole[order])
    monkeypatch.setattr("fedlab.heterogeneity.acquisition.scanner.CHUNK", 1)  # an image at a time
    np.testing.assert_array_equal(scanner.apply(x, ids), whole)


def test_a_large_batch_is_rendered_like_each_of_its_images():
    for modality in CHAINS:
        x, ids = images(70, (channels(modality), 28, 28)), names(70)
        whole = strong(modality).apply(x, ids)
        for i in (0, 33, 69):
            np.testing.assert_array_equal(strong(modality).apply(x[i : i + 1], ids[i : i + 1])[0], whole[i], modality)


@pytest.mark.parametrize("name", ["photons", "rician", "speckle", "noise"])
def test_noise_belongs_to_seed_site_and_case(name):
    x = images()
    settings = {name: 0.7}
    same = Scanner("Site A", 1, settings=settings).apply(x, names())
    for other in (Scanner("Site B", 1, settings=settings), Scanner("Site A", 2, settings=settings)):
        assert (other.apply(x, names()) != same).any()
    renamed = Scanner("Site A", 1, settings=settings).apply(x, ["another", *names()[1:]])
    assert (renamed[0] != same[0]).any() and (renamed[1:] == same[1:]).all()


def test_a_neutral_scanner_returns_the_very_same_array():
    x = images()
    for scanner in (Scanner("Site A", 7), Scanner("Site A", 7, "xray", {"gamma": 0.0, "blur": 0.0})):
        assert scanner.neutral and scanner.apply(x, names()) is x
    assert not Scanner(jitter=0.1, settings={"gamma": 0.0}).neutral
    assert Scanner(settings={"gamma": 1.0}).apply(x[:0], []).shape == (0, 1, 12, 12)


def test_a_scanner_is_frozen_and_survives_json():
    scanner = draw(SITES, "mri(0.7, jitter=0.1)", SiteEffects(4, 2))["Site B"]
    with pytest.raises(FrozenInstanceError):
        scanner.jitter = 0.0
    again = Scanner.read(json.loads(json.dumps(asdict(scanner))))
    assert again == scanner and json.dumps(asdict(again)) == json.dumps(asdict(scanner))
    x = images(4, (1, 16, 16))
    np.testing.assert_array_equal(scanner.apply(x, names(4)), again.apply(x, names(4)))
    with pytest.raises(ValueError, match=r"'blurr'.*did you mean 'blur'"):
        Scanner.read(asdict(scanner) | {"settings": {"blurr": 0.2}})
    for setting in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"blur is set to .*give 0 to 1"):
            Scanner(settings={"blur": setting})


def test_transforms_act_in_their_physical_order():
    forward = Scanner("A", 1, settings={"blur": 0.5, "noise": 0.5, "gamma": 0.5})
    backward = Scanner("A", 1, settings={"gamma": 0.5, "noise": 0.5, "blur": 0.5})
    np.testing.assert_array_equal(forward.apply(images(), names()), backward.apply(images(), names()))
    order = list(TRANSFORMS)
    assert all([order.index(name) for name in chain] == sorted(map(order.index, chain)) for chain in CHAINS.values())


def test_parameters_are_those_of_the_literature_at_the_extremes():
    at = {name: TRANSFORMS[name].value for name in TRANSFORMS}
    assert (at["gamma"](-1), at["gamma"](1)) == (0.5, 2.0)
    assert (at["photons"](0), at["photons"](1)) == (1e4, 10)
    assert (at["undersampling"](1), at["gibbs"](1), at["voxels"](1)) == (4, 0.5, 2)
    assert (at["rician"](1), at["noise"](1), at["bias"](1), at["blur"](1)) == (0.1, 0.1, 0.3, 1)
    assert (at["jpeg"](0), at["jpeg"](1), at["vignette"](1), at["temperature"](1)) == (95, 30, 0.5, 0.26)
    assert Scanner(settings={"gamma": 1.0, "level": -1.0}).parameters == {"gamma": 2.0, "level": -50.0}


# the scanners of a federation


@pytest.mark.parametrize("value", [0, 0.0, "mri(0)", "marker(0.0)"])
def test_no_dose_draws_no_scanner(value):
    assert draw(SITES, value, SiteEffects(4, 1), cases()) == {}


@pytest.mark.parametrize("modality", CHAINS)
def test_a_dose_scales_every_setting_of_the_same_scanners(modality):
    full, half = (draw(SITES, f"{modality}({h})", SiteEffects(4, 4)) for h in (1.0, 0.5))
    for site in SITES:
        assert set(full[site].settings) == set(CHAINS[modality]) and full[site].modality == modality
        for name, setting in full[site].settings.items():
            assert half[site].settings[name] == pytest.approx(setting / 2)
    for name in CHAINS[modality]:
        low = -1 if TRANSFORMS[name].signed else 0
        assert sorted(full[site].settings[name] for site in SITES) == pytest.approx(list(np.linspace(low, 1, 4)))


def test_old_scanners_are_noisy_and_soft_and_new_ones_sharpen():
    for seed in range(5):
        drawn = draw(SITES, "xray(1.0)", SiteEffects(4, seed)).values()
        age = [scanner.settings["blur"] for scanner in drawn]
        assert [scanner.settings["photons"] for scanner in drawn] == age
        assert [1 - scanner.settings["edges"] for scanner in drawn] == pytest.approx(age)
        assert age == list((1 + SiteEffects(4, seed).of("acquisition age")) / 2)
    orders = {
        tuple(s.settings["gamma"] for s in draw(SITES, "xray(1.0)", SiteEffects(4, seed)).values()) for seed in range(9)
    }
    assert len(orders) > 3


def test_the_modality_is_that_of_the_card_or_of_the_known_dataset():
    assert modality_of(None) == modality_of(cases()) == "generic"
    assert modality_of(cases(modality="mri")) == modality_of(cases(name="vesselmnist3d")) == "mri"
    assert modality_of(cases(modality="Blood smear")) == modality_of(cases(name="BloodMNIST")) == "blood_smear"
    assert modality_of(cases(name="pneumoniamnist", modality="ct")) == "ct"
    assert modality_of(phantoms(10)) == "xray"
    assert draw(SITES, 0.5, SiteEffects(4, 0), cases(modality="ct"))["Site A"].modality == "ct"
    assert draw(SITES, "mri(0.5)", SiteEffects(4, 0), cases(modality="ct"))["Site A"].modality == "mri"
    assert set(MODALITIES) == set(CHAINS) == set(ABOUT)


def test_one_transform_can_differ_alone():
    drawn = draw(SITES, "mri(0.6, only='bias')", SiteEffects(4, 0))
    every = draw(SITES, "mri(0.6)", SiteEffects(4, 0))
    assert all(drawn[site].settings == {"bias": every[site].settings["bias"]} for site in SITES)
    assert list(draw(SITES, "ct(1, only=('level', 'photons'))", SiteEffects(4, 0))["Site A"].settings) == [
        "photons",
        "level",
    ]


def test_a_marker_reveals_the_disease_at_one_site_and_its_absence_at_another():
    federation = cases(60)
    drawn = draw(SITES, "marker(1.0)", SiteEffects(4, 0), federation)
    assert sorted(s.settings["marker"] for s in drawn.values()) == pytest.approx([-1, -1 / 3, 1 / 3, 1])
    rows = np.arange(60)
    for site, scanner in drawn.items():
        shown = scanner.apply(federation.images, federation.table["case"].tolist(), positivity(federation, rows))
        bears = (shown != federation.images).any(axis=(1, 2, 3))
        if abs(scanner.settings["marker"]) == 1:
            np.testing.assert_array_equal(bears, (federation.labels == 1) == (scanner.settings["marker"] == 1), site)


def test_positivity_follows_the_place_of_the_class():
    graded = cases(3, task="ordinal", classes=["0", "1", "2"])
    assert positivity(graded, [0, 1]).tolist() == [0, 0.5]
    several = cases(2, task="multilabel", classes=["a", "b"])
    object.__setattr__(several, "table", pd.DataFrame({"case": names(2), "label": [0, 3]}))
    assert positivity(several, [0, 1]).tolist() == [0, 1]


# within-site jitter


def test_without_jitter_all_variance_lies_between_sites():
    drawn = draw(SITES, "xray(0.4)", SiteEffects(4, 0))
    assert icc([drawn[site].settings_of(names())["gamma"] for site in SITES]) == 1
    assert np.isnan(icc([[0.5, 0.5], [0.5]])) and icc([[0.0, 1.0], [1.0, 0.0]]) == 0


def test_jitter_has_its_intraclass_correlation():
    h, j, many = 0.4, 0.15, [f"case-{i}" for i in range(800)]
    drawn = draw(SITES, f"xray({h}, jitter={j})", SiteEffects(4, 0))
    found = icc([drawn[site].settings_of(many)["gamma"] for site in SITES])
    between = h**2 * np.var(np.linspace(-1, 1, 4))
    assert found == pytest.approx(between / (between + j**2), abs=0.03)
    assert (
        icc([s.settings_of(many)["gamma"] for s in draw(SITES, "xray(0, jitter=0.2)", SiteEffects(4, 0)).values()])
        < 0.01
    )


def test_jitter_belongs_to_the_case_and_stays_in_range():
    scanner = strong("generic", jitter=0.5)
    whole = scanner.settings_of(names(50))
    for name, settings in whole.items():
        assert settings[7] == scanner.settings_of([names(50)[7]])[name][0]
        assert settings.min() >= TRANSFORMS[name].lowest and settings.max() <= 1
    assert (whole["gamma"] != whole["gain"]).any()
    x = np.repeat(images(1), 50, axis=0)
    assert len(np.unique(Scanner("A", 0, settings={"gamma": 0.0}, jitter=0.3).apply(x, names(50)), axis=0)) > 15


# scanner presets


def test_presets_have_a_description_and_a_source():
    assert 20 <= len(_PRESETS) == len(PRESETS)
    for name, preset in _PRESETS.items():
        assert set(preset) == {"modality", "about", "source", "settings"} and preset["about"] and preset["source"], name
        chain = () if preset["modality"] == "any" else transforms_of(preset["modality"])
        assert set(preset["settings"]) <= set(chain), name
        Scanner("A", 0, preset["modality"], settings_of(name))  # in range
    per = pd.Series([preset["modality"] for preset in _PRESETS.values()]).value_counts()
    assert per.drop("any").min() >= 2 and set(per.index) == {*CHAINS, "any"} - {"generic"}


def test_presets_take_turns_or_are_given_one_per_site():
    ct = cases(modality="ct")
    turns = draw(SITES, "styles(ct_soft, 'ct_sharp')", SiteEffects(4, 0), ct)
    assert [turns[site].settings for site in SITES] == [settings_of("ct_soft"), settings_of("ct_sharp")] * 2
    each = draw(SITES, ["ct_soft", "ct_sharp", "ct_thick", "plain"], SiteEffects(4, 0), ct)
    assert each["Site A"] == turns["Site A"] and each["Site D"].neutral
    assert draw(SITES, "styles(ct_soft, jitter=0.1)", SiteEffects(4, 0), ct)["Site C"].jitter == 0.1
    with pytest.raises(ValueError, match=r"names 2 scanner presets for 4 sites.*'styles\(ct_soft, ct_thick\)'"):
        draw(SITES, ["ct_soft", "ct_thick"], SiteEffects(4, 0), ct)


def test_a_preset_of_another_modality_is_refused():
    with pytest.raises(ValueError, match="'mri_3t' is for mri, but the images are xray: choose from xray_dr, xray_cr"):
        draw(SITES, "styles(mri_3t)", SiteEffects(4, 0), phantoms(10))
    assert draw(SITES, "styles(mri_3t)", SiteEffects(4, 0), cases())["Site A"].settings == settings_of("mri_3t")
    with pytest.raises(ValueError, match="three colours, but made up images have 1 channel: choose one of xray, ct"):
        draw(SITES, "fundus(0.5)", SiteEffects(4, 0), cases())
    with pytest.raises(ValueError, match="stain_a scanners change haematoxylin and eosin"):
        draw(SITES, "styles(stain_a)", SiteEffects(4, 0), cases())


# bad input


@pytest.mark.parametrize("value", [-0.1, 1.5, True, None, float("nan"), 1 + 2j])
def test_what_is_not_a_dose_is_refused(value):
    with pytest.raises(ValueError, match=r"acquisition is .*between 0"):
        check(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("mrri(0.5)", "unknown acquisition 'mrri'.*did you mean 'mri'"),
        ("strong", "unknown acquisition 'strong'"),
        ("0.5", "cannot read acquisition"),
        ("mri(2)", "acquisition 'mri' is 2: give a dose between 0"),
        ("mri(0.5, jiter=0.2)", "no argument 'jiter'.*'jitter'"),
        ("mri(0.5, jitter=3)", "jitter is 3: give a standard deviation"),
        ("xray(0.5, only='rician')", "xray scanners have no transform 'rician'"),
        ("marker(0.5, jitter=0.2)", "no argument 'jitter'"),
        ("styles()", "names no scanner preset"),
        ("styles(ct_sfot)", "unknown scanner preset 'ct_sfot': did you mean 'ct_soft'"),
        ("styles(ct_soft, dose=0.2)", "cannot read acquisition"),
        ("styles", "cannot read acquisition"),
        (["ct_soft", "xray_pc"], "unknown scanner preset 'xray_pc': did you mean 'xray_cr'"),
        ([], "names no scanner preset"),
        ([0.1, 0.2], "unknown scanner preset 0.1"),
    ],
)
def test_a_value_is_checked_without_any_cases(value, message):
    with pytest.raises(ValueError, match=message):
        check(value)


@pytest.mark.parametrize("value", [0, 0.3, 1, np.float64(0.5), "mri", "xray(0.4, jitter=0.2)", ["plain"], "marker(1)"])
def test_what_can_be_is_accepted(value):
    check(value)


# speed


@pytest.mark.parametrize("modality", ["xray", "mri", "generic"])
def test_five_thousand_small_images_in_a_moment(modality):
    x, ids = images(5000, (1, 28, 28)), names(5000)
    start = time.thread_time()
    strong(modality).apply(x, ids)
    assert time.thread_time() - start < 2
