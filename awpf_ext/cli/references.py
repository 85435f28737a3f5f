"""The references of `awpf run`: which ones, training them, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.text import Text

from awpf_ext.cli.options import OUTPUT
from awpf_ext.cli.progress import Reporter
from awpf_ext.cli.tables import console, new_table, print_line
from awpf_ext.distributed import SINGLE_PROCESS
from awpf_ext.errors import AwpfError, UserError
from awpf_ext.methods.registry import check_supported
from awpf_ext.runs.checkpoint import Resume
from awpf_ext.runs.config import ConfigLayer, RunConfig
from awpf_ext.runs.folder import RunFolder
from awpf_ext.runs.references import (
    COLUMNS,
    DEMO_REFERENCES,
    METRICS,
    Reference,
    by_method,
    default_references,
    plan_references,
    table_row,
)
from awpf_ext.runs.result import Result
from awpf_ext.runs.run import FeatureSource, run_configured, with_settled_precision

NONE = "none"

ReferencesOption = Annotated[
    str | None,
    typer.Option(
        "--references",
        metavar="A,B,...",
        help="Methods that are trained after the run, for its report; none = no methods  "
        f"[default: {','.join(DEMO_REFERENCES)} for the demo, else {NONE}]",
        rich_help_panel=OUTPUT,
    ),
]


def chosen_references(
    given: str | None,
    layers: Sequence[ConfigLayer],
    config: RunConfig,
    folder: RunFolder,
    *,
    report: bool,
) -> list[Reference]:
    """The references to train; by default none if no report shows them."""
    if given is None:
        methods = default_references(config) if report else []
    else:
        methods = [name.strip() for name in given.split(",") if name.strip()]
        if not methods:
            raise UserError(f"--references is {given!r}; expected methods, or {NONE}")
        methods = [] if methods == [NONE] else methods
        for method in methods:
            check_supported(method, config.protocol, SINGLE_PROCESS)
    return plan_references(methods, layers, config, folder)


def train_references(
    references: Sequence[Reference],
    run: RunFolder,
    load: FeatureSource,
    resume: Resume,
    reporter: Reporter,
) -> list[str]:
    """Train those that are not finished, and return those that failed, which are noted: the run
    itself is finished.

    If their precision is auto, they have that of the run.
    """
    failed = []
    for index, reference in enumerate(references):
        reporter.prefix = f"reference {index + 1}/{len(references)} ({reference.method}) "
        try:
            with reporter.live():
                run_configured(
                    with_settled_precision(reference.config, reference.folder, run),
                    reference.folder,
                    resume=resume or True,
                    progress=reporter,
                    load=load,
                )
        except AwpfError as error:
            reporter.note(f"the reference {reference.method} is left out: {error}")
            failed.append(reference.method)
    return failed


def print_references(run: Result, references: Sequence[Result]) -> None:
    """One row per method: the run itself, then its references."""
    print_line("")
    table = new_table(*COLUMNS)
    for place, (method, result) in enumerate(by_method([run, *references])):
        style = "" if place else "bold"
        table.add_row(*(Text(cell, style) for cell in table_row(method, result)))
    console().print(table)


def references_json(references: Sequence[Result], folder: RunFolder) -> dict[str, Any]:
    """The metrics of each reference by its method, and its folder."""
    return {
        method: {
            **{metric: getattr(result, metric) for metric in (*METRICS, "seconds_to_learn")},
            "folder": str(folder.references / method),
        }
        for method, result in by_method(references)
    }
