"""`awpf doctor`, for the list of commands; main.py runs it even without typer."""

from __future__ import annotations

from typing import Annotated

import typer

from awpf_ext.cli.environment import main


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object")] = False,
) -> None:
    """Check what works, what is missing and how to install it."""
    raise typer.Exit(main(["--json"] if as_json else []))
