"""`awpf methods`: what can be run, and what can be set."""

from __future__ import annotations

from typing import Annotated

import typer

from awpf_ext.cli.app import handle_errors
from awpf_ext.cli.tables import print_keys, print_methods
from awpf_ext.methods import METHODS, PRESETS, method_class


@handle_errors
def methods(
    name: Annotated[str | None, typer.Argument(help="one method, for its settings")] = None,
) -> None:
    """List the methods and presets, or one method's settings."""
    if name is None:
        print_methods(METHODS, PRESETS)
    else:
        print_keys(method_class(name).Config.model_fields)
