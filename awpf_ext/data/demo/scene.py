"""Scenes and how they are drawn: an object on a background, with distracting elements.

Until the last step an image is a float32 array (3, SIZE, SIZE) with values between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from awpf_ext.data.demo.numbers import Numbers
from awpf_ext.data.demo.patterns import DRAWN
from awpf_ext.data.demo.shapes import CELLS, COS, DEGREES, REACH, SIN, Field, distance_table
from awpf_ext.data.demo.styles import DRAWINGS, RENDERINGS
from awpf_ext.data.demo.words import COLORS, PATTERNS, SHAPES, Composition

SIZE = 48
Rgb = tuple[float, float, float]
TONES: dict[str, Rgb] = {
    "red": (0.85, 0.10, 0.12), "orange": (0.96, 0.52, 0.08), "yellow": (0.97, 0.87, 0.14),
    "green": (0.18, 0.64, 0.20), "teal": (0.10, 0.68, 0.66), "blue": (0.13, 0.28, 0.85),
    "purple": (0.52, 0.16, 0.68), "pink": (0.97, 0.50, 0.72), "brown": (0.48, 0.28, 0.13),
    "black": (0.07, 0.07, 0.08), "gray": (0.52, 0.53, 0.54), "white": (0.95, 0.95, 0.94),
}  # fmt: skip
GROUNDS = (
    "plain",
    "shaded",
    "cloudy",
    "cloudy",
    "shaded",
    "striped",
    "dotted",
)  # quiet ones are twice as likely
MIN_CONTRAST = 0.35  # minimum squared RGB distance between an object and its background

_cells = np.arange(SIZE, dtype=np.float32) + np.float32(0.5)
COLUMN: Field = np.ascontiguousarray(np.broadcast_to(_cells, (SIZE, SIZE)))
ROW: Field = np.ascontiguousarray(COLUMN.T)


class Scene(NamedTuple):
    """The content of an image that a caption can mention."""

    target: Composition
    backdrop: int  # index into COLORS
    ground: str  # one of GROUNDS
    beside: Composition | None  # a second, smaller object


def sample_scene(
    numbers: Numbers, target: Composition, others: Sequence[Composition], clutter: float
) -> Scene:
    """A scene around `target`; a second object is chosen from `others`.

    clutter: the strength of all distractions, usually from 0 (none) to 1.
    """
    own = TONES[COLORS[target.color]]
    while True:
        backdrop = numbers.below(len(COLORS))
        tone = TONES[COLORS[backdrop]]
        if sum((a - b) * (a - b) for a, b in zip(own, tone, strict=True)) > MIN_CONTRAST:
            break
    beside = numbers.choice(others) if numbers.uniform() < 0.6 * clutter else None
    return Scene(target, backdrop, numbers.choice(GROUNDS), beside)


def paint(
    scene: Scene, numbers: Numbers, clutter: float, style: str = "plain"
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The image, uint8 (SIZE, SIZE, 3)."""
    image = _background(scene, numbers, clutter)
    radius = numbers.uniform(15 - 3.5 * clutter, 18 - 3 * clutter)
    free = 3.0 + 4.0 * clutter
    x, y = (SIZE / 2 + numbers.uniform(-free, free) for _ in "xy")
    if scene.beside is not None:
        small = radius * numbers.uniform(0.4, 0.55)
        corner = numbers.below(4)
        _object(
            image,
            scene.beside,
            numbers,
            clutter,
            x + (radius * 1.1 if corner & 1 else -radius * 1.1),
            y + (radius * 1.1 if corner & 2 else -radius * 1.1),
            small,
        )
    _object(image, scene.target, numbers, clutter, x, y, radius)
    if numbers.uniform() < 0.7 * clutter:
        _stroke(image, numbers)
    steps = [RENDERINGS[style], lambda drawn, numbers: _camera(drawn, numbers, clutter)]
    for step in steps if style in DRAWINGS else reversed(steps):
        image = step(image, numbers)
    image *= 255.0
    image += 0.5
    levels = np.minimum(np.maximum(image, 0.0), 255.0).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(1, 2, 0))


def _tone(color: int, numbers: Numbers, clutter: float) -> Rgb:
    light = 1 + numbers.uniform(-0.25, 0.15) * clutter
    off = 0.04 + 0.08 * clutter
    red, green, blue = (part * light + numbers.uniform(-off, off) for part in TONES[COLORS[color]])
    return red, green, blue


def _tint(tone: Rgb, numbers: Numbers) -> Rgb:
    """The second tone of a pattern: the same colour, much lighter or much darker."""
    bright = 0.3 * tone[0] + 0.6 * tone[1] + 0.1 * tone[2]
    lighter = bright < 0.25 or (bright < 0.75 and numbers.uniform() < 0.6)
    red, green, blue = (0.25 * part + 0.72 if lighter else 0.36 * part for part in tone)
    return red, green, blue


def _background(scene: Scene, numbers: Numbers, clutter: float) -> Field:
    tone = _tone(scene.backdrop, numbers, clutter)
    image = np.empty((3, SIZE, SIZE), np.float32)
    for plane, level in zip(image, tone, strict=True):
        plane.fill(level)
    if scene.ground == "plain":
        return image
    turn = numbers.below(DEGREES)
    depth = numbers.uniform(0.07, 0.13 + 0.10 * clutter)
    along = COLUMN * COS[turn] + ROW * SIN[turn]
    if scene.ground == "shaded":
        relief = (along - SIZE / 2) * (2 / SIZE)
    elif scene.ground == "cloudy":
        relief = _clouds(numbers)
    else:
        across = ROW * COS[turn] - COLUMN * SIN[turn]
        relief = DRAWN[scene.ground](along, across, along, numbers) * 2.0 - 1.0
    image += relief * depth
    return image


def _clouds(numbers: Numbers) -> Field:
    """Random levels between -1 and 1 on a coarse grid, interpolated linearly."""
    points = 7
    levels = numbers.bytes(points * points).astype(np.float32).reshape(points, points)
    levels = levels * (2 / 255) - 1.0
    place = (_cells - 0.5) * ((points - 1.001) / SIZE)
    before = place.astype(np.int32)
    share = place - before.astype(np.float32)
    rows = levels[before] + (levels[before + 1] - levels[before]) * share[:, None]
    field: Field = rows[:, before] + (rows[:, before + 1] - rows[:, before]) * share
    return field


def _object(
    image: Field,
    what: Composition,
    numbers: Numbers,
    clutter: float,
    x: float,
    y: float,
    radius: float,
) -> None:
    shape, pattern = SHAPES[what.shape], PATTERNS[what.pattern]
    reach = int(radius * REACH) + 2
    left, right = max(int(x) - reach, 0), min(int(x) + reach, SIZE)
    top, bottom = max(int(y) - reach, 0), min(int(y) + reach, SIZE)
    if left >= right or top >= bottom:
        return
    turn = numbers.below(int(24 + 20 * clutter)) - int(12 + 10 * clutter)
    cos, sin = COS[turn], SIN[turn]
    stretch = 1 + numbers.uniform(-0.14, 0.14) * clutter
    dx, dy = COLUMN[top:bottom, left:right] - x, ROW[top:bottom, left:right] - y
    p, q = (dx * cos + dy * sin) * stretch, (dy * cos - dx * sin) * (1 / stretch)
    scale = CELLS / (2 * REACH)
    column = np.minimum(np.maximum(p * (scale / radius) + CELLS / 2, 0.0), CELLS - 1.0)
    row = np.minimum(np.maximum(q * (scale / radius) + CELLS / 2, 0.0), CELLS - 1.0)
    cell = row.astype(np.int32) * CELLS + column.astype(np.int32)
    distance = distance_table(shape).reshape(-1)[cell] * radius
    cover = np.minimum(np.maximum(0.5 - distance, 0.0), 1.0)
    if pattern == "hollow":
        rim = numbers.uniform(0.17, 0.24) * radius
        cover = np.minimum(cover, np.minimum(np.maximum(distance + (rim + 0.5), 0.0), 1.0))
    tilt = numbers.below(DEGREES)
    along, across = p * COS[tilt] + q * SIN[tilt], q * COS[tilt] - p * SIN[tilt]
    own = DRAWN[pattern](along, across, distance, numbers)
    tone = _tone(what.color, numbers, clutter)
    tint = _tint(tone, numbers)
    light = numbers.uniform(0.0, 0.16) * (1 / radius)  # from above
    for plane, first, second in zip(image, tone, tint, strict=True):
        window = plane[top:bottom, left:right]
        paint = own * (first - second) + (second - q * light)
        window += cover * (paint - window)


def _stroke(image: Field, numbers: Numbers) -> None:
    """A straight line across the image, like a wire or a blade of grass."""
    turn = numbers.below(DEGREES)
    x, y = numbers.uniform(0.2, 0.8) * SIZE, numbers.uniform(0.2, 0.8) * SIZE
    across = np.abs((COLUMN - x) * COS[turn] + (ROW - y) * SIN[turn])
    cover = np.minimum(np.maximum(numbers.uniform(1.2, 2.4) - across, 0.0), 1.0)
    for plane, level in zip(image, TONES[numbers.choice(COLORS)], strict=True):
        plane += cover * (level - plane)


def _camera(image: Field, numbers: Numbers, clutter: float) -> Field:
    """Uneven light, a colour cast, loss of contrast, blur and noise."""
    turn = numbers.below(DEGREES)
    slope = numbers.uniform(0.0, 0.6) * clutter * (1 / SIZE)
    gain = 1 + numbers.uniform(-0.3, 0.2) * clutter
    light = (COLUMN - SIZE / 2) * (COS[turn] * slope) + ((ROW - SIZE / 2) * (SIN[turn] * slope))
    light += gain
    haze = numbers.uniform(0.0, 0.3) * clutter
    light *= 1 - haze
    for plane in image:
        plane *= light * (1 + numbers.uniform(-0.12, 0.12) * clutter)
        plane += 0.5 * haze
    blur = numbers.uniform(-0.15, 0.3) * clutter
    if blur > 0:
        sharp = image.copy()
        image[:, :, 1:-1] += (sharp[:, :, 2:] + sharp[:, :, :-2] - 2.0 * sharp[:, :, 1:-1]) * blur
        sharp = image.copy()
        image[:, 1:-1] += (sharp[:, 2:] + sharp[:, :-2] - 2.0 * sharp[:, 1:-1]) * blur
    grain = 0.02 + numbers.uniform(0.0, 0.22) * clutter
    noise = numbers.bytes(image.size).astype(np.float32).reshape(image.shape)
    image += (noise - 127.5) * (grain * (1 / 127.5))
    return image
