"""`awpf merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from awpf_ext.cli import options as o
from awpf_ext.cli.app import handle_errors, print_json
from awpf_ext.cli.progress import Reporter
from awpf_ext.cli.tables import print_merge
from awpf_ext.errors import UserError
from awpf_ext.lora import MERGE_METHODS
from awpf_ext.lora import merge as merge_adapters


@handle_errors
def merge(
    adapters: Annotated[
        list[Path], typer.Argument(metavar="ADAPTER...", help="folders of LoRA adapters (PEFT)")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="the folder to write")],
    method: Annotated[
        str, typer.Option("--method", "-m", metavar="NAME", help=", ".join(MERGE_METHODS))
    ] = "linear",
    weights: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="one an adapter [1 each]")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(metavar="R", help="rank of the result, where it is cut")
    ] = None,
    density: Annotated[
        float | None, typer.Option(metavar="P", help="share of entries that stay")
    ] = None,
    merge_space: Annotated[
        str | None,
        typer.Option(metavar="WHAT", help="what is pruned: delta or factors [delta]"),
    ] = None,
    common_fraction: Annotated[
        float | None,
        typer.Option(metavar="P", help="iso: share of the common directions, 1 is Iso-C [1]"),
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="DARE's and icm's [0]")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="float32, float16 or bfloat16 [the adapters']"),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="the base model's name, if the adapters' names differ"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace an adapter in DIR")] = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Merge LoRA adapters of one model into one.

    Reads and writes PEFT's format, any base model, without loading it.
    """
    reporter = Reporter(quiet)
    with reporter.watching():
        report = merge_adapters(
            adapters,
            out,
            method=method,
            weights=None if weights is None else _numbers(weights),
            rank=rank,
            density=density,
            merge_space=merge_space,
            common_fraction=common_fraction,
            seed=seed,
            dtype=dtype,
            base_model=base_model,
            force=force,
            progress=lambda done, total: reporter.counting(done, total, "layers"),
        )
    if as_json:
        print_json(report.to_json())
    else:
        print_merge(report)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(
            f"--weights is {text!r}; expected numbers with commas between them"
        ) from None
