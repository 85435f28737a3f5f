"""The most important numbers, and the same in words."""

from __future__ import annotations

import math

from awpf_ext.report.blocks import Section, Text, Tile, Tiles
from awpf_ext.report.load import FinishedRun
from awpf_ext.report.names import NARROW, short
from awpf_ext.runs.wording import percent, pluralize, seconds_text


def section(run: FinishedRun) -> Section:
    result, diagnostics = run.result, run.diagnostics
    zero_shot = None if diagnostics is None else diagnostics.zero_shot_accuracy
    tiles = [
        Tile("average", percent(result.average), f"mean of the accuracies after each {run.noun}"),
        Tile("last", percent(result.last), f"accuracy after the last {run.noun}"),
        Tile("forgetting", percent(result.forgetting), f"points lost from each {run.noun}'s best"),
    ]
    if zero_shot is not None and run.method != "zero_shot":
        tiles += [
            Tile("zero-shot, last", percent(zero_shot[-1]), "zero-shot CLIP"),
            Tile("gain", _points(result.last - zero_shot[-1]), "last minus zero-shot"),
        ]
    if not math.isnan(result.worst_class):
        tiles.append(Tile("worst class", percent(result.worst_class), _worst(run)))
    spent = seconds_text(result.seconds_to_learn)
    tiles.append(Tile("seconds to learn", spent, "without encoding and evaluation"))
    return Section("Summary", [Tiles(tiles), Text(_in_words(run))])


def _in_words(run: FinishedRun) -> str:
    result, diagnostics = run.result, run.diagnostics
    images = sum(result.test_images)
    sentences = [
        f"{run.method} learned {pluralize(len(run.class_names), 'class')} of {run.dataset} in "
        f"{pluralize(len(result.tasks), run.noun)}. After the last {run.noun} its accuracy on the "
        f"{images:,} test images of all classes is {percent(result.last)}%."
    ]
    if diagnostics is not None and run.method != "zero_shot":
        before = diagnostics.zero_shot_accuracy[-1]
        sentences.append(_against_zero_shot(result.last - before, before))
    if len(result.tasks) > 1 and run.method != "zero_shot":
        sentences.append(_forgotten(result.forgetting, run))
    elif run.method == "zero_shot":
        added = "test images" if run.domains else "class names"
        sentences.append(f"No training takes place; each {run.noun} only adds its {added}.")
    if any(math.isnan(value) for value in result.per_task):
        without = sum(math.isnan(value) for value in result.per_task)
        sentences.append(
            f"{pluralize(without, 'task')} without test images: left out of the means, and a gap "
            "in the figures."
        )
    sentences.append(
        "All accuracies are in percent, on test images that are not used for training."
    )
    return " ".join(sentences)


def _against_zero_shot(gain: float, before: float) -> str:
    start = f"Zero-shot CLIP, which only knows the class names, reaches {percent(before)}%"
    if abs(gain) < 0.0005:
        return f"{start}, the same."
    return f"{start}: {_points(abs(gain), sign=False)} points {'less' if gain > 0 else 'more'}."


def _forgotten(value: float, run: FinishedRun) -> str:
    if value < 0.0005:
        return (
            f"Nothing was forgotten: on average the final accuracy of a {run.noun} is not below "
            "its earlier best."
        )
    text = (
        f"On average the accuracy on an earlier {run.noun} fell by {percent(value)} points from "
        "its best value"
    )
    more = "; part of this is due to the growing number of classes to choose from"
    return f"{text}{'' if run.domains else more}."


def _worst(run: FinishedRun) -> str:
    """The class with the lowest accuracy, or how many share it."""
    lowest = run.result.worst_class
    accuracies = run.result.tasks[-1].class_accuracies
    worst = [label for label, value in enumerate(accuracies) if value == lowest]
    which = short(run.labels[worst[0]], NARROW) if len(worst) == 1 else f"{len(worst)} have it"
    return f"the lowest accuracy of a class ({which})"


def _points(value: float, sign: bool = True) -> str:
    return f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}"
