"""The building blocks of a section; page.html defines how each of them looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: str = "text"


@dataclass(frozen=True)
class Code:
    """A command to copy."""

    text: str
    kind: str = "code"


@dataclass(frozen=True)
class Tile:
    """One number of the headline."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Tiles:
    tiles: Sequence[Tile]
    kind: str = "tiles"


@dataclass(frozen=True)
class Drawing:
    """A figure: shown in the page, and saved as NAME.png and NAME.svg beside it."""

    name: str
    caption: str
    figure: Figure
    wide: bool = False
    kind: str = "drawing"


@dataclass(frozen=True)
class Table:
    """Rows of text. The first `words` columns hold words, the others hold numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    title: str = ""  # given: the table is folded, or stands beside a figure
    beside: bool = False
    strong: frozenset[tuple[int, int]] = frozenset()  # cells in bold
    kind: str = "table"


@dataclass(frozen=True)
class Shown:
    """A test image with its class and its prediction."""

    data: str  # a data: address
    text: str
    tiny: bool


@dataclass(frozen=True)
class Pictures:
    groups: Sequence[tuple[str, Sequence[Shown]]]  # title, images
    kind: str = "pictures"


Block = Text | Code | Tiles | Drawing | Table | Pictures


@dataclass(frozen=True)
class Section:
    """A heading and the blocks below it."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        return "-".join(self.title.lower().split())
