"""The panel in a real browser: JupyterLab runs a notebook; controls are moved as a user moves them."""

import re
from collections.abc import Iterator

import nbformat
import papermill
import pytest
import yaml
from widget_state import errors, states

pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install '.[dev]'")
import browsing
from browsing import Panel, keep, until
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from test_copied_settings import read

import fedlab

LINE, TEXT = "For papermill", "As YAML"  # the labels of the texts to copy
SOURCE = browsing.ROOT / "notebooks" / "00-start-here.ipynb"
FEW = {'"phantoms"': '"phantoms(cases=600)"'}
CELLS = (  # behind the panel of the notebook
    "panel.comparison.budget |= {'rounds': 200}",
    "import threading\nimport ipywidgets\nfrom fedlab.notebook.live import Screen\n"
    "output, screen = ipywidgets.Output(), Screen()\ndisplay(output)\n"
    'with output:\n    screen.show({"text/plain": "seen at first"})\n'
    'threading.Timer(1, screen.show, [{"text/plain": "seen later"}]).start()',
)
THREE = """import fedlab, numpy as np
from fedlab.data import catalogue
from fedlab.data.cases import Cases
made = fedlab.load("phantoms(cases=120, size=16)")
card = {**made.card, "task": "multiclass", "classes": ["a", "b", "c"]}
table = made.table.assign(label=np.arange(120) % 3)
catalogue._registry().add(lambda: Cases(made.images, table, card), name="three", meaning="three classes")
panel = fedlab.widgets.sites(fedlab.load("three"), sites=2)
panel"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("notebooks"),
    pytest.mark.skipif(
        not (browsing.CHROMIUM and browsing.DRIVER), reason="no Chromium with its chromedriver on this machine"
    ),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory, kernel) -> Iterator[Panel]:
    """The panel of the first notebook after Run All Cells; all tests use the one browser and the one panel."""
    home = tmp_path_factory.mktemp("lab")
    (home / "notebooks").mkdir()
    browsing.up_to_panel(SOURCE, home / "notebooks" / SOURCE.name, FEW, CELLS, kernel=kernel)
    known = {"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}}
    classes = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(THREE)], metadata=known)
    nbformat.write(classes, home / "notebooks" / "classes.ipynb")
    with browsing.laboratory(home) as address, browsing.chromium() as browser:
        browsing.open_notebook(browser, address, SOURCE.name)
        browsing.run_all(browser)
        yield Panel(browser)


def assert_no_error(browser) -> None:
    wrong = "[data-mime-type='application/vnd.jupyter.error'], .fedlab-error"
    assert [element.text for element in browser.find_elements(By.CSS_SELECTOR, wrong)] == []


def test_a_picture_inside_an_output_follows_a_thread(page):
    until(page.browser, lambda: "seen later" in _outputs(page.browser), 20, "the thread")
    assert "seen at first" not in _outputs(page.browser)


def _outputs(browser) -> list[str]:
    """The texts below cells, read at one moment: they may be redrawn meanwhile."""
    texts = "return [...document.querySelectorAll('.jp-OutputArea-output pre')].map(one => one.innerText.trim())"
    return browser.execute_script(texts)


def test_figure_and_controls_are_next_to_each_other_and_nothing_is_cut(page):
    for width, height in ((1280, 720), (1440, 900), (1920, 1080)):
        browsing.resize(page.browser, width, height)
        page.show()
        until(page.browser, lambda: page.boxes()["controls"]["top"] < 120, 10, "the scrolled page")
        boxes = page.boxes()
        figure, controls = boxes["figure"], boxes["controls"]
        assert figure["right"] <= controls["left"] and abs(figure["top"] - controls["top"]) < 20
        assert controls["right"] <= width and max(figure["bottom"], controls["bottom"]) <= height - 24  # the status bar
        assert figure["right"] - figure["left"] > 0.95 * (controls["left"] - figure["left"])
    browsing.resize(page.browser, 1280, 720)


def test_a_slider_moved_with_the_keyboard_moves_figure_and_parameters(page):
    (before,), start = page.images(), yaml.safe_load(page.text(TEXT))
    page.press("Disease prevalence", Keys.ARROW_RIGHT, times=2)
    moved = {**start, "prevalence": round(start["prevalence"] + 0.1, 2)}
    until(page.browser, lambda: f"-p prevalence {moved['prevalence']}" in page.text(LINE), 30, "other parameters")
    until(page.browser, lambda: page.images() != [before], 30, "another figure")
    assert yaml.safe_load(page.text(TEXT)) == moved
    for _ in "its number", "the next slider":
        page.browser.switch_to.active_element.send_keys(Keys.TAB)
    assert page.browser.switch_to.active_element == page.slider("Disease presentation")
    assert_no_error(page.browser)


def test_a_scenario_is_chosen_copied_and_taken_back(page, tmp_path, kernel):
    """What is copied, given to papermill, makes the sites of the page with any defaults of the notebook."""
    before = page.text(TEXT)
    page.select("Scenario", "rural_and_university")
    until(page.browser, lambda: "[1.0, 1.0, 6.0]" in page.text(LINE), 30, "the scenario")
    origin = re.match(r"https?://[^/]+", page.browser.current_url).group()
    allowed = {"origin": origin, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    page.browser.execute_cdp_cmd("Browser.grantPermissions", allowed)
    copied = []
    for label in (LINE, TEXT):
        page.button("Copy", label).click()
        until(page.browser, lambda label=label: page.button("Copied", label), 5, "the button's answer")
        copied.append(page.browser.execute_async_script("navigator.clipboard.readText().then(arguments[0])"))
    assert copied == [page.text(LINE), page.text(TEXT)] and read(copied[0]) == yaml.safe_load(copied[1])
    keep(page.browser, "panel")
    page.button("Undo").click()
    until(page.browser, lambda: page.text(TEXT) == before, 30, "the setting before")
    assert_no_error(page.browser)
    _run_with(read(copied[0]), yaml.safe_load(copied[1]), tmp_path, kernel)


def _run_with(parameters: dict, setting: dict, folder, kernel: str) -> None:
    """Run the notebook with papermill; its panel then starts at this setting and at its partition."""
    browsing.up_to_panel(
        SOURCE, folder / "in.ipynb", {"sites: int = 4": "sites: int = 7"}, ("print(part.fingerprint)",)
    )
    given = {**parameters, "out": str(folder)}
    papermill.execute_notebook(folder / "in.ipynb", folder / "out.ipynb", given, progress_bar=False, kernel_name=kernel)
    done = nbformat.read(folder / "out.ipynb", 4)
    (text,) = [state["value"] for _, state in states(done) if state.get("description") == TEXT]
    assert yaml.safe_load(text) == setting and errors(done) == []
    fields = {name: value for name, value in setting.items() if name not in ("dataset", "model", "partition_seed")}
    wanted = fedlab.partition(fedlab.load(setting["dataset"]), seed=setting["partition_seed"], **fields)
    assert done.cells[-1].outputs[0].text.strip() == wanted.fingerprint


def test_training_is_followed_stopped_started_again_and_leaves_the_panel_free(page):
    for number in (1, 2):
        _train_and_stop(page)
        keep(page.browser, f"training-{number}")
    assert_no_error(page.browser)


def _train_and_stop(page: Panel) -> None:
    sites = page.images()
    page.button("Train").click()
    until(page.browser, lambda: re.search(r"round \d+ of 200, .*, about .* left", page.cell.text), 120, "a round")
    until(page.browser, lambda: page.images() != sites, 60, "the curves")
    page.press("Number of cases", Keys.ARROW_RIGHT)
    until(page.browser, lambda: page.pressed("Sites"), 60, "the sites while training")
    page.button("Stop").click()
    until(page.browser, lambda: "stopped after round" in page.cell.text, 60, "the end of a step")
    until(page.browser, lambda: page.button("Train").is_enabled(), 20, "the button")
    assert not page.button("Stop").is_enabled()
    shown = page.images()
    page.button("Training").click()
    until(page.browser, lambda: page.images() != shown, 30, "curves and gains")


def test_after_a_restart_of_the_kernel_the_panel_starts_where_it_started(page):
    start = yaml.safe_load(page.text(TEXT))
    browsing.run_all(page.browser, "runmenu:restart-and-run-all")
    again = Panel(page.browser)
    until(page.browser, lambda: yaml.safe_load(again.text(TEXT))["quantity"] == 0.5, 60, "the start")
    assert yaml.safe_load(again.text(TEXT)) != start
    before = again.images()
    again.press("Disease prevalence", Keys.ARROW_RIGHT)
    until(page.browser, lambda: again.images() != before, 30, "another figure")
    assert_no_error(page.browser)


def test_classes_are_chosen_with_clicks_and_all_of_them_take_part_after_a_restart(page):
    """What the list shows is what is copied, also after a refused choice and after a restart of the kernel."""
    browser = page.browser
    browsing.open_notebook(browser, page.browser.current_url.split("/lab/")[0], "classes.ipynb")
    browsing.run_all(browser)
    classes = Panel(browser)
    assert (classes.chosen("Classes"), yaml.safe_load(classes.text(TEXT))["dataset"]) == (["a", "b", "c"], "three")
    ActionChains(browser).click(classes.option("Classes", "b")).perform()  # alone
    until(browser, lambda: "hold Ctrl" in classes.cell.text, 30, "the reason")
    until(browser, lambda: classes.chosen("Classes") == ["a", "b", "c"], 10, "all classes again")
    before = classes.images()
    ActionChains(browser).key_down(Keys.CONTROL).click(classes.option("Classes", "b")).key_up(Keys.CONTROL).perform()
    until(browser, lambda: "only_classes" in classes.text(TEXT), 30, "two classes")
    assert yaml.safe_load(classes.text(TEXT))["dataset"] == "three(only_classes=['a', 'c'])"
    assert classes.chosen("Classes") == ["a", "c"]
    until(browser, lambda: classes.images() != before, 30, "another figure")
    keep(browser, "classes")
    browsing.run_all(browser, "runmenu:restart-and-run-all")
    again = Panel(browser)
    until(browser, lambda: yaml.safe_load(again.text(TEXT))["dataset"] == "three", 60, "the start")
    assert again.chosen("Classes") == ["a", "b", "c"]
