"""The subcommands of `awpf`, in the order of its help."""

from __future__ import annotations

from awpf_ext.commands.app import app
from awpf_ext.commands.doctor import doctor
from awpf_ext.commands.grids import compare, sweep
from awpf_ext.commands.merge import merge
from awpf_ext.commands.methods import methods
from awpf_ext.commands.report import report
from awpf_ext.commands.runs import features, run
from awpf_ext.commands.use import export, predict

for _command in (run, compare, sweep, report, features, predict, export, merge, methods, doctor):
    app.command()(_command)

__all__ = ["app"]
