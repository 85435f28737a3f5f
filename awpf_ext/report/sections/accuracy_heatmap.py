"""The accuracy matrix as a heat map, and how much of each task was forgotten."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from awpf_ext.report.blocks import Block, Drawing, Section, Text
from awpf_ext.report.load import FinishedRun
from awpf_ext.report.names import NARROW, short
from awpf_ext.report.style import (
    HEAT,
    HEAT_INK,
    HEAT_INK_FROM,
    HEAT_STEPS,
    INK,
    MUTED,
    RULE,
    SMALL,
    WIDTH,
    new_figure,
    series,
    slanted,
    with_room,
)

NUMBERED = 14  # with more tasks than this, the cells do not show their values
VECTOR_TASKS = 32  # with more tasks than this, the heat map is pixels, not a vector graphic


def section(run: FinishedRun) -> Section | None:
    if len(run.result.tasks) < 2:
        return None
    noun = run.noun
    learned = "each domain" if run.domains else "the classes of each task"
    rows = [row[: step + 1] for step, row in enumerate(run.result.accuracy_matrix)]
    blocks: list[Block] = [
        Drawing(
            "accuracy_matrix",
            f"Accuracy (%) on {learned} (columns) after each {noun} was learned (rows), "
            "among all classes seen so far.",
            heat_map(rows, run),
        ),
        Drawing(
            "forgetting",
            f"Accuracy (%) on each {noun}: the best value before the last {noun} was learned "
            "(ring) and the final value (dot). A drop from ring to dot is forgetting.",
            best_and_last(run.result.accuracy_matrix, run),
        ),
    ]
    if any(math.isnan(row[-1]) for row in rows):
        blocks.append(Text("Tasks without test images have no accuracy; their cells are empty."))
    return Section("Accuracy matrix", blocks)


def heat_map(rows: Sequence[Sequence[float]], run: FinishedRun) -> Figure:
    """The lower triangle; the colour scale spans the lowest to the highest accuracy."""
    count = len(rows)
    figure, axes = new_figure(WIDTH, WIDTH * 0.86)
    known = [value for row in rows for value in row if not math.isnan(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if high - low <= 0.02:
        low, high = max(0.0, low - 0.01), min(1.0, low + 0.01)
    by_step: dict[int, list[list[tuple[float, float]]]] = {}
    inset = 0.04 if count <= NUMBERED else 0.0
    for down, row in enumerate(rows):
        for across, value in enumerate(row):
            if not math.isnan(value):
                step = round((value - low) / (high - low) * (HEAT_STEPS - 1))
                by_step.setdefault(step, []).append(_cell(across, down, inset))
                if count <= NUMBERED:
                    ink = HEAT_INK if step >= HEAT_INK_FROM else INK
                    axes.text(
                        across, down, f"{100 * value:.0f}", color=ink.light,
                        ha="center", va="center", fontsize=SMALL,
                    )  # fmt: skip
            elif count <= NUMBERED:
                axes.text(across, down, "-", color=MUTED.light, ha="center", va="center")
    for step, cells in sorted(by_step.items()):
        colour = HEAT[step].light
        axes.add_collection(
            PolyCollection(
                cells,
                facecolors=colour,
                edgecolors=colour if count > NUMBERED else "none",
                linewidths=0.2,
                rasterized=count > VECTOR_TASKS,
            )
        )
    axes.set_xlim(-0.6, count - 0.4)
    axes.set_ylim(count - 0.4, -0.6)
    axes.set_aspect("equal")
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(length=0)
    apart = next((n for n in (1, 5, 10, 20, 50) if count <= NUMBERED * n), 100)
    ticks = range(apart - 1, count, apart)
    axes.set_xticks(list(ticks), [short(run.task_names[tick], NARROW) for tick in ticks])
    axes.set_yticks(list(ticks), [short(run.task_names[tick], NARROW) for tick in ticks])
    axes.set_xlabel(f"accuracy on {run.noun}")
    axes.set_ylabel(f"after {run.noun}")
    if run.domains:
        slanted(axes)
    if count > 2:
        _scale(figure, low, high)
    return figure


def best_and_last(matrix: Sequence[Sequence[float]], run: FinishedRun) -> Figure:
    count = len(matrix)
    figure, axes = new_figure(WIDTH, WIDTH * 0.86)
    end = matrix[-1]
    best = [max(matrix[i][j] for i in range(j, count - 1)) for j in range(count - 1)] + [math.nan]
    tasks = list(range(1, count + 1))
    for task, top, last in zip(tasks, best, end, strict=True):
        colour = (series(1) if last < top else series(0)).light
        axes.plot([task, task], [100 * top, 100 * last], color=colour, linewidth=1.4, zorder=2)
    size = 34 if count <= 20 else 12
    known = [(task, 100 * top) for task, top in zip(tasks, best, strict=True)]
    axes.scatter(
        [task for task, _ in known],
        [top for _, top in known],
        s=size, facecolors="none", edgecolors=MUTED.light, linewidths=1.2, zorder=3, clip_on=False,
        label=f"best before the last {run.noun}",
    )  # fmt: skip
    axes.scatter(
        tasks, [100 * value for value in end],
        s=size, color=series(0).light, zorder=4, clip_on=False,
        label=f"after the last {run.noun}",
    )  # fmt: skip
    if count <= NUMBERED:
        axes.set_xticks(tasks, [short(name, NARROW) for name in run.task_names])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0.4, count + 0.6)
    axes.set_ylim(with_room(*axes.get_ylim()))
    axes.set_xlabel(run.noun)
    if run.domains and count <= NUMBERED:
        slanted(axes)
    figure.legend(
        loc="outside upper left", ncols=2, frameon=False, fontsize=SMALL,
        labelcolor=MUTED.light, handletextpad=0.2, columnspacing=1.2, borderaxespad=0.2,
    )  # fmt: skip
    return figure


def _cell(across: int, down: int, inset: float) -> list[tuple[float, float]]:
    left, right = across - 0.5 + inset, across + 0.5 - inset
    top, bottom = down - 0.5 + inset, down + 0.5 - inset
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _scale(figure: Figure, low: float, high: float) -> None:
    """The colour scale, in the empty corner above the diagonal."""
    axes = figure.axes[0].inset_axes((0.62, 0.9, 0.36, 0.035))
    for step, colour in enumerate(HEAT):
        axes.axvspan(step, step + 1, color=colour.light, linewidth=0.3)
    axes.set_xlim(0, HEAT_STEPS)
    axes.set_yticks([])
    axes.set_xticks([0, HEAT_STEPS], [f"{100 * low:.0f}", f"{100 * high:.0f}"])
    axes.tick_params(length=0, pad=2)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_color(RULE.light)
