"""The class weights in a loss that weights classes (GDRO), from the method's records."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axis import Axis
from matplotlib.figure import Figure

from awpf_ext.report.blocks import Block, Drawing, Section, Table, Text
from awpf_ext.report.load import FinishedRun
from awpf_ext.report.names import short
from awpf_ext.report.sections.accuracy import finish_axes
from awpf_ext.report.style import MUTED, UNLIMITED, new_figure, series, with_room
from awpf_ext.runs.wording import percent

HEAVIEST = 12
LEAST = 1e-3  # smaller multiples of the mean are drawn as this
LONGEST = 60  # characters of a name outside figures


class RecordedClassWeights(NamedTuple):
    """The weights of all classes seen after one task, as multiples of their mean.

    A class without samples has weight 0 and does not count in the mean.
    """

    task: int
    weights: list[float]


def section(run: FinishedRun) -> Section | None:
    recorded = [
        _weights(record["task"], record["weights"])
        for record in run.result.records
        if record.get("kind") == "class_weights" and any(record["weights"])
    ]
    if not recorded:
        return None
    last = recorded[-1].weights
    accuracies = run.result.tasks[-1].class_accuracies
    known = [label for label in range(len(last)) if label < len(accuracies)]
    heaviest = sorted(known, key=lambda label: -last[label])[:HEAVIEST]
    blocks: list[Block] = [
        Text(
            "Classes with a high running loss get a high weight; the mean weight is 1. The weights "
            "are computed on training images, the accuracies on test images. The scales are "
            f"logarithmic and end at {LEAST:g}."
        ),
        Drawing(
            "class_weights",
            f"Class weights after each {run.noun}: all classes are in the light band, half of them "
            "in the dark band; the line is the median.",
            _bands(run, recorded),
        ),
    ]
    if len(last) == len(accuracies):
        blocks.append(
            Drawing(
                "weights_and_accuracy",
                f"Weight and accuracy (%) of every class after the last {run.noun}.",
                _against_accuracy(last, accuracies),
            )
        )
    rows = [
        [short(run.labels[label], LONGEST), f"{last[label]:.2f}", percent(accuracies[label])]
        for label in heaviest
    ]
    columns = ["class", "weight", "accuracy"]
    blocks.append(Table(columns, rows, title="Classes with the highest weights", beside=True))
    return Section("Class weights", blocks)


def _weights(task: int, weights: Sequence[float]) -> RecordedClassWeights:
    mean = sum(weights) / sum(weight > 0 for weight in weights)
    return RecordedClassWeights(task, [weight / mean for weight in weights])


def _bands(run: FinishedRun, recorded: Sequence[RecordedClassWeights]) -> Figure:
    figure, axes = new_figure()
    places = [run.places[after.task] for after in recorded]
    logs = [_quantiles([_log(w) for w in after.weights if w > 0]) for after in recorded]
    lows, quarters, medians, upper, highs = zip(*logs, strict=True)
    colour = series(0)
    axes.fill_between(places, lows, highs, color=colour.light, alpha=0.12, linewidth=0)
    axes.fill_between(places, quarters, upper, color=colour.light, alpha=0.25, linewidth=0)
    axes.plot(places, medians, color=colour.light, marker="o" if len(places) <= 30 else "")
    axes.axhline(0, color=MUTED.light, linewidth=1, linestyle="--")
    ends = [
        (places[-1], highs[-1], "heaviest", colour),
        (places[-1], medians[-1], "median", colour),
        (places[-1], lows[-1], "lightest", colour),
    ]
    axes.set_ylabel("weight / mean")
    finish_axes(figure, places, ends, run.across, least=0.15, limits=UNLIMITED)
    _ticks(axes.yaxis, *axes.get_ylim())
    return figure


def _quantiles(values: Sequence[float]) -> tuple[float, ...]:
    """Lowest, lower quartile, median, upper quartile, highest."""
    if len(values) == 1:
        return (values[0],) * 5
    quartiles = statistics.quantiles(values, n=4, method="inclusive")
    return (min(values), *quartiles, max(values))


def _against_accuracy(weights: Sequence[float], accuracies: Sequence[float]) -> Figure:
    figure, axes = new_figure()
    size = 22 if len(weights) <= 200 else 8
    known = [(_log(w), 100 * a) for w, a in zip(weights, accuracies, strict=True) if w > 0]
    across, up = zip(*known, strict=True)
    axes.scatter(
        across, up, s=size, color=series(0).light, alpha=0.7, linewidths=0, clip_on=False,
    )  # fmt: skip
    axes.set_xlabel("weight / mean")
    axes.set_ylabel("accuracy")
    axes.set_ylim(with_room(*axes.get_ylim()))
    _ticks(axes.xaxis, *axes.get_xlim())
    return figure


def _log(weight: float) -> float:
    """The decimal logarithm of a multiple of the mean, which is at least `LEAST`."""
    return math.log10(max(weight, LEAST))


def _ticks(axis: Axis, low: float, high: float) -> None:
    """Label an axis of logarithms with multiples of the mean."""
    steps = (1, 1.5, 2, 3, 5, 7) if high - low < 1.2 else (1, 2, 5) if high - low < 2.5 else (1,)
    ticks = [
        (math.log10(step) + power, f"{step * 10.0**power:g}")
        for power in range(math.floor(low), math.ceil(high) + 1)
        for step in steps
    ]
    inside = [tick for tick in ticks if low <= tick[0] <= high]
    axis.set_ticks([place for place, _ in inside], [label for _, label in inside])
