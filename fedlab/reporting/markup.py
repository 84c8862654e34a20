"""HTML in which all text is escaped: only `element` makes markup, so that no name of a user can become some."""

import html
from base64 import b64encode
from collections.abc import Iterable, Sequence

from fedlab.plots.names import plain

VOID = ("br", "img", "meta")
CODE = ("pre", "textarea")
WORDS = 3  # blanks in a cell that is a name or a number with its interval


class Markup(str):
    """HTML; any other text is escaped when it becomes the content of an element."""

    __slots__ = ()


def element(name: str, /, *content: object, **attributes: object) -> Markup:
    """An element with its content; `kind=` is the attribute class, and attributes that are None are left out.

    Examples
    --------
    >>> from fedlab.reporting.markup import element
    >>> element("p", "a < b & ", element("b", "c"), kind="note")
    '<p class="note">a &lt; b &amp; <b>c</b></p>'
    """
    given = {"class" if key == "kind" else key: value for key, value in attributes.items() if value is not None}
    start = "".join([name, *(f' {key}="{escaped(value)}"' for key, value in given.items())])
    if name in VOID:
        return Markup(f"<{start}/>")
    inside = "".join(piece if isinstance(piece, Markup) else escaped(piece, name in CODE) for piece in content)
    return Markup(f"<{start}>{inside}</{name}>")


def escaped(text: object, lines: bool = False) -> str:
    """A text as it is shown, in printable characters; lines: whether line breaks stay."""
    whole = str(text).split("\n") if lines else [str(text)]
    return "\n".join(html.escape(plain(line), quote=True) for line in whole)


def joined(pieces: Iterable[Markup]) -> Markup:
    """Pieces of markup one after the other."""
    return Markup("".join(pieces))


def picture(png: bytes, alternative: str, width: int) -> Markup:
    """A picture inside the file, with the text that replaces it."""
    source = f"data:image/png;base64,{b64encode(png).decode()}"
    return element("figure", element("img", src=source, alt=alternative, width=width))


def table(head: Sequence[object], rows: Iterable[Sequence[object]], caption: str = "") -> Markup:
    """A table whose first column names the rows; cells that look like numbers are aligned to the right."""
    lines = [list(row) for row in rows]
    kinds = [_kind([line[k] for line in lines]) if k else None for k in range(len(head))]
    titles = (element("th", title, scope="col", kind=kind) for title, kind in zip(head, kinds, strict=True))
    body = [
        element("tr", element("th", first, scope="row"), *(element("td", cell, kind=_aligned(cell)) for cell in rest))
        for first, *rest in lines
    ]
    name = [element("caption", caption)] * bool(caption)
    return element(
        "div", element("table", *name, element("thead", element("tr", *titles)), element("tbody", *body)), kind="wide"
    )


def _kind(cells: list[object]) -> str | None:
    """The class of a column of numbers."""
    return "number" if "number" in map(_aligned, cells) else None


def _aligned(cell: object) -> str | None:
    """The class of a cell that holds a number, or a sentence."""
    text = str(cell)
    if text.count(" ") > WORDS:
        return "long"
    return "number" if text and text[0] in "0123456789+−–<∞" and not text[1:2].isalpha() else None


def folded(title: str, *content: Markup) -> Markup:
    """Details that a reader unfolds; they are printed unfolded."""
    return element("details", element("summary", title), *content)
