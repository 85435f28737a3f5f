"""The application, how its commands handle errors, and how they print JSON."""

from __future__ import annotations

import functools
import json
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ParamSpec

import typer

from awpf_ext._library import MISSING_CPU, __version__
from awpf_ext.cli.progress import error_console, print_error
from awpf_ext.errors import AwpfError, UserError, not_installed

EXIT_CODES = """Exit codes: 0 success; 1 a bug in awpf_ext; 2 wrong arguments or configuration;
3 unreadable data; 4 unusable checkpoint; 5 offline; 130 interrupted."""

app = typer.Typer(
    help="Class-incremental learning with CLIP.",
    epilog=" ".join(EXIT_CODES.split()),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Parameters = ParamSpec("Parameters")


def _show_version(show: bool) -> None:
    if show:
        typer.echo(f"awpf_ext {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


def handle_errors(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """Turn errors into one sentence and an exit code; only a bug shows its traceback."""

    @functools.wraps(command)
    def run(*arguments: Parameters.args, **options: Parameters.kwargs) -> None:
        try:
            command(*arguments, **options)
        except AwpfError as error:
            print_error(error)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt as interrupt:  # its text says what is kept and how to continue
            error_console().print(f"interrupted{interrupt}")
            raise typer.Exit(130) from None
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] == "awpf_ext":
                raise
            print_error(not_installed(error.name))
            raise typer.Exit(UserError.exit_code) from None
        except (typer.Exit, BrokenPipeError):
            raise
        except Exception:
            if MISSING_CPU is not None:  # an installation problem, not a bug
                print_error(f"awpf_ext's operations do not work here: {MISSING_CPU}")
                raise typer.Exit(UserError.exit_code) from None
            traceback.print_exc()
            print_error("this is a bug in awpf_ext; please report it with the lines above")
            raise typer.Exit(1) from None

    return run


def print_json(content: Mapping[str, Any]) -> None:
    """One line of ASCII JSON on standard output: safe in any locale."""
    sys.stdout.write(json.dumps(content, allow_nan=False) + "\n")
    sys.stdout.flush()
