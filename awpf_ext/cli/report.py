"""`awpf report`, and the report that ends every run, comparison and sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from awpf_ext.cli import options as o
from awpf_ext.cli.app import handle_errors, print_json
from awpf_ext.cli.progress import Reporter
from awpf_ext.cli.tables import print_line
from awpf_ext.errors import AwpfError, not_installed
from awpf_ext.report import write_report
from awpf_ext.report.page import PAGE

SEVERAL = Path("runs/report")  # where the report of several folders goes

ReportOption = Annotated[
    bool, typer.Option("--report/--no-report", help="report.html and figures/ in the folder")
]


@handle_errors
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="folders of runs, of a comparison or of a sweep"),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help=f"folder of the report [that of the run; of several, {SEVERAL}]",
        ),
    ] = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Make one HTML page of a run, or of several side by side.

    It needs neither data nor network. Figures lie beside it as PNG and SVG; of several runs also
    table.csv and table.md.
    """
    if out is None and len(runs) > 1:
        out = SEVERAL
    with Reporter(quiet).working("making the report"):
        page = write_report(runs, out=out)
    if as_json:
        print_json({"report": str(page)})
    else:
        print_line(str(page))


def closing_report(folder: Path, reporter: Reporter, *, keep: bool = False) -> Path | None:
    """Make the report that ends a run; a failure is only noted, as the run is finished anyway.

    keep: leave a report that is there as it is.
    """
    if keep and (folder / PAGE).exists():
        return folder / PAGE
    try:
        with reporter.working("making the report"):
            return write_report(folder)
    except KeyboardInterrupt:
        told = f": all is run; `awpf report {folder}` makes its report"
        raise KeyboardInterrupt(told) from None
    except ModuleNotFoundError as error:
        reporter.note(f"there is no report: {not_installed(error.name)}")
    except AwpfError as error:
        reporter.note(f"there is no report: {error}")
    except Exception as error:
        failed = f"{type(error).__name__}: {error}"
        reporter.note(f"there is no report ({failed}); `awpf report {folder}` says where it failed")
    return None
