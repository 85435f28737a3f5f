"""The subcommands of `awpf`, in the order of its help."""

from __future__ import annotations

from awpf_ext.cli.app import app
from awpf_ext.cli.compare import compare, sweep
from awpf_ext.cli.doctor import doctor
from awpf_ext.cli.merge import merge
from awpf_ext.cli.methods import methods
from awpf_ext.cli.options import PanelCommand
from awpf_ext.cli.predict import export, predict
from awpf_ext.cli.report import report
from awpf_ext.cli.run import features, run

for _command in (run, compare, sweep, report, features, predict, export, merge, methods, doctor):
    app.command(cls=PanelCommand)(_command)

__all__ = ["app"]
