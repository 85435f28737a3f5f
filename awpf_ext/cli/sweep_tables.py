"""The tables that `awpf compare` and `awpf sweep` print."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from awpf_ext.cli.tables import console, new_table, print_line
from awpf_ext.runs.sweep import (
    HIGHER_IS_BETTER,
    SECONDS,
    Axis,
    Difference,
    SweepResult,
    value_label,
    variant_label,
)
from awpf_ext.runs.wording import mean_std_text, metric_label, percent, pluralize, seconds_text


def print_sweep(sweep: SweepResult, axes: Sequence[Axis], *, paired: bool, folder: Path) -> None:
    """Print mean and standard deviation of the metrics.

    One key has one row per value. Several keys have one table per metric with the last key's values
    as columns, if that fits the width. paired: also print the differences from the first variant.
    """
    runs = pluralize(len(sweep.runs) // len(sweep.variants), "run")
    print_line(
        f"{sweep.results[0].provenance['dataset']}: {runs} each, mean ± standard deviation\n"
    )
    columns = (*sweep.metrics, SECONDS)
    by_metric = [_across(sweep, axes, metric) for metric in columns] if len(axes) > 1 else []
    screen = console()
    boundless = screen.options.update_width(10_000)
    widths = [screen.measure(table, options=boundless).maximum for table in by_metric]
    if by_metric and max(widths) <= screen.width:
        for metric, table in zip(columns, by_metric, strict=True):
            print_line((metric_label(metric), "bold"))
            screen.print(table)
            print_line("")
    else:
        screen.print(_down(sweep, axes))
    if paired and len(sweep.variants) > 1:
        what = f"minus {sweep.variants[0]} on the same order and seed; runs in which it is higher"
        print_line((f"\n{what}", "dim"))
        screen.print(_differences(sweep, axes))
    print_line((str(folder), "dim"))


def _down(sweep: SweepResult, axes: Sequence[Axis]) -> Table:
    """One row per variant, one column per metric, and the time."""
    columns = (*sweep.metrics, SECONDS)
    table = new_table([axis.key for axis in axes], *map(metric_label, columns))
    best = {metric: sweep.best(metric) for metric in columns}
    for values in itertools.product(*(axis.values for axis in axes)):
        variant = variant_label(axes, values)
        cells = [_cell(sweep, variant, metric, best[metric]) for metric in columns]
        table.add_row(*map(Text, map(value_label, axes, values)), *cells)
    return table


def _across(sweep: SweepResult, axes: Sequence[Axis], metric: str) -> Table:
    """A table of one metric with the values of the last key as columns."""
    *down, last = axes
    first, *others = (value_label(last, value) for value in last.values)
    columns = [f"{last.key} {first}", *others]
    table = new_table([axis.key for axis in down], *columns)
    best = sweep.best(metric)
    for values in itertools.product(*(axis.values for axis in down)):
        variants = [variant_label(axes, (*values, value)) for value in last.values]
        table.add_row(
            *map(Text, map(value_label, down, values)),
            *(_cell(sweep, variant, metric, best) for variant in variants),
        )
    return table


def _differences(sweep: SweepResult, axes: Sequence[Axis]) -> Table:
    shown = [metric for metric in sweep.metrics if metric in HIGHER_IS_BETTER]
    table = new_table([axis.key for axis in axes], *map(metric_label, shown))
    for values in itertools.product(*(axis.values for axis in axes)):
        variant = variant_label(axes, values)
        if variant != sweep.variants[0]:
            cells = [_difference(sweep.difference(variant, metric)) for metric in shown]
            table.add_row(*map(Text, (*map(value_label, axes, values), *cells)))
    return table


def _cell(sweep: SweepResult, variant: str, metric: str, best: float | None) -> Text:
    mean_std = sweep.mean_std(variant, metric)
    if metric == SECONDS:
        return Text(seconds_text(mean_std.mean))
    return Text(mean_std_text(mean_std), "bold" if mean_std.mean == best else "")


def _difference(difference: Difference) -> str:
    deviation = "" if difference.std is None else f" ± {percent(difference.std)}"
    return f"{100 * difference.mean:+.1f}{deviation} {difference.higher}/{difference.runs}"
