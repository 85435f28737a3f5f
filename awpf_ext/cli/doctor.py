"""`awpf doctor`, for the list of commands; cli.py answers it even without typer."""

from __future__ import annotations

from typing import Annotated

import typer

from awpf_ext.cli.environment import main


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """Say what works, what is missing and how to get it."""
    raise typer.Exit(main(["--json"] if as_json else []))
