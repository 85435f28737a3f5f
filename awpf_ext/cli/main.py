"""Entry point of `awpf`; if a package is missing, the error names the command to install it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from awpf_ext.errors import not_installed


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; raises SystemExit with the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["doctor"]:  # it has to work when nothing else does
        from awpf_ext.cli.environment import main as doctor

        raise SystemExit(doctor(given[1:]))
    try:
        from awpf_ext.cli.commands import app
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "awpf_ext":
            raise
        print(f"awpf: {not_installed(error.name)}", file=sys.stderr)
        raise SystemExit(2) from None
    app(given, prog_name="awpf")


if __name__ == "__main__":
    main()
