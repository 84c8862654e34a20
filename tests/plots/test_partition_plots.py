"""Figures show what their tables hold: marks are at the values, no text touches another, titles claim no more."""

from collections.abc import Callable
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from fedlab import plots
from fedlab.core.rng import stream
from fedlab.core.site_names import natural
from fedlab.data.cases import Cases
from fedlab.heterogeneity.shift.null_intervals import HEADLINES
from fedlab.partitioning import case_flow
from fedlab.plots import style, titles
from fedlab.plots.inputs import models_in_use, region_spans
from fedlab.plots.site_performance import gains as paired_gains

METHODS = ("local", "fedavg", "fedprox(mu=0.01)", "swarm(secure=True)", "centralized")
CHEST = ("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Pneumonia", "Pleural thickening", "Hernia")


def names(sites: int | list[str]) -> list[str]:
    return [f"Site {chr(65 + i)}" for i in range(sites)] if isinstance(sites, int) else sites


class FakePartition:
    """A partition small enough to check by hand: site k's scanner takes k from every pixel.

    regions: how many, assigned in turn; unseen: how many of the last sites.
    """

    def __init__(
        self,
        sites: int | list[str] = 4,
        classes: tuple[str, ...] = ("normal", "pneumonia"),
        shape=(1, 8, 8),
        n: int = 400,
        regions: int = 0,
        unseen: int = 0,
        **columns: str,
    ):
        self.sites = names(sites)
        sites = len(self.sites)
        rng = stream(0, "dealt", sites)
        task = "binary" if len(classes) == 2 else "multiclass"
        table = pd.DataFrame({"case": [f"case {i}" for i in range(n)], "label": rng.integers(len(classes), size=n)})
        people = {"age": rng.integers(20, 90, n), "sex": rng.choice(["F", "M"], n), "kind": rng.integers(9, size=n)}
        table = table.assign(**{name: people[kind] for name, kind in columns.items()})
        images = rng.integers(100, 255, (n, *shape), np.uint8)
        self.cases = Cases(images, table, {"name": "demo", "task": task, "classes": list(classes)})
        site = rng.choice(self.sites, n, p=rng.dirichlet(np.full(sites, 3)))
        self.table = pd.DataFrame(
            {"case": table["case"], "site": site, "split": rng.choice(["train", "val", "test"], n)}
        )
        self.scanners = dict.fromkeys(self.sites[1:])
        self.regions = {name: f"Region {k % regions + 1}" for k, name in enumerate(self.sites)} if regions else {}
        self.unseen, self.levels = tuple(self.sites[sites - unseen :]), {}
        self.spec = {"prevalence": 0.5, "acquisition": "xray(0.5)", "quantity": [1, 2], "geography": 0.0}

    def shift(self, brief: bool = False) -> pd.DataFrame:
        return measured()

    @property
    def rows(self) -> np.ndarray:
        return np.arange(len(self.table))

    def flow(self) -> pd.DataFrame:
        return case_flow.flow(self.cases, self.table, self.rows, self.spec, self.unseen)

    def index(self, site: str, split: str) -> np.ndarray:
        return np.flatnonzero((self.table["site"] == site) & (self.table["split"] == split))

    def pixels(self, index: np.ndarray, site: str) -> np.ndarray:
        return self.cases.images[index] - np.uint8(self.sites.index(site))

    def counts(self, split: str | None = None) -> pd.DataFrame:
        rows = self.table.index if split is None else self.table.index[self.table["split"] == split]
        label = pd.Categorical.from_codes(self.cases.labels[rows], self.cases.classes)
        counts = pd.crosstab(self.table["site"][rows], label, dropna=False)
        return counts.reindex(index=self.sites, columns=self.cases.classes, fill_value=0)


def measured(**values: tuple[float, ...]) -> pd.DataFrame:
    """A frame as `Partition.shift` makes it; axis = (value, null_low, null, null_high)."""
    given = {"quantity": (0.02, 0.0, 0.03, 0.06), "prevalence": (0.31, 0.0, 0.004, 0.009), **values}
    rows = [(axis, HEADLINES[axis], *one, one[0] - 0.01, one[0] + 0.01) for axis, one in given.items()]
    return pd.DataFrame(rows, columns=["axis", "measure", "value", "null_low", "null", "null_high", "low", "high"])


def comparison(
    sites: int | list[str] = 4,
    methods: tuple[str, ...] = METHODS,
    undefined: tuple[int, ...] = (),
    metric: str = "auroc",
):
    """A frame as `fedlab.compare` makes it."""
    rng = stream(0, "comparison", len(names(sites)))
    rows = []
    for method in methods:
        for i, site in enumerate([*names(sites), "pooled", "mean of sites", "worst site"]):
            value = np.nan if i in undefined else 0.7 + 0.1 * (method != "local") + 0.05 * rng.random()
            row = {"method": method, "site": site, "cases": 20 + 10 * i, "metric": metric, "value": value}
            note = "no test case of class 'pneumonia'" if i in undefined else ""
            rows.append(row | {"low": value - 0.08, "high": value + 0.08, "seeds": 1, "note": note})
    frame = pd.DataFrame(rows)
    local = frame[frame["method"] == "local"].set_index("site")["value"]
    frame["versus"] = "local" if len(local) else ""
    frame["difference"] = frame["value"] - frame["site"].map(local)
    return frame.assign(difference_low=frame["difference"] - 0.09, difference_high=frame["difference"] + 0.05)


def matrix(
    sites: int | list[str] = 4,
    undefined: tuple[int, ...] = (),
    methods: tuple[str, ...] = ("fedprox(mu=0.01)", "centralized"),
) -> pd.DataFrame:
    """A frame as `fedlab.analysis.comparison.transfer` makes it."""
    rng = stream(0, "matrix", len(names(sites)))
    rows = [
        {"trained_at": model, "tested_on": site, "cases": 20 + 10 * j, "metric": "auroc"}
        | {"value": np.nan if j in undefined else rng.uniform(0.5, 1)}
        for model in [*names(sites), *methods]
        for j, site in enumerate(names(sites))
    ]
    return pd.DataFrame(rows).assign(low=0.0, high=1.0)


def held_out(frame: pd.DataFrame, column: str = "site") -> pd.DataFrame:
    """The same frame with Site D as a site that took no part in training."""
    frame = frame[frame.get("trained_at", pd.Series("", frame.index)) != "Site D"]
    return frame.assign(**{column: frame[column].replace("Site D", "unseen: Site D")})


def fake_run(
    method: str, seed: int = 0, sites: int | list[str] = 4, rounds=range(1, 11), last: float | None = None
) -> SimpleNamespace:
    """A run whose sites all rise to `last` but for a little noise of mean zero."""
    rng = stream(seed, "run", method)
    end = last if last is not None else 0.8 + 0.05 * rng.random()
    model = "local" if method == "local" else "global"
    noise = rng.normal(0, 0.01, (len(rounds), len(names(sites))))
    noise -= noise.mean(1, keepdims=True)
    rows = [
        {"round": r, "model": model, "site": site, "split": "val", "metric": "auroc"}
        | {"value": end - 0.2 * (1 - r / rounds[-1]) + noise[i, k]}
        for i, r in enumerate(rounds)
        for k, site in enumerate(names(sites))
    ]
    part = FakePartition(sites)
    return SimpleNamespace(
        experiment=SimpleNamespace(seed=seed), method=method, rounds=pd.DataFrame(rows), headline="auroc",
        partition_table=part.table,
    )  # fmt: skip


DRAWINGS = {
    **{f"partition, {k} sites": lambda k=k: plots.partition(FakePartition(k)) for k in (1, 20)},
    "partition, many classes": lambda: plots.partition(FakePartition(6, CHEST, n=3000)),
    **{f"samples, {k} sites": lambda k=k: plots.samples(FakePartition(k)) for k in (1, 20)},
    "samples, many classes": lambda: plots.samples(FakePartition(3, CHEST)),
    "samples, colour": lambda: plots.samples(FakePartition(2, shape=(3, 8, 6))),
    "samples, volumes": lambda: plots.samples(FakePartition(2, shape=(1, 8, 8, 4))),
    "partition, many regions": lambda: plots.partition(FakePartition(12, CHEST, n=3000, regions=4)),
    "samples, regions": lambda: plots.samples(FakePartition(5, regions=2, unseen=2)),
    "samples, cases": lambda: plots.samples(FakePartition(1).cases),
    "curves, seeds": lambda: plots.curves([fake_run(m, seed) for m in METHODS for seed in range(3)]),
    "curves, some rounds": lambda: plots.curves([fake_run("fedavg", rounds=[5, 10]), fake_run("ensemble", rounds=[7])]),
    "curves, all ends equal": lambda: plots.curves([fake_run(f"fedprox(mu={i})", last=0.8) for i in range(14)]),
    **{
        f"local_vs_global, {k} sites": lambda k=k: plots.local_vs_global(comparison(k), method="fedavg")
        for k in (1, 20)
    },
    "local_vs_global, many methods": lambda: plots.local_vs_global(comparison(4)),
    "local_vs_global, undefined": lambda: plots.local_vs_global(comparison(4, undefined=(1,))),
    "local_vs_global, all undefined": lambda: plots.local_vs_global(comparison(2, undefined=(0, 1, 2, 3, 4))),
    "local_vs_global, no local": lambda: plots.local_vs_global(comparison(3, ("fedavg", "centralized"))),
    "local_vs_global, brier": lambda: plots.local_vs_global(comparison(3, METHODS[:2], metric="brier")),
    "local_vs_global, unseen": lambda: plots.local_vs_global(held_out(comparison(4, METHODS[:2]))),
    "transfer, unseen": lambda: plots.transfer(held_out(matrix(4), "tested_on")),
    **{f"transfer, {k} sites": lambda k=k: plots.transfer(matrix(k)) for k in (1, 20)},
    "transfer, undefined": lambda: plots.transfer(matrix(4, undefined=(2,))),
}


def texts(figure: Figure) -> list[Text]:
    """Every text that a reader sees; a figure that did not change since it was drawn is not drawn again."""
    if figure.stale:
        figure.draw_without_rendering()
    hidden = set()
    for ax in [*figure.axes, *(child for page in figure.axes for child in page.child_axes)]:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not low <= tick.get_loc() <= high:
                    hidden |= {tick.label1, tick.label2}
    return [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and t not in hidden]


@pytest.mark.parametrize("name", DRAWINGS)
def test_texts_can_be_read_and_touch_neither_each_other_nor_the_edge(name):
    check_texts(DRAWINGS[name]().figure)


def check_texts(figure: Figure) -> None:
    figure.set_dpi(200)  # as saved: hinting gives texts other widths than at the resolution they were laid out for
    seen = texts(figure)
    assert min(text.get_fontsize() for text in seen) >= 8
    boxes = np.array([Text.get_window_extent(text).extents for text in seen])  # of an annotation, without its line
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    touching = ((high - low) > 1).all(-1) & ~np.eye(len(boxes), dtype=bool)
    assert not touching.any(), [seen[i].get_text() for i in np.flatnonzero(touching.any(1))]
    width, height = figure.get_size_inches() * 200
    outside = (boxes[:, :2] < -1).any(1) | (boxes[:, 2] > width + 1) | (boxes[:, 3] > height + 1)
    assert not outside.any(), [seen[i].get_text() for i in np.flatnonzero(outside)]
    title = figure.axes[0].get_title(loc="left")
    assert len(title) > 10 and "nan" not in title


def test_drawing_leaves_no_trace_in_the_global_style():
    with matplotlib.rc_context({"font.size": 21, "axes.titleweight": "light"}):
        before = dict(matplotlib.rcParams)
        figure, _ = plots.curves(fake_run("fedavg"))
        assert dict(matplotlib.rcParams) == before
        assert all(text.get_fontsize() < 12 for text in texts(figure))


@pytest.mark.parametrize("inset", [False, True])
def test_images_are_laid_out_where_they_are_drawn(inset):
    """Axes of a fixed aspect, their title and axes inside them have the places that a draw gives them."""

    def places(draw: Callable[[Axes], object]) -> list[tuple[float, ...]]:
        figure = Figure(figsize=(5, 3), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.imshow(np.eye(3), aspect="equal")
        left.set_title("Title\nof two lines", loc="left")
        if inset:
            left.inset_axes((0.5, 0.5, 0.5, 0.2)).set_aspect("equal")
        right.set(aspect=3, adjustable="box", ylabel="much longer than a number")
        draw(left)
        boxes = [ax.get_position() for ax in (left, right, *left.child_axes)]
        return [*(box.bounds for box in boxes), left.title.get_window_extent().bounds]

    assert places(style.lay_out) == places(lambda ax: ax.figure.draw_without_rendering())


def test_bubbles_have_the_areas_of_their_counts():
    part = FakePartition(4)
    figure, table = plots.partition(part)
    ax = figure.axes[0]
    assert list(table["cases"]) == sorted(part.table["site"].value_counts(), reverse=True)
    cells = table[["normal", "pneumonia"]].to_numpy()
    assert (cells == part.counts().loc[table.index].to_numpy()).all()
    (bubbles,) = ax.collections
    places = bubbles.get_offsets().astype(int)
    drawn = cells[places[:, 1], places[:, 0]]
    areas = bubbles.get_sizes() / drawn
    np.testing.assert_allclose(areas, areas[0])
    widths = np.array([bar.get_width() for bar in ax.patches]) / table["cases"].to_numpy()
    np.testing.assert_allclose(widths, widths[0])
    written = [text.get_text() for text in ax.texts]
    assert {str(n) for n in drawn} <= set(written)


def test_strips_show_the_cases_of_the_table_as_their_site_sees_them():
    part = FakePartition(3)
    figure, table = plots.samples(part, n=6)
    again = plots.samples(part, n=6).table
    pd.testing.assert_frame_equal(table, again)
    position = part.cases.table.reset_index().set_index("case")["index"]
    site_of = part.table.set_index("case")["site"]
    assert (table["site"] == table["case"].map(site_of)).all()
    assert (table["class"] == [part.cases.classes[part.cases.labels[position[c]]] for c in table["case"]]).all()
    for image, row in zip(figure.axes[0].images, table.itertuples(), strict=True):
        pixels = part.pixels(np.array([position[row.case]]), row.site)[0, 0]
        np.testing.assert_allclose(image.get_array() * 255, pixels, atol=1e-4)


def test_volumes_show_their_middle_slice_and_colours_their_channels():
    part = FakePartition(1, shape=(1, 8, 8, 5))
    figure, table = plots.samples(part, n=2)
    row = part.cases.table.index[part.cases.table["case"] == table["case"][0]][0]
    shown = figure.axes[0].images[0].get_array() * 255
    np.testing.assert_allclose(shown, part.cases.images[row, 0, :, :, 2], atol=1e-4)
    assert plots.samples(FakePartition(1, shape=(3, 8, 6))).figure.axes[0].images[0].get_array().shape == (8, 6, 3)


def test_images_with_overlapping_labels_are_under_each_of_their_classes():
    table = pd.DataFrame({"case": list("abcd"), "label": [1, 2, 3, 3]})
    card = {"name": "both", "task": "multilabel", "classes": ["mass", "nodule"]}
    _, shown = plots.samples(Cases(np.zeros((4, 1, 4, 4), np.uint8), table, card), n=4)
    assert set(shown[shown["class"] == "mass"]["case"]) == {"a", "c", "d"}
    assert set(shown[shown["class"] == "nodule"]["case"]) == {"b", "c", "d"}


def test_curves_draw_the_mean_over_sites_in_a_band_of_seeds():
    runs = [fake_run(method, seed) for method in ("local", "fedavg") for seed in range(3)]
    figure, table = plots.curves(runs)
    for line in figure.axes[0].lines:
        rows = table[table["method"] == line.get_label()]
        np.testing.assert_array_equal(line.get_ydata(), rows["value"])
        by_seed = [r.rounds.groupby("round")["value"].mean().to_numpy() for r in runs if r.method == line.get_label()]
        np.testing.assert_allclose(rows["value"], np.mean(by_seed, 0))
        np.testing.assert_allclose(rows["low"], np.min(by_seed, 0))
        np.testing.assert_allclose(rows["high"], np.max(by_seed, 0))


def test_a_site_is_judged_on_its_own_model_where_it_has_one():
    rows = [
        {"round": 1, "model": model, "site": site, "split": "val", "metric": "auroc", "value": value}
        for model, site, value in [("local", "A", 0.9), ("global", "A", 0.1), ("global", "B", 0.3)]
    ]
    assert list(models_in_use(pd.DataFrame(rows))["value"]) == [0.9, 0.3]


def test_curves_refuse_runs_of_different_settings_and_unknown_metrics():
    with pytest.raises(ValueError, match="several runs of 'fedavg' with seed 0"):
        plots.curves([fake_run("fedavg"), fake_run("fedavg")])
    with pytest.raises(ValueError, match=r"found \['auroc'\]"):
        plots.curves(fake_run("fedavg"), "dice")
    with pytest.raises(ValueError, match="no runs to draw"):
        plots.curves([])


@pytest.mark.parametrize("methods", [METHODS[:2], METHODS])
def test_dumbbells_are_at_the_values_of_their_table(methods):
    figure, table = plots.local_vs_global(comparison(4, methods, undefined=(1,)))
    marks = {line.get_gid(): line for line in figure.axes[0].lines if line.get_gid()}
    assert len(marks) == len(table)
    for row in table.itertuples():
        x = marks[f"{row.method} at {row.site}"].get_xdata()
        np.testing.assert_array_equal(np.asarray(x, float), np.full(len(x), row.value))
    drawn = {tuple(line.get_xdata()) for line in figure.axes[0].lines}
    known = table.dropna(subset="value")
    assert set(zip(known["low"], known["high"], strict=True)) <= drawn


def test_gains_are_written_where_they_are_and_bold_where_their_interval_excludes_zero():
    figure, table = plots.local_vs_global(comparison(4, METHODS[:2], undefined=(1,)))
    rows = table[(table["method"] == "fedavg") & table["gain"].notna()]
    weight = {text.get_text(): text.get_weight() for text in figure.axes[0].texts}
    assert {row.gain_low > 0 for row in rows.itertuples()} == {True, False}  # the case holds both
    for row in rows.itertuples():
        assert weight[f"{100 * row.gain:+.1f}"] == ("bold" if row.gain_low > 0 else "normal")
    assert "undefined: no test case of class 'pneumonia'" in weight


def test_a_gain_is_positive_where_it_is_better():
    frame = comparison(2, METHODS[:2])
    sizes = pd.Series(1, names(2))
    up, down = (paired_gains(frame.assign(metric=metric), sizes) for metric in ("auroc", "brier"))
    np.testing.assert_array_equal(up["gain"], frame["difference"])
    np.testing.assert_array_equal(down["gain"], -frame["difference"])
    np.testing.assert_array_equal(down["gain_low"], -frame["difference_high"])
    assert (down["gain_low"] <= down["gain_high"]).all()


def test_a_method_is_not_compared_with_itself():
    title = plots.local_vs_global(comparison(2, ("local",))).figure.axes[0].get_title(loc="left")
    assert title.startswith("AUROC of local ranges from")


def test_an_interval_without_width_is_not_clear():
    frame = comparison(2, METHODS[:2]).assign(difference=0.5, difference_low=0.5, difference_high=0.5)
    wide, sizes = frame.assign(difference_high=0.6), pd.Series(1, names(2))
    assert (paired_gains(frame, sizes)["clear"] == 0).all()
    assert (paired_gains(wide, sizes)["clear"] == 1).all()
    assert (paired_gains(wide.assign(metric="brier"), sizes)["clear"] == -1).all()


def test_a_mean_over_some_sites_says_so():
    figure, _ = plots.local_vs_global(comparison(4, undefined=(1,)))
    assert "macro-average over 3 of 4 sites" in [label.get_text() for label in figure.axes[0].get_yticklabels()]
    run = fake_run("fedavg")
    run.rounds.loc[run.rounds["site"] == "Site B", "value"] = np.nan
    assert plots.curves(run).figure.axes[0].get_ylabel().endswith("macro-average over 3 of 4 sites")


@pytest.mark.parametrize("limit", [0.6, np.nan])
def test_the_worst_site_is_undefined_only_without_an_interval(limit):
    frame = comparison(3)
    worst = frame["site"] == "worst site"
    frame.loc[worst, ["value", "difference", "difference_low", "difference_high"]] = np.nan
    frame.loc[worst, ["low", "high"]] = limit, limit + 0.1
    written = [text.get_text() for text in plots.local_vs_global(frame).figure.axes[0].texts]
    assert ("undefined" in written) == np.isnan(limit)


def test_local_vs_global_draws_the_method_asked_for_and_names_those_it_has():
    assert set(plots.local_vs_global(comparison(), method="fedavg").table["method"]) == {
        "local",
        "fedavg",
        "centralized",
    }
    with pytest.raises(ValueError, match=r"no method 'fedavgg'.*'fedavg'"):
        plots.local_vs_global(comparison(), method="fedavgg")


def test_the_matrix_writes_its_values_and_boxes_its_diagonal():
    figure, table = plots.transfer(matrix(3, undefined=(1,)))
    ax = figure.axes[0]
    assert list(table.index) == [*table.columns, "fedprox(mu=0.01)", "centralized"]
    written = np.array([text.get_text() for text in ax.texts]).reshape(table.shape)
    for text, value in zip(written.ravel(), table.to_numpy().ravel(), strict=True):
        assert (text == "–") if np.isnan(value) else abs(float(text) - value) <= 0.005 + 1e-12
    assert sum(not patch.get_fill() for patch in ax.patches) == 3


def test_given_axes_are_drawn_into():
    figure = Figure(figsize=(18, 6), layout="constrained")
    things = {plots.transfer: matrix(4), plots.partition: FakePartition(4), plots.samples: FakePartition(2)}
    for draw, thing, ax in zip(things, things.values(), figure.subplots(1, 3), strict=True):
        assert draw(thing, ax=ax).figure is figure
        assert ax.get_title(loc="left")


def test_roles_are_distinct_and_do_not_depend_on_order():
    methods = [*METHODS, "cyclic", "ensemble", "mine", "fedprox(mu=0.1)", "ditto", "fedbn", "moon", "split(cut=2)"]
    roles = style.roles(methods)
    assert style.roles(methods[::-1]) == roles
    assert len({(role.color, str(role.dash)) for role in roles.values()}) == len(methods)
    assert len({(role.color, role.marker) for role in roles.values()}) == len(methods)
    assert (roles["local"].color, roles["centralized"].color) == (style.GREY, style.BLACK)
    assert style.roles(["fedavg"])["fedavg"] == roles["fedavg"] == style.roles(["fedavg", "zzz"])["fedavg"]


@pytest.mark.parametrize("color", style.HUES)
def test_names_in_a_hue_can_be_read_on_white(color):
    rgb = np.array(matplotlib.colors.to_rgb(style.ink(color)))
    assert 1.05 / (style.luminance(rgb) + 0.05) >= 4.5


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=12))
def test_spread_places_keep_their_order_distance_and_centre(wanted):
    placed = style.spread(wanted, gap=5)
    order = np.argsort(wanted, kind="stable")
    assert (np.diff(placed[order]) >= 5 - 1e-9).all()
    assert np.mean(placed) == pytest.approx(np.mean(wanted))
    if (np.diff(np.sort(wanted)) >= 5).all():
        np.testing.assert_allclose(placed, wanted)


def test_sites_sort_as_people_count():
    sites = ["Site 10", "Site 2", "Site AA", "Site B"]
    assert sorted(sites, key=natural) == ["Site 2", "Site 10", "Site B", "Site AA"]


def test_label_skew_is_zero_for_equal_sites_and_log_sites_for_disjoint_ones():
    assert titles.label_skew(pd.DataFrame([[10, 20, 30], [1, 2, 3]])) == pytest.approx(0, abs=1e-15)
    assert titles.label_skew(pd.DataFrame(np.eye(4) * 7)) == pytest.approx(2)


def test_the_title_of_one_class_counts_cases_instead_of_a_prevalence_of_100_percent():
    for cases, each in (([11, 11, 10], "10 to 11"), ([7, 7, 7], "7")):
        counts = pd.DataFrame({"retina": cases}, index=list("ABC"))
        assert titles.partition(counts, counts["retina"], True) == f"{sum(cases)} cases over 3 sites: {each} at each"
        assert titles.spoken_of(counts, counts["retina"], True) is None  # so that no prevalence is written


def test_a_little_that_is_sent_is_not_nothing():
    assert [titles.megabytes(sent) for sent in (0.0, 0.0004, 0.02, 1500.0)] == ["–", "< 0.01", "0.02", "1.5 GB"]


def test_partition_titles():
    counts = pd.DataFrame({"normal": [58, 9], "pneumonia": [42, 91]}, index=["A", "B"])
    cases = pd.Series([100, 100], index=["A", "B"])
    assert titles.partition(counts, cases, True) == "Prevalence of pneumonia ranges from 42 % to 91 % over 2 sites"
    same = pd.DataFrame({"normal": [50, 50], "pneumonia": [50, 50]}, index=["A", "B"])
    assert titles.partition(same, cases, True) == "Prevalence of pneumonia is 50 % over 2 sites"
    disjoint = pd.DataFrame(100 * np.eye(4, dtype=int), columns=list("abcd"))
    assert "I(site; label) = 2.00 bit" in titles.partition(disjoint, disjoint.sum(axis=1), True)
    both = pd.DataFrame({"mass": [100, 100], "nodule": [0, 60]}, index=["A", "B"])
    assert titles.partition(both, cases, False) == "Prevalence of nodule ranges from 0 % to 60 % over 2 sites"
    one = pd.DataFrame({"case": [7, 1200]}, index=["A", "B"])
    assert titles.partition(one, one["case"], True) == "1,207 cases over 2 sites: 7 to 1,200 at each"
    assert titles.partition(one[:1], one["case"][:1], True) == "7 cases at one site"


def ends(**values: float) -> pd.DataFrame:
    return pd.DataFrame(
        [{"method": m, "round": r, "value": v - 0.1 * (r == 1)} for m, v in values.items() for r in (1, 20)]
    )


@pytest.mark.parametrize(
    ("values", "title"),
    [
        ({"fedavg": 0.88, "local": 0.80}, "0.800 (local) and 0.880 (fedavg)"),
        ({"fedavg": 0.83}, "0.830 (fedavg)"),
        ({"fedavg": 0.3, "cyclic": 0.2, "local": 0.5, "swarm": 0.4}, "0.200 (cyclic) to 0.500 (local)"),
    ],
)
def test_curves_titles_state_values_and_no_difference(values, title):
    """One round of validation supports no claim on a difference."""
    assert titles.curves(ends(**values), "auroc") == f"AUROC on validation cases after 20 rounds: {title}"
    assert "undefined" in titles.curves(ends(fedavg=np.nan), "auroc")


def gains(*values: tuple[float, int], method: str = "fedavg") -> pd.DataFrame:
    """Rows of sites from the largest to the smallest: (gain, whether its interval excludes 0)."""
    frame = pd.DataFrame(values, columns=["gain", "clear"])
    return frame.assign(
        site=names(len(frame)), n=np.arange(len(frame), 0, -1), versus="local", value=0.8, method=method
    )


@pytest.mark.parametrize(
    ("rows", "title"),
    [
        ([(5, 1), (6, 1)], "fedavg is better than local at both sites (95 % CI excludes 0)"),
        ([(6, 1), (5, 0), (4, 0)], "fedavg is better than local at 1 of 3 sites (95 % CI excludes 0)"),
        ([(1, 0), (5, 0)], "fedavg is not shown to differ from local at any of 2 sites (95 % CI includes 0)"),
        ([(5, 1), (-6, -1), (1, 0)], "fedavg is better than local at 1 of 3 sites, worse at 1 (95 % CI excludes 0)"),
        ([(-5, -1), (6, 0)], "fedavg is worse than local at 1 of 2 sites (95 % CI excludes 0)"),
        ([(5, 1), (6, 1), (np.nan, 0)], "fedavg is better than local at both sites (95 % CI excludes 0)"),
        ([(5, 1), (np.nan, 0)], "fedavg is better than local at Site A (95 % CI excludes 0)"),
        ([(5, 0)], "fedavg is not shown to differ from local at Site A (95 % CI includes 0)"),
        ([(-5, -1)], "fedavg is worse than local at Site A (95 % CI excludes 0)"),
        ([(np.nan, 0)] * 2, "AUROC of fedavg is 0.80 at Site A"),
    ],
)
def test_local_vs_global_titles_count_only_what_the_intervals_show(rows, title):
    assert titles.local_vs_global(gains(*rows), "auroc") == title


def test_titles_count_the_sites_at_which_no_interval_is_known():
    rows = gains((5, 0), (1, 0), (33, 0)).assign(gain_low=[-1.0, np.nan, np.nan])
    found = "fedavg is not shown to differ from local at any of 3 sites (95 % CI includes 0; none at 2 sites)"
    assert titles.local_vs_global(rows, "auroc") == found
    pairs = pd.concat([rows, rows.assign(method="cyclic", clear=[1, 0, 0])])
    assert titles.local_vs_global(pairs, "auroc").endswith(
        "1 of 6 method-site pairs (95 % CI excludes 0; none at 2 sites)"
    )


def test_a_ranking_without_intervals_claims_no_test():
    rows = pd.DataFrame({"method": ["local", "fedavg", "cyclic"], "value": 0.7, "versus": "local", "clear": 0})
    rows["gain"], rows["gain_low"] = [0.0, 0.1, 0.2], np.nan
    assert titles.ranking(rows, "auroc") == "The difference of 2 methods to local has no interval"
    assert "(p ≥ 0.05, Holm)" in titles.ranking(rows.assign(gain_low=-0.1), "auroc")


def test_titles_of_several_methods_count_pairs_and_select_none():
    rows = pd.concat([gains((5, 1), (6, 0)), gains((-5, -1), (6, 0), method="cyclic")])
    expected = "Methods are better than local at 1 of 4 method-site pairs, worse at 1 (95 % CI excludes 0)"
    assert titles.local_vs_global(rows, "auroc") == expected
    calm = "Methods are not shown to differ from local at any of 2 sites (95 % CI includes 0)"
    assert titles.local_vs_global(rows.assign(clear=0), "auroc") == calm


def test_transfer_titles_compare_own_and_other_sites_over_the_same_pairs():
    values = pd.DataFrame([[0.9, 0.7], [0.6, 0.8], [0.95, 0.75]], index=["A", "B", "fedavg"], columns=["A", "B"])
    start = "Cross-site generalization: mean AUROC of local models is"
    assert titles.transfer(values, "auroc") == f"{start} 0.85 at their own site, 0.65 at other sites"
    values.loc["A", "B"] = np.nan
    assert titles.transfer(values, "auroc") == f"{start} 0.90 at their own site, 0.60 at other sites"
    assert titles.transfer(values.loc[["A"], ["A"]], "auroc") == "AUROC of each model at each site"


def test_signs_of_small_differences_are_kept():
    """An interval that excludes 0 must not be written as one that ends at +0.0."""
    assert [titles.number(value, "auroc") for value in (-0.0004, 0.0004, 0.0, -0.0, np.nan)] == [
        "−0.0", "+0.0", "+0.0", "+0.0", "–"
    ]  # fmt: skip


def test_samples_titles():
    assert titles.samples(pd.Series({"A": 0.3, "B": 0.5}), 2).endswith(
        "ranges from 30 % (A) to 50 % (B); 2 simulated scanners"
    )
    assert titles.samples(pd.Series({"A": 0.3, "B": 0.3}), 0) == "Mean image brightness is 30 %; no simulated scanner"


def test_partitions_write_the_prevalence_of_each_site_and_leave_out_classes_without_a_case():
    part = FakePartition(3)
    figure, table = plots.partition(part)
    shares = [f"{100 * row.pneumonia / row.cases:.0f} %" for row in table.itertuples()]
    assert [text.get_text() for text in figure.axes[0].texts if "%" in text.get_text()] == shares
    kinds = FakePartition(3, ("normal", "mass", "hernia"))
    kinds.counts = lambda split=None: FakePartition.counts(kinds, split) * [1, 1, 0]
    figure, table = plots.partition(kinds)
    named = [label.get_text().split("\n")[0] for label in figure.axes[0].get_xticklabels()]
    assert named == ["normal", "mass"] and "hernia" in table and "no case of hernia" in figure.axes[0].get_xlabel()


@pytest.mark.parametrize(("sites", "rows"), [(40, 40), (41, 21), (200, 40)])
def test_up_to_forty_sites_have_a_row_each_and_more_are_binned_on_one_screen(sites, rows):
    figure, table = plots.partition(FakePartition([f"Hospital {k}" for k in range(sites)], n=2000, shape=(1, 2, 2)))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == rows and len(table) == sites and figure.get_size_inches()[1] < 10.8
    bars = [round(bar.get_width(), 6) for bar in figure.axes[0].patches]
    assert len(bars) == rows
    if rows < sites:
        assert sum(int(label.split()[1]) for label in labels) == sites and all(" of " in label for label in labels)


def test_a_figure_that_could_not_be_saved_is_as_before(tmp_path):
    figure = plots.partition(FakePartition(2)).figure
    before, owner, engine = figure.dpi, figure.canvas, figure.get_layout_engine()
    (tmp_path / "a.svg").mkdir()
    with pytest.raises(OSError):
        plots.save(figure, tmp_path, "a")
    assert figure.dpi == before and figure.canvas is owner and figure.get_layout_engine() is engine is not None


@pytest.mark.parametrize("layout", ["constrained", None])
def test_a_figure_is_laid_out_once_for_both_files_as_it_is_shown(layout, tmp_path, monkeypatch):
    """Texts at the resolution of a file are as wide as those of the notebook, which are not hinted either."""
    figure = plots.partition(FakePartition(3)).figure
    figure.set_layout_engine(layout)
    places, times = [], []
    if layout:
        execute = figure.get_layout_engine().execute
        monkeypatch.setattr(figure.get_layout_engine(), "execute", lambda figure: times.append(execute(figure)))
    figure._repr_png_()
    places.append(figure.axes[0].get_position().bounds)
    plots.save(figure, tmp_path, "a")
    places.append(figure.axes[0].get_position().bounds)
    assert places[0] == pytest.approx(places[1], abs=2e-3) and len(times) == (2 if layout else 0)
    assert (layout is None) is (figure.get_layout_engine() is None)


def test_each_image_of_a_figure_is_one_of_its_svg(tmp_path):
    figure = Figure()
    for place in (1, 2, 3):
        ax = figure.add_subplot(1, 3, place)
        ax.imshow(np.eye(4), extent=(0, 1, 0, 1))
        ax.imshow(np.eye(4), extent=(1, 2, 0, 1))
        ax.set_xlim(0, 2)
    _, svg = plots.save(figure, tmp_path, "images")
    assert svg.read_text(encoding="utf-8").count("<image ") == 6


def test_saved_figures_keep_text_as_text_and_are_the_same_every_time(tmp_path):
    first = plots.save(plots.transfer(matrix(2)).figure, tmp_path / "one", "matrix")
    second = plots.save(plots.transfer(matrix(2)).figure, tmp_path / "two", "matrix")
    assert [path.name for path in first] == ["matrix.png", "matrix.svg"]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))
    assert ">fedprox(mu=0.01) (shared model)</text>" in first[1].read_text(encoding="utf-8")


def test_a_drawing_shows_its_figure_and_its_small_table(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    result = plots.curves(fake_run("fedavg", rounds=range(1, 40)))
    result._ipython_display_()
    figure, table = result
    assert shown[0] is figure and list(shown[1].table["round"]) == list(table["round"])
    assert shown[1]._repr_html_().startswith("<details><summary>") and "round" in repr(shown[1])
    data, size = figure._repr_png_()
    assert data.startswith(b"\x89PNG") and size["width"] == round(figure.get_size_inches()[0] * 96)
    assert size["alt"].startswith(f"{result.title}. Horizontal axis: communication round.")


def test_a_held_out_site_is_below_the_others_and_not_counted():
    frame = held_out(comparison(4, METHODS[:2]))
    figure, table = plots.local_vs_global(frame)
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rows[-1] == "Site D (held out)" and set(table["site"]) == set(frame["site"])
    assert " 3 sites" in figure.axes[0].get_title(loc="left")


def test_sites_of_one_region_are_adjacent_and_the_largest_first():
    part = FakePartition(7, regions=3, unseen=2)
    _, table = plots.partition(part)
    regions = [part.regions[site] for site in table.index]
    spans = region_spans(part, list(table.index))
    assert [name for name, _, _ in spans] == list(dict.fromkeys(regions)) and len(spans) == 3
    for name, first, last in spans:
        assert regions[first : last + 1] == [name] * (last - first + 1)
        assert list(table["cases"][first : last + 1]) == sorted(table["cases"][first : last + 1], reverse=True)
    written = [label.get_text() for label in plots.partition(part).figure.axes[0].get_yticklabels()]
    assert [site.endswith("(held out)") for site in written] == [site in part.unseen for site in table.index]
