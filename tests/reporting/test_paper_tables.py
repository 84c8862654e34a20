"""Tables of a paper hold the numbers of the frame, to the decimals that are wanted, and names stay names."""

import csv
import io
import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

import fedlab
from fedlab.partitioning.description import latex

HOSTILE = ["<script>alert(1)</script>", "$x$ _&%#{}~^\\", "N" * 60, "Köln 東京 é̂", "[a] * b", "=1+2", "nul\0\ttab"]
BACK = {r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<",
        r"\textgreater{}": ">"}  # fmt: skip


def frame(metric: str = "auroc") -> pd.DataFrame:
    """A frame as `fedlab.compare` makes it, with sites of hostile names."""
    n = len(HOSTILE)
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"method": ["fedavg"] * n, "site": HOSTILE, "metric": metric, "value": rng.random(n)})
    table = table.assign(low=table["value"] - 0.1, high=table["value"] + 0.1, versus="local")
    return table.assign(difference=-0.05, difference_low=-0.1, difference_high=0.00001)


def parsed(text: str) -> str:
    """What LaTeX shows of an escaped text."""
    for escape, letter in BACK.items():
        text = text.replace(escape, letter)
    return re.sub(r"\\([&%$#_{}])", r"\1", text)


@pytest.mark.parametrize("decimals, percent", [(None, False), (2, False), (0, True), (None, True), (6, False)])
def test_numbers_are_those_of_the_frame_to_the_wanted_decimals(decimals, percent):
    table, source = fedlab.paper_table(frame(), decimals=decimals, percent=percent), frame()
    places = (1 if percent else 3) if decimals is None else decimals
    for row, line in zip(table.rows, source.to_dict("records"), strict=True):
        values = [line[name] * (100 if percent else 1) for name in ("value", "low", "high")]
        shown = [float(one.replace("−", "-")) for one in re.findall(r"−?\d+\.?\d*", row[2])]
        np.testing.assert_allclose(shown, values, atol=0.5 * 10**-places + 1e-12)
    assert ("%" in table.head[2].replace("95 %", "")) is percent
    assert table.head[3].startswith(f"difference to local{', percentage points' * percent} (95 % CI)")


def test_a_metric_that_is_no_share_stays_as_it_is_in_percent():
    assert fedlab.paper_table(frame("log_loss"), percent=True).rows == fedlab.paper_table(frame("log_loss")).rows


def test_a_difference_that_rounds_to_zero_has_no_sign_and_a_negative_one_a_true_minus():
    assert fedlab.paper_table(frame(), decimals=3).rows[0][3] == "−0.050 (−0.100 to 0.000)"


def test_names_are_text_in_every_format():
    table = fedlab.paper_table(frame())
    names = [row[1] for row in table.rows]
    assert names[:4] == HOSTILE[:4]
    page = ElementTree.fromstring(table.to_html())
    assert [row[1].text for row in page.iter("tr")][1:] == names and not list(page.iter("script"))
    lines = [line for line in table.to_latex().splitlines() if line.endswith(r"\\")]
    cells = [re.split(r"(?<!\\)&", line.removesuffix(r"\\")) for line in lines]
    assert {len(each) for each in cells} == {len(table.head)}
    assert [parsed(each[1].strip()) for each in cells[1:]] == [" ".join(name.split()) for name in names]
    read = list(csv.reader(io.StringIO(table.to_csv())))
    assert [row[1].removeprefix("'") for row in read[1:]] == names
    assert not any(cell.startswith(("=", "@")) for row in read for cell in row)


def test_a_row_never_begins_with_what_the_end_of_the_line_above_would_take_for_its_argument():
    rows = fedlab.paper_table(frame()[["site", "value"]]).to_latex().splitlines()
    assert not any(row.startswith(("[", "*")) for row in rows) and any(row.startswith("{}[a]") for row in rows)


def test_latex_has_only_letters_that_every_engine_knows_besides_those_of_names():
    assert all(ord(letter) < 128 for letter in latex("−0.1 – 0.2 … 3 × 4 ≥ 5 ≤ ∞"))


def test_files_are_written_by_their_ending(tmp_path):
    table = fedlab.paper_table(frame())
    for name in ("t.tex", "t.html", "t.csv"):
        assert table.save(tmp_path / "new" / name).stat().st_size > 100
    assert (tmp_path / "new" / "t.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    with pytest.raises(ValueError, match=r"\.tex, \.html or \.csv"):
        table.save(tmp_path / "t.docx")
    for wrong in (7, -1, True, 1.5):
        with pytest.raises(ValueError, match="0 to 6"):
            fedlab.paper_table(frame(), decimals=wrong)


def test_the_table_of_sites_is_the_one_that_describe_prints():
    described = fedlab.partition(fedlab.load("phantoms(cases=60, size=16)"), sites=2).describe()
    table = fedlab.paper_table(described)
    assert table.head[1:] == list(described.wide().columns) and len(table.rows) == len(described.wide())
    assert table.to_latex() == described.to_latex()
