"""Reports: a run, or several side by side, as one HTML page with figures.

    from awpf_ext.report import write_report

    write_report("runs/first")                                     # runs/first/report.html
    write_report(["runs/first", "runs/second"], out="runs/both")   # runs/both/report.html
    write_report("runs/compare")                                   # all runs of a comparison

It reads what runs keep in their folders, and neither data set nor feature store.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from awpf_ext.errors import UserError
from awpf_ext.report.style import quiet_matplotlib

__all__ = ["write_report"]


def write_report(runs: str | Path | Sequence[str | Path], *, out: str | Path | None = None) -> Path:
    """Write report.html and figures/ into `out`; the path of the page.

    runs: a folder of `awpf run`, of `awpf compare` or of `awpf sweep`, or several of these. out: a
    folder, by default that of the run or comparison; for several it has to be given.
    """
    folders = [runs] if isinstance(runs, str | Path) else list(runs)
    if not folders:
        raise UserError("runs is empty; expected folders of runs")
    if out is None:
        if len(folders) > 1:
            raise UserError(f"out is not given; of {len(folders)} folders none is the place")
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
