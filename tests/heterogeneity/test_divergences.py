"""Closed forms of the measures of heterogeneity, and their behaviour under the null."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.heterogeneity.shift.divergences import (
    LABEL,
    ORDINAL,
    QUANTITY,
    cramers_v,
    distance_correlation,
    distance_correlation_null,
    effective_sites,
    gini,
    hellinger,
    jensen_shannon,
    kolmogorov_smirnov,
    mean_defined,
    mutual_information,
    normalised_entropy,
    total_variation,
    wasserstein,
    wasserstein_of,
    weighted_l1,
    within_layers,
)
from fedlab.heterogeneity.shift.embedding import DatasetEmbedding, Embedding
from fedlab.heterogeneity.shift.image_distances import (
    equal_numbers,
    frechet,
    frechet_distance,
    mmd,
    mmd2,
    rbf_kernel,
    site_auc,
)
from fedlab.heterogeneity.shift.measures import Observed, shift

TABLES = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).integers(1, 60, (4, 3)).astype(float))


def test_sizes_have_closed_forms():
    assert effective_sites(np.array([5.0, 5, 5, 5])) == pytest.approx(4)
    assert gini(np.array([5.0, 5, 5, 5])) == pytest.approx(0)
    assert normalised_entropy(np.array([5.0, 5, 5, 5])) == pytest.approx(1)
    assert gini(np.array([0.0, 0, 0, 9])) == pytest.approx(0.75)
    assert normalised_entropy(np.array([0.0, 0, 0, 9])) == pytest.approx(0)
    assert effective_sites(np.array([1.0, 3])) == pytest.approx(1.6)


def test_identical_sites_are_at_zero_of_every_measure():
    table = np.outer([10, 20, 5], [4.0, 2, 6])
    for registry in (LABEL, ORDINAL):
        for name in registry:
            assert registry.function(name)(table) == pytest.approx(0, abs=1e-7), name


@pytest.mark.parametrize("sites", [2, 4])
def test_disjoint_sites_of_equal_size_are_at_the_top(sites):
    table = 25.0 * np.eye(sites)
    assert mutual_information(table) == pytest.approx(np.log2(sites), abs=1e-12)
    for measure in (total_variation, jensen_shannon, hellinger, cramers_v, kolmogorov_smirnov):
        assert measure(table) == pytest.approx(1, abs=1e-12)
    assert weighted_l1(table) == pytest.approx(2 * (1 - 1 / sites))
    assert wasserstein(table) == pytest.approx((sites + 1) / 3)  # mean |i - j| over pairs


@given(TABLES)
@settings(max_examples=15, deadline=None)
def test_mutual_information_is_the_generalised_jensen_shannon(table):
    def bits(p):
        return -(p * np.log2(p)).sum()

    weights, laws = table.sum(axis=1) / table.sum(), table / table.sum(axis=1, keepdims=True)
    divergence = bits(weights @ laws) - sum(w * bits(law) for w, law in zip(weights, laws, strict=True))
    assert mutual_information(table) == pytest.approx(divergence, abs=1e-12)


@given(TABLES)
@settings(max_examples=15, deadline=None)
def test_distances_obey_their_inequalities_and_ignore_the_order_of_sites(table):
    pair = table[:2]
    tv, hel = total_variation(pair), hellinger(pair)
    assert hel**2 <= tv + 1e-12 and tv <= np.sqrt(2) * hel + 1e-12
    assert kolmogorov_smirnov(pair) <= tv + 1e-12
    for registry in (LABEL, ORDINAL):
        for name in registry:
            measure = registry.function(name)
            assert measure(table[[2, 0, 3, 1]]) == pytest.approx(float(measure(table)), abs=1e-12)
            assert measure(10 * table) == pytest.approx(float(measure(table)), abs=1e-12)


def test_measures_take_leading_axes_and_leave_out_empty_sites():
    tables = np.random.default_rng(0).integers(1, 30, (5, 3, 4)).astype(float)
    tables[2, 1] = 0
    for registry in (LABEL, ORDINAL):
        for name in registry:
            measure = registry.function(name)
            each = [float(measure(table)) for table in tables]
            np.testing.assert_allclose(measure(tables), each, atol=1e-12)
            assert each[2] == pytest.approx(float(measure(tables[2][[0, 2]])), abs=1e-12), name
    sizes = tables.sum(axis=-1)
    for name in QUANTITY:
        np.testing.assert_allclose(QUANTITY.function(name)(sizes), [float(QUANTITY.function(name)(s)) for s in sizes])


def test_mutual_information_under_the_null_has_its_known_bias():
    rng = np.random.default_rng(0)
    laws = np.array([0.45, 0.12, 0.19, 0.18, 0.06])
    tables = np.stack([rng.multinomial(270, laws, (4,)) for _ in range(400)]).astype(float)
    expected = (4 - 1) * (5 - 1) / (2 * 1080 * np.log(2))
    assert mutual_information(tables).mean() == pytest.approx(expected, rel=0.1)


@given(TABLES)
@settings(max_examples=15, deadline=None)
def test_means_over_pairs_by_order_statistics_are_means_over_pairs(table):
    shares = table / table.sum(axis=1, keepdims=True)
    pairs = [(a, b) for a in range(4) for b in range(a)]
    variation = [np.abs(shares[a] - shares[b]).sum() / 2 for a, b in pairs]
    moved = [np.abs(np.cumsum(shares[a] - shares[b])).sum() for a, b in pairs]
    assert total_variation(table) == pytest.approx(np.mean(variation), abs=1e-12)
    assert wasserstein(table) == pytest.approx(np.mean(moved), abs=1e-12)
    points = np.array([20.0, 31.5, 90])
    moved = [(np.abs(np.cumsum(shares[a] - shares[b]))[:-1] * np.diff(points)).sum() for a, b in pairs]
    assert wasserstein_of(table, points) == pytest.approx(np.mean(moved), abs=1e-12)


@given(TABLES)
@settings(max_examples=15, deadline=None)
def test_information_within_layers_obeys_the_chain_rule(table):
    layers = np.stack([table[:, :2], table[:, 1:]], axis=1)[None]  # sites x layer x answers
    joint = layers[0].reshape(4, 4)
    between = mutual_information(layers[0].sum(axis=-1))
    conditional = within_layers(mutual_information, layers)[0]
    assert conditional == pytest.approx(float(mutual_information(joint) - between), abs=1e-12)


def test_distance_correlation_has_its_known_values():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    assert distance_correlation(x, x) == pytest.approx(1)
    assert distance_correlation(x, 3 * x @ rotation.T + 7) == pytest.approx(1)
    assert distance_correlation(x, rng.normal(size=(200, 3))) < 0.25
    assert distance_correlation(x, np.ones((200, 1))) == 0
    parabola = x[:, :1] ** 2
    assert abs(np.corrcoef(x[:, 0], parabola[:, 0])[0, 1]) < 0.2 and distance_correlation(x[:, :1], parabola) > 0.35


def test_distance_correlation_is_its_definition():
    """By explicit double centring of distance matrices."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(30, 4)), rng.normal(size=(30, 2))
    y[:, 0] += x[:, 0]
    centre = np.eye(30) - 1 / 30
    a, b = (centre @ np.linalg.norm(z[:, None] - z[None], axis=2) @ centre for z in (x, y))
    expected = np.sqrt((a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean()))
    assert distance_correlation(x, y) == pytest.approx(expected, rel=1e-9)


def test_the_null_of_distance_correlation_pairs_rows_at_random():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(40, 2))
    null = distance_correlation_null(x, y, 5, np.random.default_rng(3))
    order = np.random.default_rng(3)
    shuffled = [distance_correlation(x, y[order.permutation(40)]) for _ in range(5)]
    np.testing.assert_allclose(null, shuffled, rtol=1e-9)
    y[:, 0] += x[:, 0]
    assert distance_correlation(x, y) > distance_correlation_null(x, y, 200, rng).max()


def members(site, sites):
    return (site[..., None] == np.arange(sites)).astype(float)


def test_mmd_is_the_mean_over_pairs_of_cases():
    rng = np.random.default_rng(0)
    features, site = rng.normal(size=(12, 3)), np.repeat([0, 1], [5, 7])
    kernel = rbf_kernel(features)
    a, b, both = kernel[:5, :5], kernel[5:, 5:], kernel[:5, 5:]
    direct = a.sum() / 20 + b.sum() / 42 - 2 * both.mean()
    values, weights = mmd2(kernel, members(site, 2)[None])
    assert values[0, 0] == pytest.approx(direct, abs=1e-12)
    assert weights[0, 0] == pytest.approx(35 / 12)


def test_mmd_of_two_gaussians_has_its_closed_form():
    rng = np.random.default_rng(1)
    d, delta, n = 3, 1.5, 1500
    x = rng.normal(size=(2 * n, d))
    x[n:, 0] += delta
    kernel = rbf_kernel(x)
    s2 = -1 / (2 * np.log(kernel[0, 1])) * ((x[0] - x[1]) ** 2).sum()  # the bandwidth the median chose
    expected = 2 * (s2 / (s2 + 2)) ** (d / 2) * (1 - np.exp(-(delta**2) / (2 * (s2 + 2))))
    value = mmd2(kernel, members(np.repeat([0, 1], n), 2)[None])[0][0, 0]
    assert value == pytest.approx(expected, rel=0.05)


def test_mmd_is_unbiased_and_its_permutation_p_uniform_under_the_null():
    rng = np.random.default_rng(2)
    values, p = [], []
    for _ in range(150):
        kernel = rbf_kernel(rng.normal(size=(40, 2)))
        sites = np.stack([rng.permutation(np.repeat([0, 1], 20)) for _ in range(60)])
        draws = mmd2(kernel, members(sites, 2))[0][:, 0]
        values.append(draws[0])
        p.append((draws >= draws[0]).mean())
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(150)
    assert np.abs(np.sort(p) - (np.arange(150) + 0.5) / 150).max() < 1.63 / np.sqrt(150) + 1 / 60  # KS at 1 %


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=12, deadline=None)
def test_no_discrepancy_is_below_that_of_identical_sites(seed):
    rng = np.random.default_rng(seed)
    site, classes = rng.integers(0, 3, 30), rng.integers(0, 2, 30)
    kernel = rbf_kernel(rng.normal(size=(30, 2)))
    even = mmd(kernel, classes, 3, identical=True)(site[None])[0]
    assert even - 1e-12 <= mmd(kernel, classes, 3)(site[None])[0]
    twins = rbf_kernel(np.repeat(rng.normal(size=(10, 2)), 2, axis=0))
    identical, of_one = np.tile([0, 1], 10)[None], np.zeros(20, int)
    assert mmd(twins, of_one, 2)(identical) == pytest.approx(
        mmd(twins, of_one, 2, identical=True)(identical), abs=1e-12
    )


def test_frechet_distance_of_a_shifted_sample_is_the_square_of_the_shift():
    rng = np.random.default_rng(0)
    for singular in (False, True):
        x = rng.normal(size=(60, 5)) @ rng.normal(size=(5, 5))
        x[:, 4] = x[:, 3] if singular else x[:, 4]
        delta = rng.normal(size=5)
        site = np.repeat([0, 1], 60)[None]
        measured = frechet(np.vstack([x, x + delta]), np.zeros(120, int), 2)(site)
        assert measured[0] == pytest.approx(delta @ delta, abs=1e-8)


def test_frechet_distance_of_normals_along_shared_axes_has_its_closed_form():
    a, b = np.array([1.0, 4, 9]), np.array([4.0, 1, 0])
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    roots = [turn @ np.diag(np.sqrt(c)) @ turn.T for c in (a, b)]
    expected = 14 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    found = frechet_distance(np.zeros(3), roots[0], np.array([1.0, 2, 3]), roots[1])
    assert found == pytest.approx(expected, abs=1e-12)


def test_frechet_compares_equally_many_of_each_site():
    rng = np.random.default_rng(0)
    site, classes = rng.choice(3, 300, p=[0.6, 0.39, 0.01]), rng.integers(0, 2, 300)
    kept = equal_numbers(site, classes, 3)
    counts = np.array([[((site == k) & (classes == c))[kept].sum() for k in range(2)] for c in range(2)])
    whole = np.array([[((site == k) & (classes == c)).sum() for k in range(2)] for c in range(2)])
    np.testing.assert_array_equal(counts, np.tile(whole.min(axis=1, keepdims=True), 2))  # site 2 is too small to count


def folds(n):
    return np.arange(n) % 5


def test_a_classifier_tells_two_gaussians_apart_as_well_as_can_be():
    rng = np.random.default_rng(0)
    n, d = 4000, 1.0
    x = rng.normal(size=(2 * n, 2))
    x[n:, 0] += d
    site = np.repeat([0, 1], n)[None]
    order = rng.permutation(2 * n)
    auc = site_auc(x[order], np.zeros(2 * n, int), 2, folds(2 * n))(site[:, order])[0]
    assert auc == pytest.approx(0.7602, abs=3 * 0.0054)  # Phi(d / sqrt 2); Hanley and McNeil's standard error
    far = site_auc(x[order] + 50 * site[0][order][:, None], np.zeros(2 * n, int), 2, folds(2 * n))
    assert far(site[:, order])[0] == 1


def test_a_classifier_is_at_one_half_where_sites_are_identical():
    rng = np.random.default_rng(0)
    for sites in (2, 4):
        x, site = rng.normal(size=(800, 6)), rng.integers(0, sites, (60, 800))
        found = site_auc(x, np.zeros(800, int), sites, folds(800))(site)
        assert abs(found.mean() - 0.5) < 2 * found.std() / np.sqrt(60)
        assert 0.5 * found.std() < 800**-0.5 < 2 * found.std()  # as wide as an AUC of n cases is, about n^-1/2
    same = site_auc(np.ones((40, 3)), np.zeros(40, int), 2, folds(40))(np.repeat([0, 1], 20)[None])
    assert same[0] == 0.5  # ties are shared


def test_a_classifier_within_classes_does_not_see_the_classes():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 2, 600)
    site = (rng.random(600) < np.where(classes, 0.9, 0.1)).astype(int)[None]
    x = rng.normal(size=(600, 2)) + 4 * classes[:, None]
    assert site_auc(x, np.zeros(600, int), 2, folds(600))(site)[0] > 0.85
    assert site_auc(x, classes, 2, folds(600))(site)[0] == pytest.approx(0.5, abs=0.1)


def test_means_leave_out_what_is_undefined():
    values = np.array([[1.0, np.nan, 3], [np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(mean_defined(values), [2, np.nan])
    assert mean_defined(values[0], np.array([3.0, 100, 1])) == pytest.approx(1.5)
    alone = mmd2(np.zeros((3, 3)), members(np.array([[0, 0, 1]]), 2))[0]
    assert np.isnan(alone).all()  # one case is no sample


def test_the_embedding_is_fixed_by_the_images_alone():
    rng = np.random.default_rng(0)
    for shape in ((60, 1, 20, 20), (40, 3, 16, 18), (30, 1, 10, 10, 10)):
        x = rng.integers(0, 256, shape).astype(np.uint8)
        embed = Embedding.fit(x)
        np.testing.assert_allclose(embed(x[3:9]), embed(x)[3:9], atol=1e-4)
        spread = embed(x).std(axis=0)
        assert np.isfinite(embed(x)).all() and spread.max() == pytest.approx(1, abs=1e-2)
    blank = np.zeros((10, 1, 8, 8), np.uint8)
    assert np.isfinite(Embedding.fit(blank)(blank)).all()


def test_a_dataset_embedding_reads_each_image_once_and_embeds_other_images():
    class Counting(np.ndarray):
        read = 0

        def __getitem__(self, rows):
            Counting.read += np.size(rows) if isinstance(rows, np.ndarray) else 0
            return super().__getitem__(rows)

    x = np.random.default_rng(0).integers(0, 256, (50, 1, 12, 12)).astype(np.uint8)
    measured = DatasetEmbedding(x.view(Counting))
    fitted, some = Counting.read, np.array([3, 9, 3, 40])
    first = measured.of_rows(some)
    assert Counting.read == fitted + 3
    np.testing.assert_array_equal(measured.of_rows(some[:2]), first[:2])
    assert Counting.read == fitted + 3
    np.testing.assert_allclose(first, measured.of_images(x[some]), atol=1e-4)


def observed(site, labels, units=None, task="binary", classes=2):
    n, sites = len(site), site.max() + 1
    units = np.arange(n) if units is None else units
    return Observed(site, labels, units, np.zeros(n, int), task, classes, sites, 0)


def pictures(n):
    x = np.random.default_rng(3).integers(0, 256, (n, 1, 14, 14)).astype(np.uint8)
    return lambda rows: (x[rows], x[rows])


def test_the_null_of_units_is_wider_than_that_of_cases():
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.integers(0, 2, 60), 10)  # ten images a patient, all of one class
    site = np.repeat(rng.integers(0, 3, 60), 10)
    patients = shift(observed(site, labels, np.repeat(np.arange(60), 10)), pictures(600)).set_index("measure")
    images = shift(observed(site, labels), pictures(600)).set_index("measure")
    for measure in ("I(S;Y)", "TV", "Gini"):
        assert patients.null_high[measure] > 1.5 * images.null_high[measure]
    assert patients.value["TV"] == images.value["TV"] < patients.null_high["TV"]


def test_intervals_hold_the_value_and_nulls_are_in_order():
    rng = np.random.default_rng(1)
    frame = shift(observed(rng.integers(0, 3, 200), rng.integers(0, 3, 200), task="ordinal", classes=3), pictures(200))
    assert {"KS", "W1", "MMD^2"} <= set(frame["measure"])
    assert (frame["low"] <= frame["value"]).all() and (frame["value"] <= frame["high"]).all()
    assert (frame["null_low"] <= frame["null"]).all() and (frame["null"] <= frame["null_high"]).all()
    label = frame[frame["axis"] == "prevalence"]
    assert (label["low"] >= 0).all() and (label["value"] < 1.5 * label["null_high"]).all()


def test_a_multilabel_measure_is_the_mean_over_findings():
    rng = np.random.default_rng(1)
    site, masks = rng.integers(0, 2, 300), rng.integers(0, 8, 300)
    frame = shift(observed(site, masks, task="multilabel", classes=3), pictures(300)).set_index("measure")
    by_finding = [
        float(total_variation(np.array([[((masks[site == k] >> b) & 1 == v).sum() for v in (0, 1)] for k in (0, 1)])))
        for b in range(3)
    ]
    assert frame.value["TV"] == pytest.approx(np.mean(by_finding), abs=1e-12)
