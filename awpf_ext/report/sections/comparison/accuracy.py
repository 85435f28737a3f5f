"""The mean accuracy of each setting after each task, and its difference from the first setting."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from awpf_ext.report.blocks import Block, Drawing, Section, Text
from awpf_ext.report.load import Comparison, FinishedRun
from awpf_ext.report.names import NARROW, short
from awpf_ext.report.sections.accuracy import finish_axes
from awpf_ext.report.style import MUTED, Colour, new_figure, series
from awpf_ext.runs.result import Result

MOST_LINES = 8
MOST_BANDS = 4  # more would not be readable


class Curves(NamedTuple):
    """The data of one line, which is a mean: fractions after each task, one row per run."""

    label: str
    places: Sequence[int]  # on the axis
    rows: Sequence[Sequence[float]]
    colour: Colour
    style: str = "-"


def section(comparison: Comparison) -> Section:
    variants = comparison.sweep.variants[:MOST_LINES]
    blocks: list[Block] = []
    left_out = len(comparison.sweep.variants) - len(variants)
    if left_out:
        blocks.append(
            Text(f"The figures show the first {MOST_LINES} settings; the table has all of them.")
        )
    curves = [
        curve
        for place, variant in enumerate(variants)
        for curve in _of_runs(
            short(variant, NARROW), comparison.of(variant), series(place), lambda r: r.accuracy
        )
    ]
    reference = _zero_shot(comparison)
    reference_note = "; dashed line: zero-shot CLIP" if reference else ""
    across, noun = comparison.runs[0].across, comparison.noun
    figure, band = mean_lines([*curves, *reference], across)
    means = f"means over runs{band}{reference_note}"
    caption = f"Accuracy (%) over all {across}, after each {noun}: {means}."
    blocks.append(Drawing("accuracy", caption, figure))
    compared = _above_first(comparison, variants)
    if compared:
        figure, band = mean_lines(compared, across)
        figure.axes[0].axhline(0, color=MUTED.light, linewidth=1)
        caption = f"Difference from {variants[0]} on the same order and seed, in points{band}."
        blocks.append(Drawing("above_first", caption, figure))
    return Section(f"Accuracy after each {noun}", blocks)


def _of_runs(
    label: str,
    runs: Sequence[FinishedRun],
    colour: Colour,
    of: Callable[[Result], Sequence[float]],
) -> list[Curves]:
    """One curve for all runs with the same tasks."""
    by_shape: dict[tuple[int, ...], list[Sequence[float]]] = {}
    for run in runs:
        by_shape.setdefault(tuple(run.places), []).append(of(run.result))
    return [Curves(label, places, rows, colour) for places, rows in by_shape.items()]


def _above_first(comparison: Comparison, variants: Sequence[str]) -> list[Curves]:
    """Differences from the first setting for each pair of runs with the same tasks."""
    found = []
    for place, variant in enumerate(variants[1:], start=1):
        places = comparison.of(variant)[0].places
        rows = [
            [here - there for here, there in zip(own.accuracy, first.accuracy, strict=True)]
            for own, first in comparison.sweep.paired(variant)
            if own.test_images == first.test_images
        ]
        if rows and all(len(row) == len(places) for row in rows):
            found.append(Curves(short(variant, NARROW), places, rows, series(place)))
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
    return [Curves("zero-shot", comparison.runs[0].places, rows, MUTED, "--")] if rows else []


def mean_lines(
    curves: Sequence[Curves], across: str, unit: float = 100.0, least: float = 1.0
) -> tuple[Figure, str]:
    """The figure, and the part of its caption that explains the bands.

    Values are multiplied by `unit`; `least` is that of `finish_axes`.
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
            curve.places, means, curve.style, color=curve.colour.light, marker=marker, markersize=3
        )
        if banded and len(curve.rows) > 1:
            deviations = [unit * _over_known(statistics.stdev, column) for column in columns]
            axes.fill_between(
                curve.places,
                [mean - deviation for mean, deviation in zip(means, deviations, strict=True)],
                [mean + deviation for mean, deviation in zip(means, deviations, strict=True)],
                color=curve.colour.light,
                alpha=0.13 if len(curves) <= 2 else 0.08,
                linewidth=0,
            )
        known = [(x, y) for x, y in zip(curve.places, means, strict=True) if not math.isnan(y)]
        if known:
            ends.append((*known[-1], curve.label, curve.colour))
    finish_axes(figure, max((curve.places for curve in curves), key=len), ends, across, 3.6, least)
    return figure, "; the bands are one standard deviation" if banded else ""


def _over_known(of: Callable[[Sequence[float]], float], values: Sequence[float]) -> float:
    """The statistic of the values that are not NaN; NaN if there are too few."""
    known = [value for value in values if not math.isnan(value)]
    least = 2 if of is statistics.stdev else 1
    return of(known) if len(known) >= least else math.nan
