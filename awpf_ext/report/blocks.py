"""What a section of a report is made of; page.html says how each looks."""

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
    """A figure: in the page, and as NAME.png and NAME.svg beside it."""

    name: str
    caption: str
    figure: Figure
    wide: bool = False
    kind: str = "drawing"


@dataclass(frozen=True)
class Table:
    """Rows of text. `words`: how many columns from the left hold words, the others numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    title: str = ""  # of a table that is folded away, or stands beside a figure
    beside: bool = False
    strong: frozenset[tuple[int, int]] = frozenset()  # cells to stress
    kind: str = "table"


@dataclass(frozen=True)
class Shown:
    """A test image, and what the model took it for."""

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
    """A heading with what is below it."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        return "-".join(self.title.lower().split())
