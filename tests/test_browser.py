"""The panel in a real browser: JupyterLab starts, a notebook runs, a slider is moved with the keyboard, all follows."""

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
import pytest

import fedlab

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install '.[dev]'")
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException, TimeoutException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-quic --no-first-run"
    " --disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1500,1700"
)
SETTINGS = {  # every cell stands in the page, and nothing is asked of the network
    "notebook-extension/tracker": '{"windowingMode": "none"}',
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
}
SMALL = "panel.ipynb"
CELLS = (
    'import threading\nimport fedlab\ncases = fedlab.load("phantoms(cases=600)")',
    "panel = fedlab.widgets.institutions(cases, sites=4, prevalence=.3)\npanel.comparison.budget['rounds'] = 3\npanel",
    "import ipywidgets\nfrom fedlab.live import Screen\n"
    "output, screen = ipywidgets.Output(), Screen()\ndisplay(output)\n"
    'with output:\n    screen.show({"text/plain": "seen at first"})\n'
    'threading.Timer(1, screen.show, [{"text/plain": "seen later"}]).start()',
)
TEN = next((ROOT / "notebooks").glob("10-*.ipynb"))
NOTEBOOKS = [SMALL, *([TEN.name] if "widgets.institutions" in TEN.read_text() else [])]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("notebooks"),
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium with its chromedriver on this machine"),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[str]:
    """The address of a JupyterLab on a copy of the notebooks, with settings of its own."""
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", home / "notebooks")
    _write_small(home / "notebooks" / SMALL)
    for name, content in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {name: str(home / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    environment = {**os.environ, **places, "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "OMP_NUM_THREADS": "1"}
    options = f"--no-browser --ip=127.0.0.1 --port={port} --ServerApp.token= --ServerApp.password= --allow-root"
    command = [sys.executable, "-m", "jupyterlab", *options.split(), f"--ServerApp.root_dir={home / 'notebooks'}"]
    with (home / "log").open("w") as log:
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
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            urlopen(f"{address}/api/status", timeout=2).close()
            return
        except (URLError, OSError):
            time.sleep(0.25)
    raise AssertionError(log.read_text()[-3000:])


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS.split():
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


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


class Shown:
    """The panel as the page shows it."""

    def __init__(self, browser) -> None:
        self.browser = browser
        self.cell = until(browser, lambda: self._slider("Disease prevalence"), 60, "the sliders").find_element(
            By.XPATH, "./ancestor::div[contains(@class,'jp-CodeCell')][1]"
        )

    def _slider(self, label: str):
        path = f"//label[normalize-space()='{label}']/following::div[contains(@class,'noUi-handle')][1]"
        return self.browser.find_element(By.XPATH, path)

    def press(self, label: str, key: str, times: int = 1) -> None:
        """Focus a slider as Tab does, then press a key."""
        handle = self._slider(label)
        assert handle.get_attribute("tabindex") == "0"
        self.browser.execute_script("arguments[0].focus()", handle)
        for _ in range(times):
            self.browser.switch_to.active_element.send_keys(key)

    def image(self, place: int = 0) -> str:
        """The bytes of a picture of the cell, as text."""
        return self.images()[place]

    def images(self) -> list[str]:
        found = self.cell.find_elements(By.CSS_SELECTOR, ".jp-OutputArea-output img")
        return [str(image.get_attribute("src")) for image in found]

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


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_slider_moved_with_the_keyboard_moves_figure_and_parameters(lab, browser, notebook):
    run_all(browser, lab, notebook)
    shown = Shown(browser)
    before, written, settings = shown.image(), shown.text("For papermill"), shown.text("For fedlab.partition")
    start = float(next(line for line in settings.splitlines() if line.startswith("prevalence")).split()[1])
    key, moved = (Keys.ARROW_LEFT, start - 0.1) if start > 0.8 else (Keys.ARROW_RIGHT, start + 0.1)
    shown.press("Disease prevalence", key, times=2)
    told = f"-p prevalence {round(moved, 2)}"
    until(browser, lambda: told in shown.text("For papermill"), 30, told)
    until(browser, lambda: shown.image() != before, 30, "another figure")
    assert f"prevalence: {round(moved, 2)}" in shown.text("For fedlab.partition") and written != shown.text(
        "For papermill"
    )
    browser.execute_script("arguments[0].scrollIntoView()", shown.cell)
    assert keep(browser, notebook.removesuffix(".ipynb")).stat().st_size > 20_000
    assert_no_error(browser)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_running_all_cells_is_running_papermill(lab, browser, notebook, tmp_path):
    """The panel of a page starts where that of the same notebook without a screen does: at the same partition."""
    run_all(browser, lab, notebook)
    shown = Shown(browser).text("For fedlab.partition")
    import papermill
    import yaml

    source = tmp_path / notebook
    shutil.copy(TEN, source) if notebook == TEN.name else _write_small(source)
    given = {"out": str(tmp_path)} if notebook == TEN.name else {}
    papermill.execute_notebook(source, tmp_path / "done.ipynb", given, progress_bar=False, kernel_name="python3")
    states = nbformat.read(tmp_path / "done.ipynb", 4).metadata.widgets["application/vnd.jupyter.widget-state+json"]
    texts = [m.state.get("value", "") for m in states.state.values() if m.model_name == "TextareaModel"]
    assert shown in texts
    cases = fedlab.load("phantoms(cases=600)") if notebook == SMALL else fedlab.load("phantoms")
    parts = [fedlab.partition(cases, **yaml.safe_load(text)) for text in texts if text.startswith("sites:")]
    assert fedlab.partition(cases, **yaml.safe_load(shown)).fingerprint in [part.fingerprint for part in parts]


def _write_small(path: Path) -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
