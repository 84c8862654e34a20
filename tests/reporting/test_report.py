"""Laws of the report: its numbers are those of the comparison, it needs nothing else, and names stay names."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

import fedlab
from fedlab.analysis.alignment import MEAN
from fedlab.data.cases import Cases
from fedlab.reporting import evidence, setting, site_tables
from fedlab.reporting.evidence import pooled_scores
from fedlab.reporting.findings import Finding, interval, number
from fedlab.reporting.gather import Federation, collect
from fedlab.reporting.markup import element
from fedlab.reporting.methods import evaluation, paragraph, split_how

HOSTILE = ["<script>alert(1)</script>", "$x$ _&%#{}~^\\ 'y' \"z\"", "Universitätsklinikum Köln", "N" * 60]
ODD_CLASSES = ["<b>normal</b>", "$tumour$ &amp;"]
ODD_COLUMN = "<i>dose</i>"


def odd_cases(n: int = 240) -> Cases:
    """Cases whose classes, columns and dataset have names that would be markup, with ages that some lack."""
    rng = np.random.default_rng(0)
    label = np.arange(n) % 2
    images = (rng.integers(0, 120, (n, 1, 8, 8)) + 60 * label[:, None, None, None]).astype(np.uint8)
    table = pd.DataFrame({"case": [f"c{k}" for k in range(n)], "label": label, "patient": [f"p{k}" for k in range(n)]})
    table["age"] = np.where(np.arange(n) % 10 == 0, np.nan, rng.integers(20, 90, n))
    table[ODD_COLUMN] = rng.choice(["<u>low</u>", "high"], n)
    return Cases(images, table, {"name": "odd", "title": "<h1>Odd</h1>", "task": "binary", "classes": ODD_CLASSES})


pytestmark = pytest.mark.xdist_group("report")  # one report serves most tests


@pytest.fixture(scope="module")
def part():
    cases = odd_cases()
    return fedlab.Partition.from_sites(cases, [HOSTILE[k % 4] for k in np.arange(len(cases)) // 2])


@pytest.fixture(scope="module")
def runs(part, tmp_path_factory):
    base = fedlab.Experiment(model="logistic", rounds=1, batch_size=16)
    return fedlab.grid(base, partition=part, folder=tmp_path_factory.mktemp("runs"), method=["local", "fedavg"])


@pytest.fixture(scope="module")
def text(part, runs, tmp_path_factory):
    return fedlab.report(runs, tmp_path_factory.mktemp("r") / "report.html", partition=part).read_text("utf-8")


def root(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def words(found: ElementTree.Element) -> str:
    return " ".join(" ".join(found.itertext()).split())


def test_every_number_of_the_finding_is_the_comparisons(text, runs):
    (section,) = [one for one in root(text).iter("section") if one.get("class") == "finding"]
    table = fedlab.compare(runs)
    expected = ["95", "95"]  # of the heads
    rule = ["95", "0", "90", "0.02"]  # of the note on when a site gains
    for method in ("fedavg", "local", "fedavg"):  # in the sentence, then row by row
        rows = table[(table["method"] == method)]
        mean, local = (table[(table["method"] == one) & (table["site"] == MEAN)].iloc[0] for one in (method, "local"))
        parts = [interval(*mean[["value", "low", "high"]])]
        if len(expected) == 2:
            parts += ["4", interval(*local[["value", "low", "high"]])]
        if method != "local":
            parts += [interval(*mean[["difference", "difference_low", "difference_high"]], True)]
            counts = rows[rows["site"].isin(runs[0].partition_table["site"])]["finding"].value_counts()
            parts += ["4"] * (len(expected) == 2)
            numbers = [str(counts.get(word, 0)) for word in ("gains", "loses", "no different", "cannot tell")]
            parts += [number for number in numbers if len(expected) > 2 or number != "0"]  # none, in the sentence
        expected += re.findall(r"[+−]?\d+(?:\.\d+)?", " ".join(parts))
    assert sorted(re.findall(r"[+−]?\d+(?:\.\d+)?", words(section))) == sorted([*expected, *rule])


def test_every_row_of_the_table_is_a_row_of_the_comparison(text, runs):
    (found,) = [one for one in root(text).iter("details") if words(one).startswith("Table: every method at every site")]
    shown = [[words(cell) for cell in row] for row in list(found.iter("tr"))[1:]]
    table = fedlab.compare(runs).to_dict("records")
    for cells, row in zip(shown, table, strict=True):
        ends = row["difference"], row["difference_low"], row["difference_high"]
        gain = "–" if row["method"] == row["versus"] else interval(*ends, True)
        assert cells[:3] == [row["method"], " ".join(row["site"].split()), f"{row['cases']:,}"]
        assert cells[3:5] == [interval(row["value"], row["low"], row["high"]), gain]
        assert cells[6:] == [row["finding"], str(row["seeds"])]
        assert row["note"] in words(found)


def test_the_notebook_reports_the_runs_that_it_compares():
    path = Path(__file__).parents[2] / "notebooks" / "51-global-versus-local.ipynb"
    cells = json.loads(path.read_text("utf-8"))["cells"]
    code = "\n".join("".join(one["source"]) for one in cells if one["cell_type"] == "code")
    (compared,) = re.findall(r"^table = fedlab\.compare\((\w+)\)", code, re.M)
    assert re.findall(r"^fedlab\.report\((\w+), ", code, re.M) == [compared]


def test_the_file_needs_nothing_from_elsewhere_and_runs_no_script(text):
    page = root(text)
    for part in page.iter():
        for name in ("src", "href", "action", "data"):
            assert part.get(name, "data:").startswith("data:image/png;base64,") or part.get(name) is None
        assert part.tag != "script"
        assert not any(name.startswith("on") for name in part.attrib)
    assert "url(" not in text
    assert "@import" not in text


def test_names_are_shown_as_they_are_written_and_are_never_markup(text):
    page, shown = root(text), words(root(text))
    for name in (*HOSTILE, *ODD_CLASSES, "<h1>Odd</h1>"):
        assert name in shown
    assert not [part for part in page.iter() if part.tag in ("script", "b", "u", "i")]
    assert len(list(page.iter("h1"))) == 1
    for raw in ("<script", "<b>", "<u>", "<i>"):
        assert raw not in text


def test_each_figure_has_its_title_as_alternative_text(text):
    images = list(root(text).iter("img"))
    assert len(images) >= 4
    assert all(len(image.get("alt")) > 20 for image in images)
    assert len({image.get("alt") for image in images}) == len(images)


def test_runs_their_folders_and_the_folder_of_all_are_the_same_runs(runs):
    root = runs[0].folder.parent
    for given in (runs, [run.folder for run in runs], root, str(root), [root, *runs], runs[0].folder):
        found = {run.folder for run in collect(given)}
        assert found == {run.folder for run in runs[: 1 if given == runs[0].folder else None]}


def test_calibration_is_that_of_the_pooled_rows_of_the_comparison(runs):
    table = fedlab.compare(runs, "brier").query("site == 'pooled'")
    for score, row in zip(pooled_scores(runs, "brier", {}), table.to_dict("records"), strict=True):
        assert (score.value, *score.limits) == (row["value"], row["low"], row["high"])


def test_the_methods_paragraph_says_what_the_experiment_says(runs, part):
    text = fedlab.methods_paragraph(runs)
    table = part.table
    sizes = table[table["split"] == "train"]["site"].value_counts()
    span = f"{sizes.min()} to {sizes.max()}" if sizes.nunique() > 1 else str(sizes.max())
    for count in (f"{len(sizes)} sites", span):
        assert count in text
    for field in ("model", "lr", "momentum", "weight_decay", "optimizer", "schedule"):
        assert str(getattr(runs[0].experiment, field)) in text
    numbers = {float(one) for one in re.findall(r"\d+\.?\d*", text.split("Software")[0].replace(part.cases.name, ""))}
    counts = {*sizes, *table["split"].value_counts(), len(sizes), len(runs), 95}
    fields = {
        runs[0].experiment.model_dump()[name] for name in ("lr", "momentum", "weight_decay", "rounds", "batch_size")
    }
    names = {float(one) for name in ODD_CLASSES for one in re.findall(r"\d+", name)}
    assert numbers <= {float(one) for one in counts | fields | names | {runs[0].experiment.local_epochs, 1}}


@pytest.mark.filterwarnings("ignore")
def test_the_methods_paragraph_promises_the_intervals_that_the_table_has(runs, part):
    """`compare` has none over two seeds, and differences between several methods only."""
    more = fedlab.grid(runs[0].experiment, partition=part, folder=runs[0].folder.parents[1] / "seeds", seed=[1, 2])
    for few in (runs[:1], [runs[0], more[0]], [runs[0], *more], runs):
        table, text = fedlab.compare(few), " ".join(evaluation(Federation(few)))
        assert ("95 % confidence intervals" in text) == table["low"].notna().any()
        assert ("differences between methods" in text) == (table["method"].nunique() > 1)


def test_bad_input_is_refused(runs, tmp_path):
    for given in ([], tmp_path, tmp_path / "nothing", [3]):
        with pytest.raises(ValueError, match=r"give|pass|run an experiment"):
            fedlab.report(given, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_an_element_escapes_whatever_is_no_markup():
    found = element("p", "<x>", element("b", "&"), title='"><script>')
    assert ElementTree.fromstring(found).get("title") == '"><script>'
    assert found == '<p title="&quot;&gt;&lt;script&gt;">&lt;x&gt;<b>&amp;</b></p>'


def test_a_number_that_is_rounded_to_0_has_no_sign():
    assert [number(value, signed=True) for value in (-0.0004, 0.0004, 0.0006)] == ["0.000", "0.000", "+0.001"]


@pytest.mark.parametrize(
    ("sites", "said"),
    [
        ({"gains": "", "loses": "", "no different": "A", "cannot tell": "BC"},
         "Of 4 sites none gains or loses, 1 is no different; at 2 the test cases cannot tell and at 1 there are"
         " too few to test"),
        ({"gains": "AB", "loses": "", "no different": "", "cannot tell": "CD"},
         "Of 4 sites 2 gain, none loses; at 2 the test cases cannot tell"),
        ({"gains": "A", "loses": "BC", "no different": "D", "cannot tell": ""},
         "Of 4 sites 1 gains, 2 lose, 1 is no different"),
    ],
)  # fmt: skip
def test_the_counts_of_a_finding_name_what_was_found(sites, said):
    unknown = (0.1, np.nan, np.nan)
    found = Finding("fedavg", "auroc", "local", unknown, unknown, unknown, {k: list(v) for k, v in sites.items()}, 4)
    assert found.sentences().endswith(f"{said}.") and "(no interval: too few test cases)" in found.sentences()


def test_a_dataset_that_names_no_patients_is_said_to_name_none(runs, part):
    cases = part.cases
    bare = Cases(cases.images, cases.table.drop(columns="patient"), cases.card | {"caution": "twins may be split"})
    known, unknown = (Federation(runs, partition=one) for one in (part, fedlab.Partition.from_sites(bare, part.table)))
    assert "240 cases of 240 patients" in setting.compared(known) and setting.unknown_patients(known) == ""
    page = setting.compared(unknown)
    assert "240 cases, 240 cases at sites" in page and "each different image counts as a patient, 240 patients" in page
    assert "Twins may be split" in page
    assert "does not name patients" in paragraph(unknown) and "does not name patients" not in paragraph(known)
    for federation, unit in ((known, "patient"), (unknown, "image")):
        found = evidence.judged(federation, None, None)[0]
        other = {"patient": "image", "image": "patient"}[unit]
        assert found["sentence"].str.contains(f"test {unit}").any() and not found["sentence"].str.contains(other).any()
        heads = [text.get_text() for text in fedlab.plots.verdict(found).figure.axes[0].texts]
        assert f"test {unit}s\n(rarer class)" in heads
        assert re.search(rf"take the (different )?{unit} as the unit", paragraph(federation))
    pages = [site_tables.sites_of(one) for one in (known, unknown)]
    assert ["different images" in page for page in pages] == [False, True]
    assert ["patients" in page.replace(site_tables.NOTE, "") for page in pages] == [True, False]


def test_a_mean_without_an_interval_says_what_both_reach_and_why_there_is_none():
    means = ((9.1, np.nan, np.nan), (12.3, np.nan, np.nan), (-3.2, np.nan, np.nan))
    found = Finding("fedavg", "mae", "local", *means, {}, 4, "2 seeds allow none, one or 3 and more do")
    assert found.sentences() == (
        "fedavg reaches MAE 9.100 in the mean of 4 sites, local 12.300; the difference is −3.200 (no interval: 2 seeds"
        " allow none, one or 3 and more do). At no site can a difference be shown."
    )
    local = Finding("local", "mae", "local", means[1], means[1], (0.0, 0.0, 0.0), {}, 4)
    assert local.sentences() == "local reaches MAE 12.300 in the mean of 4 sites."


def test_the_figure_of_sites_counts_training_and_test_cases_and_those_of_the_second_class(text):
    alternatives = [str(image.get("alt")) for image in root(text).iter("img")]
    assert any(f"n: training / test cases (with {ODD_CLASSES[1]})" in words for words in alternatives)


def test_cases_that_left_their_split_are_part_of_how_splits_were_made():
    note = "8 val cases went to train, where images of the same patient, or copies of theirs, are"
    for notes, said in (([], ""), ([note], f", but {note}"), (["quantity was lowered"], "")):
        run = SimpleNamespace(partition_spec={"splits": "official", "notes": notes})
        assert split_how(run) == f"The splits are those of the dataset{said}"
