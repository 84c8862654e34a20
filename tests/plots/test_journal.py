"""A figure in print is as wide as wanted, its texts are large enough to read, and drawing it changes nothing."""

import re
import zlib

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from study_frames import study_table
from test_any_names_and_numbers import contributed, predicted, prediction_sets, recalibrated
from test_partition_plots import FakePartition, check_texts, comparison, fake_run
from test_predicted_numbers import run as aged
from test_segmentation_figures import run as segmented

from fedlab import plots
from fedlab.plots import operating_curves, predicted_numbers, save_for_print, segmentation
from fedlab.plots.journal import smallest_text
from fedlab.plots.paper import HIGHEST, paper


def figure(size: float = 9.0) -> Figure:
    found = Figure(figsize=(6, 2))
    ax = found.subplots()
    ax.plot([0, 1], [0, 1])
    ax.tick_params(labelsize=size)
    ax.set_title("Köln $x$ <b>", parse_math=False, fontsize=size)
    return found


@pytest.mark.parametrize("width", [120, 180])
def test_both_files_have_the_width_of_the_print(width, tmp_path):
    one = figure()
    before = (one.dpi, *one.get_size_inches(), smallest_text(one))
    pdf, tiff = save_for_print(one, tmp_path, "a", width, dpi=150)
    (box,) = re.findall(rb"/MediaBox \[ *([\d. ]+)\]", pdf.read_bytes())
    _, _, right, top = map(float, box.split())
    assert (right / 72 * 25.4, right / top) == (pytest.approx(width, abs=0.01), pytest.approx(3))
    picture = Image.open(tiff)
    assert picture.width / float(picture.info["dpi"][0]) * 25.4 == pytest.approx(width, abs=0.3)
    assert picture.height / picture.width == pytest.approx(1 / 3, abs=0.01) and np.asarray(picture).std() > 10
    assert (one.dpi, *one.get_size_inches(), smallest_text(one)) == before


def test_lines_reach_the_end_of_the_axes_in_the_pdf(tmp_path):
    one = figure()
    pdf, _ = save_for_print(one, tmp_path, "a", 120, dpi=50)
    one.set_dpi(72)
    right = float(one.axes[0].transData.transform((1, 1))[0])
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf.read_bytes(), re.S)
    drawn = b"\n".join(zlib.decompress(each) for each in streams if each.startswith(b"x"))
    ends = [float(x) for x, _ in re.findall(rb"([\d.]+) ([\d.]+) l\b", drawn)]
    assert right > 120 / 25.4 * 72 and any(end == pytest.approx(right, abs=0.1) for end in ends)


def test_a_text_that_would_be_too_small_to_read_is_refused_with_a_width_that_is_not(tmp_path):
    with pytest.raises(ValueError, match=r"smallest text would have 5\.0 points.* 102 mm") as refused:
        save_for_print(figure(9), tmp_path, "a", 85)
    assert not list(tmp_path.iterdir())
    enough = int(re.findall(r"of (\d+) mm", str(refused.value))[0])
    save_for_print(figure(9), tmp_path, "a", enough, dpi=50)
    for wrong in (10, True, 1000):
        with pytest.raises(ValueError, match="in mm"):
            save_for_print(figure(), tmp_path, "a", wrong)


def test_a_figure_whose_texts_would_be_cut_at_its_edge_is_refused(tmp_path):
    one = figure()
    one.axes[0].annotate("a gain with its interval", (1.0, 0.5), xycoords="axes fraction", annotation_clip=False)
    with pytest.raises(ValueError, match=r"\d mm of the figure are beyond its edges .*constrained"):
        save_for_print(one, tmp_path, "a", 150, dpi=50)
    assert not list(tmp_path.iterdir())
    one.set_layout_engine("constrained")
    save_for_print(one, tmp_path, "a", 150, dpi=50)


@pytest.mark.parametrize(("width", "sites"), [(85, 40), (180, 2)])
def test_figures_drawn_for_a_width_in_print_can_be_read_at_it_and_are_no_higher_than_a_page(width, sites, tmp_path):
    drawn = plots.local_vs_global(comparison(sites, ("local", "fedavg")), width=width).figure
    check_texts(drawn)
    wide, high = drawn.get_size_inches()
    assert high / wide * width <= HIGHEST + 0.1
    save_for_print(drawn, tmp_path, "a", width, dpi=20)


STUDY = ("prevalence", "acquisition", "presentation", "sites")
LONG = [
    "Charité – Universitätsmedizin Berlin",
    "University Hospital Schleswig-Holstein",
    "<script>$x$_&%\\",
    "St. Thomas",
]
PRINTED = {
    "differences": lambda sites, methods, **look: plots.differences(comparison(sites, methods), **look),
    "curves": lambda sites, methods, **look: plots.curves([fake_run(one, sites=sites) for one in methods], **look),
    "partition": lambda sites, methods, **look: plots.partition(FakePartition(sites), **look),
    "conformal": lambda sites, methods, **look: plots.conformal(prediction_sets(sites), **look),
    "recalibration": lambda sites, methods, **look: plots.recalibration(recalibrated(sites), **look),
    "contributions": lambda sites, methods, **look: plots.contributions(contributed(sites), **look),
    "costs_of_heterogeneity": lambda sites, methods, **look: plots.costs_of_heterogeneity(
        study_table(STUDY[: len(sites) // 2], methods), **look
    ),
    "case_scores": lambda sites, methods, **look: plots.case_scores([segmented(one) for one in methods], **look),
    "volume_agreement": lambda sites, methods, **look: plots.volume_agreement(
        [segmented(one) for one in methods], **look
    ),
    "predicted_vs_true": lambda sites, methods, **look: plots.predicted_vs_true([aged(one) for one in methods], **look),
    "roc": lambda sites, methods, **look: plots.roc([], **look),
    "net_benefit": lambda sites, methods, **look: plots.net_benefit([], thresholds=[0.2, 0.5], **look),
    "reliability": lambda sites, methods, **look: plots.reliability([], **look),
    "risk_coverage": lambda sites, methods, **look: plots.risk_coverage([], coverages=[0.5, 1.0], **look),
}


@pytest.mark.each_value
@pytest.mark.parametrize(("width", "count"), [(85, 2), (85, 8), (180, 4)])
@pytest.mark.parametrize("plot", PRINTED)
def test_each_figure_for_a_width_has_texts_of_7_points_that_do_not_touch_on_one_page(
    plot, width, count, monkeypatch, tmp_path
):
    sites = [*LONG, *(f"Site {k}" for k in range(4))][:count]
    methods = ("local", "fedavg", "fedprox(mu=0.01)", "swarm(secure=True)")[: max(2, count // 2)]
    monkeypatch.setattr(operating_curves, "_places", lambda *_, **__: (predicted(sites, list(methods)), 4))
    monkeypatch.setattr(segmentation, "listed", list)
    monkeypatch.setattr(predicted_numbers, "listed", list)
    drawn = PRINTED[plot](sites, methods, width=width).figure
    check_texts(drawn)
    wide, high = drawn.get_size_inches()
    assert high / wide * width <= HIGHEST + 0.1
    assert smallest_text(drawn) * width / 25.4 / wide >= 6.99
    assert drawn.axes[0].bbox.width > 0.25 * drawn.bbox.width
    save_for_print(drawn, tmp_path, "a", width, dpi=20)


def test_a_figure_that_needs_more_than_a_column_is_refused_with_a_width_that_suffices():
    table = study_table(STUDY[:2])
    with pytest.raises(ValueError, match="cannot be drawn for 85 mm") as refused:
        plots.distance(table, width=85)
    check_texts(plots.distance(table, width=int(re.findall(r"(\d+) mm or more", str(refused.value))[0])).figure)
    with pytest.raises(ValueError, match="So many classes cannot be drawn for 85 mm"):
        plots.partition(FakePartition(3, tuple(f"Diagnosis {k}" for k in range(20))), width=85)


def test_a_figure_higher_than_a_page_is_refused_with_a_width_at_which_it_fits(tmp_path):
    one = figure(14)
    one.set_layout_engine("constrained")
    one.set_size_inches(4, 8)
    with pytest.raises(ValueError, match=r"at 180 mm the figure would be 360 mm high, more than a page \(230 mm\)"):
        save_for_print(one, tmp_path, "a", 180, dpi=20)
    assert not list(tmp_path.iterdir())
    save_for_print(one, tmp_path, "a", 115, dpi=20)


@pytest.mark.parametrize(
    ("panels", "across", "blank"), [(3, 3, 0), (4, 4, 0), (5, 3, 1), (6, 3, 0), (9, 4, 3), (8, 4, 0)]
)
def test_panels_leave_few_cells_of_a_row_blank_and_a_blank_cell_holds_the_legend(panels, across, blank, monkeypatch):
    grid = operating_curves._grid(panels, 4, paper(180, 0, None))
    assert (grid.panels, grid.across, grid.blank) == (panels, across, blank)
    sites = [f"Site {k}" for k in range(panels - 1)]
    monkeypatch.setattr(operating_curves, "_places", lambda *_, **__: (predicted(sites, ["local", "fedavg"]), 4))
    ax = plots.risk_coverage([], coverages=[0.5, 1.0], width=180).figure.axes[0]
    box, last = ax.get_legend().get_window_extent(), ax.child_axes[-1].bbox
    assert bool(box.y1 < last.y1 + 1 and box.x0 > last.x1) is bool(blank)


def test_counts_are_below_names_in_a_column_and_a_width_that_cannot_be_is_refused():
    wide, narrow = (
        plots.local_vs_global(comparison(1, ("local",)), width=width).figure.axes[0].get_yticklabels()[0].get_text()
        for width in (None, 85)
    )
    assert wide.replace("  ", "\n") == narrow and "\nn=" in narrow
    for wrong in (40, True, 250):
        with pytest.raises(ValueError, match=r"80 to 200: 85 for a column"):
            plots.flow(FakePartition(2), width=wrong)
    with pytest.raises(ValueError, match="leave out one of the two"):
        plots.flow(FakePartition(2), width=85, ax=figure().axes[0])
