"""`awpf report`, and the report at the end of every run, comparison and sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from awpf_ext.cli.app import handle_errors, print_json
from awpf_ext.cli.options import OUTPUT, Json, Quiet
from awpf_ext.cli.progress import Reporter
from awpf_ext.cli.tables import print_line
from awpf_ext.errors import AwpfError, not_installed
from awpf_ext.report import write_report
from awpf_ext.report.page import PAGE

SEVERAL = Path("runs/report")  # where the report of several folders goes

ReportOption = Annotated[
    bool,
    typer.Option(
        "--report/--no-report",
        help="Write report.html and figures/ to the folder",
        rich_help_panel=OUTPUT,
    ),
]


@handle_errors
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Folders of runs, comparisons or sweeps"),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help=f"Folder of the report  [default: that of the run; for several runs, {SEVERAL}]",
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write an HTML page about one run, or about several side by side.

    This needs neither the data nor a network. The figures are saved beside the page as PNG and SVG;
    for several runs, so are table.csv and table.md.
    """
    if out is None and len(runs) > 1:
        out = SEVERAL
    with Reporter(quiet).spinner("writing the report"):
        page = write_report(runs, out=out)
    if as_json:
        print_json({"report": str(page)})
    else:
        print_line(str(page))


def closing_report(
    folder: Path, reporter: Reporter, *, made_from: Sequence[Path] = ()
) -> Path | None:
    """Write the report of a finished run; on failure, print a note instead of raising.

    made_from: the files that the report shows; one that is newer than all of them is kept.
    """
    if made_from and _is_newer(folder / PAGE, made_from):
        return folder / PAGE
    try:
        with reporter.spinner("writing the report"):
            return write_report(folder)
    except KeyboardInterrupt:
        finished = f": all runs are finished; `awpf report {folder}` writes the report"
        raise KeyboardInterrupt(finished) from None
    except ModuleNotFoundError as error:
        reporter.note(f"there is no report: {not_installed(error.name)}")
    except AwpfError as error:
        reporter.note(f"there is no report: {error}")
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
        reporter.note(f"there is no report ({failure}); `awpf report {folder}` shows the traceback")
    return None


def _is_newer(page: Path, files: Sequence[Path]) -> bool:
    if not page.exists():
        return False
    written = page.stat().st_mtime_ns
    return all(file.stat().st_mtime_ns <= written for file in files if file.exists())
