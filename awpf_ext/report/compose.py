"""Puts a report together from its sections: of one run, or of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from awpf_ext.report.blocks import Section
from awpf_ext.report.load import Comparison, FinishedRun
from awpf_ext.report.names import Fonts, substitutes
from awpf_ext.report.page import write_page
from awpf_ext.report.sections.comparison.runs import write_tables
from awpf_ext.report.style import drawing
from awpf_ext.runs.wording import pluralize


def report_of_run(run: FinishedRun, folder: Path) -> Path:
    from awpf_ext.report.sections import SECTIONS

    facts = run.result.provenance
    lead = (
        f"{pluralize(len(run.class_names), 'class')} in {pluralize(len(run.classes), run.noun)}, "
        f"order {run.order}, seed {facts['seed']}"
    )
    return _write(
        folder,
        f"{run.method} on {run.dataset}",
        lead,
        lambda: [section(run) for section in SECTIONS],
        [*run.labels, run.method],
        substitutes(run.labels, "class"),
    )


def report_of_comparison(comparison: Comparison, folder: Path) -> Path:
    from awpf_ext.report.sections.comparison import SECTIONS

    variants = comparison.sweep.variants
    datasets = list(dict.fromkeys(run.dataset for run in comparison.runs))
    orders = {sweep_run.order for sweep_run in comparison.sweep.runs}
    seeds = {sweep_run.seed for sweep_run in comparison.sweep.runs}
    lead = (
        f"{pluralize(len(comparison.runs), 'run')}: {pluralize(len(orders), 'order')}, "
        f"{pluralize(len(seeds), 'seed')}"
    )
    write_tables(comparison, folder)
    return _write(
        folder,
        f"{_what_varies(comparison)} on {', '.join(datasets)}",
        lead,
        lambda: [section(comparison) for section in SECTIONS],
        [*variants, comparison.varied],
        substitutes(variants, "setting"),
    )


def _what_varies(comparison: Comparison) -> str:
    count = len(comparison.sweep.variants)
    if comparison.varied == "method":
        return pluralize(count, "method")
    if "," in comparison.varied:
        return pluralize(count, "setting")
    return f"{pluralize(count, 'value')} of {comparison.varied}"


def _write(
    folder: Path,
    title: str,
    lead: str,
    sections: Callable[[], Sequence[Section | None]],
    names: Sequence[str],
    in_their_place: dict[str, str],
) -> Path:
    with drawing():
        fonts = Fonts()
        with fonts.used_for(names):
            return write_page(
                folder,
                title=title,
                lead=lead,
                sections=[section for section in sections() if section is not None],
                drawable=fonts.drawable,
                substitutes=in_their_place,
            )
