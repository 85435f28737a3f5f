"""The tables that `awpf compare` and `awpf sweep` print."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from awpf_ext.cli.tables import console, new_table, print_line
from awpf_ext.runs.sweep import HIGHER_IS_BETTER, Axis, Difference, Grid, arm_label
from awpf_ext.runs.wording import mean_std_text, metric_label, percent, pluralize


def print_grid(grid: Grid, axes: Sequence[Axis], *, paired: bool, folder: Path) -> None:
    """Mean and deviation of the metrics; paired: the differences from the first arm too.

    One key: a row a value. Several: a table a metric, the last key's values across, where that
    fits the width.
    """
    runs = pluralize(len(grid.cells) // len(grid.arms), "run")
    print_line(f"{grid.results[0].provenance['dataset']}: {runs} each, mean ± standard deviation\n")
    by_metric = [_across(grid, axes, metric) for metric in grid.metrics] if len(axes) > 1 else []
    screen = console()
    boundless = screen.options.update_width(10_000)
    widths = [screen.measure(table, options=boundless).maximum for table in by_metric]
    if by_metric and max(widths) <= screen.width:
        for metric, table in zip(grid.metrics, by_metric, strict=True):
            print_line((metric_label(metric), "bold"))
            screen.print(table)
            print_line("")
    else:
        screen.print(_down(grid, axes))
    if paired and len(grid.arms) > 1:
        print_line(
            (
                f"\nless {grid.arms[0]} on the same order and seed; in how many runs it is above",
                "dim",
            )
        )
        screen.print(_differences(grid, axes))
    print_line((str(folder), "dim"))


def _down(grid: Grid, axes: Sequence[Axis]) -> Table:
    """A row an arm, a column a metric."""
    table = new_table([axis.key for axis in axes], *map(metric_label, grid.metrics))
    best = {metric: grid.best(metric) for metric in grid.metrics}
    for values in itertools.product(*(axis.values for axis in axes)):
        arm = arm_label(axes, values)
        cells = [_cell(grid, arm, metric, best[metric]) for metric in grid.metrics]
        table.add_row(*map(Text, values), *cells)
    return table


def _across(grid: Grid, axes: Sequence[Axis], metric: str) -> Table:
    """One metric: rows for all keys but the last, columns for its values."""
    *down, last = axes
    columns = [f"{last.key} {last.values[0]}", *last.values[1:]]
    table = new_table([axis.key for axis in down], *columns)
    best = grid.best(metric)
    for values in itertools.product(*(axis.values for axis in down)):
        arms = [arm_label(axes, (*values, value)) for value in last.values]
        table.add_row(*map(Text, values), *(_cell(grid, arm, metric, best) for arm in arms))
    return table


def _differences(grid: Grid, axes: Sequence[Axis]) -> Table:
    shown = [metric for metric in grid.metrics if metric in HIGHER_IS_BETTER]
    table = new_table([axis.key for axis in axes], *map(metric_label, shown))
    for values in itertools.product(*(axis.values for axis in axes)):
        arm = arm_label(axes, values)
        if arm != grid.arms[0]:
            told = [_difference(grid.difference(arm, metric)) for metric in shown]
            table.add_row(*map(Text, (*values, *told)))
    return table


def _cell(grid: Grid, arm: str, metric: str, best: float | None) -> Text:
    spread = grid.spread(arm, metric)
    return Text(mean_std_text(spread), "bold" if spread.mean == best else "")


def _difference(difference: Difference) -> str:
    deviation = "" if difference.std is None else f" ± {percent(difference.std)}"
    return f"{100 * difference.mean:+.1f}{deviation} {difference.higher}/{difference.runs}"
