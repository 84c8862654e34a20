"""The table of shifts: exact conditional nulls, one-sided null intervals, the same numbers in the short form."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from fedlab.heterogeneity.shift.divergences import mutual_information, total_variation
from fedlab.heterogeneity.shift.measures import shift
from fedlab.heterogeneity.shift.null_intervals import HEADLINES
from fedlab.heterogeneity.shift.observed import Observed, joint_ids
from fedlab.heterogeneity.shift.permutation import ContingencyTables, random_tables


def observed(site, labels, units=None, classes=2, task="binary", seed=0, **known):
    site, labels = np.asarray(site), np.asarray(labels)
    units = np.arange(len(site)) if units is None else units
    zeros = np.zeros(len(site), np.int64)
    return Observed(site, labels, units, zeros, task, classes, int(site.max()) + 1, seed, **known)


def features(n, seed=3):
    """Features of pure noise: four for each of n cases."""
    x = np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)
    return lambda rows: x[rows]


def measured(frame, measure, axis=None):
    rows = frame[(frame["measure"] == measure) & (frame["axis"] == (axis or frame["axis"]))]
    assert len(rows) == 1
    return rows.iloc[0]


def patients(seed, groups=60, sites=3):
    """Patients of one to three images, each of one of four categories, assigned at random."""
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 4, groups)
    units = np.repeat(np.arange(groups), size)
    return rng.integers(0, sites, groups)[units], rng.integers(0, 4, len(units)), units


def tables_of(seen, categories, width, stratum):
    return ContingencyTables(seen, categories, csr_matrix(np.eye(width)), stratum)


# nulls


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=12, deadline=None)
def test_random_tables_keep_both_margins(seed):
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 6, (3, 4)).astype(float)
    drawn = random_tables(table, 20, rng)
    assert (drawn >= 0).all()
    np.testing.assert_array_equal(drawn.sum(axis=1), np.tile(table.sum(axis=0), (20, 1)))
    np.testing.assert_array_equal(drawn.sum(axis=2), np.tile(table.sum(axis=1), (20, 1)))


def test_a_random_cell_is_hypergeometric():
    table = np.array([[7.0, 3, 5], [1, 8, 6]])
    cell = random_tables(table, 40_000, np.random.default_rng(0))[:, 1, 1]
    n, rows, columns = 30, 15, 11
    assert cell.mean() == pytest.approx(rows * columns / n, rel=0.01)
    assert cell.var() == pytest.approx(rows * columns / n * (n - rows) / n * (n - columns) / (n - 1), rel=0.03)


@pytest.mark.parametrize("whole", [False, True])
def test_drawing_tables_is_permuting_sites(whole):
    """Same law of every measure, of single cases and of patients whose images have different categories."""
    site, categories, units = patients(1)
    seen = observed(site, categories, units if whole else None, classes=4)
    tables = tables_of(seen, categories, 4, np.zeros(len(seen.start), np.int64))
    drawn, permuted = (
        mutual_information(np.concatenate(list(draw(8000, "test"))))
        for draw in (tables._random_tables, tables._permutations)
    )
    assert drawn.mean() == pytest.approx(permuted.mean(), rel=0.02)
    np.testing.assert_allclose(*(np.quantile(each, [0.05, 0.5, 0.95]) for each in (drawn, permuted)), rtol=0.04)


def test_tables_count_cases():
    site, categories, units = patients(2)
    seen = observed(site, categories, units, classes=4)
    tables = tables_of(seen, categories, 4, np.zeros(len(seen.start), np.int64))
    direct = np.array([[((site == k) & (categories == a)).sum() for a in range(4)] for k in range(3)])
    np.testing.assert_array_equal(tables.observed()[0], direct)
    np.testing.assert_array_equal((tables.pattern_counts @ tables.composition.toarray()), direct)
    for draw in (tables._random_tables, tables._permutations):
        for block in draw(50, "test"):
            np.testing.assert_array_equal(block.sum(axis=1), np.tile(direct.sum(axis=0), (50, 1)))
    again = np.concatenate(list(tables.bootstrap(4000, "test")))
    np.testing.assert_allclose(again.mean(axis=0), direct, atol=0.5)


def test_sites_are_permuted_over_whole_patients_within_strata():
    site, categories, units = patients(3)
    seen = observed(
        site, categories, units, classes=4, levels={"population": categories}, moved=frozenset({"population"})
    )
    stratum = seen.strata("population")
    for block in seen.permuted(stratum, 20, "test"):
        for moved in block:
            assert all(len(set(moved[seen.group][units == unit])) == 1 for unit in np.unique(units))
            for one in np.unique(stratum):
                before, after = seen.site[seen.first][stratum == one], moved[stratum == one]
                np.testing.assert_array_equal(np.sort(before), np.sort(after))
    singles = observed(site, categories, classes=4, levels={"population": categories}, moved=frozenset({"population"}))
    np.testing.assert_array_equal(singles.strata("population"), joint_ids(categories)[singles.first])


def test_the_stratum_of_a_patient_does_not_depend_on_the_order_of_images():
    units = np.repeat(np.arange(12), 2)
    levels = np.array([0, 1, 1, 0] * 3 + [0, 0] * 6)
    seen = observed(np.tile([0, 0, 1, 1], 6), np.zeros(24, int), units, levels={"population": levels})
    seen = replace(seen, moved=frozenset({"population"}))
    stratum = seen.strata("population")
    np.testing.assert_array_equal(stratum == stratum[0], np.arange(12) < 6)


# what the null conditions on


def confounded(seed, n=500):
    """Sites choose patients by level A alone; A goes with the label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    level = (rng.random(n) < np.where(labels, 0.9, 0.1)).astype(int)
    site = (rng.random(n) < np.where(level, 0.85, 0.15)).astype(int)
    return site, labels, level


def test_a_null_allows_for_the_axes_in_use():
    site, labels, level = confounded(0, 2000)
    seen = observed(site, labels, levels={"population": level})
    plain = measured(shift(seen, features(2000), brief=True), "I(S;Y)")
    given_level = replace(seen, moved=frozenset({"population"}))
    allowed = measured(shift(given_level, features(2000), brief=True), "I(S;Y)")
    assert plain.value == allowed.value > 10 * plain.null_high
    assert allowed.value < allowed.null_high and allowed.null == pytest.approx(allowed.value, rel=0.2)
    own = measured(shift(given_level, features(2000), brief=True), "I(S;A|Y)")
    assert own.value > 10 * own.null_high


def test_a_conditional_null_interval_has_its_nominal_level():
    """97.5 % of federations whose sites see the level alone: a binomial count of what is above the interval."""
    above = 0
    for seed in range(40):
        site, labels, level = confounded(seed)
        seen = observed(site, labels, seed=seed, levels={"population": level}, moved=frozenset({"population"}))
        frame = measured(shift(seen, features(500), brief=True), "I(S;Y)")
        above += frame.value > frame.null_high
    assert above <= 4  # more happen once in a hundred times, at 100 permutations per interval


@pytest.mark.parametrize("axis, other", [("presentation", "population"), ("population", "presentation")])
def test_each_axis_within_labels_allows_for_labels_and_for_the_other(axis, other):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 3000)
    chosen = (rng.random(3000) < np.where(labels, 0.7, 0.3)).astype(int)
    follows = (rng.random(3000) < np.where(chosen, 0.9, 0.1)).astype(int)
    levels = {axis: follows, other: chosen}
    by_label = (rng.random(3000) < np.where(labels, 0.8, 0.2)).astype(int)
    measure = HEADLINES[axis]
    seen = observed(by_label, labels, levels=levels)
    found = measured(shift(seen, features(3000), brief=True), measure)
    assert found.value < found.null_high
    seen = observed((rng.random(3000) < np.where(chosen, 0.8, 0.2)).astype(int), labels, levels=levels)
    assert measured(shift(seen, features(3000), brief=True), measure).value > 5 * found.null_high
    found = measured(shift(replace(seen, moved=frozenset({other})), features(3000), brief=True), measure)
    assert found.value < found.null_high


def test_image_measures_allow_for_labels_and_levels():
    """Images that follow the level, at sites that choose by level: no scanner differs."""
    site, labels, level = confounded(0, 400)
    x = np.random.default_rng(1).normal(size=(400, 4)).astype(np.float32)
    x[:, 0] += 3 * level
    seen = observed(site, labels, levels={"population": level})
    unaware = shift(seen, lambda rows: x[rows])
    aware = shift(replace(seen, moved=frozenset({"population"})), lambda rows: x[rows])
    scanner = x + np.float32([0, 2, 0, 0]) * site[:, None].astype(np.float32)
    shifted = shift(replace(seen, moved=frozenset({"population"})), lambda rows: scanner[rows])
    for measure in ("MMD^2", "Frechet", "site AUC"):
        for name in (measure, measure + " within class"):
            assert measured(unaware, name).value > measured(unaware, name).null_high, name
            assert measured(aware, name).value < measured(aware, name).null_high, name
            assert measured(shifted, name).value > measured(shifted, name).null_high, name


def test_null_intervals_extend_to_a_perfectly_even_assignment():
    labels = np.tile([0, 0, 1], 200)
    seen = observed(np.repeat(np.arange(4), 150), labels, levels={"population": np.tile([0, 1, 0], 200)})
    frame = shift(replace(seen, numbers={"age": np.tile([30.0, 50, 70], 200)}), features(600))
    even = frame[frame["axis"].isin(["quantity", "prevalence", "population"])]
    top = even["measure"].isin(["effective sites", "normalised entropy"])
    np.testing.assert_allclose(even["value"], np.where(even["measure"] == "effective sites", 4, top), atol=1e-12)
    inside = (frame["null_low"] <= frame["value"]) & (frame["value"] <= frame["null_high"])
    assert inside[even.index].all() and (frame["null"] != frame["value"])[even.index].all()


def test_rare_combinations_of_findings_are_pooled_by_their_first():
    sets = np.repeat([0, 1, 2, 4, 5, 6, 7], [80, 70, 90, 3, 100, 10, 12])
    seen = observed(np.arange(len(sets)) % 2, sets, task="multilabel", classes=3)
    pooled = {name: set(seen.pooled_labels[sets == name]) for name in np.unique(sets)}
    assert all(len(ids) == 1 for ids in pooled.values())
    assert len(set.union(*(pooled[name] for name in (0, 1, 2, 5)))) == 4  # 30 cases a site and more: by themselves
    assert len(set.union(*pooled.values())) == 7  # 4, 6 and 7 by their first findings, apart from 1 and 2 alone
    plain = observed(np.arange(6) % 2, np.arange(6) % 3, classes=3, task="multiclass")
    np.testing.assert_array_equal(plain.pooled_labels, plain.labels)


# rows


def test_levels_may_carry_any_numbers_and_labels_share_them():
    rng = np.random.default_rng(0)
    site, labels, level = rng.integers(0, 3, 200), rng.integers(0, 2, 200), rng.integers(0, 3, 200)
    own_of_class = level + 3 * labels
    shared, apart = (
        measured(shift(observed(site, labels, levels={"presentation": each}), features(200)), "TV within class")
        for each in (level, own_of_class)
    )
    tables = np.stack(
        [[[((site == k) & (labels == y) & (level == a)).sum() for a in range(3)] for k in range(3)] for y in (0, 1)]
    )
    expected = np.average(total_variation(tables.astype(float)), weights=np.bincount(labels))
    assert shared.value == apart.value == pytest.approx(expected, abs=1e-12)


def test_numbers_are_compared_in_their_unit_where_they_are_known():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for draw in (lambda: rng.integers(20, 90, 400).astype(float), lambda: rng.normal(50, 10, 400)):
        age, site = draw(), rng.integers(0, 2, 400)
        age[site == 1] += 10
        known = rng.random(400) < 0.8
        seen = observed(site, rng.integers(0, 2, 400), numbers={"age": np.where(known, age, np.nan)})
        found = measured(shift(seen, features(400)), "W1 of age")
        exact = stats.wasserstein_distance(*(age[known & (site == k)] for k in (0, 1)))
        assert found.value == pytest.approx(exact, abs=0.3) and found.value > 1.8 * found.null_high
    assert shift(replace(seen, numbers={"age": np.full(400, np.nan)}), features(400))["value"].notna().all()


def test_written_labels_are_compared_within_true_ones():
    labels, site = np.tile([0, 0, 1, 1], 100), np.repeat([0, 1], 200)
    assert "annotation" not in set(shift(observed(site, labels), features(400))["axis"])
    clean = shift(observed(site, labels, annotated=labels), features(400))
    for measure in ("I(S;Y'|Y)", "changed labels"):
        row = measured(clean, measure)
        assert row.value == row.null_low == 0 <= row.null_high
    one_errs = np.where((site == 1) & (np.arange(400) % 4 == 1), 1, labels)  # half of its healthy ones
    noisy = shift(observed(site, labels, annotated=one_errs), features(400))
    assert measured(noisy, "changed labels").value == 50 / 400
    expected = mutual_information(np.array([[100.0, 0], [50, 50]])) / 2
    assert measured(noisy, "I(S;Y'|Y)").value == pytest.approx(float(expected), abs=1e-12)
    assert measured(noisy, "I(S;Y'|Y)").value > measured(noisy, "I(S;Y'|Y)").null_high
    assert measured(noisy, "I(S;Y)").value == measured(clean, "I(S;Y)").value == 0


def test_regions_share_what_tells_their_sites_apart():
    positives = np.array([10, 10, 30, 30, 60, 60, 90, 90])
    site, labels = np.repeat(np.arange(8), 100), np.concatenate([np.arange(100) < p for p in positives]).astype(int)
    seen = observed(site, labels, moved=frozenset({"prevalence"}))
    load = features(800)
    assert "geography" not in set(shift(seen, load, brief=True)["axis"])
    by_prevalence = replace(seen, region=np.repeat(np.arange(4), 2))
    row = measured(shift(by_prevalence, load, brief=True), "regional share")
    assert row.value == pytest.approx(1, abs=1e-12) and row.value > row.null_high
    crosswise = replace(seen, region=np.tile(np.arange(2), 4))
    row = measured(shift(crosswise, load, brief=True), "regional share")
    assert row.value == 0 == row.null_low and row.null > 0
    nothing_moved = replace(by_prevalence, moved=frozenset())
    assert np.isnan(measured(shift(nothing_moved, load, brief=True), "regional share").value)


def everything(n, seed=0):
    rng = np.random.default_rng(seed)
    site, labels = rng.integers(0, 4, n), rng.integers(0, 2, n)
    levels = {axis: rng.integers(0, 3, n) for axis in ("presentation", "population")}
    return observed(
        site,
        labels,
        rng.integers(0, n // 2, n),
        levels=levels,
        numbers={"age": rng.normal(size=n)},
        moved=frozenset({"prevalence", "population"}),
        annotated=rng.integers(0, 2, n),
        region=np.array([0, 0, 1, 1]),
    )


def test_the_short_form_is_the_headlines():
    seen, load = everything(200), features(200)
    full, brief = shift(seen, load), shift(seen, load, brief=True)
    assert dict(zip(brief["axis"], brief["measure"], strict=True)) == HEADLINES
    for axis, measure in HEADLINES.items():
        assert measured(brief, measure, axis).value == pytest.approx(measured(full, measure, axis).value, abs=1e-9)
    assert list(dict.fromkeys(full["axis"])) == list(HEADLINES)
    assert full.attrs["images"] == 200 and len(full.attrs["Frechet within class"]) == 2


def test_every_row_is_in_order_and_drawn_from_the_seed_alone():
    seen, load = everything(200), features(200)
    frame = shift(seen, load)
    assert not frame.isna().any().any() and not frame.duplicated(["axis", "measure"]).any()
    assert (frame["low"] <= frame["value"]).all() and (frame["value"] <= frame["high"]).all()
    assert (frame["null_low"] <= frame["null"]).all() and (frame["null"] <= frame["null_high"]).all()
    assert shift(replace(seen), load).equals(frame)
    other = shift(replace(seen, seed=1), load)
    assert (other["null_high"] != frame["null_high"]).sum() > len(frame) / 2
    label = frame["axis"] == "prevalence"
    assert (other["value"] == frame["value"])[label].all()


def test_the_table_does_not_depend_on_the_order_of_cases():
    seen, x = everything(300), features(300)(np.arange(300))
    order = np.random.default_rng(0).permutation(300)
    here, there = (
        shift(each, lambda rows, x=own: x[rows], brief=True).set_index("measure")["value"]
        for each, own in ((seen, x), (seen.select(order), x[order]))
    )
    np.testing.assert_allclose(here, there, atol=1e-6)


def test_a_lone_site_and_a_lone_class_have_no_shift():
    found = shift(observed(np.zeros(50, int), np.arange(50) % 2), features(50)).set_index("measure")["value"]
    assert found["I(S;Y)"] == found["TV"] == found["Gini"] == 0
    assert np.isnan(found[["MMD^2", "Frechet", "site AUC"]]).all()
    identical = shift(observed(np.arange(60) % 3, np.zeros(60, int), classes=1), features(60)).set_index("measure")
    assert identical["value"]["I(S;Y)"] == identical["value"]["Cramer's V"] == 0


def test_sites_whose_patients_differ_in_number_of_images_are_still_permuted():
    """One site takes both eyes of a patient, the other one: the shift of a scanner must exceed the null interval."""
    site = np.repeat([0, 1], [40, 30])
    units = np.concatenate([np.arange(40) // 2, 100 + np.arange(30)])
    seen = observed(site, np.zeros(70, np.int64), units)
    noise = features(70)
    value, _, _, high = measured(shift(seen, lambda rows: noise(rows) + 3 * site[rows, None]), "MMD^2")[2:6]
    assert value > 2 * high
    value, _, _, high = measured(shift(seen, noise), "MMD^2")[2:6]
    assert value < 2 * high
