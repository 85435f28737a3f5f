"""The numbers that matter most, and what they say in words."""

from __future__ import annotations

import math

from awpf_ext.report.blocks import Section, Text, Tile, Tiles
from awpf_ext.report.load import FinishedRun
from awpf_ext.report.names import NARROW, short
from awpf_ext.runs.wording import percent, pluralize


def section(run: FinishedRun) -> Section:
    result, diagnostics = run.result, run.diagnostics
    zero_shot = None if diagnostics is None else diagnostics.zero_shot_accuracy
    tiles = [
        Tile("average", percent(result.average), f"accuracy, mean over the {run.noun}s"),
        Tile("last", percent(result.last), f"accuracy after the last {run.noun}"),
        Tile("forgetting", percent(result.forgetting), f"points lost from each {run.noun}'s best"),
    ]
    if zero_shot is not None and run.method != "zero_shot":
        tiles += [
            Tile("zero-shot, last", percent(zero_shot[-1]), "CLIP without learning"),
            Tile("gain", _points(result.last - zero_shot[-1]), "last, over zero-shot"),
        ]
    if not math.isnan(result.worst_class):
        tiles.append(Tile("worst class", percent(result.worst_class), _worst(run)))
    return Section("Summary", [Tiles(tiles), Text(_in_words(run))])


def _in_words(run: FinishedRun) -> str:
    result, diagnostics = run.result, run.diagnostics
    images = sum(result.test_images)
    told = [
        f"{run.method} learned {pluralize(len(run.class_names), 'class')} of {run.dataset} in "
        f"{pluralize(len(result.tasks), run.noun)}. After the last {run.noun} it names the "
        f"class of {percent(result.last)}% of the {images:,} test images, among all classes."
    ]
    if diagnostics is not None and run.method != "zero_shot":
        before = diagnostics.zero_shot_accuracy[-1]
        told.append(_against_zero_shot(result.last - before, before))
    if len(result.tasks) > 1 and run.method != "zero_shot":
        told.append(_forgotten(result.forgetting, run))
    elif run.method == "zero_shot":
        brings = "test images" if run.domains else "class names"
        told.append(f"Nothing was learned: each {run.noun} only brings its {brings}.")
    if any(math.isnan(value) for value in result.per_task):
        without = sum(math.isnan(value) for value in result.per_task)
        told.append(
            f"{pluralize(without, 'task')} without test images: left out of means, a gap in "
            "figures."
        )
    told.append("All accuracies are in percent, on test images that no training saw.")
    return " ".join(told)


def _against_zero_shot(gain: float, before: float) -> str:
    start = f"CLIP alone, given the class names and nothing else, names {percent(before)}%"
    if abs(gain) < 0.0005:
        return f"{start}: as many."
    return f"{start}: {_points(abs(gain), sign=False)} points {'fewer' if gain > 0 else 'more'}."


def _forgotten(value: float, run: FinishedRun) -> str:
    if value < 0.0005:
        return (
            f"Over the sequence nothing was forgotten: {run.noun}s end no lower than their "
            "earlier best."
        )
    told = (
        f"While later {run.noun}s were learned, accuracy on earlier ones fell by {percent(value)} "
        "points from its best, on average"
    )
    more = "; part of that comes from having more classes to choose among"
    return f"{told}{'' if run.domains else more}."


def _worst(run: FinishedRun) -> str:
    """Which class it is that comes off worst, and how many do."""
    lowest = run.result.worst_class
    accuracies = run.result.tasks[-1].class_accuracies
    worst = [label for label, value in enumerate(accuracies) if value == lowest]
    which = short(run.labels[worst[0]], NARROW) if len(worst) == 1 else f"{len(worst)} have it"
    return f"the lowest accuracy of a class ({which})"


def _points(value: float, sign: bool = True) -> str:
    return f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}"
