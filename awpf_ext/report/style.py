"""The look of all figures: one palette with a light and a dark variant, and one set of sizes.

A figure is drawn once, in the light colours. In the page every colour becomes a CSS variable (see
`themed`), so that the same drawing follows the reader's light or dark mode.
"""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Colour(NamedTuple):
    """A colour with its role. `light` is unique, so it identifies the colour in a drawing."""

    role: str
    light: str
    dark: str


INK = Colour("ink", "#1f2328", "#e8eaed")
MUTED = Colour("muted", "#636b74", "#a2a9b1")
RULE = Colour("rule", "#dfe3e8", "#343a42")
SURFACE = Colour("surface", "#fefefe", "#15181c")

# Distinguishable with the common colour deficiencies; neighbours differ in lightness.
SERIES = (
    Colour("series-0", "#1b62a8", "#6fb1f0"),
    Colour("series-1", "#d1600f", "#f3a25e"),
    Colour("series-2", "#0d8a6a", "#51c9a5"),
    Colour("series-3", "#a8437f", "#e690c2"),
    Colour("series-4", "#8f7408", "#dcc04e"),
    Colour("series-5", "#3a9cc6", "#8fdcf5"),
    Colour("series-6", "#7b4f3a", "#cba38c"),
    Colour("series-7", "#5a4fb0", "#aca3f5"),
)
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "p")


def _between(low: str, high: str, share: float) -> str:
    parts = [(int(low[i : i + 2], 16), int(high[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in parts)


def _ramp(anchors: Sequence[str], steps: int) -> list[str]:
    found = []
    for step in range(steps):
        place = step / (steps - 1) * (len(anchors) - 1)
        left = min(int(place), len(anchors) - 2)
        found.append(_between(anchors[left], anchors[left + 1], place - left))
    return found


HEAT_STEPS = 21
HEAT = tuple(
    Colour(f"heat-{step}", light, dark)
    for step, (light, dark) in enumerate(
        zip(
            _ramp(("#f3f7fb", "#a9cbe8", "#4a8fc9", "#12477f"), HEAT_STEPS),
            _ramp(("#1b2128", "#1f4a75", "#3f8fd6", "#b9e0ff"), HEAT_STEPS),
            strict=True,
        )
    )
)
# Text on the upper part of the ramp, which is dark on a light page and light on a dark one.
HEAT_INK = Colour("heat-ink", "#fdfdfd", "#0d1013")
HEAT_INK_FROM = 11

COLOURS = (INK, MUTED, RULE, SURFACE, *SERIES, *HEAT, HEAT_INK)
BOUND_LINE, ZERO_SHOT_LINE = "--", ":"
PERCENT = (0.0, 100.0)  # the limits of every axis of accuracies
UNLIMITED = (-math.inf, math.inf)
WIDTH, HEIGHT = 5.2, 3.3  # inches; 374 points, about as wide as a phone
TEXT = 10.5  # points
SMALL = 9.5

_SETTINGS: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": TEXT,
    "text.parse_math": False,  # names of classes and folders may hold $ and _
    "text.color": INK.light,
    "axes.edgecolor": RULE.light,
    "axes.labelcolor": MUTED.light,
    "axes.labelsize": SMALL,
    "axes.titlesize": TEXT,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "axes.formatter.use_mathtext": False,
    "grid.color": RULE.light,
    "grid.linewidth": 0.7,
    "xtick.color": RULE.light,
    "ytick.color": RULE.light,
    "xtick.labelcolor": MUTED.light,
    "ytick.labelcolor": MUTED.light,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    "lines.solid_capstyle": "round",
    "figure.facecolor": SURFACE.light,
    "axes.facecolor": "none",
    "savefig.facecolor": SURFACE.light,
    "savefig.dpi": 200,
    "svg.fonttype": "none",  # text stays text: sharp, searchable, in the reader's own fonts
    "svg.hashsalt": "awpf_ext",  # equal figures are equal files
}


@contextmanager
def drawing() -> Iterator[None]:
    """Apply the style inside the block, and restore matplotlib's settings afterwards."""
    with quiet_matplotlib(), warnings.catch_warnings():
        # SVG text is drawn by the reader's browser, and PNG text is replaced (page.py).
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(cast(Any, _SETTINGS))
            yield


@contextmanager
def quiet_matplotlib() -> Iterator[None]:
    """Suppress matplotlib's messages on font caches and folders inside the block."""
    logger = logging.getLogger("matplotlib")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def new_figure(width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """A figure with one plot, made without pyplot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def series(index: int) -> Colour:
    return SERIES[index % len(SERIES)]


def with_room(
    low: float, high: float, least: float = 1.0, limits: tuple[float, float] = PERCENT
) -> tuple[float, float]:
    """The range of an axis: at least `least` around its middle, and never beyond `limits`."""
    middle = (low + high) / 2
    return max(limits[0], min(low, middle - least)), min(limits[1], max(high, middle + least))


def error_bars(means: Sequence[float], deviations: Sequence[float]) -> list[list[float]]:
    """The lengths of error bars, down and up, that end at 0 and 100 %."""
    pairs = list(zip(means, deviations, strict=True))
    return [
        [min(deviation, mean - PERCENT[0]) for mean, deviation in pairs],
        [min(deviation, PERCENT[1] - mean) for mean, deviation in pairs],
    ]


def slanted(axes: Axes) -> None:
    """Turn the labels of the x axis, for names that are wider than their space."""
    for label in axes.get_xticklabels():
        label.set(rotation=35, ha="right", rotation_mode="anchor")


def themed(svg: str) -> str:
    """The SVG with CSS variables instead of the colours of the palette."""
    roles = {colour.light: colour.role for colour in COLOURS}

    def variable(found: re.Match[str]) -> str:
        role = roles.get(found[2])
        return found[0] if role is None else f"{found[1]}var(--{role})"

    return re.sub(r"((?:fill|stroke|color): ?)(#[0-9a-f]{6})\b", variable, svg)


def css_variables() -> str:
    """The palette as CSS, with its light and its dark variant."""

    def block(dark: bool) -> str:
        return "".join(f"--{c.role}:{c.dark if dark else c.light};" for c in COLOURS)

    return (
        f":root{{color-scheme:light dark;{block(False)}}}"
        f"@media (prefers-color-scheme:dark){{:root{{{block(True)}}}}}"
        f"@media print{{:root{{color-scheme:light;{block(False)}}}}}"
    )


def end_labels(
    axes: Axes, ends: Sequence[tuple[float, float, str, Colour]], height: float = HEIGHT
) -> None:
    """Label the ends of lines, and move labels apart if they would overlap.

    Each end is (x, y, text, colour). Call it when the limits of the axes are final.
    """
    low, high = axes.get_ylim()
    apart = 1.25 * TEXT / 72 / (height * 0.78) * (high - low)  # a line of text, in data
    placed: list[float] = []
    ordered = sorted(ends, key=lambda end: end[1])
    for _, y, _, _ in ordered:
        placed.append(max(y, placed[-1] + apart) if placed else y)
    excess = max(0.0, placed[-1] - high) if placed else 0.0
    for index in range(len(placed) - 1, -1, -1):  # push down what was pushed out at the top
        limit = placed[index + 1] - apart if index + 1 < len(placed) else high
        placed[index] = min(placed[index], limit) if excess else placed[index]
    right = max((end[0] for end in ends), default=0.0)
    for (_, y, text, colour), at in zip(ordered, placed, strict=True):
        axes.annotate(
            text,
            (right, y),
            xytext=(right, at),
            textcoords="data",
            va="center",
            color=colour.light,
            annotation_clip=False,
            parse_math=False,
        ).set_x(right)
