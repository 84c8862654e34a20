"""Figures of a study: titles claim what intervals and p-values support, marks are where the table says."""

import io
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from study_frames import AXES, DOSES, METHODS, study_table
from test_partition_plots import check_texts, texts

from fedlab import plots
from fedlab.evaluation.intervals.rank_correlation import spearman
from fedlab.plots import study_costs, study_distance
from fedlab.plots.names import names
from fedlab.plots.study_table import base, mean_rows

EIGHT = ("quantity", "prevalence", "presentation", "population", "acquisition", "annotation", "geography", "sites")
SEVEN = (*METHODS, "fedprox(mu=0.01)", "scaffold", "ditto(keep=0.5)", "swarm(secure=True)")
TEXTS = [0.0, "dirichlet(10)", "dirichlet(1)", "dirichlet(0.3)"]
DOSED = {axis: list(DOSES) for axis in EIGHT} | {"sites": [2, 4, 8, 16, 32], "prevalence": TEXTS}


def title(drawing) -> str:
    return drawing.figure.axes[0].get_title(loc="left").replace("\n", " ")


def cost_title(table: pd.DataFrame) -> str:
    """The title of `costs_of_heterogeneity` without the figure."""
    rows = mean_rows(table)
    return study_costs.title(rows, rows["metric"].iloc[0])


def written(figure: Figure) -> str:
    return " ".join(text.get_text() for text in texts(figure)).replace("\n", " ")


def undefined(table: pd.DataFrame, *columns: str, **where: object) -> pd.DataFrame:
    """The table with some columns NaN in the rows where all of `where` hold."""
    there = pd.Series(True, table.index)
    for name, value in where.items():
        there &= table[name] == value
    return table.assign(**{column: table[column].mask(there) for column in columns})


COST = ("cost", "cost_low", "cost_high", "cost_p", "cost_p_holm")
FINDINGS = {
    "one axis": (study_table(["prevalence"], noise=0), "At the highest dose, heterogeneity in disease prevalence costs"
        " fedavg 6.0 points of AUROC (95 % CI 4.0 to 8.0)"),
    "one of several": (study_table(EIGHT[:4], costs={"prevalence": 0.041}, noise=0), "At the highest dose,"
        " heterogeneity in disease prevalence costs fedavg 4.1 points of AUROC (95 % CI 2.1 to 6.1); no other axis of 4"
        " is shown to cost it any"),
    "both": (study_table(noise=0), "At the highest dose, heterogeneity in disease prevalence costs fedavg 6.0 points of"
        " AUROC (95 % CI 4.0 to 8.0), the largest estimate; the other axis also costs AUROC (p < 0.05, Holm)"),
    "several": (study_table(EIGHT[:5], costs={"prevalence": 0.03, "quantity": 0.05, "population": 0.04}, noise=0),
        "At the highest dose, heterogeneity in number of cases costs fedavg 5.0 points of AUROC (95 % CI 3.0 to 7.0),"
        " the largest estimate; 2 of 4 other axes also cost AUROC (p < 0.05, Holm)"),
    "none": (study_table(costs={}, noise=0), "At the highest dose, none of 2 axes is shown to cost fedavg AUROC"
        " (p ≥ 0.05, Holm)"),
    "none of one": (study_table(["geography"], costs={"geography": 0.012}, noise=0), "At the highest dose,"
        " heterogeneity in geography is not shown to cost fedavg AUROC: 1.2 points (95 % CI −0.8 to 3.2)"),
    "a gain": (study_table(costs={"prevalence": -0.05}, noise=0), "At the highest dose, none of 2 axes is shown to cost"
        " fedavg AUROC (p ≥ 0.05, Holm); 1 axis improves it"),
    "sites": (study_table(["sites"], doses=[2, 8], costs={"sites": 0.1}, noise=0), "At the highest dose, number of"
        " sites costs fedavg 10.0 points of AUROC (95 % CI 8.0 to 12.0)"),
    "texts": (study_table(["prevalence"], doses=TEXTS, noise=0), "At the last dose, heterogeneity in disease prevalence"
        " costs fedavg 6.0 points of AUROC (95 % CI 4.0 to 8.0)"),
    "Brier": (study_table(["prevalence"], metric="brier", noise=0), "At the highest dose, heterogeneity in disease"
        " prevalence raises the Brier score of fedavg by 0.060 (95 % CI 0.040 to 0.080)"),
    "Brier, none": (study_table(metric="brier", costs={}, noise=0), "At the highest dose, none of 2 axes is shown to"
        " raise the Brier score of fedavg (p ≥ 0.05, Holm)"),
    "undetermined": (undefined(study_table(noise=0), *COST, axis="acquisition", dose=1.0), "At the highest dose,"
        " heterogeneity in disease prevalence costs fedavg 6.0 points of AUROC (95 % CI 4.0 to 8.0); not determined on"
        " 1 axis"),
    "a failed method": (study_table(noise=0).query("method != 'fedavg' or axis != 'acquisition' or dose < 1"),
        "At the highest dose, heterogeneity in disease prevalence costs fedavg 6.0 points of AUROC"
        " (95 % CI 4.0 to 8.0); not determined on 1 axis"),
    "one dose": (study_table(["prevalence"], doses=[0.5]), "AUROC of fedavg is 0.848 at one dose of disease prevalence;"
        " a cost needs two doses"),
    "no costs": (undefined(study_table(noise=0), *COST), "AUROC of fedavg ranges from 0.788 to 0.848 over all doses; no"
        " cost is determined"),
    "nothing": (undefined(study_table(), *COST, "value", "low", "high"), "AUROC of fedavg is undefined at every dose"),
    "no federated method": (study_table(["prevalence"], methods=["centralized"], noise=0), "At the highest dose,"
        " heterogeneity in disease prevalence is not shown to cost centralized AUROC: 0.0 points"
        " (95 % CI −2.0 to 2.0)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FINDINGS)
def test_the_title_states_what_the_highest_dose_costs_the_first_federated_method(kind):
    table, finding = FINDINGS[kind]
    assert cost_title(table) == finding


def test_a_cost_is_shown_only_if_p_after_holm_and_the_interval_agree():
    table = study_table(["prevalence"], methods=["fedavg"], noise=0)
    by_interval = table.drop(columns=["cost_p", "cost_p_holm"])
    for one in (table, by_interval):
        assert mean_rows(one)["clear"].tolist() == [0, 0, 1, 1, 1]
    for change in ({"cost_p_holm": 0.06}, {"cost_low": -0.01}):
        assert not mean_rows(table.assign(**change))["clear"].any()
        assert "is not shown to cost" in cost_title(table.assign(**change))
    none = plots.costs_of_heterogeneity(by_interval.assign(cost_low=-0.01))
    assert "open marks are not shown to differ (95 % CI includes 0)" in written(none.figure)


def test_no_title_says_that_a_dose_costs_nothing_or_that_methods_are_equal():
    for table, _ in FINDINGS.values():
        assert not {"equal", "nothing", "no different", "same", "unaffected"} & set(cost_title(table).split())


def test_marks_and_intervals_are_where_the_table_says():
    figure, table = plots.costs_of_heterogeneity(study_table(AXES, SEVEN))
    for panel, axis in zip(figure.axes[0].child_axes, AXES, strict=True):
        marks = {found.get_gid(): found for found in panel.collections if found.get_gid()}
        for method, rows in table[table["axis"] == axis].groupby("method"):
            places = marks[f"{method} on {axis}"].get_offsets()
            np.testing.assert_allclose(places[:, 1], rows["value"])
            assert np.abs(places[:, 0] - rows["dose"]).max() < 0.125  # nearer to their own dose than to another
            filled = marks[f"{method} on {axis}"].get_facecolors()[:, :3].min(axis=1) < 1
            assert filled.tolist() == rows["clear"].ne(0).tolist()
        lines = [
            tuple(line[:, 1]) for found in panel.collections if not found.get_gid() for line in found.get_segments()
        ]
        assert {tuple(ends) for ends in table.loc[table["axis"] == axis, ["low", "high"]].to_numpy()} == set(lines)
        assert len({found.get_offsets()[0, 0] for found in marks.values()}) == len(SEVEN)  # apart
    assert len({panel.get_ylim() for panel in figure.axes[0].child_axes}) == 1


def test_doses_of_text_are_even_and_numbers_of_sites_by_their_ratio():
    figure, _ = plots.costs_of_heterogeneity(study_table(["prevalence", "sites"], doses=DOSED))
    text, sites = figure.axes[0].child_axes
    assert np.ptp(np.diff(text.get_xticks())) < 1e-9 and np.ptp(np.diff(sites.get_xticks())) < 1e-9
    assert [label.get_text() for label in sites.get_xticklabels()] == ["2", "4", "8", "16", "32"]
    words = [label.get_text().replace("\n", "") for label in text.get_xticklabels()]
    assert words == ["0", *TEXTS[1:]]


def test_the_upper_scale_gives_the_realised_shift_at_each_dose():
    table = study_table(["prevalence", "sites"], doses=DOSED | {"prevalence": [0.0, 0.5, 1.0]}).assign(shift_null=0.02)
    table["shift"] = table["shift"].where(table["axis"] == "sites", table["dose"] * 0.4 + 0.016)
    figure, _ = plots.costs_of_heterogeneity(table)
    panel, other = figure.axes[0].child_axes
    (upper,) = panel.child_axes
    assert upper.get_xticks().tolist() == panel.get_xticks().tolist() == [0, 0.5, 1]
    assert [label.get_text() for label in upper.get_xticklabels()] == ["0.02", "0.22", "0.42"]
    assert "I(S;Y), bit (chance: 0.020)" in written(figure)
    assert not other.child_axes and "shift not measured" in written(figure)


def test_notes_give_test_cases_what_varied_and_where_test_cases_differ():
    shown = study_costs.notes(mean_rows(study_table(AXES)))
    assert "640 test cases, the same at all doses; bars: 95 % intervals over test cases, 3 seeds, 2 partitions" in shown
    assert "filled marks differ (p < 0.05, Holm) from the first dose of their axis" in shown
    table = study_table(["prevalence", "sites"])
    table["cases"] = table["cases"].where(table["axis"] == "sites", 600)
    assert "600 to 640 test cases, the same at all doses except on number of sites;" in study_costs.notes(
        mean_rows(table)
    )
    shown = study_costs.notes(mean_rows(table.assign(paired=False, cost_p_holm=1.0)))
    assert "test cases, not the same at all doses;" in shown and "open marks are not shown to differ (p ≥ 0.05" in shown
    assert study_costs.notes(mean_rows(table[["axis", "dose", "method", "site", "metric", "value"]])) == ""


@pytest.mark.parametrize(("axes", "methods"), [(EIGHT[:1], METHODS[::2]), (EIGHT[:3], METHODS), (EIGHT, SEVEN)])
def test_texts_of_costs_and_distances_can_be_read(axes, methods):
    table = study_table(axes, methods, DOSED if len(axes) > 1 else DOSES, noise=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for plot in (plots.costs_of_heterogeneity, plots.distance):
            check_texts(plot(table).figure)


@pytest.mark.parametrize("kind", ["one dose", "nothing"])
def test_what_is_not_known_is_drawn_as_far_as_it_is(kind):
    drawing = plots.costs_of_heterogeneity(FINDINGS[kind][0])
    check_texts(drawing.figure)
    marks = [found for found in drawing.figure.axes[0].child_axes[0].collections if found.get_gid()]
    assert len(marks) == len(METHODS) and not drawing.table["clear"].any()
    check_texts(plots.distance(FINDINGS[kind][0]).figure)


def test_of_many_doses_some_are_labelled_the_last_one_always():
    doses = {axis: list(np.linspace(0, 1, 40).round(3)) for axis in EIGHT[:3]}
    doses["prevalence"] = [f"dirichlet({k})" for k in range(40)]
    figure, _ = plots.costs_of_heterogeneity(study_table(EIGHT[:3], ["fedavg"], doses))
    check_texts(figure)
    ends = [panel.get_xticklabels()[-1].get_text() for panel in figure.axes[0].child_axes]
    assert ends == ["1", "dirichlet(39)", "1"]


def test_many_methods_and_axes_are_counted(monkeypatch):
    monkeypatch.setattr(study_costs, "PANELS", 2)
    monkeypatch.setattr(study_distance, "MOST", 2)
    axes = [f"_axis $ number {k}" for k in range(3)]
    methods = ["local", *(f"fedprox(mu={k / 10})" for k in range(14)), "centralized"]
    table = study_table(axes, methods, doses=(0.0, 1.0))
    figure, shown = plots.costs_of_heterogeneity(table)
    assert "+ 4 more methods; + 1 more panel." in written(figure) and len(shown) == 3 * 16 * 2
    check_texts(figure)
    figure, shown = plots.distance(table)
    assert "+ 1 more axis." in written(figure) and len(shown) == 3
    check_texts(figure)


def test_odd_names_appear_as_they_are_written():
    methods = ["local", "_own($x$)", "m<&>\n_^", "mine(" + "knob=0.01, " * 54 + "last=1)", "😀$"]
    axes = ["_col$umn$ <a> ", "x" * 600, "日本 $", "nul\0"]
    doses = [0, "_my$scheme$(a=1)", "y" * 600, "שלום\n"]
    table = study_table(axes, methods, doses).assign(measure="W1 of _my$column$ <b> " * 9, varied="$a$ seeds\0" * 30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for plot, most in ((plots.costs_of_heterogeneity, 26), (plots.distance, 24)):
            figure = plot(table).figure
            check_texts(figure)
            figure.savefig(io.BytesIO(), format="svg")
            shown = written(figure)
            for words in names(methods if most == 26 else axes, most).values():
                assert words in shown
            assert not any(text.get_parse_math() for text in texts(figure))


def test_a_study_is_asked_for_its_table_and_a_table_may_hold_several_metrics():
    both = pd.concat([study_table(noise=0), study_table(metric="brier", noise=0)])
    study = SimpleNamespace(table=lambda metric: both[both["metric"] == (metric or "auroc")])
    for metric in (None, "brier"):
        rows = mean_rows(study, metric)
        pd.testing.assert_frame_equal(rows, mean_rows(both, metric))
        assert set(rows["metric"]) == {metric or "auroc"} and set(rows["site"]) == {"mean of sites"}
    for plot in (plots.costs_of_heterogeneity, plots.distance):
        assert set(plot(study, "brier").table["metric"]) == {"brier"}


def test_tables_that_cannot_be_drawn_are_refused():
    table = study_table()
    for plot in (plots.costs_of_heterogeneity, plots.distance):
        with pytest.raises(ValueError, match=r"lacks the columns \['dose'\]"):
            plot(table.drop(columns="dose"))
        with pytest.raises(ValueError, match=r"no row is the 'mean of sites' of 'dice': found the metrics \['auroc'\]"):
            plot(table, "dice")
        with pytest.raises(ValueError, match=r"several rows of 'local' at dose 0.0 of 'prevalence'"):
            plot(pd.concat([table, table]))
    with pytest.raises(ValueError, match=r"no method 'fedprox' in the study: choose one of \['local'"):
        plots.distance(table, method="fedprox")


def test_doses_that_are_lists_have_their_panel():
    table = study_table(["prevalence"], doses=["a", "b"])
    table["dose"] = [[0.2, 0.2] if dose == "a" else [0.1, 0.3] for dose in table["dose"]]
    figure, _ = plots.costs_of_heterogeneity(table)
    assert "[0.1, 0.3]" in written(figure)
    assert len(plots.distance(table).table) == 1


def test_figures_can_be_drawn_into_axes_of_another_style():
    figure = Figure(figsize=(24, 8))
    left, right = figure.subplots(1, 2)
    table = study_table(methods=["fedavg"])
    assert plots.costs_of_heterogeneity(table, ax=left).figure is plots.distance(table, ax=right).figure is figure
    figure.savefig(io.BytesIO(), format="png", dpi=20)


# -- shift and cost --------------------------------------------------------------------------------------------------


def test_distance_is_the_shift_beyond_chance_by_the_largest_of_its_axis_without_base_doses():
    frame = study_table(EIGHT, doses=DOSED)
    frame["paired"] = frame["paired"] & frame["cost_low"].notna()  # as in a study: first doses are compared with none
    figure, table = plots.distance(frame)
    assert len(table) == 6 * 4 + 3 and set(table["method"]) == {"fedavg"}  # sites have no measured shift
    expected = table["shift"] - table["shift_null"]
    np.testing.assert_allclose(table["beyond"], expected)
    np.testing.assert_allclose(table["distance"], expected / expected.groupby(table["axis"]).transform("max"))
    assert "without a measured shift or a cost: number of sites" in written(figure)
    assert "640 test cases, the same at all doses;" in written(figure)
    marks = {found.get_gid(): found for found in figure.axes[0].collections if found.get_gid()}
    for axis, rows in table.groupby("axis"):
        places = marks[axis].get_offsets()
        np.testing.assert_allclose(places[:, 1], rows["cost"])
        assert np.abs(places[:, 0] - rows["distance"]).max() < 0.1
    shapes = {found.get_paths()[0].vertices.tobytes() for found in marks.values()}
    assert len(shapes) == len(marks)  # axes differ by marker


def test_distances_of_an_axis_without_shift_beyond_chance_are_zero():
    frame = study_table(["prevalence", "quantity"])
    frame["shift"] = frame["shift"].where(frame["axis"] == "prevalence", 0.001)
    table = plots.distance(frame).table
    assert (table.loc[table["axis"] == "quantity", "distance"] == 0).all()
    assert table.loc[table["axis"] == "prevalence", "distance"].max() == 1


def test_correlations_are_over_all_doses_and_within_axes_of_at_least_four():
    doses = {"prevalence": DOSES, "quantity": (0, 0.5, 1), "acquisition": (*DOSES, 2, 3)}
    table = distance_table(study_table(list(doses), doses=doses, noise=0.01))
    whole = table[["rho", "rho_low", "rho_high"]].iloc[0].to_numpy(float)
    np.testing.assert_allclose(whole, spearman(table["distance"], table["cost"])[:3])
    unknown = {"quantity": [True] * 3, "prevalence": [False, True, True], "acquisition": [False] * 3}
    for axis, rows in table.groupby("axis"):
        own = rows[["axis_rho", "axis_rho_low", "axis_rho_high"]].iloc[0].to_numpy(float)
        assert np.isnan(own).tolist() == unknown[axis]
        wanted = np.where(unknown[axis], np.nan, spearman(rows["distance"], rows["cost"])[:3])
        np.testing.assert_allclose(own, wanted)


GAINS = dict.fromkeys(AXES, -0.05)
CORRELATIONS = {
    "falls": (study_table(), "AUROC of fedavg falls as the measured shift rises: rank correlation of shift"
        " and cost 0."),
    "Brier": (study_table(metric="brier"), "Brier score of fedavg rises as the measured shift rises: rank correlation"),
    "rises": (study_table(costs=GAINS), "AUROC of fedavg rises as the measured shift rises: rank correlation of shift"
        " and cost −0."),
    "not shown": (study_table(costs={}), "This study does not show that the measured shift predicts what fedavg loses"
        " in AUROC: rank correlation "),
    "Brier, not shown": (study_table(costs={}, metric="brier"), "This study does not show that the measured shift"
        " predicts the increase of Brier score of fedavg: rank correlation "),
    "few": (study_table(["prevalence"], noise=0), "Rank correlation of measured shift and cost for fedavg: 1.00 over"
        " 4 doses of 1 axis, too few for an interval"),
    "constant": (study_table(costs={}, noise=0), "The rank correlation of measured shift and cost for fedavg is"
        " undefined over 8 doses of 2 axes"),
    "no shift": (study_table(["sites"]), "No dose has both a measured shift and a cost for fedavg"),
    "one dose": (study_table(doses=[0.0]), "No dose has both a measured shift and a cost for fedavg"),
    "nothing": (FINDINGS["nothing"][0], "No dose has both a measured shift and a cost for fedavg"),
}  # fmt: skip


def distance_table(frame: pd.DataFrame, method: str = "fedavg") -> pd.DataFrame:
    """The table of `distance` without the figure."""
    rows = mean_rows(frame)
    return study_distance.correlated(study_distance.placed(rows[(rows["method"] == method) & ~base(rows)]))


@pytest.mark.parametrize("kind", CORRELATIONS)
def test_the_title_states_the_correlation_of_shift_and_cost(kind):
    frame, start = CORRELATIONS[kind]
    table = distance_table(frame)
    found = study_distance.title(table, frame["metric"].iloc[0], "fedavg")
    assert found.startswith(start)
    if len(table) > 4 and np.isfinite(table["rho"].iloc[0]):
        low, high = table[["rho_low", "rho_high"]].iloc[0]
        assert ("does not show" in found) == (low <= 0 <= high)
        assert f"(95 % CI {low:.2f} to {high:.2f}) over 8 doses of 2 axes".replace("-", "−") in found


def test_another_method_may_be_chosen():
    drawing = plots.distance(study_table(methods=SEVEN), method="centralized")
    assert set(drawing.table["method"]) == {"centralized"} and "centralized" in title(drawing)
