"""The browser of cases without a web browser: effects of controls, the code it shows, errors, a headless execution."""

import ast
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
from ipywidgets import Widget
from widget_state import STATE, errors

import fedlab
from fedlab import widgets
from fedlab.data.cases import Cases
from fedlab.widgets.case_browser import DUPLICATES, EACH_CASE, GROUPED, INTENSITY, VIEWS
from fedlab.widgets.controls import ERROR


@pytest.fixture(scope="module")
def cases() -> Cases:
    """Volumes of two sites with masks, of which two are identical."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (40, 1, 6, 6, 4), np.uint8)
    images[7] = images[2]
    table = pd.DataFrame({"case": [f"c{i}" for i in range(40)], "label": [0, 1] * 20, "age": np.arange(40)})
    table = table.assign(site=["it's $A$"] * 30 + ["B"] * 10, sex=["F", "M"] * 20)
    card = {"name": "mine", "task": "segmentation", "classes": ["<b>no</b>", "yes"], "structures": ["none", "organ"]}
    return Cases(images, table, card, (images[:, 0] > 200).astype(np.uint8))


def test_every_control_changes_the_figure_and_the_code_draws_the_same(cases):
    browser = widgets.cases(cases)
    assert (browser.site.label, browser.label.label, browser.channel.label) == ("all", "all", "channel 0")
    changes = {
        "where": "age < 35",
        "site": 'site == "it\'s $A$"',
        "label": "label == 'yes'",
        "by": "sex",
        "page": 2,
        "slice": 1,
        "masks": False,
        "view": EACH_CASE,
    }
    seen = [browser._shown[0]["image/png"]]
    for control, value in changes.items():
        getattr(browser, control).value = value
        assert not browser.notice.widget.value, browser.notice.widget.value
        seen.append(browser._shown[0]["image/png"])
        assert seen[-1] != seen[-2], control
        again = eval(browser.code.value, {"cases": cases, "fedlab": fedlab})
        pd.testing.assert_frame_equal(again.table, browser.drawing.table)
    assert set(browser.drawing.table["site"]) == {"it's $A$"} and set(browser.drawing.table["class"]) == {"yes"}
    assert browser.page.value == 1  # other cases begin at their first page


def test_every_view_can_be_drawn_and_shows_its_own_controls(cases):
    browser = widgets.cases(cases, by="class")
    for view, (_, named) in VIEWS.items():
        browser.view.value = view
        assert not browser.notice.widget.value and ast.parse(browser.code.value)
        hidden = {name for name in ("by", "slice", "masks") if getattr(browser, name).layout.display == "none"}
        assert hidden == {"by", "slice", "masks"} - set(named)
    assert browser.view.value == DUPLICATES and browser.drawing.table["case"].tolist() == ["c2", "c7"]
    browser.view.value = EACH_CASE
    assert (browser.page.max, browser.page.layout.display) == (2, None)
    for button, page in ((browser.after, 2), (browser.after, 2), (browser.before, 1)):
        button.click()
        assert browser.page.value == page
    browser.where.value = "age > 30"
    assert (browser.page.max, browser.page.layout.display) == (1, "none")


def test_a_refused_condition_is_shown_and_the_figure_stays(cases):
    browser = widgets.cases(cases)
    before = browser._shown
    for where in ("agge > 3", "age >", "age > 100"):
        browser.where.value = where
        assert ERROR in browser.notice.widget.value and where.split()[0] in browser.notice.widget.value
        assert browser._shown is before
        with pytest.raises(ValueError):
            widgets.cases(cases, where)
    browser.where.value = "age > 3"
    assert not browser.notice.widget.value and browser._shown is not before


def test_an_unexpected_error_is_seen_with_its_traceback(cases, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("a <bad> moment")

    browser = widgets.cases(cases)
    monkeypatch.setitem(VIEWS, INTENSITY, (broken, ("by",)))
    browser.view.value = INTENSITY
    assert "a &lt;bad&gt; moment" in browser.notice.widget.value and "in broken" in browser.notice.widget.value
    browser.view.value = GROUPED
    assert not browser.notice.widget.value


def test_names_are_text_in_the_table_below(cases):
    browser = widgets.cases(cases, by="case")
    assert "&lt;b&gt;no" in browser.below.value and "<b>no" not in browser.below.value


def test_the_picture_is_an_ordinary_output_before_the_controls_and_errors_are_in_the_state(cases, monkeypatch):
    shown, handles = [], SimpleNamespace(update=lambda content, **_: shown.append(content))
    monkeypatch.setattr("IPython.display.display", lambda thing, **_: shown.append(thing) or handles)
    browser = widgets.cases(cases)
    browser._ipython_display_()
    assert shown[0]["image/png"] and "40 cases" in shown[0]["text/plain"]
    view = shown[1]["application/vnd.jupyter.widget-view+json"]
    assert view["model_id"] == browser.controls.model_id and "VBox" not in shown[1]["text/plain"]
    browser.masks.value = False
    assert shown[2]["image/png"] != shown[0]["image/png"]  # in the place of the first
    browser.where.value = "agee > 3"
    state = nbformat.v4.new_notebook(metadata={"widgets": {STATE: Widget.get_manager_state()}})
    assert "did you mean" in errors(state)[-1] and len(shown) == 3
