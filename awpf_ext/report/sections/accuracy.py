"""Accuracy after each task, compared with zero-shot CLIP."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from awpf_ext.methods.registry import is_upper_bound, method_label
from awpf_ext.report.blocks import Block, Drawing, Section, Table, Text
from awpf_ext.report.load import FinishedRun
from awpf_ext.report.names import short
from awpf_ext.report.sections import references
from awpf_ext.report.style import (
    BOUND_LINE,
    HEIGHT,
    INK,
    MUTED,
    PERCENT,
    ZERO_SHOT_LINE,
    Colour,
    end_labels,
    new_figure,
    series,
    with_room,
)
from awpf_ext.runs.references import by_method
from awpf_ext.runs.wording import percent, seconds_text

Line = tuple[str, Sequence[float], Colour, str]  # label, fractions, colour, line style


def section(run: FinishedRun) -> Section:
    result = run.result
    zero_shot = None if run.diagnostics is None else run.diagnostics.zero_shot_accuracy
    if run.method == "zero_shot":
        zero_shot = None
    lines: list[Line] = [(short(run.method), result.accuracy, series(0), "-"), *_references(run)]
    caption = f"Accuracy (%) over all {run.across}, after each {run.noun}"
    blocks: list[Block] = [*references.in_words(run)]
    if zero_shot is not None:
        lines.append(("zero-shot", zero_shot, MUTED, ZERO_SHOT_LINE))
        caption += "; dotted line: zero-shot CLIP on the same images and classes"
    if any(style == BOUND_LINE for *_, style in lines):
        caption += "; dashed line: an upper bound, which is not a continual method"
    blocks.append(Drawing("accuracy", f"{caption}.", _lines(run, lines)))
    kind = "domains" if run.domains else "classes"
    if len(result.tasks) > 1:
        split: list[Line] = [
            (f"earlier {kind}", result.old, series(1), "-"),
            (f"new {kind if kind == 'classes' else 'domain'}", result.new, series(2), "-"),
        ]
        groups = {
            "classes": "on classes of earlier tasks and on those just learned",
            "domains": "on earlier domains and on the one just learned",
        }
        caption = f"Accuracy (%) after each {run.noun}, {groups[kind]}."
        blocks.append(Drawing("earlier_and_new", caption, _lines(run, split)))
    if run.diagnostics is None:
        blocks.append(
            Text("Zero-shot accuracy is missing: the run's folder has no diagnostics.safetensors.")
        )
    blocks += references.table(run)
    columns = [run.noun, run.across, "test images", "seen", "earlier", "new"]
    seconds = [seconds_text(task.seconds_to_learn) for task in result.tasks]
    rows = []
    for index, (name, place) in enumerate(zip(run.task_names, run.places, strict=True)):
        row = [name, f"{place:,}", f"{result.test_images[index]:,}"]
        row += map(percent, (result.accuracy[index], result.old[index], result.new[index]))
        row += [] if zero_shot is None else [percent(zero_shot[index])]
        rows.append([*row, seconds[index]])
    columns += [] if zero_shot is None else ["zero-shot"]
    columns.append("seconds to learn")
    blocks.append(Table(columns, rows, title="Values"))
    return Section(f"Accuracy after each {run.noun}", blocks)


def _references(run: FinishedRun) -> list[Line]:
    """A line for each reference; an upper bound is dashed."""
    found: list[Line] = []
    for method, result in by_method(run.references.results):
        bound = is_upper_bound(method)
        colour = INK if bound else series(1 + len(found))
        style = BOUND_LINE if bound else "-"
        found.append((short(method_label(method)), result.accuracy, colour, style))
    return found


def _lines(run: FinishedRun, lines: Sequence[Line]) -> Figure:
    """Lines over the classes or domains seen, labelled at their ends."""
    figure, axes = new_figure()
    seen, ends = run.places, []
    marker = "o" if len(seen) <= 30 else ""
    for label, values, colour, style in lines:
        heights = [100 * value for value in values]
        axes.plot(seen, heights, style, color=colour.light, marker=marker, clip_on=False)
        known = [(x, y) for x, y in zip(seen, heights, strict=True) if not math.isnan(y)]
        if known:
            ends.append((*known[-1], label, colour))
    finish_axes(figure, seen, ends, run.across)
    return figure


def finish_axes(
    figure: Figure,
    seen: Sequence[int],
    ends: Sequence[tuple[float, float, str, Colour]],
    across: str,
    height: float = HEIGHT,
    least: float = 1.0,
    limits: tuple[float, float] = PERCENT,
) -> None:
    """Set the ticks (at the tasks, if they fit) and label the ends of the lines.

    `least` is the minimum space above and below a line that is nearly flat; the axis does not go
    beyond `limits`.
    """
    axes = figure.axes[0]
    axes.set_ylim(with_room(*axes.get_ylim(), least, limits))
    if len(seen) <= 12 and len(set(seen)) == len(seen):
        axes.set_xticks(list(seen))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(seen) == 1:
        axes.set_xlim(seen[0] - 1, seen[0] + 1)
    axes.set_xlabel(across)
    gap = (axes.get_xlim()[1] - axes.get_xlim()[0]) * 0.03
    end_labels(axes, [(x + gap, y, label, colour) for x, y, label, colour in ends], height)
