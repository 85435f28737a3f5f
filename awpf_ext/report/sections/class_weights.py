"""How much each class weighed in a loss that weighs classes (GDRO), from the method's records."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from awpf_ext.report.blocks import Block, Drawing, Section, Table, Text
from awpf_ext.report.load import FinishedRun
from awpf_ext.report.names import short
from awpf_ext.report.sections.accuracy import finish_axes
from awpf_ext.report.style import MUTED, new_figure, series
from awpf_ext.tables import percent

HEAVIEST = 12
LONGEST = 60  # characters of a name outside figures


class Weights(NamedTuple):
    """After one task: of each class seen its weight, as a multiple of their mean.

    A class of which no sample was left weighs nothing, and the mean is that of the others.
    """

    task: int
    shares: list[float]

    @property
    def weighed(self) -> list[float]:
        return [share for share in self.shares if share > 0]


def class_weights(run: FinishedRun) -> Section | None:
    recorded = [
        _weights(record["task"], record["weights"])
        for record in run.result.records
        if record.get("kind") == "class_weights" and record["weights"]
    ]
    if not recorded:
        return None
    last = recorded[-1].shares
    accuracies = run.result.tasks[-1].class_accuracies
    known = [label for label in range(len(last)) if label < len(accuracies)]
    heaviest = sorted(known, key=lambda label: -last[label])[:HEAVIEST]
    blocks: list[Block] = [
        Text(
            "Classes on which the running loss is high weigh more; 1 is the mean. Weights are "
            "found on training images, accuracies on test images."
        ),
        Drawing(
            "class_weights",
            f"Weights of the classes after each {run.noun}: all classes lie in the pale band, half "
            "of them in the darker one; the line is the median.",
            _spread(run, recorded),
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
    blocks.append(Table(columns, rows, title="The heaviest classes", beside=True))
    return Section("How classes were weighed", blocks)


def _weights(task: int, weights: Sequence[float]) -> Weights:
    weighed = sum(weight > 0 for weight in weights)
    mean = sum(weights) / max(weighed, 1)
    return Weights(task, [weight / (mean or 1.0) for weight in weights])


def _spread(run: FinishedRun, recorded: Sequence[Weights]) -> Figure:
    figure, axes = new_figure()
    places = [run.places[weights.task] for weights in recorded]
    lows, quarters, medians, upper, highs = zip(
        *(_quantiles(weights.weighed or [0.0]) for weights in recorded), strict=True
    )
    colour = series(0)
    axes.fill_between(places, lows, highs, color=colour.light, alpha=0.12, linewidth=0)
    axes.fill_between(places, quarters, upper, color=colour.light, alpha=0.25, linewidth=0)
    axes.plot(places, medians, color=colour.light, marker="o" if len(places) <= 30 else "")
    axes.axhline(1, color=MUTED.light, linewidth=1, linestyle="--")
    ends = [
        (places[-1], highs[-1], "heaviest", colour),
        (places[-1], medians[-1], "median", colour),
        (places[-1], lows[-1], "lightest", colour),
    ]
    axes.set_ylabel("weight / mean")
    finish_axes(figure, places, ends, run.across, least=0.05)
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
    axes.scatter(
        weights, [100 * value for value in accuracies],
        s=size, color=series(0).light, alpha=0.7, linewidths=0,
    )  # fmt: skip
    axes.set_xlabel("weight / mean")
    axes.set_ylabel("accuracy")
    return figure
