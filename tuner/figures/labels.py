"""Labels of figures are taken literally, measured, and cut so that different names stay different."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import count, takewhile

from matplotlib.font_manager import findfont, get_font

FONT = 9.5
SMALL = 8.5
MIDDLE = 0.5
SHARES = (MIDDLE, 0.65, 0.35, 0.8, 0.2, 0.95, 0.05)  # of what is kept of a name, how much is its beginning


def plain(text: object, longest: int | None = None) -> str:
    """The text as a label: on one line, without characters that no document can hold, never read as mathematics."""
    shown = _on_one_line(text)
    return _literal(shown if longest is None else _shorter(shown, longest))


def fitted(text: object, room: float, size: float = FONT) -> str:
    """``plain``, with the middle cut out so that it takes at most so many points of width."""
    return _literal(_cut(_on_one_line(text), room, size))


def labels(names: Sequence[object], room: float, size: float = FONT) -> list[str]:
    """Names as labels of one figure, each ``fitted``; different names have different labels.

    Where the middles that are cut out are all that tells names apart, they are cut elsewhere; where no cut helps, they
    are numbered.
    """
    wanted = [str(name) for name in names]
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(wanted):
        groups.setdefault(_cut(_on_one_line(name), room, size), []).append(name)
    shown = {members[0]: label for label, members in groups.items() if len(members) == 1}
    for members in groups.values():
        if len(members) > 1:
            shown.update(zip(members, _told_apart(members, set(shown.values()), room, size), strict=True))
    return [_literal(shown[name]) for name in wanted]


def text_width(text: str, size: float = FONT) -> float:
    """Points, without kerning; another font on a page is hardly ever wider than this one."""
    return size * sum(map(_advance, text))


def _on_one_line(text: object) -> str:
    return "".join(_printable(letter) for letter in str(text))


def _printable(letter: str) -> str:
    kind = unicodedata.category(letter)
    if letter in "￾￿" or kind == "Cs":
        return "�"
    return " " if kind in ("Cc", "Zl", "Zp") else letter


def _literal(text: str) -> str:
    return text.replace("$", r"\$")


def _shorter(text: str, longest: int, share: float = MIDDLE) -> str:
    """At most so many letters of a text, an ellipsis among them."""
    if len(text) <= longest:
        return text
    head = min(int((longest - 1) * share + 0.5), longest - 1)
    return text[:head] + "…" + text[len(text) - (longest - 1 - head) :]


def _cut(text: str, room: float, size: float, share: float = MIDDLE) -> str:
    """As many letters of a text as there is room for, but at least one."""

    def width(letters: int) -> float:
        return text_width(_shorter(text, letters, share), size)

    if text_width(text, size) <= room:
        return text
    return _shorter(text, max(2, bisect_right(range(len(text)), room, key=width) - 1), share)


def _told_apart(names: Sequence[str], taken: set[str], room: float, size: float) -> list[str]:
    """Labels that differ from each other and from those taken."""
    texts = [_on_one_line(name) for name in names]
    for cuts in _cuts(texts, room, size):
        if len(set(cuts)) == len(cuts) and not taken & set(cuts):
            return cuts
    shown: list[str] = []
    for text in texts:
        numbered = (_cut(text, room - text_width(f" {n}", size), size) + f" {n}" for n in count(1))
        shown.append(next(label for label in numbered if label not in taken and label not in shown))
    return shown


def _cuts(texts: Sequence[str], room: float, size: float) -> Iterator[list[str]]:
    """Ways to cut texts: with more or less of the beginning, then the same without what all begin with."""
    alike = len(list(takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))))
    for kept in (texts, [text[:2] + "…" + text[alike:] for text in texts] if alike > 3 else ()):
        for share in SHARES if kept else ():
            yield [_cut(text, room, size, share) for text in kept]


@cache
def _advance(letter: str) -> float:
    font = get_font(findfont("DejaVu Sans"))
    if font.get_char_index(ord(letter)) == 0:
        return 1.0 if unicodedata.east_asian_width(letter) in "WF" else 0.6
    font.set_size(100, 72)
    return float(font.load_char(ord(letter)).linearHoriAdvance) / 65536 / 100
