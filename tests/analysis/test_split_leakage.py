"""Leakage at the cut layer of split learning: its measures have their known values, and deeper cuts leak less."""

import numpy as np
import pandas as pd
import pytest
from worlds import CNN, partition

import fedlab
from fedlab.analysis.split_leakage import reconstruct


@pytest.fixture(scope="module")
def base() -> fedlab.Experiment:
    return fedlab.Experiment(model=CNN, rounds=4, local_steps=3, batch_size=8, device="cpu")


def test_rebuilding_inverts_what_is_linear_and_fails_on_noise():
    rng = np.random.default_rng(2)
    pixels = rng.normal(size=(260, 10))
    sent = pixels @ rng.normal(size=(10, 40)) + 3
    found = reconstruct(sent[:200], pixels[:200], sent[200:])
    assert ((found - pixels[200:]) ** 2).mean() < 1e-3 * pixels.var()
    noise = rng.normal(size=(260, 40))
    lost_ = reconstruct(noise[:200], pixels[:200], noise[200:])
    assert ((lost_ - pixels[200:]) ** 2).mean() > 0.9 * pixels.var()


def test_deeper_cuts_tell_less_and_the_raw_image_tells_all(base, tmp_path):
    part = fedlab.partition(fedlab.load("phantoms(cases=400, size=20)"), 2)
    run = fedlab.run(base.with_(model="small_cnn(width=4)", rounds=1), part, folder=tmp_path)
    found = fedlab.leakage(run, [1, 4], partition=part, known=200, cases=60)
    table = found.table
    assert list(table["cut"]) == [1, 4] and (table["correlation"] > table["null_high"]).all()
    assert table["unexplained"].iloc[0] < table["unexplained"].iloc[-1] and table["floats"].is_monotonic_decreasing
    raw = fedlab.leakage(base.with_(model="logistic"), partition=part, known=200, cases=60).table
    assert raw["correlation"].item() == pytest.approx(1) and raw["unexplained"].item() < 0.4


def test_leakage_repeats_and_shows_images_that_the_attacker_never_saw(base):
    part = partition()
    first, second = (fedlab.leakage(base, [1], partition=part, known=60, cases=20) for _ in range(2))
    pd.testing.assert_frame_equal(first.table, second.table)
    assert first.images.shape == first.reconstructed[1].shape == (6, 1, 12, 12)
    tests = np.concatenate([part.index(site, "test") for site in part.sites])
    pool = {(part.cases.images[i] / 255).astype(np.float32).tobytes() for i in tests}
    assert all(image.astype(np.float32).tobytes() in pool for image in first.images)


def test_a_cut_outside_the_model_is_refused(base):
    with pytest.raises(ValueError, match="cut=9, tail=0 lies outside the model, which has 4 stages"):
        fedlab.leakage(base, [1, 9], partition=partition())
