"""Notebooks in a real browser: a JupyterLab of its own, a headless Chromium, and what a user does in them."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen
from uuid import uuid4

import nbformat
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException, TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-quic --no-first-run"
    " --disable-component-update --disable-sync --disable-dev-shm-usage"
)
PREFERENCES = {  # every cell is rendered, no questions, and no network access
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "apputils-extension/sessionDialogs": {"skipKernelRestartDialog": True},
}
IDLE = "//*[contains(@class,'jp-StatusBar')]//*[contains(text(),'| Idle')]"
CELLS = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell .jp-InputArea-prompt"


@contextlib.contextmanager
def laboratory(home: Path) -> Iterator[str]:
    """Yield the address of a JupyterLab on `home / "notebooks"`, with separate settings."""
    for name, content in PREFERENCES.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
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


@contextlib.contextmanager
def chromium(width: int = 1280, height: int = 720) -> Iterator[webdriver.Chrome]:
    """Yield a headless browser whose page has this size."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS.split():
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        resize(browser, width, height)
        yield browser
    finally:
        browser.quit()


def resize(browser: webdriver.Chrome, width: int, height: int) -> None:
    """Give the page this size in CSS pixels."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def until(browser: webdriver.Chrome, found: Callable, seconds: float, what: str):
    """Return the first true value of found(); elements may come and go meanwhile."""
    passing = (NoSuchElementException, StaleElementReferenceException)
    wait = WebDriverWait(browser, seconds, poll_frequency=0.1, ignored_exceptions=passing)
    try:
        return wait.until(lambda _: found())
    except TimeoutException:
        raise AssertionError(f"waited {seconds} s for {what}; the page: {keep(browser, 'failed')}") from None


def keep(browser: webdriver.Chrome, name: str) -> Path:
    """Save a screenshot, as an artefact to look at."""
    folder = Path(os.environ.get("FEDLAB_ARTIFACTS", ROOT / "out" / "test-artifacts"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"browser-{name}.png"
    assert browser.save_screenshot(str(path))
    return path


def open_notebook(browser: webdriver.Chrome, address: str, notebook: str) -> None:
    """Open a notebook in a workspace with no other one, and wait for its kernel."""
    browser.get(f"{address}/lab/workspaces/{uuid4().hex}/tree/{notebook}")
    until(browser, lambda: browser.find_element(By.XPATH, IDLE), 120, "the kernel")


def choose(browser: webdriver.Chrome, menu: str, command: str) -> None:
    """Choose from a menu of JupyterLab."""
    browser.find_element(By.XPATH, f"//div[contains(@class,'lm-MenuBar-itemLabel')][text()='{menu}']").click()
    entry = f"[data-command='{command}']"
    until(browser, lambda: browser.find_element(By.CSS_SELECTOR, entry), 20, "the menu").click()


def run_all(browser: webdriver.Chrome, command: str = "runmenu:run-all", menu: str = "Run") -> None:
    """Run all cells, wait until every cell has its number and the kernel is idle."""
    choose(browser, menu, command)

    def numbered() -> bool:
        prompts = [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, CELLS)]
        return bool(prompts) and all(any(c.isdigit() for c in prompt) for prompt in prompts)

    until(browser, numbered, 400, "all cells")
    until(browser, lambda: browser.find_element(By.XPATH, IDLE), 60, "the kernel to rest")


def up_to_panel(
    source: Path,
    to: Path,
    changes: dict[str, str],
    more: tuple[str, ...] = (),
    figures: bool = False,
    kernel: str = "python3",
) -> None:
    """Write the notebook up to its panel, without training and figures before it, with other parameters, more cells."""
    notebook = nbformat.read(source, 4)
    notebook.metadata.kernelspec = {"name": kernel, "display_name": kernel, "language": "python"}
    (last,) = [number for number, cell in enumerate(notebook.cells) if "widgets." in cell.source]
    notebook.cells = notebook.cells[: last + 1]
    for cell in notebook.cells:
        if "fedlab.grid(" in cell.source or "fedlab.compare(" in cell.source or "trained" in cell.source:
            cell.source = ""
        if not figures:
            cell.source = "\n".join(line for line in cell.source.split("\n") if ".save(" not in line)
    notebook.cells = [cell for cell in notebook.cells if cell.source.strip()]
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    for old, new in changes.items():
        assert old in cell.source, old
        cell.source = cell.source.replace(old, new)
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in more]
    nbformat.write(notebook, to)


class Panel:
    """The panel as the page shows it."""

    def __init__(self, browser: webdriver.Chrome) -> None:
        self.browser = browser
        self.cell = until(browser, lambda: self.slider("Disease prevalence"), 60, "the sliders").find_element(
            By.XPATH, "./ancestor::div[contains(@class,'jp-CodeCell')][1]"
        )

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

    def option(self, label: str, option: str):
        """Return an option of a dropdown or a list."""
        path = f".//label[normalize-space()='{label}']/following::select[1]/option[normalize-space()='{option}']"
        return self.cell.find_element(By.XPATH, path)

    def select(self, label: str, option: str) -> None:
        """Choose an option of a dropdown."""
        self.option(label, option).click()

    def chosen(self, label: str) -> list[str]:
        """Return the chosen options of a list."""
        options = self.cell.find_elements(
            By.XPATH, f".//label[normalize-space()='{label}']/following::select[1]/option"
        )
        return [option.text for option in options if option.is_selected()]

    def images(self) -> list[str]:
        """Return the bytes of the cell's pictures, as text."""
        found = self.cell.find_elements(By.CSS_SELECTOR, ".jp-OutputArea-output img")
        return list(dict.fromkeys(str(image.get_attribute("src")) for image in found))

    def text(self, label: str) -> str:
        path = f".//label[normalize-space()='{label}']/following::textarea[1]"
        return str(self.cell.find_element(By.XPATH, path).get_property("value"))

    def button(self, text: str, label: str = ""):
        """Return a button, the first one after a label if there are several."""
        after = f".//label[normalize-space()='{label}']/following::" if label else ".//"
        return self.cell.find_element(By.XPATH, f"{after}button[normalize-space()='{text}']")

    def pressed(self, text: str) -> bool:
        """Return whether a button of a choice is the chosen one."""
        return "mod-active" in str(self.button(text).get_attribute("class"))

    def boxes(self) -> dict[str, dict[str, float]]:
        """Return where the figure and the controls are: left, top, right, bottom in pixels of the page."""
        script = """const box = e => { const r = e.getBoundingClientRect();
            return {left: r.left, top: r.top, right: r.right, bottom: r.bottom} };
            return {figure: box(arguments[0].querySelector('.jp-OutputArea-output img')),
                    controls: box(arguments[0].querySelector('.fedlab-panel'))}"""
        return self.browser.execute_script(script, self.cell)

    def show(self) -> None:
        """Scroll the output to the top of the page."""
        script = "arguments[0].querySelector('.jp-Cell-outputArea').scrollIntoView()"
        self.browser.execute_script(script, self.cell)
