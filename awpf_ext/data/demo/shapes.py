"""The outlines, as tables of signed distance: negative inside, in units of the shape's radius.

Only exactly rounded arithmetic (+ - * / sqrt and comparisons), so that tables and images are the
same bits everywhere; sines and cosines are rounded to six places for the same reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

Field = np.ndarray[Any, np.dtype[Any]]  # of float32
Point = tuple[float, float]

REACH = 1.3  # tables cover -REACH..REACH
CELLS = 208
DEGREES = 360
COS = tuple(round(math.cos(math.tau * degree / DEGREES), 6) for degree in range(DEGREES))
SIN = tuple(round(math.sin(math.tau * degree / DEGREES), 6) for degree in range(DEGREES))

_centers = ((np.arange(CELLS, dtype=np.float32) + 0.5) * (2 * REACH / CELLS) - REACH).astype(
    np.float32
)
X: Field = np.ascontiguousarray(np.broadcast_to(_centers, (CELLS, CELLS)))
Y: Field = np.ascontiguousarray(X.T)  # downwards, as in the image


@cache
def distance_table(shape: str) -> Field:
    """The distances (CELLS, CELLS) of a shape, by its name."""
    return OUTLINES[shape]().astype(np.float32)


def _disc(x: float, y: float, radius: float) -> Field:
    return np.sqrt((X - x) * (X - x) + (Y - y) * (Y - y)) - radius


def _polygon(*points: Point) -> Field:
    """The exact distance to a polygon, whose points may be in either orientation."""
    nearest = np.full(X.shape, 1e9, np.float32)
    inside = np.zeros(X.shape, bool)
    for (ax, ay), (bx, by) in zip(points, (*points[1:], points[0]), strict=True):
        ex, ey = bx - ax, by - ay
        px, py = X - ax, Y - ay
        along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        dx, dy = px - along * ex, py - along * ey
        nearest = np.minimum(nearest, dx * dx + dy * dy)
        if ey != 0:
            inside ^= ((ay > Y) != (by > Y)) & (px < ex * py / ey)
    return np.where(inside, -np.sqrt(nearest), np.sqrt(nearest))


def _box(left: float, top: float, right: float, bottom: float) -> Field:
    return _polygon((left, top), (right, top), (right, bottom), (left, bottom))


def _around(count: int, radius: float, start: int = 0) -> list[Point]:
    """Points around the centre, the first at `start` degrees from the top."""
    turns = [(start + DEGREES * step // count) % DEGREES for step in range(count)]
    return [(radius * SIN[turn], -radius * COS[turn]) for turn in turns]


def _union(*fields: Field) -> Field:
    together = fields[0]
    for field in fields[1:]:
        together = np.minimum(together, field)
    return together


def _cut(field: Field, away: Field) -> Field:
    return np.maximum(field, -away)


def _star() -> Field:
    outer, inner = _around(5, 1.05), _around(5, 0.45, 36)
    return _polygon(*(point for pair in zip(outer, inner, strict=True) for point in pair))


def _heart() -> Field:
    turns = range(-62, 123, 8)
    right = [
        (0.44 + 0.5 * SIN[turn % DEGREES], -0.34 - 0.5 * COS[turn % DEGREES]) for turn in turns
    ]
    left = [(-x, y) for x, y in reversed(right)]
    return _polygon(*right, (0, 0.95), *left)


def _arrow() -> Field:
    head: Sequence[Point] = ((0.1, -0.75), (1, 0), (0.1, 0.75))
    return _polygon((-0.95, -0.3), (0.1, -0.3), *head, (0.1, 0.3), (-0.95, 0.3))


def _bolt() -> Field:
    upper: Sequence[Point] = ((0.35, -1), (-0.6, 0.15), (-0.08, 0.15))
    return _polygon(*upper, (-0.35, 1), (0.6, -0.2), (0.1, -0.2))


def _flower() -> Field:
    return _union(_disc(0, 0, 0.4), *(_disc(x, y, 0.37) for x, y in _around(5, 0.62)))


def _house() -> Field:
    return _union(_box(-0.62, -0.1, 0.62, 0.85), _polygon((0, -1), (0.98, -0.05), (-0.98, -0.05)))


def _tree() -> Field:
    tiers = (
        _polygon((0, -1.05), (0.5, -0.3), (-0.5, -0.3)),
        _polygon((0, -0.65), (0.68, 0.2), (-0.68, 0.2)),
        _polygon((0, -0.2), (0.85, 0.7), (-0.85, 0.7)),
    )
    return _union(*tiers, _box(-0.17, 0.6, 0.17, 1.02))


def _fish() -> Field:
    body = np.maximum(_disc(0.2, 0.62, 1), _disc(0.2, -0.62, 1))
    return _union(body, _polygon((-0.35, 0), (-1.05, -0.55), (-0.85, 0), (-1.05, 0.55)))


def _mushroom() -> Field:
    cap = np.maximum(_disc(0, 0, 0.98), Y - 0.08)
    return _union(cap, _polygon((-0.24, 0), (0.24, 0), (0.34, 0.92), (-0.34, 0.92)))


def _crown() -> Field:
    points: Sequence[Point] = ((-0.48, -0.02), (0, -0.85), (0.48, -0.02), (0.98, -0.65))
    return _polygon((-0.98, -0.65), *points, (0.78, 0.72), (-0.78, 0.72))


def _boat() -> Field:
    hull = _polygon((-1, 0.3), (1, 0.3), (0.6, 0.85), (-0.6, 0.85))
    mast = _box(-0.06, -0.8, 0.06, 0.4)
    mainsail = _polygon((0.05, -1), (0.82, 0.16), (0.05, 0.16))
    return _union(hull, mast, mainsail, _polygon((-0.05, -0.7), (-0.05, 0.16), (-0.65, 0.16)))


def _cup() -> Field:
    handle = _cut(_disc(0.55, 0, 0.46), _disc(0.55, 0, 0.24))
    return _union(_polygon((-0.8, -0.75), (0.6, -0.75), (0.42, 0.8), (-0.62, 0.8)), handle)


def _square() -> Field:
    return _box(-0.8, -0.8, 0.8, 0.8)


def _drop() -> Field:
    return _union(_disc(0, 0.36, 0.58), _polygon((0, -1.02), (0.53, 0.13), (-0.53, 0.13)))


OUTLINES: dict[str, Callable[[], Field]] = {
    "circle": lambda: _disc(0, 0, 0.9),
    "square": _square,
    "triangle": lambda: _polygon((0, -0.95), (0.98, 0.75), (-0.98, 0.75)),
    "star": _star,
    "heart": _heart,
    "cross": lambda: _union(_box(-0.31, -0.92, 0.31, 0.92), _box(-0.92, -0.31, 0.92, 0.31)),
    "ring": lambda: _cut(_disc(0, 0, 0.95), _disc(0, 0, 0.42)),
    "crescent": lambda: _cut(_disc(0, 0, 0.98), _disc(0.45, -0.15, 0.72)),
    "diamond": lambda: _polygon((0, -1.05), (0.72, 0), (0, 1.05), (-0.72, 0)),
    "arrow": _arrow,
    "drop": _drop,
    "bolt": _bolt,
    "flower": _flower,
    "house": _house,
    "tree": _tree,
    "fish": _fish,
    "mushroom": _mushroom,
    "crown": _crown,
    "boat": _boat,
    "cup": _cup,
}
