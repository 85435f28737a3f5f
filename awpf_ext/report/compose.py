"""The two kinds of report, put together from their sections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from awpf_ext.report.blocks import Section
from awpf_ext.report.load import FinishedRun, RunGroup
from awpf_ext.report.names import Fonts, substitutes
from awpf_ext.report.page import write_page
from awpf_ext.report.sections.comparison.runs import write_tables
from awpf_ext.report.style import drawing
from awpf_ext.runs.wording import pluralize


def report_of_run(run: FinishedRun, folder: Path) -> Path:
    from awpf_ext.report.sections import OF_A_RUN

    facts = run.result.provenance
    lead = (
        f"{pluralize(len(run.class_names), 'class')} in {pluralize(len(run.classes), run.noun)}, "
        f"order {run.order}, seed {facts['seed']}"
    )
    return _write(
        folder,
        f"{run.method} on {run.dataset}",
        lead,
        lambda: [section(run) for section in OF_A_RUN],
        [*run.labels, run.method],
        substitutes(run.labels, "class"),
    )


def report_of_group(group: RunGroup, folder: Path) -> Path:
    from awpf_ext.report.sections import OF_A_GROUP

    arms = group.grid.arms
    datasets = list(dict.fromkeys(run.dataset for run in group.runs))
    orders = {cell.order for cell in group.grid.cells}
    seeds = {cell.seed for cell in group.grid.cells}
    lead = (
        f"{pluralize(len(group.runs), 'run')}: {pluralize(len(orders), 'order')}, "
        f"{pluralize(len(seeds), 'seed')}"
    )
    write_tables(group, folder)
    return _write(
        folder,
        f"{_what_varies(group)} on {', '.join(datasets)}",
        lead,
        lambda: [section(group) for section in OF_A_GROUP],
        [*arms, group.varied],
        substitutes(arms, "setting"),
    )


def _what_varies(group: RunGroup) -> str:
    count = len(group.grid.arms)
    if group.varied == "method":
        return pluralize(count, "method")
    if "," in group.varied:
        return pluralize(count, "setting")
    return f"{pluralize(count, 'value')} of {group.varied}"


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
