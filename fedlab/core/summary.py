"""How an object introduces itself: a few lines as text, a small card in a notebook, and what to call next."""

import html
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

LONG, WIDE, MOST = 40, 110, 8  # characters of a name and of a line of text, names in a list
PICTURE = 56  # pixels: height of the picture
BARE = "tex2jax_ignore mathjax_ignore"  # CSS classes of what holds no formulas, even between dollar signs
STYLE = "font-size:13px;line-height:1.5;border-left:3px solid #8a97a6;padding:2px 0 2px 12px;max-width:60em"
FAINT = "opacity:.65;padding-right:1em;vertical-align:top;white-space:nowrap;text-align:left"


@dataclass(frozen=True)
class Summary:
    """A title, facts (what -> text), calls to make next, and perhaps the PNG of a picture."""

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    calls: tuple[str, ...] = ()
    png: bytes = b""
    picture: str = ""  # the picture in words

    def text(self) -> str:
        """The summary in at most six lines."""
        facts = [_cut(f"  {what}: {fact}") for what, fact in self.facts.items() if fact][:4]
        return "\n".join([_cut(self.title), *facts, *([f"  next: {', '.join(self.calls)}"] if self.calls else [])])

    def html(self) -> str:
        """The summary as HTML, in which names are text."""
        facts = "".join(
            f'<tr style="background:none"><th style="{FAINT};font-weight:normal">{html.escape(what)}</th>'
            f'<td style="text-align:left">{html.escape(fact)}</td></tr>'
            for what, fact in self.facts.items()
            if fact
        )
        calls = ", ".join(f"<code>{html.escape(call)}</code>" for call in self.calls)
        return (
            f'<div class="fedlab-summary {BARE}" style="{STYLE}"><b>{html.escape(self.title)}</b>{self._image()}'
            f'<table style="margin:2px 0;border:none;font-size:inherit">{facts}</table>'
            + (f'<div><span style="opacity:.65">next:</span> {calls}</div>' if calls else "")
            + "</div>"
        )

    def _image(self) -> str:
        """The picture as an element; empty without one."""
        if not self.png:
            return ""
        source, words = b64encode(self.png).decode(), html.escape(self.picture, quote=True)
        look = f"height:{PICTURE}px;max-width:100%;object-fit:contain;object-position:left;image-rendering:auto"
        return f'<div><img alt="{words}" src="data:image/png;base64,{source}" style="{look};margin:4px 0"></div>'


def named(text: object, most: int = LONG) -> str:
    """A name in one line of printable characters, cut by an ellipsis if it is longer than `most`."""
    line = "".join(character if character.isprintable() else " " for character in str(text)).strip()
    return line if len(line) <= most else f"{line[: most - 9]}…{line[-8:]}"


def listed(words: Iterable[object]) -> str:
    """Names separated by commas; beyond MOST the others are counted."""
    shown = [named(word) for word in words]
    return ", ".join(shown if len(shown) <= MOST else [*shown[: MOST - 1], f"and {len(shown) - MOST + 1:,} more"])


def counted(counts: Mapping[str, int]) -> str:
    """Names with their counts: "normal 320, nodule 280"."""
    return listed(f"{named(name, LONG - 10)} {count:,}" for name, count in counts.items())


def plural(count: int, what: str) -> str:
    """A count with its noun: "1 case", "1,200 cases", "3 classes"."""
    return f"{count:,} {what}{'' if count == 1 else 'es' if what.endswith('s') else 's'}"


def _cut(line: str) -> str:
    """A line of at most WIDE characters."""
    return line if len(line) <= WIDE else f"{line[: WIDE - 1]}…"


def with_article(words: str) -> str:
    """Words after "a" or "an": "an ordinal task".

    Examples
    --------
    >>> from fedlab.core.summary import with_article
    >>> with_article("ordinal task"), with_article("binary task")
    ('an ordinal task', 'a binary task')
    """
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
