"""Figures of runs: marks are at the values of the tables, no text touches another, titles claim no more."""

import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_partition_plots import check_texts
from worlds import CNN, cases, partition

import fedlab
from fedlab import plots
from fedlab.plots import method_comparison, titles
from fedlab.plots.rounds import lost, participation_table, visits_table

MANY = ["local", "centralized", "ensemble", "fedavg", "cyclic"]
FAULTS = {"availability": 0.6, "stragglers": 0.3, "failures": 0.2}


@pytest.fixture(scope="module")
def base() -> fedlab.Experiment:
    return fedlab.Experiment(model=CNN, rounds=3, local_steps=2, batch_size=8, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def runs(base, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fedlab.grid(base, partition=partition(), folder=folder, method=MANY)


@pytest.fixture(scope="module")
def drawn_ranking(runs):
    return plots.ranking(runs)


@pytest.fixture(scope="module")
def drawn_cost(runs):
    return plots.communication_cost(runs)


@pytest.fixture(scope="module")
def watched(base, folder):
    return fedlab.run(base.with_(method="cyclic", watch_visits=True), partition(), folder=folder)


@pytest.fixture(scope="module")
def faulty(base, folder):
    return fedlab.run(base.with_(method="swarm(min_peers=3)", rounds=9, **FAULTS), partition(), folder=folder)


def title(drawing) -> str:
    return drawing.figure.axes[0].get_title(loc="left").replace("\n", " ")


# -- texts -----------------------------------------------------------------------------------------------------------


def test_texts_of_rankings_and_costs_can_be_read(drawn_ranking, drawn_cost):
    check_texts(drawn_ranking.figure)
    check_texts(drawn_cost.figure)


def test_texts_of_rankings_of_one_and_of_ten_methods_can_be_read(monkeypatch):
    methods = ["local", "centralized", "ensemble", *(f"fedprox(mu={k / 10})" for k in range(7))]
    rows = {
        "value": 0.8,
        "low": 0.7,
        "high": 0.9,
        "worst_low": 0.5,
        "worst_high": 0.7,
        "gain": -0.123,
        "gain_low": -0.2,
        "gain_high": -0.1,
    }
    table = pd.DataFrame({"method": methods, "clear": -1, "versus": "local", "megabytes": 1234.5, **rows})
    table["sequential steps"] = 12_000
    for some in (table[:1], table):
        monkeypatch.setattr(method_comparison, "ranking_table", lambda *_, some=some: some)
        check_texts(plots.ranking([SimpleNamespace(headline="auroc")]).figure)


def test_texts_of_visits_and_participation_can_be_read(watched, faulty):
    check_texts(plots.forgetting(watched).figure)
    check_texts(plots.participation(faulty).figure)


@pytest.mark.parametrize("shape", [(3, 12, 12), (1, 8, 8, 8)])
def test_texts_of_leaks_can_be_read(shape, base):
    part = partition(data=cases(152, shape))
    found = fedlab.leakage(base, partition=part, known=60, cases=20)
    drawing = plots.leakage(found)
    check_texts(drawing.figure)
    assert len(drawing.figure.axes[0].images) == 5 * (1 + len(found.table))


# -- ranking and communication cost ----------------------------------------------------------------------------------


def test_ranking_is_in_order_and_marks_are_at_their_values(drawn_ranking):
    figure, table = drawn_ranking
    assert table["value"].is_monotonic_decreasing and set(table["method"]) == set(MANY)
    lines = figure.axes[0].lines
    points = {(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in lines if len(line.get_xdata()) == 1}
    for place, row in enumerate(table.itertuples()):
        assert (row.value, place) in points
    worst = [list(line.get_xdata()) for line in lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 3.5]
    assert worst == table[["worst_low", "worst_high"]].to_numpy().tolist()
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == list(table["method"])


def test_ranking_holds_the_numbers_of_the_comparison_and_the_costs(runs, drawn_ranking):
    table = drawn_ranking.table.set_index("method")
    frame = fedlab.compare(runs)
    mean = frame[frame["site"] == "mean of sites"].set_index("method")
    for name, column in (("value", "value"), ("gain", "difference"), ("megabytes", "megabytes")):
        assert np.allclose(table[name], mean[column].loc[table.index])
    steps = fedlab.costs(runs).set_index("method")["sequential steps"]
    assert (table["sequential steps"] == steps.loc[table.index]).all()


def test_a_metric_that_falls_ranks_the_lowest_first(runs):
    table = plots.ranking(runs, "brier").table
    assert table["value"].is_monotonic_increasing
    assert ((table["gain"] > 0) == (table["value"] < table.set_index("method")["value"]["local"])).all()


def test_a_metric_that_is_best_at_a_value_between_ranks_nothing(runs):
    with pytest.raises(ValueError, match=r"calibration_slope.*best at a value between.*local_vs_global"):
        plots.ranking(runs, "calibration_slope")


def ranked(**values) -> pd.DataFrame:
    """A table as `plots.ranking` makes it; method = (value, gain, clear)."""
    rows = [(method, *three, "local", 1.0) for method, three in values.items()]
    return pd.DataFrame(rows, columns=["method", "value", "gain", "clear", "versus", "megabytes"])


def test_ranking_titles_count_what_the_intervals_show_and_name_no_best():
    table = ranked(centralized=(0.9, 0.2, 1), fedavg=(0.85, 0.15, 1), cyclic=(0.7, 0.0, 0), local=(0.7, 0.0, 0))
    assert titles.ranking(table, "auroc") == "2 of 3 methods are better than local (p < 0.05, Holm)"
    one = ranked(fedavg=(0.9, 0.1, 1), swarm=(0.85, 0.05, 0), cyclic=(0.6, -0.2, -1), local=(0.8, 0.0, 0))
    assert titles.ranking(one, "auroc") == "1 of 3 methods is better than local, 1 worse (p < 0.05, Holm)"
    worse = one.assign(clear=[0, 0, -1, 0])
    assert titles.ranking(worse, "auroc") == "1 of 3 methods is worse than local (p < 0.05, Holm)"
    none = one.assign(clear=0)
    assert titles.ranking(none, "auroc") == "No method of 3 is better or worse than local (p ≥ 0.05, Holm)"


def test_a_participation_title_names_all_sites_that_were_missing_and_counts_no_idle_round():
    states = {"A": ["led", "absent"], "B": ["absent", "took part"], "C": ["took part", "took part"]}
    rows = [(site, number, state) for site, each in states.items() for number, state in enumerate(each, 1)]
    table = pd.DataFrame(rows, columns=["site", "round", "state"])
    most = "A and B were missing most, in 1 of 2 rounds"
    assert titles.participation(table, []) == f"67 % of all site rounds were merged; {most}"
    assert (
        titles.participation(table, [2])
        == f"33 % of all site rounds were merged; {most}; nothing was merged in 1 round"
    )


def test_ranking_titles_leave_the_reference_out_of_the_count(runs):
    table = ranked(centralized=(0.9, 0.0, 0), fedavg=(0.85, -0.05, 0), cyclic=(0.8, -0.1, -1), local=(0.7, -0.2, -1))
    text = titles.ranking(table.assign(versus="centralized"), "auroc")
    assert text == "2 of 3 methods are worse than centralized (p < 0.05, Holm)"
    pair = ranked(fedavg=(0.85, 0.0, 0), local=(0.7, 0.1, 1)).assign(versus="fedavg")
    assert titles.ranking(pair, "auroc") == "local is better than fedavg (p < 0.05, Holm)"
    alone = ranked(centralized=(0.9, 0.2, 0), local=(0.7, 0.0, 0))
    assert titles.ranking(alone, "auroc") == "centralized is not shown to differ from local (p ≥ 0.05, Holm)"
    without_local = [run for run in runs if run.method != "local"]
    assert str(len(MANY) - 2) in title(plots.ranking(without_local, reference="fedavg"))


def test_a_line_joins_the_methods_that_no_other_dominates(runs, drawn_cost):
    figure, table = drawn_cost
    sends = table[table["cost"] > 0]
    for row in sends.itertuples():
        others = sends[sends["method"] != row.method]
        beaten = (others["value"] >= row.value) & (others["cost"] <= row.cost)
        beaten &= (others["value"] > row.value) | (others["cost"] < row.cost)
        assert row.best == (not beaten.any())
    assert not table.loc[table["cost"] == 0, "best"].any()
    assert set(table.loc[table["cost"] == 0, "method"]) == {"local", "centralized"}
    joined = figure.axes[0].lines[0]
    assert sorted(joined.get_xdata()) == sorted(table.loc[table["best"], "cost"])
    with pytest.raises(ValueError, match="against='bytes': choose one of 'megabytes', 'estimated minutes'"):
        plots.communication_cost(runs, "bytes")


def test_cost_titles_state_the_range_of_the_cost_alone():
    table = pd.DataFrame({"method": ["a", "b"], "value": [0.7, 0.8], "cost": [2.0, 10.0], "best": True})
    assert titles.communication_cost(table, "megabytes") == "Communication ranges from 2 MB (a) to 10 MB (b)"
    assert titles.communication_cost(table[1:], "megabytes") == "Communication of b is 10 MB"
    close = table.assign(cost=[11.377, 11.378])
    assert titles.communication_cost(close, "megabytes") == "Communication of a and b is 11.4 MB"
    assert titles.communication_cost(table[:0], "megabytes") == "No method that sends models has a value"


@pytest.fixture
def priced(monkeypatch):
    """Draw `plots.communication_cost` of given methods; method = [(value, megabytes) of each seed]."""

    def draw(against="megabytes", metric="auroc", **methods):
        rows = [(method, *seed) for method, seeds in methods.items() for seed in seeds]
        frame = pd.DataFrame(rows, columns=["method", f"{metric}, mean of sites", "megabytes"])
        frame = frame.assign(**{"estimated minutes": frame["megabytes"] / 10})
        monkeypatch.setattr(method_comparison, "costs", lambda runs, **how: frame)
        return plots.communication_cost([SimpleNamespace(headline=metric)], against)

    return draw


def front(drawing) -> set[str]:
    return set(drawing.table.loc[drawing.table["best"], "method"])


def test_methods_that_tie_do_not_dominate_each_other(priced):
    drawing = priced(a=[(0.8, 5.0)], b=[(0.8, 5.0)], dear=[(0.8, 6.0)], worse=[(0.7, 5.0)], local=[(0.6, 0.0)])
    assert front(drawing) == {"a", "b"} and title(drawing).startswith("Communication ranges from 5 MB (a, b and worse)")
    drawing = priced(a=[(0.8, 5.0)], b=[(0.8, 5.0)], c=[(0.9, 10.0)])
    assert front(drawing) == {"a", "b", "c"}
    assert front(priced(metric="brier", a=[(0.2, 5.0)], b=[(0.2, 5.0)], c=[(0.1, 9.0)], d=[(0.3, 9.0)])) == set("abc")


def test_methods_without_a_value_dominate_none_are_not_drawn_and_are_named(priced):
    drawing = priced(a=[(0.8, 5.0)], b=[(0.7, 9.0)], lost=[(np.nan, 1.0)], half=[(0.9, 1.0), (np.nan, 1.0)])
    assert front(drawing) == {"a"}
    assert title(drawing) == "Communication ranges from 5 MB (a) to 9 MB (b); lost and half left out as undefined"
    ax = drawing.figure.axes[0]
    assert {text.get_text() for text in ax.texts} == {"a", "b"} and len(ax.lines) == 3
    assert ax.get_xlim() == pytest.approx((2.5, 18))
    unpriced = priced("estimated minutes", a=[(0.8, 5.0)], b=[(0.9, 9.0)], c=[(0.7, 20.0), (0.95, np.nan)])
    assert front(unpriced) == {"a", "b"} and title(unpriced).endswith("; c left out as undefined")
    nobody = priced(lost=[(np.nan, 1.0)], local=[(0.6, 0.0)])
    assert title(nobody) == "No method that sends models has a value; lost left out as undefined"


def test_estimated_minutes_say_for_which_links(runs, drawn_cost):
    drawing = plots.communication_cost(runs, "estimated minutes", bandwidth=20, latency=0.2)
    assert drawing.figure.axes[0].get_xlabel().startswith("estimated minutes at 20 Mbit/s and 0.2 s a message\n")
    assert "Mbit/s" not in drawn_cost.figure.axes[0].get_xlabel()


# -- forgetting ------------------------------------------------------------------------------------------------------


def test_forgetting_shows_every_visit_and_what_falls_between(watched):
    figure, table = plots.forgetting(watched)
    assert len(table) == 3 * 4 * 4 and table["own"].sum() == 3 * 4
    panels = figure.axes[0].child_axes
    assert len(panels) == 4
    for panel in panels:
        site = panel.get_ylabel().split("\n")[0]
        rows = table[table["site"] == site]
        line, marks = panel.lines
        assert np.array_equal(line.get_ydata(), rows["value"]) and np.array_equal(line.get_xdata(), rows["visit"])
        assert np.array_equal(marks.get_xdata(), rows.loc[rows["own"], "visit"])


def test_what_is_lost_is_the_fall_from_a_visit_to_just_before_the_next():
    at = list("ABCABCA")
    values = [0.9, 0.8, 0.7, 0.9, 0.85, 0.6, 0.95]
    rows = {"site": "A", "round": 1, "visit": range(1, 8), "at": at, "value": values}
    table = pd.DataFrame(rows).assign(own=lambda rows: rows["at"] == "A")
    assert lost(table)["A"] == pytest.approx((0.9 - 0.7 + 0.9 - 0.6) / 2)
    assert (
        titles.forgetting(lost(table), "auroc") == "Between two visits A loses AUROC: a loss of 25.0 points on average"
    )
    assert lost(table[:2]).isna().all() and "cannot be measured" in titles.forgetting(lost(table[:2]), "auroc")


def test_the_title_of_forgetting_counts_the_sites_that_lose_and_those_that_gain():
    falls = pd.Series({"A": 0.08, "B": -0.02, "C": 0.03, "D": np.nan})
    said = titles.forgetting(falls, "auroc")
    assert said.startswith("Between two visits 2 of 3 sites lose and 1 gains AUROC: a loss of 3.0 points on average")
    assert said.endswith(", most at A (8.0 points)")
    assert "all 3 sites lose log loss: a loss" in titles.forgetting(
        pd.Series([-0.1, -0.2, -0.3], list("ABC")), "log_loss"
    )
    assert "none of 3 sites lose and 3 gain" in titles.forgetting(pd.Series([-0.1, -0.2, -0.3], list("ABC")), "auroc")


def test_nothing_is_lost_across_rounds_that_were_not_evaluated():
    at, rounds = list("ABABABAB"), np.repeat([2, 4, 5, 7], 2)
    values = [0.9, 0.1, 0.8, 0.7, 0.9, 0.5, 0.6, 0.2]
    rows = {"site": "A", "round": rounds, "visit": range(1, 9), "at": at, "value": values}
    table = pd.DataFrame(rows).assign(own=lambda rows: rows["at"] == "A")
    assert lost(table)["A"] == pytest.approx(0.8 - 0.7)
    assert lost(table[table["round"].isin([2, 4, 7])]).isna().all()


def test_lines_of_forgetting_break_where_rounds_were_not_evaluated(base, folder):
    run = fedlab.run(
        base.with_(method="cyclic", watch_visits=True, rounds=5, evaluate_every=2), partition(), folder=folder
    )
    figure, table = plots.forgetting(run)
    assert sorted(set(table["round"])) == [2, 4, 5]
    for panel in figure.axes[0].child_axes:
        *lines, marks = panel.lines
        assert [list(line.get_xdata()) for line in lines] == [[1, 2, 3, 4], [5, 6, 7, 8, 9, 10, 11, 12]]
        assert len(marks.get_xdata()) == 3
    assert "breaks: rounds that were not evaluated" in panel.get_xlabel()
    assert not any("−0.0" in text.get_text() for panel in figure.axes[0].child_axes for text in panel.texts)
    check_texts(figure)


def test_runs_without_scores_between_visits_say_what_to_do(runs):
    with pytest.raises(ValueError, match=r"has no scores between visits.*watch_visits=True"):
        plots.forgetting(runs[3])


def test_visits_are_counted_through(watched):
    table = visits_table(watched)
    assert table.groupby("visit")["site"].nunique().eq(4).all() and table["visit"].max() == 12


# -- participation ---------------------------------------------------------------------------------------------------


def test_participation_agrees_with_events_and_rounds(faulty):
    table = participation_table(faulty).set_index(["site", "round"])["state"]
    assert len(table) == 4 * 9
    worked = faulty.rounds.query("split == 'train' and metric == 'loss'").set_index(["site", "round"]).index
    for place, state in table.items():
        assert (place in worked) == (state in ("took part", "led", "straggled"))
    assert (table == "led").sum() == (faulty.events["event"] == "leader").sum()
    text = title(plots.participation(faulty))
    stalled = set(faulty.events.query("event == 'no quorum'")["round"])
    merged = ~table.index.get_level_values("round").isin(stalled)
    share, idle = (table.isin(["took part", "led", "straggled"]) & merged).mean(), len(stalled)
    assert text.startswith(f"{100 * share:.0f} % of all site rounds were merged")
    assert text.endswith(f"nothing was merged in {idle} round{'s' * (idle != 1)}")


def test_participation_without_faults_is_complete(runs):
    drawing = plots.participation(runs[3])
    assert set(drawing.table["state"]) == {"took part"} and title(drawing) == "100 % of all site rounds were merged"


@pytest.mark.parametrize("method", ["local", "centralized", "ensemble"])
def test_all_sites_take_part_in_local_centralized_and_ensemble_training(method, runs, base, folder):
    calm = next(run for run in runs if run.method == method)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        faulty = fedlab.run(base.with_(method=method, **FAULTS), partition(), folder=folder)
    for run in (calm, faulty):
        table = participation_table(run)
        assert len(table) == 4 * 3 and set(table["state"]) == {"took part"}


def test_fine_tuning_is_no_participation_in_the_round(base, folder):
    """Sites that were not sampled fine-tune their model afterwards."""
    tuned, plain = (
        fedlab.run(base.with_(method=m, participation="sample(0.5)"), partition(), folder=folder)
        for m in ("finetune", "fedavg")
    )
    pd.testing.assert_frame_equal(participation_table(tuned), participation_table(plain))
    assert set(participation_table(tuned)["state"]) == {"took part", "not sampled"}


# -- leakage ---------------------------------------------------------------------------------------------------------


def test_leakage_titles_state_the_first_and_the_last_cut():
    table = pd.DataFrame({"cut": [1, 3], "unexplained": [0.05, 0.6], "correlation": [0.9, 0.5], "null_high": 0.2})
    expected = "A linear attack reconstructs 95 % of the pixels' variance at cut 1, 40 % at cut 3"
    assert titles.leakage(table) == expected
    weak = table.assign(null_high=0.6)
    assert titles.leakage(weak) == f"{expected}; distance correlation within its null at 1 of 2 cuts"
