"""`awpf methods`: lists methods, presets and keys."""

from __future__ import annotations

from typing import Annotated

import typer

from awpf_ext.cli.app import handle_errors
from awpf_ext.cli.tables import print_keys, print_methods
from awpf_ext.methods import METHODS, PRESETS, method_class


@handle_errors
def methods(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Method whose settings are listed")
    ] = None,
) -> None:
    """List methods, presets and keys, or the settings of one method."""
    if name is None:
        print_methods(METHODS, PRESETS)
    else:
        print_keys(method_class(name).Config.model_fields)
