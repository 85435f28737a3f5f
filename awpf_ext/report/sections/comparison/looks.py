"""The colour and the line of each setting, the same in all figures of a comparison."""

from __future__ import annotations

from typing import NamedTuple

from awpf_ext.methods.registry import BOUND
from awpf_ext.report.load import Comparison
from awpf_ext.report.names import NARROW, short
from awpf_ext.report.style import BOUND_LINE, INK, MUTED, ZERO_SHOT_LINE, Colour, series

MOST_LINES = 8  # as many as there are colours


class Look(NamedTuple):
    """How a setting is drawn."""

    colour: Colour
    style: str
    label: str


def looks(comparison: Comparison, most: int | None = MOST_LINES) -> dict[str, Look]:
    """The settings that are drawn: the first `most`, and beside them zero-shot and the bound."""
    sweep = comparison.sweep
    bounds = [variant for variant in sweep.variants if sweep.is_bound(variant)]
    zero_shots = [
        variant
        for variant in sweep.variants
        if {run.method for run in comparison.of(variant)} == {"zero_shot"}
    ]
    found: dict[str, Look] = {}
    place = 0
    for variant in sweep.variants:
        label = short(variant, NARROW) + (f" {BOUND}" if variant in bounds else "")
        if bounds == [variant]:
            found[variant] = Look(INK, BOUND_LINE, label)
        elif zero_shots == [variant]:
            found[variant] = Look(MUTED, ZERO_SHOT_LINE, label)
        elif most is None or place < most:
            found[variant] = Look(series(place), "-", label)
            place += 1
    return found


def left_out(comparison: Comparison, drawn: dict[str, Look]) -> str:
    """What the figures do not show; empty if they show all."""
    if len(drawn) == len(comparison.sweep.variants):
        return ""
    return f"The figures show {len(drawn)} of the settings; the table has all of them."
