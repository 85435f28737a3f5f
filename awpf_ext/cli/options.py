"""Options of the commands: those of the configuration are generated from RunConfig."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from typer.core import TyperCommand

from awpf_ext.finetuning.roles import Role, keys_with, marker_of
from awpf_ext.runs.config import (
    RUN_KEYS,
    ConfigLayer,
    Panel,
    RunConfig,
    parse_assignments,
    read_config_file,
)

OUTPUT = "Output"
CONFIGURATION = "Configuration"
# The panels of a command's help, in order; a command's own come before them.
PANELS = (*(panel.value for panel in Panel), CONFIGURATION, OUTPUT)
_NO_BREAK = "\N{NO-BREAK SPACE}"

Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object on standard output", rich_help_panel=OUTPUT),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Show no progress and no notes", rich_help_panel=OUTPUT),
]


class PanelCommand(TyperCommand):
    """A command whose help lists its options by panel, as plain text in every terminal."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        parameters = self.get_params(ctx)
        given = [getattr(parameter, "rich_help_panel", None) for parameter in parameters]
        named = any(panel not in (None, OUTPUT) for panel in given)
        without_panel = OUTPUT if Panel.DATA.value in given else "Options"
        for parameter, own_panel in zip(parameters, given, strict=True):
            record = parameter.get_help_record(ctx)
            if parameter.param_type_name == "argument" and record is not None:
                name = parameter.metavar or str(parameter.name).upper()
                panels.setdefault("Arguments", []).append((name, record[1]))
            elif record is not None:
                panel = own_panel if named and own_panel else without_panel
                panels.setdefault(panel, []).append(record)
        width = max(len(name) for records in panels.values() for name, _ in records)
        own = [panel for panel in panels if panel not in PANELS]
        for panel in (*own, *(panel for panel in PANELS if panel in panels)):
            rows = [(name.ljust(width), _unbroken(text)) for name, text in panels[panel]]
            with formatter.section(panel):
                formatter.write_dl(rows, col_max=width)
        formatter.buffer[:] = [text.replace(_NO_BREAK, " ") for text in formatter.buffer]


def _unbroken(text: str) -> str:
    """The text of an option, with a short default that stays on one line."""
    before, opening, default = text.partition("[default: ")
    return before + opening.replace(" ", _NO_BREAK) + default


def takes_config(
    *, roles: Collection[Role] = tuple(Role), without: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for every key of RunConfig with one of these roles.

    without: keys that the command sets itself. The command is called with `layers`, the
    configuration file, the options and the assignments that were given, the strongest last.
    """
    keys = [key for key in keys_with(RunConfig, *roles) if key in RUN_KEYS and key not in without]
    options = {key: _option(key, RunConfig.model_fields[key]) for key in keys}
    options |= _SETTINGS if Role.RUN in roles else {}
    options |= _FILE_AND_ASSIGNMENTS

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**values: Any) -> None:
            given = {key: values.pop(key) for key in options}
            command(layers=_layers(given), **values)

        own = inspect.signature(command, eval_str=True).parameters.values()
        shown = [parameter for parameter in own if parameter.name != "layers"]
        shown += [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
            for key, option in options.items()
        ]
        shown = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in shown]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
        run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
        return run

    return decorate


def _option(key: str, field: FieldInfo) -> Any:
    """A key's option, with its description and default as help."""
    unset = field.is_required() or field.default is None
    kind, metavar = _kind(key, field.annotation)
    name = key.replace("_", "-")
    option = typer.Option(
        f"--{name}/--no-{name}" if kind is bool else f"--{name}",
        metavar=metavar,
        help=(field.description or "") + ("" if unset else f"  [default: {field.default}]"),
        show_default=False,
        rich_help_panel=marker_of(field, Panel.DATA).value,
    )
    return Annotated[kind | None, option]


def _kind(key: str, annotation: Any) -> tuple[Any, str | None]:
    """The type that a key's option is read as, and the word for its value in the help.

    Words are read as text: RunConfig refuses a wrong one with the same message as everywhere.
    """
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not types.NoneType]
        if len(kinds) > 1:  # one template, or several
            return list[str], key.upper()
        (annotation,) = kinds
    if get_origin(annotation) is Literal:
        return str, "|".join(get_args(annotation))
    metavars = {int: "N", float: "X", Path: "PATH", bool: None}
    return annotation, metavars.get(annotation, key.upper())


# Settings of methods that have options of their own.
_SETTINGS = {
    "init": Annotated[
        str | None,
        typer.Option(
            "--init",
            metavar="identity|uniform",
            help="Initial weights of the adapter",
            rich_help_panel=Panel.METHOD.value,
        ),
    ],
    "batch_size": Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            metavar="N",
            help="Number of training images per step",
            rich_help_panel=Panel.METHOD.value,
        ),
    ],
}
_FILE_AND_ASSIGNMENTS = {
    "config": Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="PATH",
            help="YAML file with any of these keys",
            rich_help_panel=CONFIGURATION,
        ),
    ],
    "assignments": Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set any key that `awpf methods [NAME]` lists; METHOD.KEY=VALUE sets it for that "
            "method alone",
            rich_help_panel=CONFIGURATION,
        ),
    ],
}


def _layers(given: Mapping[str, Any]) -> list[ConfigLayer]:
    """File, options and assignments, from the weakest to the strongest."""
    keys = {key: value for key, value in given.items() if value is not None}
    file, assignments = keys.pop("config", None), keys.pop("assignments", [])
    keys = {key: value for key, value in keys.items() if value != []}
    for key, value in keys.items():
        if isinstance(value, list) and len(value) == 1:
            keys[key] = value[0]
    files = [] if file is None else [read_config_file(file)]
    return [*files, ConfigLayer("options", keys), parse_assignments(assignments)]
