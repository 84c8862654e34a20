"""The report card shows every text as the user wrote it."""

import html
import re
import string

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import cases

import fedlab
from fedlab.data.cases import Cases
from fedlab.experiments import origin
from fedlab.experiments.report_card import as_written
from fedlab.partitioning.partitions import Partition

MARKS = "|_*`~<>[]()#$&\\ !-+.{}\"'aZ9äß中🙂\n"


def shown(markdown: str) -> str:
    """What a reader of inline Markdown sees, as CommonMark defines escapes, entities and line breaks."""
    parts = re.split(r"(\\.|<br>)", markdown)
    literal = {"<br>": "\n"}
    found = []
    for part in parts:
        if part in literal or re.fullmatch(rf"\\[{re.escape(string.punctuation)}]", part):
            found.append(literal.get(part, part[1:]))
        else:
            assert not re.search(r"[`*\[\]<>|~$#]|&\w+;|(?<![^\W_])_|_(?![^\W_])", part), part
            found.append(html.unescape(part))
    return "".join(found)


@settings(max_examples=30, deadline=None)
@given(st.text(MARKS, max_size=40))
def test_a_text_is_shown_as_it_was_written(text):
    assert shown(as_written(text)) == text
    assert "\n" not in as_written(text)


@pytest.mark.parametrize("text", ["a\r\nb", "a\x00b", "a\x1b[31mb", "\u2028x"])
def test_no_control_character_is_left(text):
    assert not re.search(r"[\x00-\x1f\x7f\u2028]", as_written(text))


def test_names_with_marks_change_no_line_of_the_card(tmp_path):
    """Site and class names with marks of Markdown; every row of a table has as many cells as its head."""
    sites = ["A|B", "<b>C</b>", "_x_ *y*\nz"]
    data = cases(36, (1, 4, 4))
    card = data.card | {"classes": ["no|ne", "`so|me`"], "title": "# T<i>", "source": "a|b_*c*", "licence": "[x](y)"}
    data = Cases(data.images, data.table, card)
    table = {"case": data.table["case"], "site": np.repeat(sites, 12), "split": ["train", "train", "val", "test"] * 9}
    part = Partition.from_sites(data, pd.DataFrame(table))
    run = fedlab.run(fedlab.Experiment(model="logistic", rounds=1, device="cpu"), part, folder=tmp_path)
    text = (run.folder / "card.md").read_text(encoding="utf-8")
    assert text.startswith(r"# fedavg on \# T\<i\>")
    for name in [*part.sites, r"a|b_*c*", "[x](y)"]:
        assert as_written(name) in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 2
    for lines in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


@pytest.fixture
def unread_versions():
    """Versions of packages are read again in this test, and again after it."""
    origin._installed.cache_clear()
    yield
    origin._installed.cache_clear()


def test_a_run_from_a_checkout_ends_well_though_fedlab_is_not_installed(monkeypatch, unread_versions):
    def missing(name):
        raise origin.PackageNotFoundError(name)

    monkeypatch.setattr(origin, "version", missing)
    monkeypatch.setattr(origin, "requires", missing)
    assert origin.packages()["fedlab-workbench"] == "not installed as a package"
