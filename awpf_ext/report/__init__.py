"""Reports of one run, or of several side by side: one HTML page with figures.

    from awpf_ext.report import write_report

    write_report("runs/first")                                     # runs/first/report.html
    write_report(["runs/first", "runs/second"], out="runs/both")   # runs/both/report.html
    write_report("runs/compare")                                   # all runs of a comparison

A report is made from the files in the run folders. The data set and the feature store are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from awpf_ext.errors import UserError
from awpf_ext.report.style import quiet_matplotlib

__all__ = ["write_report"]


def write_report(runs: str | Path | Sequence[str | Path], *, out: str | Path | None = None) -> Path:
    """Write report.html and figures/ into `out`, and return the path of the page.

    Args:
        runs: a folder of `awpf run`, `awpf compare` or `awpf sweep`, or several of these.
        out: the folder to write to. The default is the folder in `runs`; it has to be given if
            there are several.
    """
    folders = [runs] if isinstance(runs, str | Path) else list(runs)
    if not folders:
        raise UserError("runs is empty; expected folders of runs")
    if out is None:
        if len(folders) > 1:
            raise UserError(
                f"out is not given; it is needed for a report on {len(folders)} folders"
            )
        out = folders[0]
    target = Path(out).expanduser()
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is a file; expected a folder for the report")
    with quiet_matplotlib():
        from awpf_ext.report.compose import report_of_comparison, report_of_run
        from awpf_ext.report.load import is_comparison, read_comparison, read_run

    first = Path(folders[0]).expanduser()
    if len(folders) == 1 and not is_comparison(first):
        return report_of_run(read_run(first), target)
    return report_of_comparison(read_comparison(folders), target)
