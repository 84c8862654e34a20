"""Pictures of notebooks 00, 10 and 11 and their panel, to look at: `python tests/screenshots.py FOLDER [NUMBER ...]`.

Each notebook runs up to its panel on small phantoms, in a JupyterLab with its file browser open. Pictures are taken at
three sizes of the screen: the top of the notebook, and the panel before, during and after a training.
"""

import argparse
import tempfile
import time
from pathlib import Path

import browsing
from browsing import Panel, until

SIZES = (1280, 720), (1440, 900), (1920, 1080)
NOTEBOOKS = "00", "10", "11"
FEW = {'"phantoms"': '"phantoms(cases=600)"'}


def main(folder: Path, numbers: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    sources = {number: next((browsing.ROOT / "notebooks").glob(f"{number}-*.ipynb")) for number in numbers}
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "notebooks").mkdir()
        for source in sources.values():
            more = ("panel.comparison.budget |= {'rounds': 60}",)
            browsing.up_to_panel(source, Path(home) / "notebooks" / source.name, FEW, more, figures=True)
        with browsing.laboratory(Path(home)) as address, browsing.chromium() as browser:
            for number, source in sources.items():
                browsing.open_notebook(browser, address, source.name)
                browsing.run_all(browser)
                page = Panel(browser)
                shoot(page, folder, f"{number}-top", top=True)
                shoot(page, folder, f"{number}-panel-1-before")
                page.button("Train").click()
                until(browser, lambda page=page: "round 3 of" in page.cell.text, 300, "a round")
                shoot(page, folder, f"{number}-panel-2-training")
                page.button("Stop").click()
                until(browser, lambda page=page: page.button("Train").is_enabled(), 300, "the end")
                shoot(page, folder, f"{number}-panel-3-after")


def shoot(page: Panel, folder: Path, name: str, top: bool = False) -> None:
    """Save the page at all sizes."""
    for width, height in SIZES:
        browsing.resize(page.browser, width, height)
        if top:
            page.browser.execute_script("document.querySelector('.jp-NotebookPanel .jp-Cell').scrollIntoView()")
        else:
            page.show()
        time.sleep(1)  # until the page is laid out
        if not top:
            page.show()  # figures above it have another height now
        assert page.browser.save_screenshot(str(folder / f"{name}-{width}x{height}.png"))
        print(folder / f"{name}-{width}x{height}.png", page.boxes(), flush=True)


if __name__ == "__main__":
    read = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    read.add_argument("folder", type=Path)
    read.add_argument("number", nargs="*", help=f"of {NOTEBOOKS}, all by default")
    given = read.parse_args()
    main(given.folder.resolve(), given.number or list(NOTEBOOKS))
