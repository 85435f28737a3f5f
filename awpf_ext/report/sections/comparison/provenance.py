"""What the runs have in common, how they differ, and the commands that repeat them."""

from __future__ import annotations

from awpf_ext.report.blocks import Section, Table, Text
from awpf_ext.report.load import Comparison
from awpf_ext.report.names import plain
from awpf_ext.report.sections.provenance import command, facts_table


def section(comparison: Comparison) -> Section:
    tables = [dict(facts_table(run.result.provenance)) for run in comparison.runs]
    keys = list(dict.fromkeys(key for table in tables for key in table))
    shared = [key for key in keys if len({table.get(key) for table in tables}) == 1]
    apart = [key for key in keys if key not in shared]
    rows = [
        [
            sweep_run.variant,
            plain(sweep_run.order),
            str(sweep_run.seed),
            *(table.get(key, "-") for key in apart),
        ]
        for sweep_run, table in zip(comparison.sweep.runs, tables, strict=True)
    ]
    commands = [
        [sweep_run.variant, command(run.config)]
        for sweep_run, run in zip(comparison.sweep.runs, comparison.runs, strict=True)
    ]
    return Section(
        "Provenance",
        [
            Text("All runs have in common:"),
            Table(["key", "value"], [[key, tables[0][key]] for key in shared], words=2),
            Table(
                [comparison.varied, "order", "seed", *apart],
                rows,
                words=3 + len(apart),
                title="Differences between the runs",
            ),
            Table(
                [comparison.varied, "command"],
                commands,
                words=2,
                title="Commands that repeat the runs",
            ),
        ],
    )
