"""Normalisation: which differences between scanners reach training, and which do not."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from worlds import CNN, cases, error, federation, last, partition, same

from fedlab.data.cases import Cases
from fedlab.engine.pixel_normalisation import POLICIES, pixel_sums
from fedlab.learning.settings import Training

EXACT = {"precision": "float64"}


def images(fed, index) -> np.ndarray:
    store = fed.execution.dataset
    return store.images(store.rows(np.asarray(index))).numpy()


def of_all(fed, splits=("train", "val", "test")) -> np.ndarray:
    part = fed.partition
    return np.concatenate([part.index(site, split) for site in part.sites for split in splits])


def seen_as(pixels: np.ndarray, part=None):
    """The partition with other pixels."""
    part = part or partition()
    return replace(part, cases=Cases(pixels, part.cases.table, part.cases.card))


def colourful(n: int = 152):
    return cases(n, (3, 8, 10), seed=3)


def test_every_policy_of_the_settings_has_a_meaning():
    assert Training.model_fields["normalisation"].annotation.__args__ == POLICIES
    assert Training().normalisation == "none"


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_without_normalisation_pixels_are_what_they_are_on_disk(precision):
    fed = federation(partition(data=colourful()), "logistic", precision=precision)
    index = of_all(fed)
    expected = torch.from_numpy(fed.partition.cases.images[index]).to(fed.settings.dtype) / 255
    assert fed.execution.dataset.affine is None
    assert torch.equal(torch.from_numpy(images(fed, index)), expected)


def test_images_are_standardised_one_by_one():
    fed = federation(partition(data=colourful()), "logistic", normalisation="image", **EXACT)
    z = images(fed, of_all(fed))
    assert np.abs(z.mean((2, 3))).max() < 1e-12 and np.abs(z.std((2, 3)) - 1).max() < 1e-12


def test_training_cases_of_a_site_are_standardised_together():
    fed = federation(partition(data=colourful()), "logistic", normalisation="site", **EXACT)
    for site in fed.sites:
        z = images(fed, site.batches.index)
        assert np.abs(z.mean((0, 2, 3))).max() < 1e-12 and np.abs(z.std((0, 2, 3)) - 1).max() < 1e-12
        index = fed.partition.index(site.name, "test")  # by what was known at the time of training
        x, seen = (fed.partition.cases.images[i].astype(float) for i in (index, site.batches.index))
        expected = (x - seen.mean((0, 2, 3))[:, None, None]) / seen.std((0, 2, 3))[:, None, None]
        assert np.abs(images(fed, index) - expected).max() < 1e-12


def test_global_statistics_are_those_of_the_union():
    fed = federation(partition(data=colourful()), "logistic", normalisation="global", **EXACT)
    z = images(fed, fed.union.batches.index)
    assert np.abs(z.mean((0, 2, 3))).max() < 1e-12 and np.abs(z.std((0, 2, 3)) - 1).max() < 1e-12
    part = fed.partition
    one = replace(part, table=part.table.assign(site="Site A"))
    for policy in ("site", "global"):
        union = federation(one, "logistic", normalisation=policy, **EXACT)
        assert np.array_equal(images(union, of_all(fed)), images(fed, of_all(fed)))


def test_gain_and_offset_of_an_image_do_not_survive_its_own_normalisation():
    """A brighter scanner with more contrast trains to the same model."""
    dim = partition().cases.images // 4
    both = (dim, dim * 3 + 20)  # every image differs by gain and offset alone
    feds = [federation(seen_as(x), normalisation="image", **EXACT) for x in both]
    assert np.abs(images(feds[0], of_all(feds[0])) - images(feds[1], of_all(feds[1]))).max() < 1e-10
    assert error(*(last("fedavg", fed) for fed in feds)) < 1e-9
    plain = [federation(seen_as(x), **EXACT) for x in both]
    assert error(*(last("fedavg", fed) for fed in plain)) > 1e-3


def test_a_scanner_of_one_site_survives_global_but_not_site_normalisation():
    plain = partition()
    x = plain.cases.images // 4
    brighter = x.copy()
    of_a = np.concatenate([plain.index("Site A", split) for split in ("train", "val", "test")])
    brighter[of_a] = x[of_a] * 3 + 20
    for policy, differs in (("site", False), ("image", False), ("global", True), ("none", True)):
        shown = [images(federation(seen_as(p), normalisation=policy, **EXACT), of_a) for p in (x, brighter)]
        assert (np.abs(shown[0] - shown[1]).max() > 0.01) == differs, policy


def test_a_constant_image_becomes_zero_and_nothing_divides_by_zero():
    dark = partition().cases.images.copy()
    dark[:3] = np.array([0, 255, 77], np.uint8)[:, None, None, None]
    for policy in ("image", "site", "global"):
        z = images(federation(seen_as(dark), normalisation=policy), np.arange(3))
        assert np.isfinite(z).all() and (policy != "image" or (z == 0).all())
        flat = federation(seen_as(np.full_like(dark, 200)), normalisation=policy)
        assert (images(flat, np.arange(9)) == 0).all()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("shape", [(1, 12, 12), (2, 6, 8, 4)])
def test_bytes_and_half_floats_volumes_and_images(policy, shape):
    data = cases(152, shape)
    halves = Cases((data.images / 255).astype(np.float16), data.table, data.card)
    a, b = (federation(partition(data=one), "logistic", normalisation=policy, **EXACT) for one in (data, halves))
    assert np.abs(images(a, of_all(a)) - images(b, of_all(b))).max() < (1e-3 if policy == "none" else 0.01)


def test_a_held_out_site_is_normalised_by_its_images_and_changes_no_other():
    part = replace(partition(data=colourful()), unseen=("Site D",))
    own = federation(part, "logistic", normalisation="site", **EXACT)
    index, seen = part.index("Site D", "test"), part.cases.images[part.index("Site D", "train")].astype(float)
    mean, sd = (f(seen, axis=(0, 2, 3))[:, None, None] for f in (np.mean, np.std))
    assert np.abs(images(own, index) - (part.cases.images[index] - mean) / sd).max() < 1e-12
    everywhere = federation(part, "logistic", normalisation="global", **EXACT)
    seen = part.cases.images[everywhere.union.batches.index].astype(float)
    mean, sd = (f(seen, axis=(0, 2, 3))[:, None, None] for f in (np.mean, np.std))
    assert np.abs(images(everywhere, index) - (part.cases.images[index] - mean) / sd).max() < 1e-12


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_cases_of_no_site_take_the_global_statistics():
    data = cases(200)
    table = data.table.assign(split=np.where(np.arange(200) < 160, "train", "test"))
    site = np.where(np.arange(200) < 100, "North", "South").astype(object)
    site[180:] = None
    part = type(partition()).from_sites(Cases(data.images, table, data.card), site)
    fed = federation(part, "logistic", normalisation="site", **EXACT)
    seen = data.images[fed.union.batches.index].astype(float)
    outside = part.unassigned("test")
    assert len(outside) == 20
    expected = (data.images[outside] - seen.mean()) / seen.std()
    assert np.abs(images(fed, outside) - expected).max() < 1e-12


def test_statistics_that_sites_exchange_are_in_the_ledger_once():
    """Up a count and two sums a channel, down mean and spread, 8 bytes each."""
    plain = federation(partition(data=colourful()), "logistic")
    pooled = federation(partition(data=colourful()), "logistic", normalisation="global")
    for fed in (plain, pooled):
        last("fedavg", fed)
    assert pooled.ledger.rows[8:] == plain.ledger.rows
    assert pooled.ledger.frame()[:8].groupby("direction")["bytes"].agg(["size", "sum"]).to_dict("index") == {
        "up": {"size": 4, "sum": 4 * 8 * (1 + 2 * 3)},
        "down": {"size": 4, "sum": 4 * 8 * 2 * 3},
    }
    assert set(pooled.ledger.frame()["round"][:8]) == {0}
    for policy in ("image", "site"):
        fed = federation(partition(data=colourful()), "logistic", normalisation=policy)
        last("fedavg", fed)
        assert fed.ledger.rows == plain.ledger.rows


def test_sums_of_bytes_are_exact():
    x = np.random.default_rng(0).integers(0, 256, (5, 7, 6, 3)).astype(np.uint8)
    count, total, squares = pixel_sums(torch.from_numpy(x)).numpy().swapaxes(0, 1)
    assert (count == 42).all()
    assert (total == x.sum((1, 2), dtype=np.int64)).all()
    assert (squares == (x.astype(np.int64) ** 2).sum((1, 2))).all()


def test_small_chunks_make_the_same_sums(monkeypatch):
    x = torch.from_numpy(np.random.default_rng(0).random((50, 4, 5, 2)).astype(np.float16))
    whole = pixel_sums(x)
    monkeypatch.setattr("fedlab.engine.pixel_normalisation.CHUNK", 100)
    assert torch.equal(pixel_sums(x), whole)


def test_every_policy_trains_another_model_and_repeats():
    part = seen_as(partition().cases.images // 4)
    first, again = ([last("fedavg", federation(part, CNN, normalisation=p)) for p in POLICIES] for _ in range(2))
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not any(same(a, b) for a, b in itertools.combinations(first, 2))
