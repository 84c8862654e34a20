"""Laws of presentation, population, annotation and geography, and of held-out sites."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from worlds import cases as world

import fedlab
from fedlab.data.cases import Cases
from fedlab.heterogeneity.annotation import THRESHOLD, WORST, Annotator
from fedlab.heterogeneity.axes import AXES
from fedlab.heterogeneity.geography import draw_site_effects
from fedlab.heterogeneity.log_odds import L, column_levels
from fedlab.heterogeneity.population import Covariate
from fedlab.heterogeneity.presentation import latent
from fedlab.heterogeneity.site_effects import SiteEffects
from fedlab.partitioning.build import partition
from fedlab.partitioning.partitions import Partition

pytestmark = pytest.mark.filterwarnings("ignore::fedlab.core.warnings.HeterogeneityWarning")


def cohort(n: int = 600, task: str = "binary", classes: int = 2, each: int = 1, seed: int = 0) -> Cases:
    """n cases, `each` a patient, with age, sex, a kind and a severity that the label does not decide."""
    rng = np.random.default_rng(seed)
    patient = np.arange(n) // each
    people = patient.max() + 1
    columns = {
        "patient": [f"p{i}" for i in patient],
        "age": rng.integers(20, 90, people)[patient],
        "sex": rng.choice(["F", "M"], people)[patient],
        "subtype": rng.choice(["round", "ring", "spiky"], people)[patient],
        "split": rng.choice(["train", "val", "test"], people, p=[0.7, 0.1, 0.2])[patient],
        "label": rng.integers(0, classes, people)[patient],
    }
    images = rng.integers(0, 255, (n, 1, 6, 6)).astype(np.uint8)
    table = pd.DataFrame({"case": [f"c{i:05d}" for i in range(n)], **columns})
    return Cases(images, table, {"name": "cohort", "task": task, "classes": [f"class {c}" for c in range(classes)]})


def counts_of_levels(part: Partition, of: np.ndarray, split: str = "train") -> np.ndarray:
    """(sites, levels) cases of each level at each site."""
    use = (part.table["split"] == split).to_numpy()
    return pd.crosstab(part.table["site"][use], of[part.rows][use]).reindex(part.sites, fill_value=0).to_numpy()


# -- presentation ----------------------------------------------------------------------------------------------------


@pytest.mark.each_value
@pytest.mark.parametrize("value", [0.3, 1.0, "subtype(0.7)", "age(1.0)", "clusters(0.8)", "dirichlet(0.1)"])
@pytest.mark.parametrize("each", [1, 3])
def test_presentation_leaves_the_classes_of_every_site_untouched(value, each):
    cases = cohort(each=each)
    before, after = partition(cases, 5), partition(cases, 5, presentation=value)
    for split in ("train", "val", "test"):
        pd.testing.assert_frame_equal(before.counts(split), after.counts(split))
    assert not before.table.equals(after.table)


def test_presentation_leaves_classes_and_ages_untouched_with_other_axes():
    cases = cohort(900)
    others = {"quantity": 0.4, "prevalence": 0.6, "population": 0.5}
    before, after = partition(cases, 4, **others), partition(cases, 4, **others, presentation=0.9)
    ages = after.levels["population"].of
    for split in ("train", "test"):
        joint = 10 * ages + cases.labels
        np.testing.assert_array_equal(counts_of_levels(before, joint, split), counts_of_levels(after, joint, split))


def test_presentation_gives_the_requested_odds():
    """Within a class, log-odds between two sites of a two-level kind differ by h L (u_k - u_l)."""
    cases = cohort(40000)
    cases.table["subtype"] = np.where(np.arange(len(cases)) % 2, "a", "b")
    h, part = 0.5, partition(cases, 3, presentation=0.5)
    u = SiteEffects(3, 0).of("presentation")
    for label in (0, 1):
        table = counts_of_levels(part, np.where(cases.labels == label, column_levels(cases, "subtype").of, 2))
        odds = np.log(table[:, 1] / table[:, 0])
        np.testing.assert_allclose(np.diff(odds), h * L * np.diff(u), atol=0.02)


def test_full_presentation_of_a_column_with_one_value_is_refused_with_what_would_do():
    cases = cohort()
    cases.table["subtype"] = cases.labels.astype(str)
    with pytest.raises(ValueError, match=r"one value in each class.*clusters"):
        partition(cases, 3, presentation=0.5)
    with pytest.raises(ValueError, match=r"'lesion', which the cases lack: use 'age', 'sex'"):
        partition(cohort(), 3, presentation="lesion(0.5)")


def test_clusters_depend_on_the_images_of_a_class_alone():
    cases = world(160, classes=2)
    found = latent(cases, 3)
    assert len(found) == 6 and (found.group == [0, 0, 0, 1, 1, 1]).all()
    assert (cases.labels == found.group[found.of]).all()
    other = Cases(cases.images, cases.table.assign(site="x"), cases.card)
    np.testing.assert_array_equal(latent(other, 3).of, found.of)


def test_clusters_find_kinds_that_are_there():
    """Two kinds of image within each class can be distinguished without their names."""
    rng, n = np.random.default_rng(0), 400
    kind, label = np.arange(n) // 2 % 2, np.arange(n) % 2
    images = (rng.integers(0, 60, (n, 1, 12, 12)) + 120 * kind[:, None, None, None]).astype(np.uint8)
    table = pd.DataFrame({"case": [f"c{i}" for i in range(n)], "label": label})
    found = latent(Cases(images, table, {"name": "two", "task": "binary", "classes": ["a", "b"]}), 2)
    for one in (0, 1):
        pure = pd.crosstab(found.of[label == one], kind[label == one]).to_numpy()
        assert (pure.min(axis=0) == 0).all()


# -- population ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.8, "sex(0.8)", "synthetic(0.8, confounding=3.0)"])
def test_standardising_by_the_covariate_removes_what_the_population_does_to_prevalence(value):
    """Sites pick patients, not diseases: p(y | covariate) is everywhere the same."""
    cases = fedlab.load("phantoms(cases=6000, size=16)")
    rates = partition(cases, 4, population=value).standardised()
    crude, fair = rates["crude"]["nodule"], rates["standardised"]["nodule"]
    assert np.ptp(fair) < 0.02
    assert np.ptp(crude) > 4 * np.ptp(fair)


def test_the_synthetic_covariate_has_the_requested_odds_ratio():
    cases = cohort(40000)
    bits = Covariate(3, confounding=1.5).draw(cases)
    table = pd.crosstab(bits, cases.labels).to_numpy(float)
    log_odds = np.log(table[0, 0] * table[1, 1] / (table[0, 1] * table[1, 0]))
    assert abs(log_odds - 1.5) < 3 * np.sqrt((1 / table).sum())


def test_the_synthetic_covariate_belongs_to_the_patient_and_is_recorded():
    cases = cohort(600, each=3)
    part = partition(cases, 4, population="synthetic(0.6, confounding=2.0, visible=0.5)")
    by_patient = part.table.assign(patient=cases.table["patient"]).groupby("patient")["covariate"].nunique()
    assert (by_patient == 1).all()
    assert part.spec["causes"] == [
        "site -> covariate",
        "covariate -> label (log odds ratio 2)",
        "covariate -> image (strength 0.5)",
    ]


def test_a_covariate_shows_only_in_patients_that_have_it():
    cases = cohort(200)
    part = partition(cases, 2, population="synthetic(0.6, visible=1.0)")
    site = part.sites[0]
    rows = part.index(site, "train")
    bits = part.table.set_index("case")["covariate"][cases.table["case"].iloc[rows]].to_numpy()
    changed = (part.pixels(rows, site) != cases.images[rows]).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(changed, bits == 1)
    plain = partition(cases, 2, population="synthetic(0.6)")
    np.testing.assert_array_equal(plain.pixels(rows, site), cases.images[rows])


def test_missing_ages_are_equally_frequent_everywhere():
    cases = cohort(4000)
    cases.table["age"] = cases.table["age"].where(np.arange(4000) % 4 > 0)
    part = partition(cases, 4, population="age(1.0)")
    missing = counts_of_levels(part, cases.table["age"].isna().to_numpy().astype(int))[:, 1]
    known = part.levels["population"]
    assert known.names[-1] == "missing"
    sizes = counts_of_levels(part, np.zeros(4000, int))[:, 0]
    oldest = counts_of_levels(part, (known.of == 4).astype(int))[:, 1]
    assert np.ptp(oldest / sizes) > 3 * np.ptp(missing / sizes)


def test_population_without_metadata_falls_back_on_a_known_covariate():
    part = partition(world(400), 4, population=0.7)
    assert part.covariate == Covariate(0, 1.0) and "covariate" in part.table
    with pytest.raises(ValueError, match=r"population requests column 'age'.*lack: no column is usable"):
        partition(world(400), 4, population="age(0.7)")


# -- annotation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task, classes", [("binary", 2), ("multiclass", 4), ("ordinal", 5)])
def test_the_number_of_changed_labels_is_exact_and_tests_stay_clean(task, classes):
    cases = cohort(2000, task, classes)
    part = partition(cases, 4, annotation=0.75)
    u = SiteEffects(4, 0).of("annotation")
    for site, share in zip(part.sites, WORST * 0.75 * (1 + u) / 2, strict=True):
        for split in ("train", "val", "test"):
            rows = part.index(site, split)
            changed = (part.annotated_labels(rows) != cases.labels[rows]).sum()
            assert abs(changed - share * len(rows)) <= 0.5 + 1e-9
            if split == "test":
                np.testing.assert_array_equal(part.training_labels(rows, site), cases.labels[rows])
            else:
                np.testing.assert_array_equal(part.training_labels(rows, site), part.annotated_labels(rows))


def test_graders_confuse_neighbouring_grades_only():
    cases = cohort(2000, "ordinal", 5)
    part = partition(cases, 4, annotation=1.0)
    off = np.abs(part.table["annotated"].to_numpy() - cases.labels[part.rows])
    assert set(np.unique(off)) == {0, 1}


def test_symmetric_readers_prefer_no_class():
    cases = cohort(9000, "multiclass", 4)
    readers = Annotator("Site A", 0, "symmetric", 0.3)
    marked = readers.annotate(cases, np.arange(9000))
    table = pd.crosstab(cases.labels, marked).to_numpy()
    for row, total in zip(table, np.bincount(cases.labels), strict=True):
        others = np.delete(row, row.argmax())
        assert np.ptp(others) <= 1 and abs(others.sum() - 0.3 * total) <= 1


def test_a_lenient_site_calls_the_mildest_of_a_grade_by_the_grade_below():
    cases = cohort(3000, "ordinal", 3)
    severity = np.random.default_rng(1).random(3000)
    cases.table["severity"] = severity
    rows = np.arange(3000)
    for amount, step in ((0.2, -1), (-0.2, 1)):
        marked = Annotator("Site A", 0, "threshold", amount).annotate(cases, rows)
        moved = marked != cases.labels
        assert set(np.unique(marked - cases.labels)) == {0, step}
        for grade in range(3):
            members = cases.labels == grade
            if not moved[members].any():
                assert not 0 <= grade + step < 3
                continue
            assert abs(moved[members].mean() - 0.2) < 0.5 / members.sum() + 1e-12
            mild, severe = severity[members & moved], severity[members & ~moved]
            assert mild.max() < severe.min() if step < 0 else severe.max() < mild.min()
    assert THRESHOLD <= 0.5  # a grade is never left without any of its cases


def test_outlines_grow_and_shrink_on_training_cases_alone():
    masks = np.zeros((400, 16, 16), np.uint8)
    masks[:, 5:11, 5:11] = 1
    base = cohort(400)
    images = np.random.default_rng(0).integers(0, 255, (400, 1, 16, 16)).astype(np.uint8)
    cases = Cases(images, base.table, base.card, masks)
    for share in (-0.25, 0.0, 0.25):
        drawn = Annotator("Site A", 0, "outline", share).annotate_masks(masks[:3])
        assert (drawn.reshape(3, -1).sum(1) == 36 * (1 + 2 * share)).all()
    with pytest.raises(ValueError, match=r"'outline' does not suit the binary task of cohort: use 'symmetric' or"):
        partition(cases, 4, annotation="outline(0.5)")


def test_annotation_that_does_not_suit_the_task_names_what_does():
    with pytest.raises(ValueError, match=r"'neighbour' does not suit the multiclass task.*use 'symmetric'"):
        partition(cohort(600, "multiclass", 3), 4, annotation="neighbour(0.5)")
    with pytest.raises(ValueError, match="unknown annotation policy 'symetric': did you mean 'symmetric'"):
        partition(cohort(), 4, annotation="symetric(0.5)")


# -- geography -------------------------------------------------------------------------------------------------------


def test_without_geography_site_effects_are_independent():
    for sites in (1, 2, 5, 12):
        np.testing.assert_array_equal(
            draw_site_effects(0.0, sites, 3).of("prevalence"), SiteEffects(sites, 3).of("prevalence")
        )
    almost = draw_site_effects(1e-12, 8, 3).of("prevalence")
    np.testing.assert_allclose(almost, SiteEffects(8, 3).of("prevalence"), atol=1e-5)


def test_at_full_dose_sites_of_a_region_agree_on_every_axis():
    effects = draw_site_effects("regions(1.0, count=3)", 9, 2)
    for axis in ("quantity", "prevalence", "population", "acquisition age"):
        u = effects.of(axis).reshape(3, 3)
        assert np.ptp(u, axis=1).max() == 0 and np.abs(u).max() <= 1
        assert len(np.unique(u)) == 3


def test_the_correlation_within_regions_is_the_requested_one():
    """Over many draws, two sites of one region correlate by rho, sites of different regions hardly."""
    from scipy.special import ndtri

    for rho in (0.3, 0.7):
        u = np.array(
            [draw_site_effects(f"regions({rho}, count=20, coupling=0.0)", 40, s).of("prevalence") for s in range(300)]
        )
        z = ndtri((1 + u * (1 - 1 / 40)) / 2).reshape(300, 20, 2)
        assert abs(np.corrcoef(z[:, :, 0].ravel(), z[:, :, 1].ravel())[0, 1] - rho) < 0.05
        assert abs(np.corrcoef(z[:, :-1, 0].ravel(), z[:, 1:, 1].ravel())[0, 1]) < 0.1


def test_coupling_brings_much_disease_to_old_scanners():
    pairs = []
    for seed in range(300):
        effects = draw_site_effects("regions(0.5, count=10, coupling=0.6)", 30, seed)
        pairs.append([effects.of(axis) for axis in ("prevalence", "acquisition age", "quantity")])
    prevalence, age, quantity = np.array(pairs).transpose(1, 0, 2).reshape(3, -1)
    assert abs(np.corrcoef(prevalence, age)[0, 1] - 0.6) < 0.08
    assert abs(np.corrcoef(prevalence, quantity)[0, 1]) < 0.08


def test_geography_alone_moves_no_case():
    cases = cohort()
    assert partition(cases, 6, geography=0.8).table.equals(partition(cases, 6).table)
    with pytest.raises(ValueError, match="5 regions for 3 sites"):
        partition(cases, 3, geography="regions(0.5, count=5)")


# -- unseen sites ----------------------------------------------------------------------------------------------------


def test_unseen_sites_are_named_by_number_name_or_region():
    cases = cohort()
    given = {1: ("Site D",), "Site B": ("Site B",), ("Site C", "Site A"): ("Site A", "Site C"), 0: ()}
    for unseen, sites in given.items():
        assert partition(cases, 4, unseen=list(unseen) if isinstance(unseen, tuple) else unseen).unseen == sites
    part = partition(cases, 6, geography=0.5, unseen="Region 2")
    assert part.unseen == tuple(site for site, region in part.regions.items() if region == "Region 2")
    without, out = partition(cases, 6, geography=0.5).table, part.table["site"].isin(part.unseen)
    assert part.table.equals(without.assign(split=without["split"].mask(out, "test")))


@pytest.mark.parametrize(
    "unseen, message",
    [
        (4, "leaves none of 4 sites"),
        ("Site E", "did you mean 'Site"),
        (-1, "give how many"),
        (True, "give how many"),
        (1.5, "give how many"),
        ([1], "give how many"),
    ],
)
def test_what_cannot_be_held_out_is_refused(unseen, message):
    with pytest.raises(ValueError, match=message):
        partition(cohort(), 4, unseen=unseen)


# -- all together ----------------------------------------------------------------------------------------------------

DOSES = st.sampled_from([0.0, 0.0, 0.3, 0.8, 1.0])


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requested=st.fixed_dictionaries({axis: DOSES for axis in AXES}),
    sites=st.integers(1, 7),
    each=st.integers(1, 3),
    task=st.sampled_from([("binary", 2), ("multiclass", 4), ("ordinal", 5)]),
    seed=st.integers(0, 5),
)
def test_any_axes_together_assign_every_case_once_and_patients_whole(requested, sites, each, task, seed):
    cases = cohort(420, *task, each=each)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        part, again = (partition(cases, sites, **requested, seed=seed) for _ in range(2))
        plain = partition(cases, sites, quantity=requested["quantity"], seed=seed)
    assert list(part.table["case"]) == list(cases.table["case"])
    assert list(part.table["split"]) == list(cases.table["split"])
    assert (part.table.groupby(cases.table["patient"].to_numpy())["site"].nunique() == 1).all()
    assert again.table.equals(part.table) and again.fingerprint == part.fingerprint
    if each == 1 and not requested["geography"]:
        sizes = [one.table.groupby(["site", "split"]).size() for one in (part, plain)]
        pd.testing.assert_series_equal(*sizes)


@pytest.mark.parametrize("most", [3, 5])
def test_sizes_are_kept_though_hardly_any_patient_has_a_single_image(most):
    rng, n = np.random.default_rng(0), 4000
    patient = np.minimum(np.repeat(np.arange(n), rng.integers(2, most + 1, n))[:n], n)
    table = pd.DataFrame({"case": [f"c{i}" for i in range(n)], "patient": patient, "label": rng.integers(0, 4, n)})
    images = rng.integers(0, 255, (n, 1, 4, 4)).astype(np.uint8)
    cases = Cases(images, table.assign(split="train"), {"name": "w", "task": "multiclass", "classes": list("abcd")})
    sizes = partition(cases, 8, prevalence=0.4).table["site"].value_counts()
    assert np.ptp(sizes) <= most


def test_axes_add_up_in_any_order():
    """A partition depends on the values of the axes, not on their order: each of them comes first once."""
    cases = cohort()
    requested = {"prevalence": 0.5, "population": 0.4, "presentation": 0.7, "annotation": 0.3}
    tables = [
        partition(cases, 4, **dict(order)).table
        for order in itertools.islice(itertools.permutations(requested.items(), 4), 0, 24, 6)
    ]
    assert all(table.equals(tables[0]) for table in tables)


@pytest.mark.parametrize("axis", list(AXES))
def test_dose_zero_is_the_identity(axis):
    cases = cohort()
    plain, zero = partition(cases, 4, seed=3), partition(cases, 4, seed=3, **{axis: 0.0})
    assert zero.fingerprint == plain.fingerprint
    rows = plain.index("Site A", "train")
    assert zero.pixels(rows, "Site A").tobytes() == cases.images[rows].tobytes()
    assert (zero.training_labels(rows, "Site A") == cases.labels[rows]).all()


@pytest.mark.parametrize("axis", list(AXES))
@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan, True, None])
def test_what_is_no_dose_is_refused(axis, value):
    with pytest.raises(ValueError, match=f"{axis} is {value!r}: give a dose between 0"):
        partition(cohort(100), 2, **{axis: value})
    with pytest.raises(ValueError):
        fedlab.Experiment(**{axis: value})


def test_a_partition_says_how_to_make_it_again():
    cases = cohort()
    part = partition(cases, 5, **dict.fromkeys(AXES, 0.4), unseen=["Site B"], seed=3, leakage="drop")
    assert partition(cases, **part.requested).fingerprint == part.fingerprint
    cases.table["hospital"] = np.where(cases.labels, "North", "South")
    real = partition(cases, "hospital", acquisition=0.3)
    assert partition(cases, **real.requested).fingerprint == real.fingerprint


def test_everything_survives_saving(tmp_path):
    cases = cohort()
    requested = dict.fromkeys(AXES, 0.5) | {"population": "synthetic(0.5, visible=0.5)"}
    part = partition(cases, 5, **requested, unseen="Region 1")
    read = Partition.load(part.save(tmp_path), cases)
    assert read.fingerprint == part.fingerprint and read.unseen == part.unseen and read.regions == part.regions
    for site in part.sites:
        rows = part.index(site, "train")
        np.testing.assert_array_equal(read.pixels(rows, site), part.pixels(rows, site))
        np.testing.assert_array_equal(read.training_labels(rows, site), part.training_labels(rows, site))
    for axis, levels in part.levels.items():
        np.testing.assert_array_equal(read.levels[axis].of, levels.of)
