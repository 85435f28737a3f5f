"""A sweep over several keys: one table per metric, and lines if the last key is numeric."""

from __future__ import annotations

import itertools

from matplotlib.figure import Figure

from awpf_ext.report.blocks import Block, Drawing, Section, Table, Text
from awpf_ext.report.load import Comparison, combination_label
from awpf_ext.report.names import NARROW, short
from awpf_ext.report.sections.comparison.looks import MOST_LINES
from awpf_ext.report.sections.comparison.sweep import swept_values
from awpf_ext.report.style import Colour, end_labels, error_bars, new_figure, series, with_room
from awpf_ext.runs.sweep import HIGHER_IS_BETTER, SECONDS, MeanStd, value_label
from awpf_ext.runs.wording import mean_std_text, metric_label, seconds_text

Rows = list[tuple[tuple[str, ...], list[str]]]  # values of all keys but the last, variants


def section(comparison: Comparison) -> Section | None:
    if not comparison.axes:
        return None
    *down, last = comparison.axes
    rows: Rows = [
        (values, [combination_label((*values, value)) for value in last.values])
        for values in itertools.product(*(axis.values for axis in down))
    ]
    numbers = swept_values(last.values)
    drawn = numbers is not None and len(numbers) > 1
    deviation = ", with bars of one standard deviation"
    blocks: list[Block] = []
    if drawn and len(rows) > MOST_LINES:
        blocks.append(
            Text(f"The figures show the first {MOST_LINES} rows; the tables have all of them.")
        )
    for metric in comparison.sweep.metrics:
        if drawn and metric in HIGHER_IS_BETTER:
            bars = "" if comparison.sweep.mean_std(rows[0][1][0], metric).std is None else deviation
            label = metric_label(metric).capitalize()
            caption = f"{label} accuracy (%) against {last.key}: the mean{bars}."
            drawing = Drawing(f"combinations_{metric}", caption, _lines(comparison, rows, metric))
            blocks.append(drawing)
        blocks.append(_table(comparison, rows, metric, beside=drawn and metric in HIGHER_IS_BETTER))
    blocks.append(_table(comparison, rows, SECONDS, beside=False))
    return Section("All combinations", blocks)


def _table(comparison: Comparison, rows: Rows, metric: str, *, beside: bool) -> Table:
    *down, last = comparison.axes
    sweep = comparison.sweep
    mean_stds = [[sweep.mean_std(variant, metric) for variant in variants] for _, variants in rows]
    best = sweep.best(metric)
    strong = {
        (line, len(down) + place)
        for line, row in enumerate(mean_stds)
        for place, mean_std in enumerate(row)
        if mean_std.mean == best
    }
    first, *others = (value_label(last, value) for value in last.values)
    return Table(
        [*(axis.key for axis in down), f"{last.key} {first}", *others],
        [
            [*map(value_label, down, values), *(_cell(metric, mean_std) for mean_std in row)]
            for (values, _), row in zip(rows, mean_stds, strict=True)
        ],
        words=len(down),
        title=metric_label(metric).capitalize(),
        beside=beside,
        strong=frozenset(strong),
    )


def _cell(metric: str, mean_std: MeanStd) -> str:
    return seconds_text(mean_std.mean) if metric == SECONDS else mean_std_text(mean_std)


def _lines(comparison: Comparison, rows: Rows, metric: str) -> Figure:
    """One line per row. The values are equally spaced, since they are often multiples."""
    figure, axes = new_figure(height=3.6)
    values = comparison.axes[-1].values
    order = sorted(range(len(values)), key=lambda place: float(values[place]))
    ends: list[tuple[float, float, str, Colour]] = []
    for line, (names, variants) in enumerate(rows[:MOST_LINES]):
        mean_stds = [comparison.sweep.mean_std(variants[place], metric) for place in order]
        means = [100 * mean_std.mean for mean_std in mean_stds]
        colour = series(line)
        axes.errorbar(
            range(len(order)), means,
            yerr=error_bars(means, [100 * (mean_std.std or 0.0) for mean_std in mean_stds]),
            color=colour.light, marker="o", capsize=2.5, elinewidth=1.1,
        )  # fmt: skip
        label = short(" ".join(map(value_label, comparison.axes, names)), NARROW)
        ends.append((len(order) - 1, means[-1], label, colour))
    axes.set_xticks(range(len(order)), [short(values[place], NARROW) for place in order])
    axes.set_ylim(with_room(*axes.get_ylim()))
    axes.set_xlabel(short(comparison.axes[-1].key))
    gap = (axes.get_xlim()[1] - axes.get_xlim()[0]) * 0.025
    end_labels(axes, [(x + gap, y, label, colour) for x, y, label, colour in ends], 3.6)
    return figure
