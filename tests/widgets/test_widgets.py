"""Panels without a browser: effects of controls, texts to copy, errors, and what a headless execution keeps."""

import ast
import dataclasses
import html
import shlex
import threading
from base64 import b64decode
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import papermill
import pytest
import yaml
from papermill.cli import _resolve_type
from widget_state import errors, states

import fedlab
from fedlab import widgets
from fedlab.core.registry import Registry
from fedlab.data.cases import Cases
from fedlab.engine.loop import SequentialEngine
from fedlab.partitioning.partitions import Partition
from fedlab.widgets import panel
from fedlab.widgets.controls import ERROR
from fedlab.widgets.subsample import subsample

START = {"sites": 4, "prevalence": 0.3}
SIZE = ("width", "height")


@pytest.fixture(scope="module")
def cases() -> Cases:
    return fedlab.load("phantoms(cases=300, size=16)")


@pytest.fixture
def shown(cases) -> panel.Panel:
    return widgets.sites(cases, **START)


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Panels without figures, where only the sites matter."""
    monkeypatch.setattr(panel.Panel, "_draw", lambda self, part, *begun: setattr(self, "_shown", ({}, {})))


def move(shown: panel.Panel, name: str, value: float) -> None:
    """Set a value as the front end does."""
    shown.settings.controls[name].value = value


def failed(shown: panel.Panel) -> bool:
    return ERROR in shown.notice.widget.value


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "start",
    [
        {},
        {"quantity": [3, 1], "sites": 2, "splits": "site"},
        {"sites": 15, "acquisition": 1},
        {"unseen": "Site B", "population": "sex(0.4)", "geography": 0.5},
    ],
)
def test_the_start_is_the_partition_of_its_parameters(cases, start):
    shown = widgets.sites(cases, **start)
    assert shown.hash == fedlab.partition(cases, **start).fingerprint
    assert {name: shown.values[name] for name in start} == start
    assert fedlab.partition(cases, **shown.values).fingerprint == shown.hash


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "start", [{"prevalence": "dirichlet(0.5)"}, {"quantity": [2, 1], "sites": 2}, {"unseen": "Site B", "seed": 7}]
)
def test_what_is_copied_makes_the_same_partition(cases, start):
    shown = widgets.sites(cases, **start)
    move(shown, "acquisition", 0.15 + 0.15)
    from_yaml = yaml.safe_load(shown.yaml.value)
    assert fedlab.Experiment(**from_yaml).acquisition == 0.3  # by the names of notebooks and experiments
    assert from_yaml.pop("dataset") == "phantoms(cases=300, size=16)"
    from_yaml["seed"] = from_yaml.pop("partition_seed")
    assert from_yaml == {name: shown.values[name] for name in from_yaml} and set(from_yaml) >= set(start)
    assert fedlab.partition(cases, **from_yaml).fingerprint == shown.hash
    words, given = shlex.split(shown.parameters.value), {}
    while words:
        option, first = words.pop(0), words.pop(0)
        given |= yaml.safe_load(first) if option == "-y" else {first: _resolve_type(words.pop(0))}
    given["seed"] = given.pop("partition_seed")  # as notebooks call it
    assert given.pop("dataset") == "phantoms(cases=300, size=16)"
    assert fedlab.partition(cases, **given).fingerprint == shown.hash
    assert given == shown.values


def test_a_slider_moves_values_figure_and_texts_and_back(shown):
    first = shown.png, shown.parameters.value, shown.hash
    assert shown.png.startswith(b"\x89PNG")
    move(shown, "prevalence", 0.8)
    assert shown.values == {**widgets.sites(shown.cases, **START).values, "prevalence": 0.8}
    assert "-p prevalence 0.8" in shown.parameters.value
    assert all(a != b for a, b in zip((shown.png, shown.parameters.value, shown.hash), first, strict=True))
    move(shown, "prevalence", 0.3)
    assert (shown.png, shown.parameters.value, shown.hash) == first


def test_every_control_has_a_full_name_and_waits_until_it_is_let_go(shown):
    assert set(shown.settings.controls) == {"sites", "seed", "unseen", *fedlab.AXES}
    names = [control.description for control in shown.settings.controls.values()]
    assert len(set(names)) == len(names) and {"Disease prevalence", "Number of sites"} <= set(names)
    assert not any(control.continuous_update for control in shown.settings.controls.values())


def test_reset_goes_back_to_the_start(cases):
    shown = widgets.sites(cases, sites=3, prevalence="dirichlet(2.0)")
    first = shown.png, shown.values
    assert shown.settings.controls["prevalence"].description == "Disease prevalence: dirichlet(2.0)"
    for name, value in (("prevalence", 0.4), ("sites", 5), ("unseen", 2), ("seed", 3)):
        move(shown, name, value)
    assert shown.values["prevalence"] == 0.4 and shown.partition.unseen == ("Site D", "Site E")
    assert shown.settings.controls["prevalence"].description == "Disease prevalence"
    shown.reset_button.click()
    assert (shown.png, shown.values) == first


def test_undo_takes_back_every_change_and_reset_is_one(cases, undrawn):
    shown = widgets.sites(cases, **START)
    shown.dataset.options = [*shown.dataset.options, "phantoms(cases=200, size=16)"]
    seen = [(shown.hash, shown.values, shown.model.value)]
    for change in (
        lambda: move(shown, "sites", 6),
        lambda: setattr(shown.scenario, "value", "a_new_hospital"),
        lambda: setattr(shown.model, "value", "logistic"),
        lambda: setattr(shown.settings.source, "index", 1),
        shown.reset_button.click,
        lambda: setattr(shown.dataset, "value", "phantoms(cases=200, size=16)"),
    ):
        change()
        assert not failed(shown), shown.notice.widget.value
        seen.append((shown.hash, shown.values, shown.model.value))
    assert seen[5] == seen[0] and len({found[0] for found in seen}) == 5  # the model moves no case
    for before in reversed(seen[:-1]):
        shown.undo_button.click()
        assert (shown.hash, shown.values, shown.model.value) == before
    assert shown.undo_button.disabled and shown.cases is cases


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in fedlab.SCENARIOS if "mri" not in name])
def test_a_scenario_sets_all_axes_and_is_what_an_experiment_has_of_it(cases, name, undrawn):
    fields = fedlab.SCENARIOS.fields(name)
    assert set(fields) == {"sites", "unseen", *fedlab.AXES} and ":" in fedlab.SCENARIOS[name]
    shown = widgets.sites(cases, sites=2, quantity=0.9, annotation=0.5)
    shown.scenario.value = name
    base = fedlab.Experiment(dataset="phantoms(cases=300, size=16)", **fields)
    assert shown.hash == base.make_partition().fingerprint and not failed(shown)


def test_sites_of_a_column_leave_no_axis_to_move(shown):
    shown.settings.source.index = 1
    assert shown.values["sites"] == "site" and shown.hash == fedlab.partition(shown.cases, "site").fingerprint
    assert shown.settings.controls["prevalence"].disabled and not shown.settings.controls["acquisition"].disabled
    shown.settings.source.index = 0
    assert isinstance(shown.values["sites"], int) and not shown.settings.controls["prevalence"].disabled


def test_a_dataset_that_cannot_be_loaded_leaves_everything_as_it_was(shown, monkeypatch):
    before = shown.hash, shown.values, shown.dataset.value, shown.parameters.value

    def failing(name):
        raise OSError("no network")

    monkeypatch.setattr(panel.catalogue, "load", failing)
    shown.dataset.value = "pneumoniamnist"
    assert failed(shown) and "no network" in shown.notice.widget.value
    assert (shown.hash, shown.values, shown.dataset.value, shown.parameters.value) == before


def test_classes_are_chosen_at_least_two_and_taken_back(undrawn, monkeypatch):
    registry, pictures = Registry("dataset"), fedlab.load("phantoms(cases=90, size=16)")
    table, card = pictures.table.assign(label=np.arange(90) % 3), {**pictures.card, "classes": ["a", "b", "c"]}
    registry.add(lambda: Cases(pictures.images, table, {**card, "task": "multiclass"}), name="three", meaning="three")
    monkeypatch.setattr(panel.catalogue, "_registry", lambda: registry)
    shown = widgets.sites(fedlab.load("three"), sites=2)
    before = shown.hash, shown.classes.value, shown.dataset.value
    assert before[1:] == (("a", "b", "c"), "three")
    shown.classes.value = ("a",)
    assert "hold Ctrl" in shown.notice.widget.value
    assert (shown.hash, shown.classes.value, shown.dataset.value) == before
    shown.classes.value = ("a", "c")
    assert list(shown.partition.counts().columns) == ["a", "c"] and not failed(shown)
    assert yaml.safe_load(shown.yaml.value)["dataset"] == "three(only_classes=['a', 'c'])"
    shown.undo_button.click()
    assert (shown.hash, shown.classes.value, shown.dataset.value) == before


def test_another_dataset_keeps_the_number_that_is_predicted_or_says_that_it_has_none(undrawn, tmp_path):
    cases = fedlab.load("phantoms(cases=60, size=16)")
    without = dataclasses.replace(cases, table=cases.table.drop(columns="age"), card={**cases.card, "name": "plain"})
    without.save(tmp_path / "plain")
    shown = widgets.sites(fedlab.load("phantoms(cases=80, size=16)", target="age"), sites=2)
    shown.dataset.options = [*shown.dataset.options, "phantoms(cases=60, size=16)", str(tmp_path / "plain")]
    shown.dataset.value = "phantoms(cases=60, size=16)"
    assert shown.cases.target == yaml.safe_load(shown.yaml.value)["target"] == "age" and not failed(shown)
    shown.dataset.value = str(tmp_path / "plain")
    assert shown.cases.task == "binary" and "target" not in yaml.safe_load(shown.yaml.value)
    said = html.unescape(shown.notice.widget.value)
    assert "plain is shown with its own task, binary: target='age' is no column" in said and not failed(shown)
    shown.undo_button.click()
    assert shown.cases.target == "age" and len(shown.cases) == 60


def test_a_long_redraw_is_announced_before_it_begins_at_the_pace_of_the_last_one(shown, undrawn, monkeypatch):
    said, make = [], panel.partition
    shown.notice.widget.observe(lambda change: said.append(change["new"]), "value")
    monkeypatch.setattr(panel, "partition", lambda *given, **how: said.append("begun") or make(*given, **how))
    move(shown, "quantity", 0.2)
    assert "about" not in "".join(said)
    shown.time.pace = 100.0
    said.clear()
    move(shown, "quantity", 0.3)
    assert "partitioning 300 cases into 4 sites, about" in said[0] and said[1] == "begun" and "about" not in said[-1]
    assert shown.time.pace == 100.0  # so small a redraw is not measured
    with shown.time.measured(100_000, 500):
        pass
    assert 0 < shown.time.pace < 1


def test_another_slice_of_volumes_is_another_picture_of_the_same_sites():
    shown = widgets.sites(fedlab.load("phantoms(cases=60, size=16, dimensions=3)"), sites=2)
    before, sites = shown.png, shown.hash
    assert (shown.slice.value, shown.slice.max, shown.slice.layout.display) == (8, 15, None)
    shown.slice.value = 3
    assert shown.png != before and shown.hash == sites and not failed(shown)


@pytest.mark.parametrize("start", [START, {"geography": 0.9, "quantity": 0.7}, {"sites": "hospital"}])
def test_new_sites_are_seen_before_they_are_measured_in_a_picture_of_the_same_size(start, monkeypatch):
    """A panel on a page shows two pictures of a change: the sites without their shift, then what `sites` draws."""
    shown, seen = widgets.sites(_with_hospitals(), **start), []
    monkeypatch.setattr(shown, "screen", SimpleNamespace(shown=True, show=lambda *content: seen.append(content)))
    measure = Partition.shift
    monkeypatch.setattr(Partition, "shift", lambda *a, **k: seen.append("measured") or measure(*a, **k))
    move(shown, "acquisition", 0.35)
    (first, early), measured, (last, late) = seen
    assert measured == "measured" and "Measuring" in first["text/plain"] and last == shown._shown[0]
    assert first["image/png"] != last["image/png"]
    assert [early["image/png"][side] for side in SIZE] == [late["image/png"][side] for side in SIZE]
    monkeypatch.setattr(Partition, "shift", lambda *a, **k: 1 / 0)
    move(shown, "acquisition", 0.4)
    assert failed(shown) and seen[-1] == shown._shown == (last, late)  # the message says: the previous one


def _with_hospitals() -> Cases:
    cases = fedlab.load("phantoms(cases=300, size=16)")
    table = cases.table.assign(hospital=np.array(["north", "south", "west"])[np.arange(len(cases)) % 3])
    return dataclasses.replace(cases, table=table)


def test_one_site_trains_at_least(shown):
    move(shown, "unseen", 3)
    move(shown, "sites", 2)
    assert shown.values["unseen"] == 1 and len(shown.partition.unseen) == 1 and not failed(shown)


@pytest.mark.filterwarnings("ignore")
def test_a_refused_setting_shows_the_reason_and_keeps_the_last_figure():
    shown = widgets.sites(fedlab.load("phantoms(cases=20, size=16)"), sites=2)
    first = shown.png, shown.parameters.value, shown.hash
    move(shown, "sites", 12)
    assert failed(shown) and "fewer sites" in shown.notice.widget.value
    assert (shown.png, shown.parameters.value, shown.hash) == first and shown.values["sites"] == 12
    move(shown, "sites", 2)
    assert not failed(shown) and shown.png == first[0]


def test_an_unexpected_error_is_seen_with_its_traceback(shown, monkeypatch):
    def broken(part, **how):
        raise ZeroDivisionError("a <bad> moment")

    monkeypatch.setattr(panel, "draw", broken)
    before = shown.hash
    move(shown, "quantity", 0.5)
    assert failed(shown) and shown.hash == before
    assert "a &lt;bad&gt; moment" in shown.notice.widget.value and "in broken" in shown.notice.widget.value


def test_a_warning_of_the_partition_is_shown(shown):
    move(shown, "prevalence", 1.0)
    text = shown.notice.widget.value
    assert "has no" in text and ERROR not in text


def test_a_wrong_start_is_refused_at_once(cases):
    with pytest.raises(TypeError, match="'prevalance': did you mean 'prevalence'"):
        widgets.sites(cases, prevalance=0.3)
    with pytest.raises(ValueError, match="dose"):
        widgets.sites(cases, prevalence=1.5)


# -- the short comparison ----------------------------------------------------------------------------------------


@pytest.fixture
def tiny(cases) -> panel.Panel:
    shown = widgets.sites(cases, model="small_cnn(width=4, depth=2)", **START)
    shown.comparison.budget |= {"rounds": 2, "device": "cpu"}
    return shown


def test_training_ends_with_curves_and_gains_of_every_site_and_keeps_earlier_curves(tiny):
    comparison = tiny.comparison
    for number in (1, 2):
        comparison.train_button.click()
        assert comparison.train_button.disabled and not comparison.stop_button.disabled
        comparison.join(60)
        assert "2 rounds on" in comparison.notice.widget.value, comparison.notice.widget.value
        assert not comparison.train_button.disabled and comparison.stop_button.disabled
        assert [list(curves["round"]) for curves in comparison.earlier] == [[1, 2, 1, 2]] * number
    content, _ = comparison.shown
    assert b64decode(content["image/png"]).startswith(b"\x89PNG")
    assert all(site in content["text/plain"] for site in tiny.partition.sites)


def test_stop_ends_within_a_step_and_the_panel_responds_meanwhile(tiny, monkeypatch):
    step, taken, inside, go_on = SequentialEngine._step, [], threading.Event(), threading.Event()

    def slow(self, *values):
        taken.append(len(tiny.comparison.earlier))
        if len(taken) == once:
            inside.set()
            assert go_on.wait(60)
        return step(self, *values)

    monkeypatch.setattr(SequentialEngine, "_step", slow)
    tiny.comparison.budget |= {"rounds": 50, "batch_size": 4}
    ended = []
    for once in (5, 200):  # in the first round, and in the second
        taken.clear(), inside.clear(), go_on.clear()
        tiny.comparison.train_button.click()
        assert inside.wait(60)
        before = tiny.png
        move(tiny, "prevalence", 0.7 if once == 5 else 0.2)
        assert tiny.png != before and tiny.comparison.training
        tiny.comparison.train_button.click()  # a second training does not start
        tiny.comparison.stop_button.click()
        there = len(taken)
        go_on.set()
        tiny.comparison.join(60)
        assert len(taken) - there <= 1 and not tiny.comparison.training  # a site on another core may be about to begin
        ended.append(tiny.comparison.notice.widget.value)
    assert "stopped before the end of the first round" in ended[0] and "stopped after round 1 of 50" in ended[1]
    (curves,) = tiny.comparison.earlier
    assert list(curves["round"]) == [1, 1]  # of both methods, the same number of rounds


def test_an_error_in_training_is_seen(tiny, monkeypatch):
    tiny.comparison.budget["optimizer"] = "sdg"
    tiny.comparison.train_button.click()
    tiny.comparison.join(60)
    assert ERROR in tiny.comparison.notice.widget.value
    assert "sdg" in tiny.comparison.notice.widget.value and not tiny.comparison.train_button.disabled


def test_a_subsample_keeps_sites_splits_and_classes_in_proportion(cases):
    part = fedlab.partition(cases, 3, quantity=0.4, prevalence=0.3, acquisition=0.4)
    few = subsample(part, 100)
    assert subsample(part, 10**6) is part
    assert few.sites == part.sites and set(few.table["case"]) < set(part.table["case"])
    for split in ("train", "val", "test"):
        whole, less = part.counts(split).to_numpy(), few.counts(split).to_numpy()
        share = 100 / (part.table["split"] == "train").sum()
        assert (np.abs(less - np.maximum(share * whole, np.minimum(whole, 2))) <= 1).all()
    site = few.sites[0]
    index = few.index(site, "train")[:3]
    there = [list(part.cases.table["case"]).index(case) for case in few.cases.table["case"].iloc[index]]
    np.testing.assert_array_equal(few.pixels(index, site), part.pixels(there, site))


# -- finished runs -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("runs")
    base = fedlab.Experiment(
        dataset="phantoms(cases=200, size=16)", sites=3, model="small_cnn(width=4, depth=2)", rounds=2, device="cpu"
    )
    fedlab.grid(base, method=["local", "fedavg"], folder=home)
    fedlab.run(base.with_(prevalence=0.5), folder=home)
    return home


@pytest.mark.filterwarnings("ignore")
def test_runs_are_grouped_by_what_may_be_compared_and_every_figure_can_be_drawn(folder):
    browser = widgets.runs(folder)
    assert len(browser.settings) == 2 and all("prevalence=" in name for name in browser.settings)
    browser.setting.value = next(name for name, runs in browser.settings.items() if len(runs) == 2)
    assert {run.method for run in browser.chosen} == {"local", "fedavg"}
    titles = set()
    for figure in ("gains", "curves", "transfer"):
        for site in ("all sites", "Site B"):
            browser.figure.value, browser.site.value = figure, site
            assert not browser.notice.widget.value and browser.metric.value == "auroc"
            assert len(browser.drawing.table)
            titles.add(browser.drawing.figure.axes[0].get_title(loc="left"))
    assert len(titles) >= 4
    before = browser.drawing
    browser.runs.value = ()
    assert "no run is chosen" in browser.notice.widget.value and browser.drawing is before


def test_an_empty_folder_says_what_to_do(tmp_path, capsys):
    assert "has no finished run" in widgets.runs(tmp_path).empty
    assert "does not exist: train one with fedlab.run" in widgets.runs(tmp_path / "none").empty


# -- executed notebooks ------------------------------------------------------------------------------------------


def executed(kernel: str, tmp_path, *cells: str) -> nbformat.NotebookNode:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(notebook, tmp_path / "in.ipynb")
    papermill.execute_notebook(
        tmp_path / "in.ipynb", tmp_path / "out.ipynb", progress_bar=False, kernel_name=kernel, cwd=str(tmp_path)
    )
    return nbformat.read(tmp_path / "out.ipynb", 4)


@pytest.mark.xdist_group("notebooks")
def test_a_headless_execution_keeps_the_figure_and_every_error(tmp_path, folder, kernel):
    found = executed(
        kernel,
        tmp_path,
        "import fedlab\nfrom fedlab import widgets\ncases = fedlab.load('phantoms(cases=300, size=16)')",
        "panel = widgets.sites(cases, sites=4, prevalence=0.3)\npanel",
        "panel.settings.controls['prevalence'].value = 0.8\nprint(panel.hash)\npanel.reset_button.click()",
        "print(panel.hash)",
        f"widgets.runs({str(folder)!r})",
        f"widgets.runs({str(tmp_path / 'none')!r})",
        "few = fedlab.load('phantoms(cases=20, size=16)')\nbad = widgets.sites(few, sites=2)",
        "bad.settings.controls['sites'].value = 12\nbad",
    )
    cells = [cell.outputs for cell in found.cells if cell.cell_type == "code"]
    for place in (1, 4, 7):
        kinds = [set(output.data) for output in cells[place]]
        assert "image/png" in kinds[0] and "application/vnd.jupyter.widget-view+json" in kinds[-1]
    assert "does not exist" in cells[5][0].data["text/plain"]
    first = fedlab.partition(fedlab.load("phantoms(cases=300, size=16)"), **START)
    assert [cell[0].text.strip() == first.fingerprint for cell in (cells[2], cells[3])] == [False, True]
    stored = [yaml.safe_load(state["value"]) for _, state in states(found) if state.get("description") == "As YAML"]
    (copied,) = [values for values in stored if values["sites"] == START["sites"]]  # as its web page shows it
    cases = fedlab.load("phantoms(cases=300, size=16)")
    assert copied.pop("dataset") == "phantoms(cases=300, size=16)"
    assert fedlab.partition(cases, seed=copied.pop("partition_seed"), **copied).fingerprint == first.fingerprint
    (error,) = errors(found)  # of the last panel alone
    assert "fewer sites" in error and len(states(found)) > 20


def test_only_the_widgets_and_the_live_output_import_ipywidgets():
    root = Path(fedlab.__file__).parent
    found = {path.relative_to(root).parts[0] for path in root.rglob("*.py") if _imports_ipywidgets(path)}
    assert found == {"notebook", "widgets"}


def _imports_ipywidgets(path: Path) -> bool:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
    return any(name.split(".")[0] == "ipywidgets" for name in names)
