"""How long after a slider is released does the browser show the new sites? Milliseconds, for 10,000 cases.

A headless Chromium moves four sliders in turn in JupyterLab with the keyboard, 50 times, to a setting that was not seen
before. The clock of the page runs from the key's release until a picture is decoded in the page: the first one, of the
new sites, and the second one, which adds the measured shift. Next to it: what the kernel needs for both, measured in
the notebook's process without a browser (with another seed, so that nothing is known of what the browser moves to);
the ratio of the last two holds on a busy machine, too.

    PYTHONPATH=tests python benchmarks/panel.py
"""

import os
import statistics
import tempfile
import time
from pathlib import Path

import browsing
import nbformat
from browsing import Panel
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

CASES, REPEATS = 10_000, 50
MOVED = {  # slider -> its label
    "prevalence": "Disease prevalence",
    "quantity": "Number of cases",
    "acquisition": "Image acquisition",
    "geography": "Geography",
}
OPEN = (
    f"import fedlab, time\ncases = fedlab.load('phantoms(cases={CASES})')\n"
    "panel = fedlab.widgets.sites(cases, sites=4, quantity=0.1, prevalence=0.1, acquisition=0.1)\npanel"
)
ALONE = (
    "controls, wall, busy = panel.settings.controls, [], []\ncontrols['seed'].value = 1\n"
    f"for step in range({REPEATS}):\n"
    f"    slider = controls[{list(MOVED)}[step % {len(MOVED)}]]\n"
    "    begun, worked = time.perf_counter(), time.process_time()\n"
    "    slider.value += 0.05\n"
    "    wall.append(1000 * (time.perf_counter() - begun)), busy.append(1000 * (time.process_time() - worked))\n"
    "import statistics\npanel.reset_button.click()\n"
    "print('ALONE', *(round(f(x)) for x in (wall, busy) for f in"
    " (statistics.median, lambda x: statistics.quantiles(x, n=20)[-1])))"
)
WATCH = """
const done = arguments[arguments.length - 1], find = () => arguments[0].querySelector('.jp-RenderedImage img');
let old = find().src;
window.released = null;
document.addEventListener('keyup', () => { window.released ??= performance.now() }, {once: true, capture: true});
const look = () => {
  const now = find();
  if (now && now.src !== old && window.released !== null) {
    old = now.src;
    now.decode().then(() => requestAnimationFrame(() => { window.taken.push(performance.now() - window.released) }));
  }
  if (window.taken.length < 2) requestAnimationFrame(look);
};
window.taken = []; look(); done();
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "notebooks").mkdir()
        cells = [nbformat.v4.new_code_cell(source) for source in (OPEN, ALONE)]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), Path(home) / "notebooks" / "panel.ipynb")
        with browsing.laboratory(Path(home)) as address, browsing.chromium(1440, 900) as browser:
            browsing.open_notebook(browser, address, "panel.ipynb")
            browsing.run_all(browser)
            page = Panel(browser)
            texts = [one.text for one in browser.find_elements(By.CSS_SELECTOR, ".jp-OutputArea-output pre")]
            (alone,) = [text for text in texts if text.startswith("ALONE")]
            page.show()
            times = [moved(page, list(MOVED.values())[step % len(MOVED)]) for step in range(REPEATS)]
    wall, slow, busy, _ = map(int, alone.split()[1:])
    for column, what in enumerate(("sites", "shift")):
        middle, late = _middle_and_late([each[column] for each in times])
        print(f"from release to {what}: median {middle:.0f} ms, 95th percentile {late:.0f} ms, of {REPEATS}")
    print(f"in the process alone:  median {wall:.0f} ms, 95th percentile {slow} ms; processor {busy} ms")
    print(f"ratio of the last two: {middle / wall:.2f}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def _middle_and_late(times: list[float]) -> tuple[float, float]:
    """Return the median and the 95th percentile."""
    return statistics.median(times), statistics.quantiles(times, n=20)[-1]


def moved(page: Panel, slider: str) -> list[float]:
    """Press and release a key on a slider; return milliseconds until the page shows the new sites, and their shift."""
    page.browser.execute_async_script(WATCH, page.cell)
    page.press(slider, Keys.ARROW_RIGHT)
    both = "return window.taken.length == 2"
    browsing.until(page.browser, lambda: page.browser.execute_script(both), 60, "two pictures")
    time.sleep(0.1)
    return [float(each) for each in page.browser.execute_script("return window.taken")]


if __name__ == "__main__":
    main()
