"""The options that commands share: each is a key of the configuration, described there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from awpf_ext.runs.config import (
    RUN_KEYS,
    ConfigLayer,
    RunConfig,
    parse_assignments,
    read_config_file,
)


def _option(key: str, metavar: str) -> Any:
    field = RunConfig.model_fields[key]
    unset = field.is_required() or field.default is None
    default = "" if unset else f" [{field.default}]"
    return typer.Option(
        f"--{key.replace('_', '-')}",
        metavar=metavar,
        help=f"{field.description}{default}",
        show_default=False,
    )


Dataset = Annotated[str | None, _option("dataset", "DATA")]
ClassNames = Annotated[Path | None, _option("class_names", "FILE")]
TrainLimit = Annotated[int | None, _option("train_limit", "N")]
TestLimit = Annotated[int | None, _option("test_limit", "N")]
Protocol = Annotated[str | None, _option("protocol", "PROTOCOL")]
Base = Annotated[int | None, _option("base", "N")]
Increment = Annotated[int | None, _option("increment", "N")]
Order = Annotated[str | None, _option("order", "ORDER")]
Method = Annotated[str | None, _option("method", "NAME")]
Preset = Annotated[str | None, _option("preset", "NAME")]
Seed = Annotated[int | None, _option("seed", "N")]
Init = Annotated[
    str | None,
    typer.Option("--init", metavar="INIT", help="the adapter's start: identity or uniform"),
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", metavar="N", help="images of the task in a step")
]
Model = Annotated[str | None, _option("model", "NAME")]
Pretrained = Annotated[str | None, _option("pretrained", "TAG")]
Precision = Annotated[str | None, _option("precision", "TYPE")]
Prompt = Annotated[list[str] | None, _option("prompt", "TEXT")]
Device = Annotated[str | None, _option("device", "DEVICE")]
Threads = Annotated[int | None, _option("threads", "N")]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="YAML file with any of these keys"),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="any key, as `awpf methods [NAME]` lists them; METHOD.KEY: for that method alone",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="one JSON object on standard output")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress, no notes")]


def layers(context: typer.Context) -> list[ConfigLayer]:
    """File, options, --set: from the weakest to the strongest."""
    given = {
        key: value
        for key, value in context.params.items()
        if value is not None and key in (*RUN_KEYS, "init", "batch_size")
    }
    prompts = given.pop("prompt", [])
    if prompts:
        given["prompt"] = prompts[0] if len(prompts) == 1 else prompts
    file = context.params["config"]
    files = [] if file is None else [read_config_file(file)]
    return [
        *files,
        ConfigLayer("options", given),
        parse_assignments(context.params["assignments"] or []),
    ]
