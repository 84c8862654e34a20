"""Functions of the user's own in the registries of every axis: usable, or refused with what they must return."""

import numpy as np
import pytest

import fedlab
from fedlab.heterogeneity import geography, population, presentation, quantity
from fedlab.heterogeneity.acquisition import modalities, presets
from fedlab.heterogeneity.annotation import POLICIES
from fedlab.heterogeneity.log_odds import LogOdds, column_levels
from fedlab.heterogeneity.prevalence import schemes


@pytest.fixture(scope="module")
def cases():
    return fedlab.load("phantoms(cases=120, size=16)")


@pytest.fixture
def own():
    """Register a function for the length of a test."""
    added = []

    def add(registry, function):
        added.append((registry, "own"))
        return registry.add(function, "own")

    yield add
    for registry, name in added:
        registry.remove(name)


def overcall(reader, cases, rows, labels):
    """A share of the negative cases is called positive."""
    marked, negative = labels.copy(), np.flatnonzero(labels == 0)
    marked[negative[: round(reader.amount * len(negative))]] = 1
    return marked


def test_readers_may_follow_a_policy_of_ones_own(cases, own):
    own(POLICIES, overcall)
    part = fedlab.partition(cases, 2, annotation="own(1.0)")
    changed = (part.table["annotated"] - cases.labels).groupby(part.table["site"]).sum()
    amounts = {site: reader.amount for site, reader in part.annotators.items()}
    assert sorted(amounts.values()) == [0.0, 0.4] and changed[max(amounts, key=amounts.get)] > 0
    assert changed[min(amounts, key=amounts.get)] == 0
    fedlab.Experiment(dataset="phantoms(cases=120, size=16)", annotation="own(0.5)")


@pytest.mark.parametrize(
    "policy, message",
    [
        (lambda reader, cases, rows, labels: labels + 7, r"returned \[7, 8\] for .* one whole number from 0 to 1"),
        (lambda reader, cases, rows, labels: labels[1:], "of shape"),
        (lambda reader, cases, rows, labels: labels + 0.5, "float64 of shape"),
        (lambda reader, cases, rows, labels: labels * np.nan, "float64 of shape"),
        (lambda reader, cases, rows, labels: None, "object of shape"),
        (lambda labels: labels, r"takes \(labels\): write it as a function of \(reader, cases, rows, labels\)"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_policy_that_gives_no_labels_is_refused(cases, own, policy, message):
    own(POLICIES, policy)
    with pytest.raises(ValueError, match=message):
        fedlab.partition(cases, 2, annotation="own(1.0)")


def ages(cases, effects, dose):
    levels = column_levels(cases, "age")
    return population.Preferences(levels, levels.odds(dose, effects.of("population")), ["site -> age"])


def sexes(cases, effects, dose):
    levels = column_levels(cases, "sex", presentation.classes_of(cases))
    return levels, levels.odds(dose, effects.of("presentation"))


def test_every_axis_takes_a_scheme_of_ones_own(cases, own):
    registered = {
        "quantity": (quantity.SIZES, lambda: lambda effects: list(range(1, effects.sites + 1)), "own"),
        "prevalence": (schemes.SCHEMES, lambda: lambda c: LogOdds(c.labels, np.ones((c.sites, c.classes))), "own"),
        "presentation": (presentation.SCHEMES, sexes, "own(0.5)"),
        "population": (population.SCHEMES, ages, "own(0.5)"),
        "geography": (geography.SCHEMES, lambda dose=0.5: (dose, 2, 0.0), "own(0.5)"),
        "acquisition": (modalities.MODALITIES, lambda dose=0.5: presets.Requested(dose, "xray"), "own(0.5)"),
    }
    for registry, function, _ in registered.values():
        own(registry, function)
    part = fedlab.partition(cases, 3, **{axis: value for axis, (_, _, value) in registered.items()})
    assert part.levels["population"].name == "age" and part.levels["presentation"].name == "sex"
    assert len(set(part.regions.values())) == 2 and next(iter(part.scanners.values())).modality == "xray"
    sizes = part.table["site"].value_counts()
    assert sizes.max() / sizes.min() == pytest.approx(3, abs=0.3)


@pytest.mark.parametrize(
    "axis, registry, function",
    [
        ("quantity", quantity.SIZES, lambda: lambda effects: np.ones(7)),
        ("quantity", quantity.SIZES, lambda: lambda effects: [1, -1, 2]),
        ("quantity", quantity.SIZES, lambda: np.ones(3)),
        ("prevalence", schemes.SCHEMES, lambda: lambda cases: None),
        ("prevalence", schemes.SCHEMES, lambda: lambda cases: LogOdds(cases.labels, np.ones((1, 2)))),
        ("presentation", presentation.SCHEMES, lambda cases, effects, dose: None),
        ("population", population.SCHEMES, lambda cases, effects, dose: sexes(cases, effects, dose)),
        ("geography", geography.SCHEMES, lambda dose=0.5: dose),
        ("acquisition", presets.SCHEMES, lambda dose=0.5: dose),
    ],
)
def test_a_scheme_that_gives_something_else_is_refused(cases, own, axis, registry, function):
    own(registry, function)
    value = "own" if axis in ("quantity", "prevalence") else "own(0.5)"
    with pytest.raises(ValueError, match=f"{axis} scheme 'own.* give.*return"):
        fedlab.partition(cases, 3, **{axis: value})
