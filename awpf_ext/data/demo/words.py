"""The vocabulary of the demo: shapes, patterns and colours, and their compositions.

Everything the demo shows is a composition of one colour, one pattern and one shape. They fall into
three sets that share none: those the backbone is trained on, those its training is watched with,
and the hundred classes of the demo data set.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from awpf_ext.data.demo.numbers import Numbers

SHAPES = (
    "circle", "square", "triangle", "star", "heart", "cross", "ring", "crescent", "diamond",
    "arrow", "drop", "bolt", "flower", "house", "tree", "fish", "mushroom", "crown", "boat", "cup",
)  # fmt: skip
PATTERNS = (
    "plain", "striped", "dotted", "checkered", "zigzag",
    "ringed", "gridded", "split", "hollow", "speckled",
)  # fmt: skip
COLORS = (
    "red", "orange", "yellow", "green", "teal", "blue",
    "purple", "pink", "brown", "black", "gray", "white",
)  # fmt: skip

CLASSES = 100
WATCHED = 200  # compositions held out of training to measure generalisation
_SPLIT_SEED = 1993


class Composition(NamedTuple):
    """Indices into COLORS, PATTERNS and SHAPES."""

    color: int
    pattern: int
    shape: int

    @property
    def name(self) -> str:
        color, pattern, shape = COLORS[self.color], PATTERNS[self.pattern], SHAPES[self.shape]
        return f"{color} {pattern} {shape}"


class Split(NamedTuple):
    training: tuple[Composition, ...]
    watched: tuple[Composition, ...]
    demo: tuple[Composition, ...]


@cache
def compositions() -> Split:
    """All compositions, split; the demo's hundred have each shape five times, each pattern ten."""
    numbers = Numbers((_SPLIT_SEED, 0), (0, 0, 0))
    demo = _balanced(numbers)
    taken = set(demo)
    rest = [
        composition
        for shape in range(len(SHAPES))
        for pattern in range(len(PATTERNS))
        for color in range(len(COLORS))
        if (composition := Composition(color, pattern, shape)) not in taken
    ]
    numbers.shuffle(rest)
    return Split(tuple(sorted(rest[WATCHED:])), tuple(sorted(rest[:WATCHED])), demo)


def _balanced(numbers: Numbers) -> tuple[Composition, ...]:
    """A hundred compositions with shapes, patterns and colours as evenly frequent as possible."""
    while True:
        shapes = [row % len(SHAPES) for row in range(CLASSES)]
        patterns = [row % len(PATTERNS) for row in range(CLASSES)]
        colors = [row % len(COLORS) for row in range(CLASSES)]
        for column in (shapes, patterns, colors):
            numbers.shuffle(column)
        drawn = {Composition(*row) for row in zip(colors, patterns, shapes, strict=True)}
        if len(drawn) == CLASSES:
            return tuple(sorted(drawn, key=lambda c: (c.shape, c.pattern, c.color)))
