"""Figures on methods: marks stand where the tables say, no text touches another, titles claim no more."""

import importlib
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_partition_plots import check_texts
from worlds import CNN, cases, partition

import fedlab
from fedlab import plots
from fedlab.analysis.split_leakage import distance_correlation, rebuild
from fedlab.plots import findings
from fedlab.plots.participation_grid import presence_table
from fedlab.plots.retention import lost, visits_table

MANY = ["local", "centralized", "ensemble", "fedavg", "fedprox(mu=0.1)", "cyclic", "swarm", "ditto", "gossip", "split"]
FAULTS = {"availability": 0.6, "stragglers": 0.3, "failures": 0.2}


@pytest.fixture(scope="module")
def base() -> fedlab.Experiment:
    return fedlab.Experiment(model=CNN, rounds=4, local_steps=3, batch_size=8, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def runs(base, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fedlab.grid(base, partition=partition(), folder=folder, method=MANY)


@pytest.fixture(scope="module")
def watched(base, folder):
    return fedlab.run(base.with_(method="cyclic", watch_visits=True), partition(), folder=folder)


@pytest.fixture(scope="module")
def faulty(base, folder):
    return fedlab.run(base.with_(method="swarm(min_peers=3)", rounds=9, **FAULTS), partition(), folder=folder)


def title(drawing) -> str:
    return drawing.figure.axes[0].get_title(loc="left").replace("\n", " ")


# -- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4, 10])
def test_texts_of_rankings_and_prices_can_be_read(count, runs):
    check_texts(plots.ranking(runs[:count]).figure)
    if count > 2:
        for against in ("megabytes", "estimated minutes"):
            check_texts(plots.price(runs[:count], against).figure)


def test_texts_of_visits_and_presence_can_be_read(watched, faulty):
    check_texts(plots.forgetting(watched).figure)
    check_texts(plots.presence(faulty).figure)


@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 12, 12), (1, 8, 8, 8)])
def test_texts_of_leaks_can_be_read(shape, base):
    part = partition(data=cases(152, shape))
    found = fedlab.leakage(base, partition=part, known=60, cases=20)
    drawing = plots.leakage(found)
    check_texts(drawing.figure)
    assert len(drawing.figure.axes[0].images) == 5 * (1 + len(found.table))


# -- ranking and price -----------------------------------------------------------------------------------------------


def test_ranking_is_in_order_and_marks_stand_at_their_values(runs):
    figure, table = plots.ranking(runs)
    assert table["value"].is_monotonic_decreasing and set(table["method"]) == set(MANY)
    lines = figure.axes[0].lines
    points = {(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in lines if len(line.get_xdata()) == 1}
    for place, row in enumerate(table.itertuples()):
        assert (row.value, place) in points and (row.worst, place) in points
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == list(table["method"])


def test_ranking_holds_the_numbers_of_the_comparison_and_the_costs(runs):
    table = plots.ranking(runs).table.set_index("method")
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


def ranked(**values) -> pd.DataFrame:
    """A table as `plots.ranking` makes it; method = (value, gain, clear)."""
    rows = [(method, *three, "local", 1.0) for method, three in values.items()]
    return pd.DataFrame(rows, columns=["method", "value", "gain", "clear", "versus", "megabytes"])


def test_ranking_titles_tell_the_best_its_distance_and_how_many_are_clear():
    table = ranked(centralized=(0.9, 0.2, 1), fedavg=(0.85, 0.15, 1), cyclic=(0.7, 0.0, 0), local=(0.7, 0.0, 0))
    expected = "fedavg is best of 2, 5.0 points below centralized; 2 of 3 methods clearly beat local"
    assert findings.ranking(table, "auroc") == expected
    level = ranked(fedavg=(0.9, 0.1, 1), centralized=(0.9, 0.1, 0), local=(0.8, 0.0, 0))
    assert (
        findings.ranking(level, "auroc") == "fedavg leads, level with centralized; 1 of 2 methods clearly beats local"
    )


def test_ranking_titles_name_all_that_lead():
    table = ranked(fedavg=(0.85, 0.15, 1), swarm=(0.85, 0.15, 1), cyclic=(0.8, 0.1, 0), local=(0.7, 0.0, 0))
    told = findings.ranking(table, "auroc")
    assert told == "fedavg and swarm are best of 3; 2 of 3 methods clearly beat local"


def test_a_presence_title_names_all_who_were_missing_and_counts_no_idle_round():
    states = {"A": ["led", "absent"], "B": ["absent", "took part"], "C": ["took part", "took part"]}
    rows = [(site, number, state) for site, each in states.items() for number, state in enumerate(each, 1)]
    table = pd.DataFrame(rows, columns=["site", "round", "state"])
    most = "A and B were missing most, in 1 of 2 rounds"
    assert findings.presence(table, []) == f"67 % of all site rounds counted; {most}"
    assert findings.presence(table, [2]) == f"33 % of all site rounds counted; {most}; in 1 round nothing was merged"


def test_ranking_titles_count_the_methods_that_are_not_the_reference():
    table = ranked(centralized=(0.9, 0.0, 0), fedavg=(0.85, -0.05, 0), cyclic=(0.8, -0.1, -1), local=(0.7, -0.2, -1))
    told = findings.ranking(table.assign(versus="centralized"), "auroc")
    assert told.endswith("; none of 3 methods clearly beat centralized")
    told = findings.ranking(ranked(fedavg=(0.85, 0.0, 0), local=(0.7, 0.1, 1)).assign(versus="fedavg"), "auroc")
    assert told == "fedavg leads; local clearly beats fedavg"
    alone = ranked(centralized=(0.9, 0.2, 0), local=(0.7, 0.0, 0))
    assert findings.ranking(alone, "auroc") == "centralized leads; centralized does not clearly beat local"


def test_the_ranking_of_runs_counts_all_but_the_reference(runs):
    without_local = [run for run in runs if run.method != "local"]
    assert f" {len(MANY) - 2} methods clearly beat" in title(plots.ranking(without_local, reference="fedavg"))


def test_prices_join_the_methods_that_no_other_beats(runs):
    figure, table = plots.price(runs)
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
        plots.price(runs, "bytes")


def test_price_titles_tell_what_the_best_costs_more():
    table = pd.DataFrame({"method": ["a", "b"], "value": [0.7, 0.8], "cost": [2.0, 10.0], "best": True})
    expected = "a is cheapest (2 MB); b is 10.0 points better for 5.0 times as much"
    assert findings.price(table, "auroc", "megabytes") == expected
    assert "both best and cheapest" in findings.price(table[1:], "auroc", "megabytes")
    assert findings.price(table[:0], "auroc", "megabytes") == "No method sends anything"


@pytest.fixture
def priced(monkeypatch):
    """Draws `plots.price` of methods that reached and sent this; method = [(value, megabytes) of each seed]."""

    def draw(against="megabytes", metric="auroc", **methods):
        rows = [(method, *seed) for method, seeds in methods.items() for seed in seeds]
        frame = pd.DataFrame(rows, columns=["method", f"{metric}, mean of sites", "megabytes"])
        frame = frame.assign(**{"estimated minutes": frame["megabytes"] / 10})
        monkeypatch.setattr(importlib.import_module("fedlab.costs"), "costs", lambda runs, **how: frame)
        return plots.price([SimpleNamespace(headline=metric)], against)

    return draw


def front(drawing) -> set[str]:
    return set(drawing.table.loc[drawing.table["best"], "method"])


def test_methods_that_tie_do_not_beat_each_other(priced):
    drawing = priced(a=[(0.8, 5.0)], b=[(0.8, 5.0)], dear=[(0.8, 6.0)], worse=[(0.7, 5.0)], local=[(0.6, 0.0)])
    assert front(drawing) == {"a", "b"} and title(drawing) == "a and b are both best and cheapest, with 5 MB"
    drawing = priced(a=[(0.8, 5.0)], b=[(0.8, 5.0)], c=[(0.9, 10.0)])
    assert front(drawing) == {"a", "b", "c"}
    assert title(drawing) == "a and b are cheapest (5 MB); c is 10.0 points better for 2.0 times as much"
    assert front(priced(metric="brier", a=[(0.2, 5.0)], b=[(0.2, 5.0)], c=[(0.1, 9.0)], d=[(0.3, 9.0)])) == set("abc")


def test_methods_without_a_value_beat_nobody_are_not_drawn_and_are_named(priced):
    drawing = priced(a=[(0.8, 5.0)], b=[(0.7, 9.0)], lost=[(np.nan, 1.0)], half=[(0.9, 1.0), (np.nan, 1.0)])
    assert front(drawing) == {"a"}
    assert title(drawing) == "a is both best and cheapest, with 5 MB; lost and half left out as undefined"
    ax = drawing.figure.axes[0]
    assert {text.get_text() for text in ax.texts} == {"a", "b"} and len(ax.lines) == 3
    assert ax.get_xlim() == pytest.approx((2.5, 18))
    unpriced = priced("estimated minutes", a=[(0.8, 5.0)], b=[(0.9, 9.0)], c=[(0.7, 20.0), (0.95, np.nan)])
    assert front(unpriced) == {"a", "b"} and title(unpriced).endswith("; c left out as undefined")
    nobody = priced(lost=[(np.nan, 1.0)], local=[(0.6, 0.0)])
    assert title(nobody) == "No method that sends anything has a value; lost left out as undefined"


def test_estimated_minutes_say_for_which_links(runs):
    drawing = plots.price(runs, "estimated minutes", bandwidth=20, latency=0.2)
    assert drawing.figure.axes[0].get_xlabel() == "estimated minutes at 20 Mbit/s and 0.2 s a message"
    assert "Mbit/s" not in plots.price(runs, bandwidth=20).figure.axes[0].get_xlabel()
    check_texts(drawing.figure)


# -- forgetting ------------------------------------------------------------------------------------------------------


def test_forgetting_shows_every_visit_and_what_falls_between(watched):
    figure, table = plots.forgetting(watched)
    assert len(table) == 4 * 4 * 4 and table["own"].sum() == 4 * 4
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
    assert findings.forgetting(lost(table), "auroc").startswith("Between visits a site loses 25.0 points on average")
    assert lost(table[:2]).isna().all() and "nothing can be said" in findings.forgetting(lost(table[:2]), "auroc")


def test_nothing_is_lost_across_rounds_that_were_not_watched():
    at, rounds = list("ABABABAB"), np.repeat([2, 4, 5, 7], 2)
    values = [0.9, 0.1, 0.8, 0.7, 0.9, 0.5, 0.6, 0.2]
    rows = {"site": "A", "round": rounds, "visit": range(1, 9), "at": at, "value": values}
    table = pd.DataFrame(rows).assign(own=lambda rows: rows["at"] == "A")
    assert lost(table)["A"] == pytest.approx(0.8 - 0.7)
    assert lost(table[table["round"].isin([2, 4, 7])]).isna().all()


def test_lines_of_forgetting_break_where_rounds_were_not_watched(base, folder):
    run = fedlab.run(
        base.with_(method="cyclic", watch_visits=True, rounds=5, evaluate_every=2), partition(), folder=folder
    )
    figure, table = plots.forgetting(run)
    assert sorted(set(table["round"])) == [2, 4, 5]
    for panel in figure.axes[0].child_axes:
        *lines, marks = panel.lines
        assert [list(line.get_xdata()) for line in lines] == [[1, 2, 3, 4], [5, 6, 7, 8, 9, 10, 11, 12]]
        assert len(marks.get_xdata()) == 3
    assert "breaks: rounds that were not watched" in panel.get_xlabel()
    assert not any("−0.0" in text.get_text() for panel in figure.axes[0].child_axes for text in panel.texts)
    check_texts(figure)


def test_runs_that_watched_nothing_say_what_to_do(runs):
    with pytest.raises(ValueError, match=r"kept no scores between visits.*watch_visits=True"):
        plots.forgetting(runs[3])


def test_visits_are_counted_through(watched):
    table = visits_table(watched)
    assert table.groupby("visit")["site"].nunique().eq(4).all() and table["visit"].max() == 16


# -- presence --------------------------------------------------------------------------------------------------------


def test_presence_is_what_events_and_costs_tell(faulty):
    table = presence_table(faulty).set_index(["site", "round"])["state"]
    assert len(table) == 4 * 9
    worked = faulty.rounds.query("split == 'train' and metric == 'loss'").set_index(["site", "round"]).index
    for place, state in table.items():
        assert (place in worked) == (state in ("took part", "led", "straggled"))
    assert (table == "led").sum() == (faulty.events["event"] == "leader").sum()
    told = title(plots.presence(faulty))
    stalled = set(faulty.events.query("event == 'no quorum'")["round"])
    merged = ~table.index.get_level_values("round").isin(stalled)
    share, idle = (table.isin(["took part", "led", "straggled"]) & merged).mean(), len(stalled)
    assert told.startswith(f"{100 * share:.0f} % of all site rounds counted")
    assert told.endswith(f"in {idle} round{'s' * (idle != 1)} nothing was merged")


def test_presence_of_a_calm_run_is_complete(runs):
    drawing = plots.presence(runs[3])
    assert set(drawing.table["state"]) == {"took part"} and title(drawing) == "100 % of all site rounds counted"


@pytest.mark.parametrize("method", ["local", "centralized", "ensemble"])
def test_all_sites_take_part_in_the_bounds_and_the_ensemble(method, runs, base, folder):
    calm = next(run for run in runs if run.method == method)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        faulty = fedlab.run(base.with_(method=method, **FAULTS), partition(), folder=folder)
    for run in (calm, faulty):
        table = presence_table(run)
        assert len(table) == 4 * 4 and set(table["state"]) == {"took part"}


def test_tuning_a_model_of_ones_own_is_no_part_in_the_round(base, folder):
    """Sites that were not drawn train afterwards, for themselves."""
    tuned, plain = (
        fedlab.run(base.with_(method=m, participation="sample(0.5)"), partition(), folder=folder)
        for m in ("finetune", "fedavg")
    )
    pd.testing.assert_frame_equal(presence_table(tuned), presence_table(plain))
    assert set(presence_table(tuned)["state"]) == {"took part", "not drawn"}


# -- leakage ---------------------------------------------------------------------------------------------------------


def test_distance_correlation_has_its_known_values():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    assert distance_correlation(x, x) == pytest.approx(1)
    assert distance_correlation(x, 3 * x @ turn.T + 7) == pytest.approx(1)
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


def test_rebuilding_inverts_what_is_linear_and_fails_on_noise():
    rng = np.random.default_rng(2)
    pixels = rng.normal(size=(260, 10))
    sent = pixels @ rng.normal(size=(10, 40)) + 3
    found = rebuild(sent[:200], pixels[:200], sent[200:])
    assert ((found - pixels[200:]) ** 2).mean() < 1e-3 * pixels.var()
    noise = rng.normal(size=(260, 40))
    lost_ = rebuild(noise[:200], pixels[:200], noise[200:])
    assert ((lost_ - pixels[200:]) ** 2).mean() > 0.9 * pixels.var()


def test_deeper_cuts_tell_less_and_the_raw_image_tells_all(base, tmp_path):
    part = fedlab.partition(fedlab.load("phantoms(cases=600)"), 2)
    run = fedlab.run(base.with_(model="small_cnn(width=4)", rounds=2), part, folder=tmp_path)
    found = fedlab.leakage(run, partition=part, known=300, cases=80)
    table = found.table
    assert list(table["cut"]) == [1, 2, 3, 4] and (table["correlation"] > table["null_high"]).all()
    assert table["unexplained"].iloc[0] < table["unexplained"].iloc[-1] and table["floats"].is_monotonic_decreasing
    raw = fedlab.leakage(base.with_(model="logistic"), partition=part, known=300, cases=80).table
    assert raw["correlation"].item() == pytest.approx(1) and raw["unexplained"].item() < 0.4


def test_leakage_repeats_and_shows_images_that_the_attacker_never_saw(base):
    part = partition()
    first, second = (fedlab.leakage(base, [1], partition=part, known=60, cases=20) for _ in range(2))
    pd.testing.assert_frame_equal(first.table, second.table)
    assert first.images.shape == first.rebuilt[1].shape == (6, 1, 12, 12)
    tests = np.concatenate([part.index(site, "test") for site in part.sites])
    pool = {(part.cases.images[i] / 255).astype(np.float32).tobytes() for i in tests}
    assert all(image.astype(np.float32).tobytes() in pool for image in first.images)


def test_a_cut_outside_the_model_is_refused(base):
    with pytest.raises(ValueError, match="cut=9, tail=0 lies outside the model, which has 4 stages"):
        fedlab.leakage(base, [1, 9], partition=partition())


def test_leak_titles_tell_the_first_and_the_last_cut():
    table = pd.DataFrame({"cut": [1, 3], "unexplained": [0.05, 0.6], "correlation": [0.9, 0.5], "null_high": 0.2})
    assert findings.leakage(table) == "An attacker rebuilds 95 % of the pixels' variance at cut 1, 40 % at cut 3"
    weak = table.assign(null_high=0.6)
    assert findings.leakage(weak).endswith("; not every cut tells more than chance")
