"""What a row says of its labels: one class, or several findings in one column or in one column for each."""

from collections.abc import Callable, Mapping, Sequence

Cells = Mapping[str, str]

FINDING = "label:"  # before the name of a column that says of one finding whether it is there
JOIN = "\x1f"  # between the findings of a case
SEPARATORS = ("|", ";", ",")  # between findings in a cell; the first that is in any cell is meant
YES = frozenset(("1", "1.0", "yes", "true", "y", "t", "x", "present", "positive"))
NO = frozenset(("0", "0.0", "no", "false", "n", "f", "absent", "negative"))
NOTHING = ("no finding", "no findings", "none", "normal")  # in a cell of findings, if they are no classes


def labelling(texts: Sequence[Cells], multilabel: bool, classes: Sequence[str]) -> Callable[[Cells], str]:
    """A function that returns the label of a row, or its findings with JOIN between.

    It raises LookupError with the reason if a row says nothing of it.
    """
    columns = [key for key in (texts[0] if texts else {}) if key.startswith(FINDING)]
    if columns:
        marks = not any(cells[key].casefold() in NO for cells in texts for key in columns)
        return lambda cells: JOIN.join(key.removeprefix(FINDING) for key in columns if _is_marked(cells, key, marks))
    if multilabel:
        plain = [cells["label"] for cells in texts if cells["label"] not in classes]
        separator = next((each for each in SEPARATORS if any(each in text for text in plain)), JOIN)
        return lambda cells: JOIN.join(_findings(_label(cells), separator, classes))
    return _label


def _label(cells: Cells) -> str:
    """The cell of a label."""
    if not cells["label"]:
        raise LookupError("its label is missing")
    return cells["label"]


def _is_marked(cells: Cells, key: str, marks: bool) -> bool:
    """Whether a cell says that a finding is there. marks: the table leaves cells empty where nothing is."""
    text, column = cells[key].casefold(), key.removeprefix(FINDING)
    if text in YES or text in NO or (marks and not text):
        return text in YES
    if not text:
        raise LookupError(f"its label {column!r} is missing: write 0 where the finding is absent")
    raise LookupError(f"its label {column!r} is {cells[key]!r}: wanted 1 or 0")


def _findings(text: str, separator: str, classes: Sequence[str]) -> list[str]:
    """The findings that a cell lists, without repeats; none for a word such as "No Finding"."""
    parts = [text] if text in classes else [part.strip() for part in text.split(separator)]
    return sorted({part for part in parts if part and (part in classes or part.casefold() not in NOTHING)})
