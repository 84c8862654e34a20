"""What a saved page shows: no text of widgets, no paths of the kernel, a card with a curve for each run."""

import io
import warnings
from pathlib import Path

import ipywidgets
import numpy as np
from nbconvert import HTMLExporter
from nbformat import v4
from PIL import Image

from fedlab.core.warnings import ProtocolWarning
from fedlab.experiments.overview import curve
from fedlab.notebook import parameter_cell
from fedlab.notebook.output import show_controls

ROOT = Path(__file__).parents[2]


def test_each_figure_of_a_page_has_the_text_that_replaces_it():
    image = {"image/png": "iVBORw0KGgo="}
    shown = [
        v4.new_output("display_data", image, metadata={"image/png": {"alt": words}}) for words in ("<b> & 16 %", "B")
    ]
    notebook = v4.new_notebook(cells=[v4.new_code_cell("x", outputs=shown)])
    pages = HTMLExporter(template_name="fedlab", extra_template_basedirs=[str(ROOT / "docs" / "templates")])
    body, _ = pages.from_notebook_node(notebook)
    assert 'alt="&lt;b&gt; &amp; 16 %"' in body and 'alt="B"' in body and "No description" not in body


def test_controls_leave_a_line_about_them_where_only_text_is_shown(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda content, raw: shown.append(content))
    show_controls(ipywidgets.VBox([ipywidgets.IntSlider()]))
    assert "VBox" not in shown[0]["text/plain"] and "application/vnd.jupyter.widget-view+json" in shown[0]


def test_warnings_of_fedlab_are_shown_without_the_path_of_the_cell_and_others_as_usual(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # restored after the test
    parameter_cell.show_warnings_plainly()
    once = warnings.formatwarning
    parameter_cell.show_warnings_plainly()
    assert warnings.formatwarning is once
    shown = once("few cases", ProtocolWarning, "/tmp/ipykernel_1/2.py", 3, line="fedlab.compare(runs)")
    assert shown == "ProtocolWarning: few cases\n"
    assert "/tmp/other.py:3" in once("odd", RuntimeWarning, "/tmp/other.py", 3)


def test_the_card_of_a_run_has_a_curve_that_rises_with_the_values():
    picture = np.asarray(Image.open(io.BytesIO(curve(np.array([0.5, 0.6, 0.9])))))
    drawn = np.argwhere(picture[..., 3] > 0)
    left, right = drawn[drawn[:, 1].argmin()], drawn[drawn[:, 1].argmax()]
    assert right[0] < left[0] and curve(np.array([0.5])) == b""
