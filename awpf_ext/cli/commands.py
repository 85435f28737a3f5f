"""The subcommands of `awpf`, in the order of its help."""

from __future__ import annotations

from typing import Annotated

import typer

from awpf_ext.cli.app import app
from awpf_ext.cli.compare import compare, sweep
from awpf_ext.cli.environment import main as check_environment
from awpf_ext.cli.merge import merge
from awpf_ext.cli.methods import methods
from awpf_ext.cli.options import PanelCommand
from awpf_ext.cli.predict import export, predict
from awpf_ext.cli.report import report
from awpf_ext.cli.run import features, run


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object")] = False,
) -> None:
    """Check what works, what is missing and how to install it."""
    raise typer.Exit(check_environment(["--json"] if as_json else []))


for _command in (run, compare, sweep, report, features, predict, export, merge, methods, doctor):
    app.command(cls=PanelCommand)(_command)

__all__ = ["app"]
