"""Differences are drawn at their values, filled where the interval excludes 0; conclusions say the same in words."""

import numpy as np
import pandas as pd
import pytest
from test_partition_plots import check_texts, comparison

import fedlab
from fedlab import plots
from fedlab.analysis.comparison import Comparison
from fedlab.evaluation.intervals.decisions import GAINS, UNKNOWN


def compared(sites: int = 3) -> pd.DataFrame:
    """Two methods against local: fedavg is better at the first site alone, cyclic nowhere."""
    frame = comparison(sites, ("local", "fedavg", "cyclic"))
    better = (frame["method"] == "fedavg") & (frame["site"] == "Site A")
    half = np.where(better, 0.05, 0.3)
    frame["difference"] = np.where(frame["method"] == "local", np.nan, np.where(better, 0.1, 0.02))
    frame["difference_low"], frame["difference_high"] = frame["difference"] - half, frame["difference"] + half
    frame["finding"] = np.where(frame["method"] == "local", "", np.where(better, GAINS, UNKNOWN))
    return frame


def test_marks_are_at_the_differences_and_filled_where_they_are_findings():
    figure, table = plots.differences(compared())
    check_texts(figure)
    marks = [line for line in figure.axes[0].lines if line.get_marker() not in ("None", None)]
    assert sorted(float(mark.get_xdata()[0]) for mark in marks) == pytest.approx(sorted(100 * table["gain"]))
    filled = [mark for mark in marks if mark.get_markerfacecolor() != "white"]
    assert [float(mark.get_xdata()[0]) for mark in filled] == pytest.approx([10.0])
    assert set(table["method"]) == {"fedavg", "cyclic"} and "pooled" not in set(table["site"])


def test_a_comparison_without_one_metric_and_a_reference_is_refused():
    with pytest.raises(ValueError, match="pass the rows of one"):
        plots.differences(pd.concat([compared(), compared().assign(metric="brier")]))
    with pytest.raises(ValueError, match="has no differences"):
        plots.differences(comparison(2, ("fedavg", "cyclic")))


def test_conclusions_state_findings_null_results_and_the_number_of_seeds():
    first, second, seeds = fedlab.conclusions(compared()).sentences
    assert first == (
        "fedavg is not shown to differ from local: mean AUROC over 3 sites +2.0 points, 95 % CI −28.0 to +32.0."
        " Of 3 sites 1 gains (Site A), none lose; at 2 the test cases cannot tell."
    )
    assert second.startswith("cyclic is not shown") and "none gain, none lose; at 3 the" in second
    assert "one random seed" in seeds
    assert not any("one random" in one for one in fedlab.conclusions(compared().assign(seeds=3)).sentences)


def test_conclusions_take_figures_and_texts_and_escape_both():
    drawing = plots.differences(compared())
    found = fedlab.conclusions(drawing, "<b>x</b>")
    assert found.sentences[0] == f"{drawing.title}." and "&lt;b&gt;x" in found._repr_html_()
    assert repr(found).count("\n- ") == 1
    with pytest.raises(TypeError, match="found a int: pass what"):
        fedlab.conclusions(3)


def test_a_long_comparison_is_a_card_with_counts_and_a_folded_table():
    frame = compared()
    hostile = frame.assign(method=frame["method"].replace("fedavg", "<script>"))
    page = Comparison(hostile)._repr_html_()
    assert "<details>" in page and "gains at 1" in page and "<script>" not in page and "fedlab.conclusions(" in page
    assert Comparison(frame.head(3))._repr_html_().startswith("<div>")
