"""The task weights of each setting, if the method records them."""

from __future__ import annotations

from collections.abc import Sequence

from awpf_ext.report.blocks import Drawing, Section, Text
from awpf_ext.report.load import Comparison, FinishedRun
from awpf_ext.report.sections.comparison.accuracy import Curves, mean_lines
from awpf_ext.report.sections.comparison.looks import looks
from awpf_ext.report.style import UNLIMITED

KEYS = {"weight": "the weight of the new task's change", "tau": "the balance factor τ"}


def section(comparison: Comparison) -> Section | None:
    drawings = []
    for key, meaning in KEYS.items():
        curves: list[Curves] = []
        for variant, look in looks(comparison).items():
            by_tasks: dict[tuple[int, ...], list[Sequence[float]]] = {}
            for run in comparison.of(variant):
                tasks, values = _recorded(run, key)
                by_tasks.setdefault(tasks, []).append(values)
            for tasks, rows in by_tasks.items():
                if tasks:
                    curves.append(Curves(look.label, tasks, rows, look.colour))
        if curves:
            figure, band = mean_lines(curves, "task", unit=1.0, least=0.05, limits=UNLIMITED)
            drawings.append(
                Drawing(key, f"Mean over runs of {meaning} at each fusion step{band}.", figure)
            )
    if not drawings:
        return None
    text = (
        "The fraction of each task's change that was kept. The report on a single run explains it."
    )
    return Section("Task weights", [Text(text), *drawings])


def _recorded(run: FinishedRun, key: str) -> tuple[tuple[int, ...], list[float]]:
    """The numbers of the tasks (from 1) and their recorded values."""
    records = [record for record in run.result.records if key in record and "task" in record]
    return tuple(record["task"] + 1 for record in records), [record[key] for record in records]
