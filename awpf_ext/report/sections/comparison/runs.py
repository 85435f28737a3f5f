"""All runs with their order, seed, metrics and time; also written as CSV and Markdown."""

from __future__ import annotations

import csv
import io as text_io
from pathlib import Path

from awpf_ext import io
from awpf_ext.report.blocks import Section, Table, Text
from awpf_ext.report.load import Comparison
from awpf_ext.report.names import plain
from awpf_ext.runs.sweep import SECONDS
from awpf_ext.runs.wording import metric_label, percent, seconds_text

UNFOLDED = 16  # a table with more rows is folded
TABLE = "table"  # .csv: all runs in full precision; .md: one row per setting


def section(comparison: Comparison) -> Section:
    metrics = comparison.sweep.metrics
    columns = [comparison.varied, "order", "folder", "seed"]
    columns += [*map(metric_label, (*metrics, SECONDS)), "seconds in all"]
    rows = []
    for sweep_run, run in zip(comparison.sweep.runs, comparison.runs, strict=True):
        result = run.result
        numbers = [percent(getattr(result, metric)) for metric in metrics]
        seconds = map(seconds_text, (result.seconds_to_learn, sum(result.seconds.values())))
        rows.append(
            [
                comparison.sweep.label(sweep_run.variant),
                plain(sweep_run.order),
                plain(run.folder.name),
                str(sweep_run.seed),
                *numbers,
                *seconds,
            ]
        )
    return Section(
        "All runs",
        [
            Table(
                columns, rows, words=3, title="" if len(rows) <= UNFOLDED else f"{len(rows)} rows"
            ),
            Text(f"{TABLE}.csv beside this page has full precision, {TABLE}.md has the summary."),
        ],
    )


def write_tables(comparison: Comparison, folder: Path) -> None:
    """Write table.csv with one row per run, and table.md with one row per setting."""
    buffer = text_io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    metrics = comparison.sweep.metrics
    columns = ["dataset", "order", "seed", *metrics, SECONDS, "seconds", "folder"]
    writer.writerow([comparison.varied, *columns])
    for sweep_run, run in zip(comparison.sweep.runs, comparison.runs, strict=True):
        result = run.result
        numbers = [repr(float(getattr(result, metric))) for metric in metrics]
        times = (result.seconds_to_learn, sum(result.seconds.values()))
        writer.writerow(
            [
                *(sweep_run.variant, run.dataset, plain(sweep_run.order), sweep_run.seed),
                *(*numbers, *(f"{time:.3f}" for time in times), plain(run.folder.name)),
            ]
        )
    io.write_atomic(folder / f"{TABLE}.csv", buffer.getvalue().encode())

    heads = [_cell(comparison.varied), "runs", *map(metric_label, (*metrics, SECONDS))]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for variant in comparison.sweep.variants:
        cells = [_cell(comparison.sweep.label(variant)), str(len(comparison.of(variant)))]
        for metric in metrics:
            mean, deviation = comparison.sweep.mean_std(variant, metric)
            cells.append(percent(mean) + ("" if deviation is None else f" ± {percent(deviation)}"))
        cells.append(seconds_text(comparison.sweep.mean_std(variant, SECONDS).mean))
        lines.append(f"| {' | '.join(cells)} |")
    io.write_atomic(folder / f"{TABLE}.md", ("\n".join(lines) + "\n").encode())


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|")
