"""The panel in a real browser: JupyterLab runs a notebook, a slider moves with the keyboard, the figure follows."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen
from uuid import uuid4

import nbformat
import papermill
import pytest
import yaml
from widget_state import errors, states

import fedlab

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install '.[dev]'")
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException, TimeoutException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-quic --no-first-run"
    " --disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1500,1700"
)
PREFERENCES = {  # every cell is rendered, and no network access
    "notebook-extension/tracker": '{"windowingMode": "none"}',
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
}
OPTIONS, SETTINGS = "For papermill", "As YAML"  # the labels of the texts to copy
CELLS = (  # behind the panel of the notebook
    "panel.comparison.budget['rounds'] = 200",
    "import threading\nimport ipywidgets\nfrom fedlab.notebook.live import Screen\n"
    "output, screen = ipywidgets.Output(), Screen()\ndisplay(output)\n"
    'with output:\n    screen.show({"text/plain": "seen at first"})\n'
    'threading.Timer(1, screen.show, [{"text/plain": "seen later"}]).start()',
)
TEN = next((ROOT / "notebooks").glob("10-*.ipynb"))

pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium with its chromedriver on this machine"),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[str]:
    """Yield the address of a JupyterLab on a copy of the notebooks, with separate settings."""
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", home / "notebooks")
    _write_ten(home / "notebooks" / TEN.name, CELLS)
    for name, content in PREFERENCES.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {name: str(home / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    environment = {**os.environ, **places, "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "OMP_NUM_THREADS": "1"}
    options = f"--no-browser --ip=127.0.0.1 --port={port} --ServerApp.token= --ServerApp.password= --allow-root"
    command = [sys.executable, "-m", "jupyterlab", *options.split(), f"--ServerApp.root_dir={home / 'notebooks'}"]
    with (home / "log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=home)
    address = f"http://127.0.0.1:{port}"
    try:
        _await_server(server, address, home / "log")
        yield address
    finally:
        server.terminate()
        server.wait(20)


def _await_server(server: subprocess.Popen, address: str, log: Path) -> None:
    for _ in range(240):
        assert server.poll() is None, log.read_text(encoding="utf-8")[-3000:]
        try:
            urlopen(f"{address}/api/status", timeout=2).close()
            return
        except (URLError, OSError):
            time.sleep(0.25)
    raise AssertionError(log.read_text(encoding="utf-8")[-3000:])


@pytest.fixture(scope="module")
def page(lab) -> Iterator["Page"]:
    """A notebook of the series in a browser after Run All Cells; all tests use the one panel."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS.split():
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        run_all(browser, lab, TEN.name)
        yield Page(browser)
    finally:
        browser.quit()


def until(browser, found, seconds: float, what: str):
    """The first true value of found(); elements may come and go meanwhile."""
    passing = (NoSuchElementException, StaleElementReferenceException)
    wait = WebDriverWait(browser, seconds, poll_frequency=0.2, ignored_exceptions=passing)
    try:
        return wait.until(lambda _: found())
    except TimeoutException:
        pytest.fail(f"waited {seconds} s for {what}; the page: {keep(browser, 'failed')}")


def run_all(browser, address: str, notebook: str) -> None:
    """Open a notebook, Run -> Run All Cells, wait until the kernel is idle and every cell has its number."""
    browser.get(f"{address}/lab/workspaces/{uuid4().hex}/tree/{notebook}")  # a workspace with no other notebook
    cells = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell .jp-InputArea-prompt"
    idle = "//*[contains(@class,'jp-StatusBar')]//*[contains(text(),'| Idle')]"
    until(browser, lambda: browser.find_element(By.XPATH, idle), 120, "the kernel")
    browser.find_element(By.XPATH, "//div[contains(@class,'lm-MenuBar-itemLabel')][text()='Run']").click()
    until(
        browser, lambda: browser.find_element(By.CSS_SELECTOR, "[data-command='runmenu:run-all']"), 20, "menu"
    ).click()

    def numbered() -> bool:
        prompts = [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, cells)]
        return bool(prompts) and all(any(c.isdigit() for c in prompt) for prompt in prompts)

    until(browser, numbered, 400, "all cells")
    until(browser, lambda: browser.find_element(By.XPATH, idle), 60, "the kernel to rest")


class Page:
    """The panel as the page shows it; start: the texts to copy before anything was moved."""

    def __init__(self, browser) -> None:
        self.browser = browser
        self.cell = until(browser, lambda: self.slider("Disease prevalence"), 60, "the sliders").find_element(
            By.XPATH, "./ancestor::div[contains(@class,'jp-CodeCell')][1]"
        )
        self.start = {label: self.text(label) for label in (OPTIONS, SETTINGS)}

    def slider(self, label: str):
        path = f"//label[normalize-space()='{label}']/following::div[contains(@class,'noUi-handle')][1]"
        return self.browser.find_element(By.XPATH, path)

    def press(self, label: str, key: str, times: int = 1) -> None:
        """Focus a slider as Tab does, then press a key."""
        handle = self.slider(label)
        assert handle.get_attribute("tabindex") == "0"
        self.browser.execute_script("arguments[0].focus()", handle)
        for _ in range(times):
            self.browser.switch_to.active_element.send_keys(key)

    def images(self) -> list[str]:
        """The bytes of the cell's pictures, as text."""
        found = self.cell.find_elements(By.CSS_SELECTOR, ".jp-OutputArea-output img")
        return list(dict.fromkeys(str(image.get_attribute("src")) for image in found))

    def text(self, label: str) -> str:
        path = f".//label[normalize-space()='{label}']/following::textarea[1]"
        return str(self.cell.find_element(By.XPATH, path).get_property("value"))

    def button(self, text: str):
        return self.cell.find_element(By.XPATH, f".//button[contains(., '{text}')]")


def assert_no_error(browser) -> None:
    wrong = "[data-mime-type='application/vnd.jupyter.error'], .fedlab-error"
    assert [element.text for element in browser.find_elements(By.CSS_SELECTOR, wrong)] == []


def keep(browser, name: str) -> Path:
    """A screenshot, as an artefact to look at."""
    folder = Path(os.environ.get("FEDLAB_ARTIFACTS", ROOT / "out" / "test-artifacts"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"browser-{name}.png"
    assert browser.save_screenshot(str(path))
    return path


def test_a_slider_moved_with_the_keyboard_moves_figure_and_parameters(page):
    (before,) = page.images()
    start = float(yaml.safe_load(page.start[SETTINGS])["prevalence"])
    key, moved = (Keys.ARROW_LEFT, start - 0.1) if start > 0.8 else (Keys.ARROW_RIGHT, start + 0.1)
    page.press("Disease prevalence", key, times=2)
    option = f"-p prevalence {round(moved, 2)}"
    until(page.browser, lambda: option in page.text(OPTIONS), 30, option)
    until(page.browser, lambda: page.images() != [before], 30, "another figure")
    assert yaml.safe_load(page.text(SETTINGS)) == {
        **yaml.safe_load(page.start[SETTINGS]),
        "prevalence": round(moved, 2),
    }
    page.browser.execute_script("arguments[0].scrollIntoView()", page.cell)
    assert keep(page.browser, "panel").stat().st_size > 20_000
    for _ in "its number", "the next slider":
        page.browser.switch_to.active_element.send_keys(Keys.TAB)
    assert page.browser.switch_to.active_element == page.slider("Disease presentation")
    assert_no_error(page.browser)


def test_training_is_followed_stopped_and_leaves_the_panel_free(page):
    page.button("Train a short comparison").click()
    until(page.browser, lambda: "round 1 of" in page.cell.text or "round 2 of" in page.cell.text, 120, "a round")
    before = page.images()[0]
    page.press("Number of cases", Keys.ARROW_RIGHT)
    until(page.browser, lambda: page.images()[0] != before, 60, "another figure while training")
    page.button("Stop").click()
    until(page.browser, lambda: "stopped after round" in page.cell.text, 120, "the end of a round")
    until(page.browser, lambda: len(page.images()) == 3, 30, "curves and gains")
    assert page.button("Train a short comparison").is_enabled() and not page.button("Stop").is_enabled()
    page.browser.execute_script("arguments[0].scrollIntoView()", page.button("Stop"))
    keep(page.browser, "training")
    assert_no_error(page.browser)


def test_a_picture_inside_an_output_follows_a_thread(page):
    until(page.browser, lambda: "seen later" in _outputs(page.browser), 20, "the thread")
    assert "seen at first" not in _outputs(page.browser)


def _outputs(browser: webdriver.Chrome) -> list[str]:
    """The texts below cells, read at one moment: they may be redrawn meanwhile."""
    texts = "return [...document.querySelectorAll('.jp-OutputArea-output pre')].map(one => one.innerText.trim())"
    return browser.execute_script(texts)


def test_running_all_cells_is_running_papermill(page, tmp_path):
    """The panel of a page starts where that of the same notebook without a screen does: at the same partition."""
    _write_ten(tmp_path / TEN.name)
    given = {"out": str(tmp_path)}
    papermill.execute_notebook(
        tmp_path / TEN.name, tmp_path / "done.ipynb", given, progress_bar=False, kernel_name="python3"
    )
    done = nbformat.read(tmp_path / "done.ipynb", 4)
    (text,) = [s["value"] for _, s in states(done) if s.get("description") == SETTINGS]
    there, here = (_fingerprint(one) for one in (text, page.start[SETTINGS]))
    assert there == here and errors(done) == []


def _fingerprint(text: str) -> str:
    """The fingerprint of the partition that a text to copy describes."""
    given = yaml.safe_load(text)
    cases = fedlab.load(given.pop("dataset"))
    return fedlab.partition(cases, seed=given.pop("partition_seed"), **given).fingerprint


def _write_ten(path: Path, more: tuple[str, ...] = ()) -> None:
    """The notebook up to its panel, without the figures before it, with fewer cases and one seed, and more cells."""
    notebook = nbformat.read(TEN, 4)
    (last,) = [number for number, cell in enumerate(notebook.cells) if "widgets." in cell.source]
    notebook.cells = [cell for cell in notebook.cells[: last + 1] if ".save(" not in cell.source]
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    cell.source = cell.source.replace('"phantoms"', '"phantoms(cases=600)"').replace("seeds: int = 3", "seeds: int = 1")
    assert "cases=600" in cell.source and "seeds: int = 1" in cell.source
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in more]
    nbformat.write(notebook, path)
