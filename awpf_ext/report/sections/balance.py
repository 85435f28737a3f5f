"""AWPF's weight of each task and its parts (MMD, J, tau), from the method's records."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from awpf_ext.report.blocks import Drawing, Section, Table, Text
from awpf_ext.report.load import FinishedRun
from awpf_ext.report.style import Colour, end_labels, new_figure, series

KEYS = ("mmd2", "separability", "tau", "weight")

DIRECTIONS = (
    " From this weight, held-out training images choose one for every direction of the change; "
    "their mean is the mean weight."
)


def section(run: FinishedRun) -> Section | None:
    records = [record for record in run.result.records if all(key in record for key in KEYS)]
    if not records:
        return None
    tasks = [record["task"] + 1 for record in records]

    def line(key: str, label: str, colour: Colour) -> tuple[str, Sequence[float], Colour]:
        return label, [record[key] for record in records], colour

    lines = [line("separability", "J", series(2))]
    if all(record["tau"] == record["weight"] for record in records):
        lines.append(line("weight", "τ = weight", series(0)))
    else:
        lines += [line("tau", "τ", series(0)), line("weight", "weight", series(1))]
    columns = ["task", "MMD²", "J", "M", "τ", "weight"]
    shown = ["mmd2", "separability", "alignment", "tau", "weight"]
    directions = all("mean_weight" in record for record in records)
    if directions:
        lines.append(line("mean_weight", "mean weight", series(4)))
        columns.append("mean weight")
        shown.append("mean_weight")
    rows = [
        [str(record["task"] + 1), *(_shown(record.get(key)) for key in shown)] for record in records
    ]
    return Section(
        "Task weights",
        [
            Text(
                "Before the adapter of a new task is fused with the previous one, the features of "
                "old classes and of the new task are compared: MMD measures how far apart they "
                "are, and LDA's J how well their classes are separated. M is the MMD scaled to "
                "the range 0 to 1, and τ = M / (M + 1 - J). The weight is the fraction of the new "
                "task's change that is kept: λτ, at most 1, unless the settings fix it."
                f"{DIRECTIONS if directions else ''}"
            ),
            Drawing(
                "weights",
                "J, τ and the weight at each fusion step"
                f"{', and the mean of the weights by direction' if directions else ''}.",
                _lines(tasks, lines, 0.0),
            ),
            Drawing(
                "mmd",
                "Squared MMD between replayed features of old classes and those of the new task.",
                _lines(tasks, [line("mmd2", "MMD²", series(3))], None),
            ),
            Table(columns, rows, title="Values"),
        ],
    )


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _lines(
    tasks: Sequence[int],
    lines: Sequence[tuple[str, Sequence[float], Colour]],
    bottom: float | None,
) -> Figure:
    figure, axes = new_figure(height=2.7)
    marker = "o" if len(tasks) <= 30 else ""
    for _, values, colour in lines:
        axes.plot(tasks, values, color=colour.light, marker=marker)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -0.03) if bottom == 0 else max(0.0, low), max(high, 1.05 * high))
    if len(tasks) <= 12:
        axes.set_xticks(list(tasks))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(tasks) == 1:
        axes.set_xlim(tasks[0] - 1, tasks[0] + 1)
    axes.set_xlabel("task")
    gap = (axes.get_xlim()[1] - axes.get_xlim()[0]) * 0.03
    end_labels(axes, [(tasks[-1] + gap, v[-1], label, c) for label, v, c in lines], height=2.7)
    return figure
