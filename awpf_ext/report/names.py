"""Makes names from outside (classes, data sets, settings) safe for a page and for figures."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

SHORT = 26  # characters of a name in a figure
NARROW = 17  # the same if there is less room

# Font families for characters that DejaVu Sans lacks; used if installed.
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
    """The text on one line, without control characters and broken code points."""
    kept = " ".join(str(text).split())
    return "".join(
        "\ufffd" if unicodedata.category(letter) in ("Cc", "Cs") else letter for letter in kept
    )


def short(text: object, limit: int = SHORT) -> str:
    """`plain`, shortened in the middle if it is long, since names often differ at their ends."""
    name = plain(text)
    if len(name) <= limit:
        return name
    head = (limit - 1) * 2 // 3
    return f"{name[:head].rstrip()}…{name[-(limit - 1 - head) :].lstrip()}"


def substitutes(names: Iterable[str], noun: str) -> dict[str, str]:
    """Replacements such as "class 17" for each name, at each length it has in a figure."""
    found = {}
    for place, name in enumerate(names):
        for limit in (SHORT, NARROW):
            found[short(name, limit)] = f"{noun} {place + 1}"
    return found


def class_labels(class_names: Iterable[str]) -> list[str]:
    """Full names for tables; a class without a name gets its number in the order of learning."""
    return [plain(name) or f"class {place + 1}" for place, name in enumerate(class_names)]


class Fonts:
    """Which characters the installed fonts can draw in image files."""

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
        """The fonts that together draw as many of the characters as possible."""
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
        """Draw with these fonts inside the block; use it within `style.drawing`."""
        import matplotlib

        with matplotlib.rc_context({"font.family": self.families(texts)}):
            yield

    def drawable(self, text: str) -> bool:
        return all(ord(letter) in self._letters or letter.isspace() for letter in text)


def replaced(text: str, substitutes: Mapping[str, str]) -> str:
    """`text` with every key replaced, the longest first."""
    keys = sorted((key for key in substitutes if key), key=len, reverse=True)
    if not keys:
        return text
    pattern = "|".join(map(re.escape, keys))
    return re.sub(pattern, lambda found: substitutes[found[0]], text)
