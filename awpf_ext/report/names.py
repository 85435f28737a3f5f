"""Names that others chose (classes, data sets, settings), made fit for a page and for figures."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

SHORT = 26  # characters of a name in a figure
NARROW = 17  # where there is less room

# Families that draw what DejaVu does not, where they are installed.
FALLBACK_FAMILIES = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Noto Sans JP",
    "Source Han Sans",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "IPAGothic",
    "Hiragino Sans",
    "Yu Gothic",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Noto Emoji",
    "Arial Unicode MS",
    "Unifont",
)


def plain(text: object) -> str:
    """One line without control characters and broken code points."""
    kept = " ".join(str(text).split())
    return "".join(
        "\ufffd" if unicodedata.category(letter) in ("Cc", "Cs") else letter for letter in kept
    )


def short(text: object, limit: int = SHORT) -> str:
    """`plain`, cut in its middle where it is long, since the ends of names differ."""
    name = plain(text)
    if len(name) <= limit:
        return name
    head = (limit - 1) * 2 // 3
    return f"{name[:head].rstrip()}…{name[-(limit - 1 - head) :].lstrip()}"


def substitutes(names: Iterable[str], noun: str) -> dict[str, str]:
    """For each name, at each length it may have in a figure: the noun and its place."""
    found = {}
    for place, name in enumerate(names):
        for limit in (SHORT, NARROW):
            found[short(name, limit)] = f"{noun} {place + 1}"
    return found


def class_labels(class_names: Iterable[str]) -> list[str]:
    """Full names for tables; a class without a name is called by its place in the order."""
    return [plain(name) or f"class {place + 1}" for place, name in enumerate(class_names)]


class Fonts:
    """Which characters can be drawn in image files, with which fonts."""

    def __init__(self) -> None:
        from matplotlib import font_manager
        from matplotlib.ft2font import FT2Font

        def letters(path: str) -> set[int]:
            return set(FT2Font(path).get_charmap())

        manager = font_manager.fontManager
        self._letters = letters(manager.findfont("DejaVu Sans"))
        installed = {entry.name: str(entry.fname) for entry in manager.ttflist}
        self._others = {n: installed[n] for n in FALLBACK_FAMILIES if n in installed}
        self._read = letters

    def families(self, texts: Iterable[str]) -> list[str]:
        """Fonts that together draw as much of the texts as the installed ones can."""
        chosen = ["DejaVu Sans"]
        missing = {ord(letter) for text in texts for letter in text} - self._letters
        for family, path in self._others.items():
            if missing:
                found = missing & self._read(path)
                if found:
                    chosen.append(family)
                    self._letters |= found
                    missing -= found
        return chosen

    @contextmanager
    def used_for(self, texts: Iterable[str]) -> Iterator[None]:
        """Draw with these fonts within a block that `style.drawing` surrounds."""
        import matplotlib

        with matplotlib.rc_context({"font.family": self.families(texts)}):
            yield

    def drawable(self, text: str) -> bool:
        return all(ord(letter) in self._letters or letter.isspace() for letter in text)


def replaced(text: str, substitutes: Mapping[str, str]) -> str:
    """`text` with every key that occurs in it as a whole replaced, longest first."""
    keys = sorted((key for key in substitutes if key), key=len, reverse=True)
    if not keys:
        return text
    pattern = "|".join(map(re.escape, keys))
    return re.sub(pattern, lambda found: substitutes[found[0]], text)
