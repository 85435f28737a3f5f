"""The time of each stage and task."""

from __future__ import annotations

from matplotlib.figure import Figure

from awpf_ext.report.blocks import Drawing, Section, Table, Text
from awpf_ext.report.load import FinishedRun
from awpf_ext.report.names import plain
from awpf_ext.report.style import INK, SMALL, new_figure, series


def section(run: FinishedRun) -> Section:
    result = run.result
    stages = sorted(result.seconds.items(), key=lambda stage: -stage[1])
    total = sum(seconds for _, seconds in stages)
    facts = result.provenance
    text = (
        f"{_seconds(total)} in total, on {plain(facts['device'])} with "
        f"{plain(facts['threads'])} {'thread' if facts['threads'] == 1 else 'threads'}. "
        'The stage "features" reads the data set and encodes images that were not in the store.'
    )
    columns = [run.noun, *(plain(stage) for stage, _ in stages)]
    rows = [
        [name, *(f"{task.seconds.get(stage, 0.0):.2f}" for stage, _ in stages)]
        for name, task in zip(run.task_names, result.tasks, strict=True)
    ]
    return Section(
        "Time",
        [
            Text(text),
            Drawing("time", f"Seconds by stage, over all {run.noun}s.", _bars(stages)),
            Table(columns, rows, title=f"Seconds by {run.noun}", beside=len(rows) <= 12),
        ],
    )


def _bars(stages: list[tuple[str, float]]) -> Figure:
    figure, axes = new_figure(height=0.6 + 0.3 * len(stages))
    values = [seconds for _, seconds in stages]
    axes.barh(range(len(stages)), values, color=series(0).light, height=0.62)
    for row, seconds in enumerate(values):
        axes.annotate(
            _seconds(seconds), (seconds, row), xytext=(5, 0), textcoords="offset points",
            va="center", fontsize=SMALL, color=INK.light,
        )  # fmt: skip
    axes.set_yticks(range(len(stages)), [plain(stage) for stage, _ in stages])
    axes.set_ylim(len(stages) - 0.4, -0.6)
    axes.set_xlim(0, 1.12 * max([*values, 1e-3]))
    axes.set_xticks([])
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    return figure


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
