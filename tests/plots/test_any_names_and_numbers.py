"""Figures hold any name as it is written and any number of sites, classes and methods."""

import io
import unicodedata
import warnings
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from test_partition_plots import FakePartition, check_texts, comparison, fake_run, matrix, measured, texts

import fedlab
from fedlab import plots
from fedlab.analysis.operating_curves import Place
from fedlab.analysis.scores import TestSet
from fedlab.core.rng import stream
from fedlab.core.site_names import site_names
from fedlab.plots import method_comparison, operating_curves, style
from fedlab.plots.names import NAME, listed, name, names, plain

ODD = ["$a$ b_c^{ %s", "<b>x</b> & \"q\" 'r' {}", "_lead\\frac\nbreak\ttab nul\0", "שלום é̂ العربية", "😀 日本語 🏥 👩‍⚕️"]
LONG = [f"Department of Radiology of a very long name, building {i}"[:60] for i in range(2)] + ["x" * 600]
ODD_CLASSES = ("_$x_1$", "<i>&amp;\\alpha", "日本 $", "y" * 60)
ODD_METHODS = ["local", "_own($x$)", "m<&>\n_^", "mine(" + "knob=0.01, " * 54 + "last=1)", "😀$"]


class AnyPartition(FakePartition):
    """A partition of these sites and classes, of odd regions and an odd column."""

    def __init__(self, sites: list[str], classes: tuple[str, ...], column: str = "age", n: int = 600) -> None:
        super().__init__(sites, classes, n=n, shape=(1, 4, 4), unseen=1, **{column: "kind"})
        self.regions = {site: ("_re$gi$on <b>", "R" * 60)[k % 2] for k, site in enumerate(self.sites)}
        self.spec = {"prevalence": "_my$scheme$(a=1)"}


def any_run(sites: list[str], method: str = "fedavg") -> SimpleNamespace:
    """A run whose model travels, and of which some sites are late."""
    run = fake_run(method, sites=sites)
    run.partition_table = pd.DataFrame({"site": np.repeat(np.array(sites, object), 3), "split": "train"})
    run.partition_fingerprint = "the same"
    run.rounds = pd.concat([run.rounds, run.rounds.assign(split="train", metric="loss")])
    run.events = pd.DataFrame([{"site": site, "round": 1, "event": "late"} for site in sites])
    rows = [(r, v, at, site) for r in (1, 2) for v, at in enumerate(sites[:4]) for site in sites]
    run.visits = pd.DataFrame(rows, columns=["round", "visit", "at", "site"]).assign(metric="auroc")
    run.visits["value"] = stream(0, "visits").random(len(rows))
    return run


def judged_sites(sites: list[str], method: str) -> pd.DataFrame:
    """A frame as `fedlab.verdict` makes it, with every verdict in turn."""
    words = ["join", "stay local", "cannot tell", "ensemble", "gain without giving"]
    table = pd.DataFrame({"site": sites, "verdict": [words[k % 5] for k in range(len(sites))], "method": method})
    for prefix in ("", "ensemble_", "free_"):
        table[prefix + "low"], table[prefix + "high"] = -0.02, 0.05
        table[(prefix or "") + "gain"] = 0.01
    table["metric"] = [("auroc", "brier")[k % 2] for k in range(len(sites))]
    return table.assign(patients=range(1200, 1200 + len(sites)), rarer=7.0, margin=0.02, p_holm=0.001,
                        negative_transfer=True, may_join=True)  # fmt: skip


def prediction_sets(sites: list[str]) -> pd.DataFrame:
    """A frame as `fedlab.conformal` makes it, for two ways of calibration."""
    table = pd.DataFrame({"site": [*sites, "pooled"], "class": "all classes", "own": 1234.0, "tests": 4321})
    numbers = {"coverage": 0.85, "low": 0.8, "high": 0.9, "band_low": 0.85, "band_high": 0.95, "size": 12.25}
    return pd.concat([table.assign(calibration=way, **numbers) for way in ("pooled", "site")], ignore_index=True)


def recalibrated(sites: list[str]) -> pd.DataFrame:
    """A frame as `recalibrate` makes it, for both ways."""
    table = pd.DataFrame({"site": sites, "cases": 40, "tests": 90, "parameter": 1.5, "note": ""})
    numbers = {"log_loss_gain": 0.02, "log_loss_low": 0.01, "log_loss_high": 0.03}
    table = table.assign(slope_before=0.5, slope_after=1.0)
    return pd.concat([table.assign(by=way, **numbers) for way in ("temperature", "intercept")], ignore_index=True)


def contributed(sites: list[str]) -> pd.DataFrame:
    """A frame as `fedlab.contributions` makes it."""
    table = pd.DataFrame({"site": sites, "cases": range(len(sites)), "metric": "auroc", "patients": 40, "seeds": 1})
    lost = {"leave_one_out": 0.02, "low": 0.01, "high": 0.03}
    return table.assign(**lost, shapley=0.1, shapley_low=-0.1, shapley_high=0.2)


def predicted(sites: list[str], methods: list[str]) -> list[Place]:
    """Test cases of these sites, and what these methods predict."""
    rng, found = stream(0, "predicted"), []
    for site in ["pooled", *sites]:
        y, models = np.arange(40) % 2, {}
        for method in methods:
            p = rng.random(40)
            models[method] = {0: [np.column_stack([1 - p, p])]}
        found.append(Place(site, TestSet("auroc", y, np.arange(40), 2), y, models))
    return found


def drawn(monkeypatch, sites, classes, methods, column="age") -> dict:
    """Every plot of these sites, classes and methods, as a function."""
    part = AnyPartition(sites, classes, column)
    table = pd.DataFrame({"method": methods, "value": np.linspace(0.9, 0.6, len(methods)), "clear": 1})
    numbers = {"low": 0.5, "high": 0.95, "gain": -0.1, "gain_low": -0.2, "gain_high": -0.05}
    table = table.assign(**numbers, worst_low=0.3, worst_high=0.5, versus=methods[1], megabytes=123456.0).assign(
        **{"sequential steps": 10**6}
    )
    cost = table.rename(columns={"value": "auroc, mean of sites"}).assign(megabytes=1.5 ** np.arange(len(methods)))
    monkeypatch.setattr(method_comparison, "ranking_table", lambda *_: table)
    monkeypatch.setattr(method_comparison, "costs", lambda *_, **__: cost)
    headline = [SimpleNamespace(headline="auroc")]
    monkeypatch.setattr(operating_curves, "_places", lambda *_, **__: (predicted(sites, methods), 4))
    frame = comparison(sites, tuple(methods), undefined=(0,))
    frame["note"] = frame["note"].where(frame["note"] == "", "a long note about $x$ and <b>y</b>; " * 20)
    judged = judged_sites(sites, methods[1])
    leak = pd.DataFrame({"cut": range(1, 30), "unexplained": 0.5, "correlation": 0.4, "null_high": 0.1})
    images = np.zeros((40, 1, 4, 4), np.float32)
    leaked = SimpleNamespace(
        table=leak.assign(kilobytes=1.0), images=images, reconstructed=dict.fromkeys(range(50), images)
    )
    measures = pd.concat([measured().assign(measure=f"W1 of {column}", axis=f"_axis$ {k}") for k in range(30)])
    return {
        "partition": lambda: plots.partition(part),
        "samples": lambda: plots.samples(part),
        "samples, cases": lambda: plots.samples(part.cases, n=2),
        "population": lambda: plots.population(part, column),
        "flow": lambda: plots.flow(part),
        "sites": lambda: plots.sites(part),
        "shift": lambda: plots.shift(measures, every=True),
        "curves": lambda: plots.curves([any_run(sites[:3], method) for method in methods]),
        "local_vs_global": lambda: plots.local_vs_global(frame),
        "local_vs_global, one method": lambda: plots.local_vs_global(frame[frame["method"].isin(methods[:2])]),
        "local_vs_global, column": lambda: plots.local_vs_global(frame, width=85),
        "ranking, column": lambda: plots.ranking(headline, width=85),
        "verdict, column": lambda: plots.verdict(judged, width=85),
        "flow, column": lambda: plots.flow(part, width=85),
        "roc, column": lambda: plots.roc([], width=85),
        "reliability, column": lambda: plots.reliability([], width=85),
        "net_benefit, column": lambda: plots.net_benefit([], thresholds=[0.2, 0.5], width=85),
        "risk_coverage, column": lambda: plots.risk_coverage([], coverages=[0.5, 1.0], width=85),
        "differences, column": lambda: plots.differences(frame, width=85),
        "curves, column": lambda: plots.curves([any_run(sites[:3], method) for method in methods], width=85),
        "conformal, column": lambda: plots.conformal(prediction_sets(sites), width=85),
        "recalibration, column": lambda: plots.recalibration(recalibrated(sites), width=85),
        "contributions, column": lambda: plots.contributions(contributed(sites), width=85),
        "differences": lambda: plots.differences(frame),
        "transfer": lambda: plots.transfer(matrix(sites, methods=tuple(methods[1:]))),
        "ranking": lambda: plots.ranking(headline),
        "communication_cost": lambda: plots.communication_cost(headline),
        "forgetting": lambda: plots.forgetting(any_run(sites)),
        "participation": lambda: plots.participation(any_run(sites)),
        "leakage": lambda: plots.leakage(leaked, n=40),
        "verdict": lambda: plots.verdict(judged),
        "contributions": lambda: plots.contributions(contributed(sites)),
        "recalibration": lambda: plots.recalibration(recalibrated(sites)),
        "conformal": lambda: plots.conformal(prediction_sets(sites)),
        "roc": lambda: plots.roc([]),
        "reliability": lambda: plots.reliability([]),
        "net_benefit": lambda: plots.net_benefit([], thresholds=[0.2, 0.5]),
        "risk_coverage": lambda: plots.risk_coverage([], coverages=[0.5, 1.0]),
    }


COLUMN = tuple(
    f"{plot}, column"  # of a journal
    for plot in (
        *("local_vs_global", "ranking", "verdict", "flow", "roc", "reliability", "net_benefit", "risk_coverage"),
        *("differences", "curves", "conformal", "recalibration", "contributions"),
    )
)
PLOTS = [
    *("partition", "samples", "samples, cases", "population", "sites", "shift", "curves", "local_vs_global"),
    *("local_vs_global, one method", "transfer", "ranking", "communication_cost", "forgetting", "participation"),
    "verdict", "conformal", "recalibration", "contributions", "flow", "differences", "roc", "reliability",
    "net_benefit", "risk_coverage", *COLUMN, "leakage",
]  # fmt: skip
LIKE_OTHERS = {
    *COLUMN,
    "flow",
    "recalibration",
    "contributions",
    "verdict",
    "conformal",
    "curves",
    "communication_cost",
    "forgetting",
    "samples, cases",
    "roc",
    "reliability",
    "net_benefit",
    "risk_coverage",
}  # in how they are bounded
WITH_SITES = {
    "flow",
    "recalibration",
    "contributions",
    "partition",
    "samples",
    "population",
    "sites",
    "local_vs_global",
    "transfer",
    "participation",
    "verdict",
    "conformal",
    "roc",
    "reliability",
    "net_benefit",
    "risk_coverage",
}
CURVES = ("roc", "reliability", "net_benefit", "risk_coverage")
WITH_CLASSES = {"partition", "samples", "samples, cases"}
WITH_METHODS = {"curves", "local_vs_global", "ranking", "communication_cost"}


def written(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in texts(figure))


def some(words: list[str], number: int, count: int) -> list[str]:
    """Some of these names: each is in as many plots as the others."""
    return [words[(number + step * len(words) // count) % len(words)] for step in range(count)]


@pytest.mark.parametrize("plot", PLOTS[:-1])
def test_odd_names_appear_as_they_are_written_in_every_plot_and_format(plot, monkeypatch):
    """Each plot with three odd sites, classes and methods; each name in some of the plots."""
    number = PLOTS.index(plot)
    sites, classes = some(ODD + LONG, number, 3), tuple(some(list(ODD_CLASSES), number, 3))
    methods = ["local", *some(ODD_METHODS[1:], number, 2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = drawn(monkeypatch, sites, classes, methods, "_col$umn$ <a> ")[plot]().figure
        check_texts(figure)
        figure.set_layout_engine("none")  # as laid out for the check
        svg = io.BytesIO()
        with style.drawing():
            FigureCanvasSVG(figure).print_svg(svg)
        if plot in ("sites", "population", "ranking"):
            figure.savefig(io.BytesIO(), format="pdf")
            figure.savefig(io.BytesIO(), format="png", dpi=20)
    inside = "".join(ElementTree.fromstring(svg.getvalue()).itertext())
    wanted = (
        names(sites, 23 if plot in ("sites", "flow") else 24 if plot in CURVES else NAME).values()
        if plot in WITH_SITES
        else ()
    )
    wanted = [*wanted, *(names(classes).values() if plot in WITH_CLASSES else ())]
    wanted += names(methods).values() if plot in WITH_METHODS else []
    shown = written(figure)
    for words in wanted:
        assert words in shown and words in inside
    assert not any(text.get_parse_math() for text in texts(figure))


@pytest.mark.parametrize("plot", [plot for plot in PLOTS if plot not in LIKE_OTHERS])
def test_figures_of_very_many_sites_classes_and_methods_are_bounded_and_count_what_they_leave_out(plot, monkeypatch):
    methods = ["local", *(f"fedprox(mu={k / 10})" for k in range(60)), "centralized"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classes = tuple(f"Diagnosis {k}" for k in range(62))
        figure = drawn(monkeypatch, site_names(61), classes, methods)[plot]().figure
        check_texts(figure)
    width, height = figure.get_size_inches()
    assert width <= style.WIDEST and height <= style.TALLEST
    assert figure.axes[0].bbox.width > 50 and figure.axes[0].bbox.height > 100
    if plot != "local_vs_global, one method":
        assert " more " in written(figure)
    if plot in ("sites", "participation", "transfer", "population"):
        assert "+ 1 more site" in written(figure)


@pytest.mark.parametrize(("sites", "classes"), [(1, 2), (9, 30)])
def test_bubbles_of_any_number_of_sites_and_classes_can_be_read(sites, classes):
    part = FakePartition(site_names(sites), tuple(f"Diagnosis {k}" for k in range(classes)), n=900, shape=(1, 2, 2))
    drawing = plots.partition(part)
    check_texts(drawing.figure)
    check_texts(plots.sites(part).figure)
    assert drawing.table.shape == (sites, classes + 1) and "more" not in written(drawing.figure)


@settings(max_examples=6, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=80), min_size=2, max_size=6, unique=True))
def test_any_text_is_a_name_of_a_site_in_a_figure_that_can_be_saved(sites):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plots.population(FakePartition(sites, n=60, shape=(1, 2, 2), age="age"), "age").figure
        figure.savefig(svg := io.BytesIO(), format="svg")
    ElementTree.fromstring(svg.getvalue())
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert set(names(sites).values()) <= set(shown)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=120), max_size=8), st.integers(6, 60))
def test_names_are_printable_short_and_differ_where_the_texts_differ(given_texts, most):
    found = names(given_texts, most)
    assert len(set(found.values())) == len(set(given_texts))
    for text, short in found.items():
        assert len(short) <= most + 2 * len(" (8)")
        assert not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in short)
        if len(plain(text)) <= most // 2:
            assert short in (plain(text), *(f"{plain(text)} ({k})" for k in range(9)))


def test_names_that_only_differ_in_control_characters_are_numbered():
    found = names(["a\x01", "a\x02", "a\ufffd (1)", "b\tc", "b c"])
    assert len(set(found.values())) == 5 and found["b\tc"] == "b c (1)" and found["b c"] == "b c (2)"


def test_long_names_keep_their_beginning_and_their_end():
    assert name("a" * 40) == "a" * 40
    assert name("Hospital " + "x" * 60 + " 7", 20) == "Hospital xxxx…xxxx 7"[:20]
    knobs = [f"fedadam(server_lr=0.1, beta1={b}, beta2=0.99, tau=0.001, weighting=cases)" for b in (0.8, 0.9)]
    assert [("0.8" in short, "0.9" in short) for short in names(knobs).values()] == [(True, False), (False, True)]
    assert name("日" * 40) == name("日" * 41)  # of double width


def test_long_lists_are_counted():
    assert listed(["a"]) == "a" and listed("ab") == "a and b" and listed("abc") == "a, b and c"
    assert listed("abcdefgh") == "a, b, c, d, e, f, g and h"
    assert listed("abcdefghij") == "a, b, c, d, e, f, g and 3 more"


def test_axes_of_another_style_show_names_as_they_are_written():
    figure = Figure(figsize=(18, 6))
    left, right = figure.subplots(1, 2)
    part = FakePartition(["$x^{", "a_$b$"], ("$\\frac", "_$_$"))
    plots.partition(part, ax=left)
    plots.population(part, "case", ax=right)
    figure.savefig(io.BytesIO(), format="png", dpi=20)
    figure.savefig(io.BytesIO(), format="svg")
    assert {"$x^{", "a_$b$"} <= {label.get_text() for label in left.get_yticklabels()}


def test_file_names_keep_what_the_file_system_can_hold(monkeypatch):
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "utf-8")
    assert style.stem("ü 日本, site 1") == "ü 日本, site 1"
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "ascii")
    assert style.stem("ü 日本, site 1") == "_ __, site 1"


def test_file_names_stay_in_their_folder_and_are_short_enough(tmp_path):
    drawing = plots.population(FakePartition(2, n=60, age="age"), "age")
    for words in ("../outside", "a/b\\c", "nul\0 <x> | ü 日本", "z" * 600, "fedprox(mu=0.1), site 1"):
        folder = tmp_path / f"{len(words)}"
        drawing.save(folder, words)
        assert sorted(path.suffix for path in folder.iterdir()) == [".csv", ".png", ".svg"]
    assert (tmp_path / "23" / "fedprox(mu=0.1), site 1.png").is_file() and not list(tmp_path.glob("outside*"))
    with pytest.raises(ValueError, match="is no file name"):
        drawing.save(tmp_path, "/")


def test_tables_are_shown_without_markup(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda thing: shown.append(getattr(thing, "_repr_html_", str)()))
    plots.population(FakePartition(["<b>$x$</b>", "$y$"], n=60, age="age"), "age")._ipython_display_()
    assert "&lt;b&gt;$x$" in shown[1] and "jax_ignore" in shown[1]  # pandas 2.2 has tex2jax_ignore alone


def test_every_public_plot_is_tried():
    tried = {plot.split(",")[0] for plot in PLOTS}
    tried |= {"costs_of_heterogeneity", "distance"}  # in test_study_figures.py
    tried |= {"cases", "duplicates", "intensity"}  # in test_case_plots.py
    tried |= {"case_scores", "contours", "volume_agreement"}  # in test_segmentation_figures.py
    tried |= {"predicted_vs_true"}  # in test_predicted_numbers.py
    assert set(fedlab.plots.__all__) - tried <= {
        *("institutions", "presence", "price", "save", "save_for_print", "doses"),
        *("dark", "theme"),  # in test_themes.py
    }


@pytest.mark.parametrize("draw", [plots.local_vs_global, plots.differences])
def test_a_gain_without_an_interval_is_written_without_limits(draw):
    frame = comparison(["A", "B"], ("local", "fedavg"))
    frame.loc[frame["site"] == "A", ["difference_low", "difference_high"]] = np.nan
    written = [text.get_text() for text in texts(draw(frame).figure)]
    assert not any("– to" in text or "nan" in text for text in written)
    assert sum(" to " in text for text in written) >= 2  # those of B and of the mean of sites
