"""Names of users in figures: one printable line, a bounded length, a font for every character.

Names of sites, classes, methods and columns may hold any character and be of any length. Figures show them as written,
never as markup (`text.parse_math` is off in the style sheet), but in one line and shortened by an ellipsis.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache
from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.artist import Artist

NAME = 40  # characters of a name that is shown whole
MOST = 8  # names in a list
FONT, LAST = "DejaVu Sans", "Last Resort High-Efficiency"
FALLBACKS = (  # for characters that FONT lacks, if installed; no colour fonts, which matplotlib cannot draw
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Noto Sans SC", "Noto Sans KR", "Hiragino Sans"),
    *("Yu Gothic", "Microsoft YaHei", "PingFang SC", "Malgun Gothic", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei"),
    *("Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Tamil", "Noto Sans Thai", "Nirmala UI", "Leelawadee UI"),
    *("Arial Unicode MS", "Noto Emoji", "Segoe UI Emoji", "Segoe UI Symbol", "Apple Symbols", "Symbola", "Unifont"),
)
UNKNOWN, BOX = "\ufffd", "\u25a1"  # for a control character; for a character that no font has


def plain(text: object) -> str:
    """Write a text in one line of characters that a file can hold.

    Line breaks and tabs become blanks, other control characters, surrogates and noncharacters become "�".
    """
    line = str(text)
    return line if line.isprintable() else "".join(map(_printable, line))


def _printable(character: str) -> str:
    kind = unicodedata.category(character)
    if kind in ("Zl", "Zp") or (kind == "Cc" and character.isspace()):
        return " "
    return UNKNOWN if kind in ("Cc", "Cs") or ord(character) & 0xFFFE == 0xFFFE else character


def name(text: object, most: int = NAME) -> str:
    """Write a name in one line, with an ellipsis in the middle if it is longer than `most` characters.

    Characters of double width (Chinese, emoji) count twice.
    """
    line = plain(text)
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in line)
    if len(line) + wide <= most:
        return line
    kept = max(3, int(most * len(line) / (len(line) + wide)))
    tail = (kept - 1) // 3
    return f"{line[: kept - 1 - tail].rstrip()}…{line[len(line) - tail :].lstrip()}"


def names(texts: Iterable[object], most: int = NAME) -> dict[str, str]:
    """Map each text to a name of at most about `most` characters; texts that differ have names that differ."""
    lines = {str(text): plain(text) for text in texts}
    found = {text: name(line, most) for text, line in lines.items()}
    for alike in _alike(found):
        columns = zip(*(lines[text] for text in alike), strict=False)
        start = sum(1 for _ in takewhile(lambda characters: len(set(characters)) == 1, columns))
        head = most // 3
        for text in alike:
            if found[text] != lines[text]:
                found[text] = name(f"{lines[text][:head]}…{lines[text][max(head, start - 3) :]}", most)
    while same := next(iter(_alike(found)), None):  # a number may make a name equal to another one
        found |= {text: f"{found[text]} ({k})" for k, text in enumerate(same, 1)}
    return found


def _alike(found: dict[str, str]) -> list[list[str]]:
    """Group the texts whose names are equal."""
    twice = [short for short, n in Counter(found.values()).items() if n > 1]
    return [[text for text, short in found.items() if short == one] for one in twice]


def listed(words: Iterable[object], whole: bool = False) -> str:
    """Join names: "a", "a and b", "a, b and c"; beyond MOST "a, b, ... and 12 more"; whole: none is shortened."""
    shown = [str(word) if whole else name(word) for word in words]
    if len(shown) > MOST:
        shown = [*shown[: MOST - 1], f"{len(shown) - MOST + 1} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def more(count: int, things: str) -> str:
    """Say how many things are not drawn: "+ 12 more sites"; things: their plural."""
    return f"+ {count:,} more {things if count > 1 else things.removesuffix('es' if things == 'classes' else 's')}"


# -- fonts -----------------------------------------------------------------------------------------------------------


def lend_fonts(artist: Artist) -> None:
    """Draw the characters that DejaVu Sans lacks in other fonts that are installed, without a warning at each draw.

    Where no font has a character, matplotlib's own placeholder shows its script, or a box before matplotlib 3.11.
    """
    from matplotlib.text import Text

    for text in artist.findobj(Text):
        words = text.get_text()
        if words.isascii():
            continue
        families, lost = _families(frozenset(words) - glyphs(FONT) - {"\n"})
        if families:
            text.set_fontfamily([FONT, *families])
        if lost:
            text.set_text("".join(BOX if character in lost else character for character in words))


@cache
def _families(lacking: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return (fonts that have some of the characters, characters that none has)."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    families: list[str] = []
    for family in FALLBACKS:
        if lacking and family in installed and lacking & glyphs(family):
            families.append(family)
            lacking -= glyphs(family)
    if lacking and LAST in installed:
        return (*families, LAST), frozenset()
    return tuple(families), lacking


@cache
def glyphs(family: str) -> frozenset[str]:
    """Return the characters of a font, in both weights."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    found = [get_font(findfont(FontProperties(family=family, weight=weight))) for weight in ("normal", "bold")]
    return frozenset.intersection(*(frozenset(map(chr, font.get_charmap())) for font in found))
