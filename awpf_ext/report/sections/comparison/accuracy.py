"""The mean accuracy of each setting after each task, and its difference from the first setting."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from awpf_ext.report.blocks import Block, Drawing, Section, Text
from awpf_ext.report.load import Comparison, FinishedRun
from awpf_ext.report.sections.accuracy import finish_axes
from awpf_ext.report.sections.comparison.looks import Look, left_out, looks
from awpf_ext.report.style import (
    BOUND_LINE,
    MUTED,
    PERCENT,
    UNLIMITED,
    ZERO_SHOT_LINE,
    Colour,
    new_figure,
)
from awpf_ext.runs.result import Result

MOST_BANDS = 4  # more would not be readable


class Curves(NamedTuple):
    """The data of one line, which is a mean: fractions after each task, one row per run."""

    label: str
    places: Sequence[int]  # on the axis
    rows: Sequence[Sequence[float]]
    colour: Colour
    style: str = "-"


def section(comparison: Comparison) -> Section:
    drawn = looks(comparison)
    note = left_out(comparison, drawn)
    blocks: list[Block] = [Text(note)] if note else []
    curves = [
        curve
        for variant, look in drawn.items()
        for curve in _of_runs(look, comparison.of(variant), lambda r: r.accuracy)
    ]
    reference = _zero_shot(comparison)
    styles = {curve.style for curve in (*curves, *reference)}
    reference_note = "; dotted line: zero-shot CLIP" if ZERO_SHOT_LINE in styles else ""
    if BOUND_LINE in styles:
        reference_note += "; dashed line: the upper bound, which is not a continual method"
    across, noun = comparison.runs[0].across, comparison.noun
    figure, band = mean_lines([*curves, *reference], across)
    means = f"means over runs{band}{reference_note}"
    caption = f"Accuracy (%) over all {across}, after each {noun}: {means}."
    blocks.append(Drawing("accuracy", caption, figure))
    compared = _above_first(comparison, drawn)
    if compared:
        figure, band = mean_lines(compared, across, limits=UNLIMITED)
        figure.axes[0].axhline(0, color=MUTED.light, linewidth=1)
        first = comparison.sweep.variants[0]
        caption = f"Difference from {first} on the same order and seed, in points{band}."
        blocks.append(Drawing("above_first", caption, figure))
    return Section(f"Accuracy after each {noun}", blocks)


def _of_runs(
    look: Look, runs: Sequence[FinishedRun], of: Callable[[Result], Sequence[float]]
) -> list[Curves]:
    """One curve for all runs with the same tasks."""
    by_shape: dict[tuple[int, ...], list[Sequence[float]]] = {}
    for run in runs:
        by_shape.setdefault(tuple(run.places), []).append(of(run.result))
    return [
        Curves(look.label, places, rows, look.colour, look.style)
        for places, rows in by_shape.items()
    ]


def _above_first(comparison: Comparison, drawn: Mapping[str, Look]) -> list[Curves]:
    """Differences from the first setting for each pair of runs with the same tasks."""
    found = []
    for variant, look in drawn.items():
        if variant == comparison.sweep.variants[0]:
            continue
        places = comparison.of(variant)[0].places
        rows = [
            [here - there for here, there in zip(own.accuracy, first.accuracy, strict=True)]
            for own, first in comparison.sweep.paired(variant)
            if own.test_images == first.test_images
        ]
        if rows and all(len(row) == len(places) for row in rows):
            found.append(Curves(look.label, places, rows, look.colour, look.style))
    return found


def _zero_shot(comparison: Comparison) -> list[Curves]:
    """One run per class order; empty if a setting is zero-shot or the data differ."""
    if any(run.method == "zero_shot" for run in comparison.runs):
        return []
    if (
        len({(run.result.provenance.get("content_hash"), *run.places) for run in comparison.runs})
        > 1
    ):
        return []
    by_order = {run.result.provenance["order_hash"]: run for run in comparison.runs}
    kept = [run.diagnostics for run in by_order.values() if run.diagnostics is not None]
    rows = [diagnostics.zero_shot_accuracy for diagnostics in kept]
    places = comparison.runs[0].places
    return [Curves("zero-shot", places, rows, MUTED, ZERO_SHOT_LINE)] if rows else []


def mean_lines(
    curves: Sequence[Curves],
    across: str,
    unit: float = 100.0,
    least: float = 1.0,
    limits: tuple[float, float] = PERCENT,
) -> tuple[Figure, str]:
    """The figure, and the part of its caption that explains the bands.

    Values are multiplied by `unit`; `least` and `limits` are those of `finish_axes`.
    """
    figure, axes = new_figure(height=3.6)
    ends: list[tuple[float, float, str, Colour]] = []
    several = any(len(curve.rows) > 1 for curve in curves)
    banded = several and len(curves) <= MOST_BANDS
    for curve in curves:
        columns = list(zip(*curve.rows, strict=True))
        means = [unit * _over_known(statistics.mean, column) for column in columns]
        marker = "o" if len(means) <= 30 else ""
        axes.plot(
            curve.places, means, curve.style, color=curve.colour.light,
            marker=marker, markersize=3, clip_on=False,
        )  # fmt: skip
        if banded and len(curve.rows) > 1:
            deviations = [unit * _over_known(statistics.stdev, column) for column in columns]
            axes.fill_between(
                curve.places,
                [max(limits[0], mean - std) for mean, std in zip(means, deviations, strict=True)],
                [min(limits[1], mean + std) for mean, std in zip(means, deviations, strict=True)],
                color=curve.colour.light,
                alpha=0.13 if len(curves) <= 2 else 0.08,
                linewidth=0,
            )
        known = [(x, y) for x, y in zip(curve.places, means, strict=True) if not math.isnan(y)]
        if known:
            ends.append((*known[-1], curve.label, curve.colour))
    places = max((curve.places for curve in curves), key=len)
    finish_axes(figure, places, ends, across, 3.6, least, limits)
    return figure, "; the bands are one standard deviation" if banded else ""


def _over_known(of: Callable[[Sequence[float]], float], values: Sequence[float]) -> float:
    """The statistic of the values that are not NaN; NaN if there are too few."""
    known = [value for value in values if not math.isnan(value)]
    least = 2 if of is statistics.stdev else 1
    return of(known) if len(known) >= least else math.nan
