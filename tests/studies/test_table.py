"""The table of a study: costs are differences of values with the intervals of such, and repeats add up."""

import numpy as np
import pytest

import fedlab
from fedlab.analysis.scores import Estimate
from fedlab.core.rng import stream
from fedlab.evaluation.intervals.interval import Interval
from fedlab.evaluation.intervals.repeats import over_seeds, over_splits
from fedlab.studies.partitions import Apart, OverPartitions, OverSplits, contributions

pytestmark = [
    pytest.mark.filterwarnings("ignore::fedlab.core.warnings.HeterogeneityWarning"),
    pytest.mark.xdist_group("paired studies"),  # their runs serve several tests
]

BASE = fedlab.Experiment(dataset="phantoms(cases=300, size=16)", sites=2, model="logistic", rounds=1)
MEAN = "site == 'mean of sites'"


def study(folder, **fields):
    fields = {"acquisition": [0.0, 0.9], "method": ["local", "fedavg"]} | fields
    found = fedlab.Study(BASE, folder=folder, **fields)
    found.run()
    return found


@pytest.fixture(scope="module")
def paired(tmp_path_factory):
    return study(tmp_path_factory.mktemp("paired"), splits="common", seed=[0, 1, 2])


def test_values_are_those_of_compare(paired):
    table = paired.table().query("dose == 0.9").set_index(["method", "site"])
    runs = [run for run in paired.runs if run.experiment.acquisition]
    other = fedlab.compare(runs).set_index(["method", "site"]).loc[table.index]
    for column in ("value", "low", "high", "interval", "support", "cases"):
        assert table[column].tolist() == other[column].tolist(), column
    fedavg = table.index.get_level_values("method") == "fedavg"
    assert table.loc[fedavg, "gain"].tolist() == other.loc[fedavg, "difference"].tolist()
    assert table.loc[fedavg, "gain_low"].tolist() == other.loc[fedavg, "difference_low"].tolist()


@pytest.mark.parametrize("metric", ["auroc", "brier"])
def test_a_cost_is_the_loss_against_the_base_dose_whatever_the_direction_of_the_metric(paired, metric):
    table = paired.table(metric, shift=False).set_index(["dose", "method", "site"])
    worse = table["value"].loc[0.9] - table["value"].loc[0.0]
    np.testing.assert_allclose(table["cost"].loc[0.9], worse if metric == "brier" else -worse, atol=1e-12)
    assert (table["cost"].loc[0.0] == 0).all() and table["cost_low"].loc[0.0].isna().all()
    raised = table.loc[0.9]
    assert raised["paired"].all() and (raised["cost_low"] < raised["cost"]).all()
    assert (raised["cost_p_holm"] >= raised["cost_p"]).all()


def test_a_paired_cost_is_at_least_as_certain_as_one_on_other_cases(paired, tmp_path):
    fields = {"seed": [0, 1, 2], "acquisition": 0.0, "prevalence": [0.0, 0.2], "method": "fedavg"}
    moved = study(tmp_path, splits="site", **fields).table(shift=False).query(f"{MEAN} and dose == 0.2")
    assert not moved["paired"].any() and (moved["cost_high"] > moved["cost_low"]).all()
    same = paired.table(shift=False).query(f"{MEAN} and dose == 0.9 and method == 'fedavg'")
    width = (same["cost_high"] - same["cost_low"]).mean()
    assert width < (moved["cost_high"] - moved["cost_low"]).mean()


def test_the_shift_of_the_raised_axis_is_reported(paired):
    shift = paired.table().drop_duplicates("dose").set_index("dose")
    part = paired.experiments[-1].make_partition().shift(brief=True).set_index("axis").loc["acquisition"]
    assert shift.loc[0.9, "shift"] == part["value"] and shift.loc[0.9, "measure"] == part["measure"]
    assert shift.loc[0.0, "shift"] < shift.loc[0.9, "shift"]
    without = paired.table(shift=False)
    assert without["shift"].isna().all() and set(without["measure"]) == {""}


def test_several_partitions_give_one_row_for_the_mean_of_sites(tmp_path):
    three = study(tmp_path, splits="common", partition_seed=[0, 1, 2])
    table = three.table(shift=False)
    assert set(table["site"]) == {"mean of sites"} and set(table["partitions"]) == {3}
    assert set(table["varied"]) == {"test cases, 3 partitions"}
    runs = {seed: [r for r in three.runs if r.experiment.partition_seed == seed] for seed in range(3)}
    each = [
        fedlab.compare([r for r in group if not r.experiment.acquisition]).query(MEAN).set_index("method")["value"]
        for group in runs.values()
    ]
    base = table.query("dose == 0").set_index("method")["value"]
    np.testing.assert_allclose(base, np.mean(each, axis=0))
    assert (table["sd_partitions"] >= 0).all() and table["sd_seeds"].isna().all()


class Fixed(Estimate):
    """Values of seeds, and an interval over cases of a given half-width."""

    def __init__(self, values, half=0.05):
        self.values, self.half, self.range = np.asarray(values, float), half, (-np.inf, np.inf)

    method = "fixed"

    def cases(self, level=0.95):
        return Interval(self.value - self.half, self.value + self.half)


def test_partitions_count_as_seeds_do_when_test_cases_are_the_same():
    values = [0.8, 0.83, 0.78, 0.81]
    found = OverPartitions([Fixed([value]) for value in values])
    assert found.limits == pytest.approx(over_seeds(values, Interval(0.805 - 0.05, 0.805 + 0.05)))


def test_partitions_that_agree_leave_the_interval_of_the_cases():
    assert OverPartitions([Fixed([0.8, 0.8])] * 3).limits == pytest.approx((0.75, 0.85))


def test_two_partitions_have_no_interval():
    found = OverPartitions([Fixed([0.8]), Fixed([0.9])])
    assert found.value == pytest.approx(0.85) and np.isnan(found.limits.low)


def test_splits_of_one_pool_have_the_interval_of_nadeau_and_bengio():
    values = [0.02, -0.01, 0.03, 0.0, 0.01]
    found = OverSplits([Fixed([value]) for value in values], 20, 80)
    assert found.limits == over_splits(values, 20, 80) and found.method == "Nadeau-Bengio"


def test_the_difference_of_two_scores_on_other_cases_adds_their_variances():
    found = Apart(Fixed([0.9], 0.03), Fixed([0.8], 0.04))
    assert found.limits == pytest.approx((0.05, 0.15)) and found.p_value < 0.05


def test_contributions_are_the_standard_deviations_that_were_put_in():
    rng = stream(0, "contributions")
    partitions, seeds = 400, 5
    level = rng.normal(0.8, 0.03, partitions)
    found = contributions(OverPartitions([Fixed(rng.normal(mean, 0.02, seeds), 0.0196) for mean in level]))
    assert found["sd_cases"] == pytest.approx(0.01, rel=1e-3)
    assert found["sd_seeds"] == pytest.approx(0.02, rel=0.1)
    assert found["sd_partitions"] == pytest.approx(0.03, rel=0.1)


def test_intervals_over_partitions_hold_their_level():
    rng = stream(0, "level")
    covered = 0
    for _ in range(400):
        truth_of_cases = rng.normal(0, 0.0255)  # of all partitions: they have the same cases
        values = truth_of_cases + rng.normal(0, 0.02, 5)
        low, high = OverPartitions([Fixed([value]) for value in values]).limits
        covered += low <= 0 <= high
    assert covered / 400 > 0.93
