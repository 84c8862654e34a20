"""Laws of label shift: what each scheme guarantees for whole cases, for its draws, and for what it refuses."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_worlds import made, quiet
from scipy.optimize import linprog

from fedlab.heterogeneity.log_odds import expected_counts, stratify
from fedlab.heterogeneity.prevalence import SCHEMES, LabelledCases, check, class_counts, log_odds, shortfall
from fedlab.heterogeneity.prevalence.multilabel import exact_findings
from fedlab.heterogeneity.prevalence.schemes import dirichlet_by_class, dirichlet_by_site
from fedlab.heterogeneity.profiles import profile
from fedlab.heterogeneity.shift.divergences import jensen_shannon, kolmogorov_smirnov, mutual_information
from fedlab.heterogeneity.site_effects import SiteEffects
from fedlab.partitioning.build import partition

SEEDS = st.integers(0, 2**32 - 1)
OWN_SIZES = ("shards(2)", "classes(2)", "dirichlet(1, by='class')", "dirichlet(1, by='class', balance='cap')")
SCHEMES_OF = {
    "binary": (0.7, "dirichlet(0.3)", "mix(0.6)", "ks(0.2)", "like(fed_heart_disease)", *OWN_SIZES),
    "ordinal": (0.7, "dirichlet(0.3)", "mix(0.6)", "ks(0.4)", *OWN_SIZES),
    "multiclass": (0.7, "dirichlet(0.3)", "mix(0.6)", *OWN_SIZES),
    "multilabel": (0.7,),
}


def of(part, split="train"):
    return part.counts(split).to_numpy()


def shares_of(counts):
    return counts / counts.sum(axis=1, keepdims=True)


def expected_table(value, labels, classes, task, sites=4, sizes=None, seed=0, least=2):
    """Expected table (sites + 1, classes) of an axis for the whole pool, and the requested site sizes."""
    axis = log_odds(value, LabelledCases(labels, classes, task, SiteEffects(sites, seed)))
    strata = stratify(labels, [axis])
    sizes = np.full(sites, len(labels) // sites) if sizes is None else np.asarray(sizes)
    return expected_counts(strata, [axis], np.bincount(strata.of), sizes, least), sizes


# what every scheme keeps


@quiet
@given(
    case=st.sampled_from([(task, value) for task, values in SCHEMES_OF.items() for value in values]),
    sites=st.integers(2, 4),
    seed=st.integers(0, 99),
    splits=st.sampled_from(["official", "site"]),
)
@settings(max_examples=20, deadline=None)
def test_every_case_at_most_once_patients_whole_sizes_exact_and_again(case, sites, seed, splits):
    task, value = case
    cases = made(400, task, patients=320 if splits == "site" else None)
    part = partition(cases, sites, prevalence=value, seed=seed, splits=splits)
    assert part.table["case"].is_unique and len(part.sites) == sites
    assert part.table.equals(partition(cases, sites, prevalence=value, seed=seed, splits=splits).table)
    if splits == "site":
        units = cases.units[part.rows]
        assert (part.table.groupby(units)["site"].nunique() == 1).all()
    kept_all = not str(value).startswith(("mix", "classes"))
    if kept_all:
        assert part.table["case"].tolist() == cases.table["case"].tolist()
    if value not in OWN_SIZES and splits == "official":
        for split in ("train", "val", "test"):
            sizes = part.table[part.table["split"] == split]["site"].value_counts().reindex(part.sites).to_numpy()
            assert np.ptp(sizes) <= 1  # equal, up to the cases that do not divide


@pytest.mark.parametrize("task", ["binary", "ordinal", "multiclass", "multilabel"])
def test_no_dose_of_any_scheme_is_the_stratified_split(task):
    cases = made(1000, task)
    plain = of(partition(cases, 4))
    values = {
        "binary": ["mix(0)", "ks(0)"],
        "ordinal": ["mix(0)", "ks(0)"],
        "multiclass": ["mix(0)"],
        "multilabel": [0],
    }
    for value in values[task]:
        found = of(partition(cases, 4, prevalence=value))
        assert np.abs(found - plain).max() <= 1
        proportional = np.outer(found.sum(axis=1), found.sum(axis=0)) / found.sum()
        assert np.abs(found - proportional).max() < (1 if task != "multilabel" else 8)


@quiet
@pytest.mark.parametrize("task", ["binary", "ordinal", "multiclass"])
def test_mix_and_ks_grow_evenly_with_their_dose(task):
    cases = made(2000, task)
    for scheme in ["mix", "ks"] if task != "multiclass" else ["mix"]:
        doses = np.arange(0, 0.6, 0.1)
        found = [
            float(mutual_information(of(partition(cases, 4, prevalence=f"{scheme}({h:g})"))[:, :] * 1.0)) for h in doses
        ]
        assert (np.diff(found) > 0).all() and found[0] < 1e-3


@quiet
def test_permuting_the_sites_of_a_request_permutes_the_counts():
    order = [2, 0, 3, 1]
    binary, wanted = made(600, "binary", labels=np.arange(600) % 2), [0.2, 0.4, 0.6, 0.8]
    one, other = (of(partition(binary, 4, prevalence=list(v))) for v in (wanted, np.array(wanted)[order]))
    np.testing.assert_array_equal(one[order], other)
    three = made(600, "multiclass", 3, labels=np.arange(600) % 3)
    rows = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5], [0.25, 0.5, 0.25]])
    one, other = (of(partition(three, 4, prevalence=v.tolist())) for v in (rows, rows[order]))
    assert np.abs(one[order] - other).max() <= 1


# Dirichlet laws


@pytest.mark.parametrize("h", [0.2, 0.5, 0.8])
def test_site_draws_deviate_by_h_of_one_class_a_site(h):
    prior = np.array([0.5, 0.25, 0.15, 0.1])
    drawn = dirichlet_by_site(1 / h**2 - 1, prior, 200_000, np.random.default_rng(0))
    rms = np.sqrt(((drawn - prior) ** 2).sum(axis=1).mean() / (1 - (prior**2).sum()))
    assert rms == pytest.approx(h, abs=0.002)
    np.testing.assert_allclose(drawn.sum(axis=1), 1)
    np.testing.assert_allclose(drawn.mean(axis=0), prior, atol=0.003)


@pytest.mark.parametrize(
    ("alpha", "tv", "js"),
    [
        (0.05, 0.770, 0.790),
        (0.1, 0.698, 0.716),
        (0.3, 0.536, 0.514),
        (0.5, 0.452, 0.399),
        (1, 0.342, 0.248),
        (10, 0.117, 0.031),
        (100, 0.037, 0.003),
    ],
)
def test_symmetric_draws_have_the_reference_distances(alpha, tv, js):
    drawn = dirichlet_by_site(8 * alpha, np.full(8, 1 / 8), 40_000, np.random.default_rng(1))
    assert np.abs(drawn - 1 / 8).sum(axis=1).mean() / 2 == pytest.approx(tv, abs=0.004)
    pairs = drawn.reshape(-1, 2, 8)
    assert jensen_shannon(pairs).mean() == pytest.approx(js, abs=0.006)


def test_limits_of_the_site_draws():
    prior = np.array([0.6, 0.3, 0.0, 0.1])
    np.testing.assert_allclose(
        dirichlet_by_site(1e12, prior, 50, np.random.default_rng(0)), np.tile(prior, (50, 1)), atol=1e-5
    )
    sharp = dirichlet_by_site(1e-6, prior, 4000, np.random.default_rng(0))
    assert (sharp.max(axis=1) > 0.999).mean() > 0.999 and (sharp[:, 2] == 0).all()
    np.testing.assert_allclose(sharp.mean(axis=0), prior, atol=0.03)


@quiet
def test_sites_have_the_drawn_classes_where_the_pool_allows_and_the_nearest_where_not():
    labels = np.repeat(np.arange(4), 500)
    seen = LabelledCases(labels, 4, "multiclass", SiteEffects(4, 5))
    axis = log_odds("dirichlet(2)", seen)
    drawn = axis.odds / axis.odds.sum(axis=1, keepdims=True)  # classes are equally common
    table = expected_table("dirichlet(2)", labels, 4, "multiclass", seed=5)[0][:-1]
    logs = np.log(table) - np.log(drawn)
    between = logs - logs.mean(axis=0) - logs.mean(axis=1, keepdims=True) + logs.mean()
    np.testing.assert_allclose(
        between, 0, atol=1e-6
    )  # odds ratios of the draw: the nearest table by Kullback-Leibler divergence
    assert shortfall("dirichlet(2)", axis, table) and not shortfall("dirichlet(2)", axis, drawn * 500)
    assert not shortfall("mix(0.5)", axis, table) and not shortfall(0.5, axis, table)


@quiet
def test_a_million_fold_alpha_is_no_shift_and_none_at_all_one_class_a_site():
    cases = made(1200, "multiclass", 4, labels=np.arange(1200) % 4, split=False)
    even = shares_of(of(partition(cases, 4, prevalence="dirichlet(1e7)"), None))
    np.testing.assert_allclose(even, 0.25, atol=0.01)
    for seed in range(3):
        found = shares_of(of(partition(cases, 4, prevalence="dirichlet(1e-4)", seed=seed), None))
        drawn = LabelledCases(cases.labels, 4, "multiclass", SiteEffects(4, seed))
        wanted = log_odds("dirichlet(1e-4)", drawn).odds.argmax(axis=1)
        if len(set(wanted)) == 4:  # the draw can come true
            assert (found[np.arange(4), wanted] > 0.99).all()
        assert (np.sort(found, axis=1)[:, -2:].sum(axis=1) > 0.99).all()


def test_class_draws_split_each_class_by_a_dirichlet_law():
    pool, beta, sites = np.array([400, 300, 200]), 0.7, 5
    drawn = np.stack(
        [dirichlet_by_class(beta, pool, sites, False, 0, np.random.default_rng(seed)) for seed in range(3000)]
    )
    np.testing.assert_allclose(drawn.sum(axis=1), 1)
    wanted = (1 / sites) * (1 - 1 / sites) / (sites * beta + 1)
    np.testing.assert_allclose(drawn.var(axis=0), wanted, rtol=0.12)


def test_a_cap_leaves_full_sites_without_further_classes():
    pool = np.array([100, 100, 100, 100])
    for seed in range(30):
        parts = dirichlet_by_class(0.3, pool, 4, True, 0, np.random.default_rng(seed))
        before = np.cumsum(parts * pool, axis=1) - parts * pool
        assert (parts[before >= 100] == 0).all()
        np.testing.assert_allclose(parts.sum(axis=0), 1)
    free, capped = (
        np.mean([(dirichlet_by_class(0.3, pool, 4, cap, 0, np.random.default_rng(s)) @ pool).std() for s in range(300)])
        for cap in (False, True)
    )
    assert capped < 0.8 * free  # it evens out the sizes


@quiet
def test_class_draws_assign_all_cases_and_keep_the_minimum():
    cases = made(900, "multiclass", 3)
    for value in ("dirichlet(0.3, by='class', least=20)", "dirichlet(0.3, by='class', balance='cap', least=20)"):
        part = partition(cases, 5, prevalence=value)
        assert len(part.table) == 900 and part.table["site"].value_counts().min() >= 19
    with pytest.raises(ValueError, match=r"fewer than 400 of 900 cases in 1000 draws: use fewer than 5 sites"):
        partition(cases, 5, prevalence="dirichlet(0.3, by='class', least=400)")


# linear mix, exact vectors, Kolmogorov-Smirnov


@given(seed=SEEDS, classes=st.integers(2, 6), sites=st.integers(2, 6), h=st.floats(0.01, 1))
@settings(max_examples=15, deadline=None)
def test_the_total_variation_of_a_mix_is_its_closed_form(seed, classes, sites, h):
    random = np.random.default_rng(seed)
    pool = random.integers(60, 400, classes)
    own, sizes = random.integers(0, classes, sites), np.full(sites, pool.sum() // sites)
    counts = class_counts.mix(h, own, 0)(sizes, pool, 0)
    assert (counts.sum(axis=0) == pool).all() and (counts >= 0).all()
    n, prior = counts[:-1].sum(axis=1), pool / pool.sum()
    variation = np.abs(counts[:-1] / n[:, None] - prior).sum(axis=1) / 2
    assert (np.abs(variation - h * (1 - prior[own])) <= classes / (2 * n) + 1e-9).all()


@given(seed=SEEDS, classes=st.integers(2, 6), sites=st.integers(1, 6))
@settings(max_examples=15, deadline=None)
def test_exact_shares_to_less_than_a_case_by_one_common_factor(seed, classes, sites):
    random = np.random.default_rng(seed)
    pool, wanted = random.integers(20, 300, classes), random.dirichlet(np.ones(classes), sites)
    sizes = np.full(sites, pool.sum() // sites)
    counts = class_counts.exact(wanted, 0)(sizes, pool, 0)
    kept = counts[:-1].sum(axis=1)
    assert (counts.sum(axis=0) == pool).all() and (counts >= 0).all() and np.ptp(kept) == 0
    assert (np.abs(counts[:-1] - kept[:, None] * wanted) < (0.5 + 1e-9 if classes == 2 else 1)).all()
    need = sizes @ wanted
    best = min(1, *(pool[need > 1e-9] / need[need > 1e-9]))
    assert kept.sum() >= best * sizes.sum() - (3 * sites + 2 if classes == 2 else sites + 1e-6)


@quiet
def test_listed_shares_come_true_in_every_split():
    wanted = np.array([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.5, 0.3, 0.2]])
    part = partition(made(1500, "ordinal", 3), 3, prevalence=wanted.tolist())
    for split in ("train", "val", "test"):
        counts = of(part, split)
        assert (np.abs(counts - counts.sum(axis=1, keepdims=True) * wanted) < 1).all()
    binary = partition(made(800, "binary"), 2, prevalence=[[0.9, 0.1], [0.6, 0.4]])
    assert (of(binary) == of(partition(made(800, "binary"), 2, prevalence=[0.1, 0.4]))).all()


def test_a_class_that_a_test_split_lacks_costs_no_other_class():
    wanted, sizes = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]), np.array([60, 60])
    np.testing.assert_array_equal(
        class_counts.exact(wanted, 0)(sizes, np.array([60, 60, 0]), 0)[:2], [[40, 20, 0], [20, 40, 0]]
    )
    none = class_counts.exact(np.array([[0.0, 1.0], [0.5, 0.5]]), 0)(sizes, np.array([120, 0]), 0)
    np.testing.assert_array_equal(none, [[0, 0], [60, 0], [60, 0]])  # a site that requests that class only has no case
    with pytest.raises(ValueError, match="60, 60 and 0 available cases: a site would keep 0 cases, wanted at least 2"):
        class_counts.exact(wanted, 0)(sizes, np.array([60, 60, 0]), 2)


@given(seed=SEEDS, sites=st.integers(2, 6), classes=st.integers(2, 5), target=st.floats(0, 1))
@settings(max_examples=15, deadline=None)
def test_sites_lie_apart_by_the_target_and_no_case_is_lost(seed, sites, classes, target):
    random = np.random.default_rng(seed)
    pool = random.integers(300, 2000, classes)
    sizes = np.full(sites, pool.sum() // sites)
    sizes[0] += pool.sum() - sizes.sum()
    order = random.permutation(sites)
    try:
        counts = class_counts.ks(target, order, 0)(sizes, pool, 2)
    except ValueError as error:
        nearest = float(re.search(r"nearest feasible value is 'ks\(([\d.]+)\)'", str(error))[1])
        assert nearest < target
        counts, target = class_counts.ks(nearest, order, 0)(sizes, pool, 2), nearest
    assert (counts[-1] == 0).all() and (counts[:-1].sum(axis=1) == sizes).all() and (counts.sum(axis=0) == pool).all()
    assert float(kolmogorov_smirnov(counts[:-1] * 1.0)) == pytest.approx(target, abs=0.01)


@quiet
def test_qus_retina_splits_come_true_in_a_partition():
    grades = np.repeat(np.arange(5), [486, 128, 206, 194, 66])  # training grades of RetinaMNIST
    for target in (0.0, 0.49, 0.57):
        part = partition(
            made(1080, "ordinal", 5, labels=grades, split=False), 4, prevalence=f"ks({target})", splits="site"
        )
        assert float(kolmogorov_smirnov(part.counts().to_numpy(float))) == pytest.approx(target, abs=0.01)
    ranked = np.argsort(SiteEffects(4, 0).of("prevalence"))
    means = part.counts().to_numpy() @ np.arange(5) / part.counts().sum(axis=1).to_numpy()
    assert (np.diff(means[ranked]) > 0).all()  # higher site effects, higher grades: geography acts on the grades


# several findings at once


def pool_of(seed, findings=4, n=1500):
    """Combinations of correlated findings, and how many cases have each."""
    random = np.random.default_rng(seed)
    latent = random.normal(size=(n, 1)) * 0.7 + random.normal(size=(n, findings))
    present = (latent > np.linspace(0.3, 1.6, findings)).astype(np.int64)
    combinations, of_ = np.unique(present, axis=0, return_inverse=True)
    return combinations, np.bincount(of_.reshape(-1))


@given(seed=SEEDS, sites=st.integers(1, 5))
@settings(max_examples=10, deadline=None)
def test_findings_have_their_prevalences_to_half_a_case_or_one_where_they_run_out(seed, sites):
    findings, pool = pool_of(seed)
    own = pool @ findings / pool.sum()
    wanted = own * np.random.default_rng(seed).uniform(0.4, 1.6, (sites, findings.shape[1]))
    counts = exact_findings(wanted, findings)(np.full(sites, pool.sum() // sites), pool, 2)
    kept = counts[:-1].sum(axis=1)
    assert (counts.sum(axis=0) == pool).all() and (counts >= 0).all() and np.ptp(kept) == 0
    off = np.abs(counts[:-1] @ findings - kept[:, None] * wanted)
    assert off.max() <= 1.5 and (off > 0.5 + 1e-9).mean() <= 0.1
    assert kept.sum() > 0.98 * largest(wanted, findings, pool) - sites


def largest(wanted, findings, pool):
    """Most cases that equal sites with these prevalences can hold, by linear programming."""
    sites, (levels, count) = len(wanted), findings.shape
    each = np.vstack([np.ones(levels), findings.T])
    numbers = np.hstack([np.ones((sites, 1)), wanted]).reshape(-1, 1)
    equal = np.hstack([np.kron(np.eye(sites), each), -numbers])  # cases of each level at each site, then the size
    used = np.hstack([np.tile(np.eye(levels), sites), np.zeros((levels, 1))])
    fits = linprog([0] * (sites * levels) + [-1], used, pool, equal, np.zeros(sites * (count + 1)))
    return sites * fits.x[-1]


def test_sites_are_exponential_tiltings_of_the_pool():
    findings, pool = pool_of(3, 3, 60_000)
    wanted = np.array([[0.45, 0.2, 0.05], [0.3, 0.2, 0.1]])
    counts = exact_findings(wanted, findings)(np.array([12_000, 12_000]), pool, 2)
    log_odds = np.log(counts[:-1] / counts[-1])
    design = np.hstack([np.ones((len(pool), 1)), findings])
    for row in log_odds:
        fit, *_ = np.linalg.lstsq(design, row, rcond=None)
        np.testing.assert_allclose(design @ fit, row, atol=0.05)  # linear in the findings: no interaction added


@quiet
def test_listed_findings_come_true_in_a_partition_and_what_no_case_combines_is_refused():
    wanted = np.array([[0.7, 0.3, 0.1], [0.4, 0.4, 0.3], [0.5, 0.2, 0.2]])
    part = partition(made(900, "multilabel"), 3, prevalence=wanted.tolist())
    sizes = part.table[part.table["split"] == "train"]["site"].value_counts().reindex(part.sites).to_numpy()
    assert (np.abs(of(part) - sizes[:, None] * wanted) <= 0.5 + 1e-9).all()
    together = made(200, "multilabel", 2, labels=np.repeat([0, 3], 100), split=False)  # both findings or none
    with pytest.raises(ValueError, match=r"combinations of findings.*nearest feasible value is \[\[") as caught:
        partition(together, 2, prevalence=[[0.9, 0.1], [0.5, 0.5]])
    nearest = json.loads(re.search(r"nearest feasible value is (\[\[.*\]\])", str(caught.value))[1])
    assert partition(together, 2, prevalence=nearest).sites == ["Site A", "Site B"]


# real label profiles


@quiet
@pytest.mark.parametrize("name", ["ham10000", "fed_heart_disease", "uci_heart_disease"])
def test_the_cases_of_a_profile_are_assigned_as_its_sites_hold_them(name):
    real = profile(name)
    counts = real.labels.counts
    labels = np.repeat(np.arange(counts.shape[1]), counts.sum(axis=0))
    matched = real.match(SiteEffects(4, 2))
    found, sizes = expected_table(
        f"like({name})", labels, counts.shape[1], real.labels.task, sizes=counts.sum(axis=1)[matched], seed=2
    )
    np.testing.assert_allclose(found[:-1], counts[matched], atol=0.1 if (counts > 0).all() else 1.0)
    again = labels if real.labels.task != "multiclass" else (labels + 3) % counts.shape[1]  # another order of classes
    moved, _ = expected_table(f"like({name})", again, counts.shape[1], real.labels.task, sizes=sizes, seed=2)
    if real.labels.task == "multiclass":
        np.testing.assert_allclose(np.roll(moved[:-1], -3, axis=1), found[:-1], atol=1e-6)


@quiet
def test_a_site_imitates_one_real_site_in_size_and_in_classes():
    real, cases = profile("fed_heart_disease"), made(3000, "binary", labels=np.arange(3000) % 2)
    part = partition(cases, 4, quantity="like(fed_heart_disease)", prevalence="like(fed_heart_disease)", seed=1)
    by_size = np.argsort(of(part).sum(axis=1))
    np.testing.assert_array_equal(np.argsort(real.sizes)[np.argsort(by_size)], real.match(SiteEffects(4, 1)))
    prevalence = shares_of(real.labels.counts)[real.match(SiteEffects(4, 1)), 1]
    assert (np.argsort(shares_of(of(part))[:, 1]) == np.argsort(prevalence)).all()


# what is refused


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("dirichlt(0.3)", "did you mean 'dirichlet'"),
        ("mixx(0.3)", "did you mean 'mix'"),
        ("dirichlet(0)", "alpha is a positive number"),
        ("dirichlet(0.3, by='sit')", "did you mean 'site'"),
        ("dirichlet(0.3, balance='cap')", "use by='class'"),
        ("dirichlet(0.3, by='class', balance='capped')", "did you mean 'cap'"),
        ("dirichlet(0.3, by='class', least=-1)", "least=-1"),
        ("mix(1.5)", "between 0"),
        ("ks(-0.1)", "between 0"),
        ("shards(0)", "from 1 to 10,000"),
        ("classes(1.5)", "whole number"),
        ("like(fets2022)", "no public classes, only sizes: choose like"),
        ("like(ham1000)", "did you mean 'ham10000'"),
        (1.2, "give a dose between 0"),
        (True, "prevalence is True"),
        ([0.2, 1.5], "prevalence holds 1.5"),
        ([0.2, "x"], "prevalence holds 'x'"),
        ([[0.2, 0.8], [0.5]], "equally many shares for each site"),
        ([[0.2, 0.8], 0.5], "equally many shares for each site"),
        ([], "one number per site"),
    ],
)
def test_what_can_be_no_prevalence_is_refused_without_cases(value, message):
    with pytest.raises(ValueError, match=message):
        check(value)


@pytest.mark.parametrize(
    ("task", "value", "message"),
    [
        ("multiclass", "ks(0.5)", "needs classes in an order, but the task is multiclass.*'mix"),
        ("multilabel", "ks(0.5)", "needs classes in an order, but the task is multilabel"),
        ("multilabel", "mix(0.5)", "needs one class per case.*list of the prevalence of each finding"),
        ("multilabel", "dirichlet(0.3)", "needs one class per case"),
        ("ordinal", "like(fed_isic2019)", r"8 multiclass classes, but the task is ordinal with 4: no profile"),
        (
            "binary",
            "like(ham10000)",
            r"task is binary with 2: choose like\(fed_heart_disease\) or like\(fed_camelyon16\)",
        ),
        ("binary", "classes(3)", "at most 2, the number of classes"),
        ("ordinal", [0.1, 0.2, 0.3], "list of 4 shares for each site"),
        ("ordinal", [[0.5, 0.5]] * 3, "2 shares per site for 4 classes"),
        ("ordinal", [[0.5, 0.5, 0.5, 0.5]] * 3, "add up to"),
        ("binary", [0.1, 0.2], "2 values for 3 sites"),
    ],
)
def test_what_does_not_suit_the_task_is_refused_with_what_would_do(task, value, message):
    check(value)
    with pytest.raises(ValueError, match=message):
        partition(made(200, task), 3, prevalence=value)


@quiet
def test_what_the_pool_cannot_give_is_refused_with_the_nearest_that_fits():
    rare = made(300, "ordinal", 3, labels=np.repeat([0, 1, 2], [200, 98, 2]), split=False)
    with pytest.raises(ValueError, match=r"200, 98 and 2 available cases.*wanted at least 2") as caught:
        partition(rare, 3, prevalence=[[0.0, 0.0, 1.0]] * 3)
    nearest = json.loads(re.search(r"nearest feasible value is (\[\[.*\]\])", str(caught.value))[1])
    assert len(partition(rare, 3, prevalence=nearest).sites) == 3
    rare = made(300, "ordinal", 3, labels=np.repeat([0, 1, 2], [200, 99, 1]), split=False)
    with pytest.raises(ValueError, match=r"nearest feasible value is 'mix\(([\d.]+)\)'") as caught:
        partition(rare, 3, prevalence="mix(1)")
    nearest = re.search(r"'(mix\([\d.]+\))'", str(caught.value).split("feasible value is")[1])[1]
    assert len(partition(rare, 3, prevalence=nearest).sites) == 3


def test_every_scheme_is_explained():
    assert set(SCHEMES) == {"dirichlet", "mix", "ks", "like", "shards", "classes"}
    assert all(len(SCHEMES[name]) > 30 for name in SCHEMES)
