"""`paper_table`: a table of results as LaTeX, HTML to paste into Word, or CSV, with decimals or percent as wanted."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedlab.core import files
from fedlab.evaluation import report_metrics
from fedlab.learning import mask_metrics
from fedlab.partitioning.description import SiteTable, latex_table
from fedlab.plots.names import plain
from fedlab.reporting.markup import Markup, element

SHARES = ("auroc", "average_precision", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "ece")
NUMBERS = {
    "value": ("low", "high"),
    "difference": ("difference_low", "difference_high"),
    "gap": ("gap_low", "gap_high"),
}
SIGNED = ("difference", "gap")
LEFT_OUT = ("low", "high", "interval", "varied", "p_value", "versus", "seeds", "budget", "metric", "column", "classes",
            "support", "megabytes", "messages", "steps", "samples", "rounds")  # fmt: skip
FORMULA = ("=", "@", "+", "-", "\t")  # at the start of a cell, which a spreadsheet would compute
BORDER = "border-bottom:1px solid #999;padding:2px 8px;text-align:"
SUFFIXES = {".tex": "to_latex", ".html": "to_html", ".csv": "to_csv"}


@dataclass(frozen=True)
class PaperTable:
    """A table of text: a head and rows, whose first column names the row.

    Attributes
    ----------
    head : list of str
        Names of the columns.
    rows : list of list of str
        Cells, each as it is printed.
    """

    head: list[str]
    rows: list[list[str]]

    def to_latex(self) -> str:
        """The table as LaTeX (booktabs), in which names are text. Names in other scripts need LuaLaTeX or XeLaTeX.

        Returns
        -------
        str
        """
        aligned = ["r" if k and any(_is_number(row[k]) for row in self.rows) else "l" for k in range(len(self.head))]
        return latex_table(self.head, self.rows, "".join(aligned))

    def to_html(self) -> str:
        """A page with the table, to open in a browser and paste into Word; names are text.

        Returns
        -------
        str
        """

        def cell(kind: str, text: str) -> Markup:
            return element(kind, text, style=BORDER + ("right" if _is_number(text) else "left"))

        head = element("tr", *(cell("th", name) for name in self.head))
        body = [element("tr", *(cell("td", text) for text in row)) for row in self.rows]
        table = element("table", element("thead", head), element("tbody", *body), style="border-collapse:collapse")
        page = element("html", element("head", element("meta", charset="utf-8")), element("body", table))
        return f"<!DOCTYPE html>\n{page}\n"

    def to_csv(self) -> str:
        """The table as CSV; a cell that a spreadsheet would take for a formula begins with an apostrophe.

        Returns
        -------
        str
        """
        rows = [[_no_formula(cell) for cell in row] for row in self.rows]
        return pd.DataFrame(rows, columns=[_no_formula(name) for name in self.head]).to_csv(index=False)

    def save(self, file: str | Path) -> Path:
        """Write the table; the ending of the file decides how.

        Parameters
        ----------
        file : str or Path
            A name that ends in .tex, .html or .csv.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        ValueError
            For another ending.
        """
        target = files.resolve(file)
        if target.suffix not in SUFFIXES:
            raise ValueError(
                f"{file} ends in {target.suffix or 'nothing'}: give a name that ends in .tex, .html or .csv"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        text = str(getattr(self, SUFFIXES[target.suffix])())
        files.write_text(target, ("\ufeff" if target.suffix == ".csv" else "") + text)  # by which Excel sees UTF-8
        return target

    def __repr__(self) -> str:
        return pd.DataFrame(self.rows, columns=self.head).to_string(index=False)

    def _repr_html_(self) -> str:
        return self.to_html()


def paper_table(table: pd.DataFrame, *, decimals: int | None = None, percent: bool = False) -> PaperTable:
    """Write a table of results as it is printed in a paper: a value with its interval in one cell.

    Parameters
    ----------
    table : pandas.DataFrame
        What `fedlab.compare`, `fedlab.subgroups`, `fedlab.checklist`, `Partition.describe` or any other function of
        fedlab returned.
    decimals : int, optional
        Of values and their intervals; 3 by default, 1 in percent. `Partition.describe` has its own.
    percent : bool, default False
        Write metrics that are shares (AUROC, accuracy, sensitivity, Dice, ...) in percent, and their differences in
        percentage points. Other metrics, such as the log loss, stay as they are.

    Returns
    -------
    PaperTable
        `.to_latex()`, `.to_html()`, `.to_csv()`, and `.save("table.tex")`.

    Raises
    ------
    ValueError
        If decimals is no number from 0 to 6.

    Examples
    --------
    >>> import pandas as pd
    >>> import fedlab
    >>> frame = pd.DataFrame({"method": ["fedavg"], "metric": "auroc", "value": 0.8714, "low": 0.84, "high": 0.9})
    >>> fedlab.paper_table(frame, decimals=2).rows
    [['fedavg', '0.87 (0.84 to 0.90)']]
    >>> print(fedlab.paper_table(frame, percent=True).to_csv().splitlines()[1])
    fedavg,87.1 (84.0 to 90.0)
    """
    if decimals is not None and (isinstance(decimals, bool) or decimals not in range(7)):
        raise ValueError(f"decimals={decimals!r}: give a number of decimals, 0 to 6")
    if isinstance(table, SiteTable) and {"characteristic", "level"} <= set(table):
        wide = table.wide()
        rows = [[plain(name), *map(plain, cells)] for name, cells in zip(wide.index, wide.to_numpy(), strict=True)]
        return PaperTable(["", *map(plain, wide.columns)], rows)
    frame = pd.DataFrame(table)
    shown = [name for name in frame if not _left_out(str(name), frame)]
    several = "metric" in frame and frame["metric"].nunique() > 1
    shown = ["metric", *shown] if several else shown
    lines = [[_cell(row, str(name), decimals, percent) for name in shown] for row in frame.to_dict("records")]
    return PaperTable([_head(str(name), frame, percent) for name in shown], lines)


def _left_out(name: str, frame: pd.DataFrame) -> bool:
    """Whether a column is part of another one, or is about how a number was made."""
    ends = {end for value, pair in NUMBERS.items() if value in frame for end in pair}
    return (
        name in ends or (name in LEFT_OUT and "value" in frame) or bool((frame[name].isna() | frame[name].eq("")).all())
    )


def _head(name: str, frame: pd.DataFrame, percent: bool) -> str:
    """What a column is called."""
    pair = NUMBERS.get(name, ("", ""))
    if pair[0] not in frame:
        return "adjusted p" if name == "p_holm" else plain(name.replace("_", " "))
    metrics = list(dict.fromkeys(frame["metric"])) if "metric" in frame else []
    one = report_metrics.metric_label(str(metrics[0])) if len(metrics) == 1 else "value"
    unit = ", %" if name == "value" else ", percentage points"
    unit = unit if percent and metrics and all(map(_is_share, metrics)) else ""
    versus = str(frame["versus"].iloc[0]) if "versus" in frame and name == "difference" else ""
    called = one if name == "value" else name + (f" to {versus}" if versus else "")
    return plain(f"{called}{unit} (95 % CI)")


def _cell(row: dict[Any, Any], name: str, decimals: int | None, percent: bool) -> str:
    """A cell as text."""
    value = row[name]
    if name in NUMBERS and NUMBERS[name][0] in row:
        if name == "difference" and row.get("versus") and row.get("method") == row["versus"]:
            return "–"
        in_percent = percent and _is_share(str(row.get("metric", "")))
        places = (1 if in_percent else 3) if decimals is None else decimals
        numbers = [100 * float(row[one]) if in_percent else float(row[one]) for one in (name, *NUMBERS[name])]
        return _with_ends(numbers, places, name in SIGNED)
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        return _number(float(value), 3 if decimals is None else decimals, False)
    return plain(value)


def _with_ends(numbers: list[float], places: int, signed: bool) -> str:
    value, low, high = (_number(one, places, signed) for one in numbers)
    ends = "" if np.isnan(numbers[1]) else f"{low} to {high}"
    if np.isnan(numbers[0]):
        return ends or "–"
    return f"{value} ({ends})" if ends else value


def _number(value: float, places: int, signed: bool) -> str:
    """A number with a true minus sign; zero has none."""
    if np.isnan(value):
        return "–"
    text = f"{value:{'+' * signed},.{places}f}"
    if not any(letter in "123456789" for letter in text):
        text = text.lstrip("+-")
    return text.replace("-", "−").replace("inf", "∞")


def _is_share(metric: str) -> bool:
    """Whether a metric is a share, which may be given in percent."""
    base = mask_metrics.of_structure(metric)[0]
    return base in SHARES or base in mask_metrics.BOUNDED


def _is_number(text: str) -> bool:
    return bool(text) and text.lstrip("+−")[:1].isdigit()


def _no_formula(text: str) -> str:
    number = text[:1] in "+-" and text[1:2].isdigit()
    return f"'{text}" if text.startswith(FORMULA) and not number else text
