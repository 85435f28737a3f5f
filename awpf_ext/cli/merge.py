"""`awpf merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from awpf_ext.cli.app import handle_errors, print_json
from awpf_ext.cli.options import Json, Quiet
from awpf_ext.cli.progress import Reporter
from awpf_ext.cli.tables import print_merge
from awpf_ext.errors import UserError
from awpf_ext.lora import MERGE_METHODS
from awpf_ext.lora import merge as merge_adapters


@handle_errors
def merge(
    adapters: Annotated[
        list[Path],
        typer.Argument(metavar="ADAPTER", help="Folders of LoRA adapters in PEFT's format"),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write")],
    method: Annotated[
        str,
        typer.Option("--method", "-m", metavar="NAME", help=f"One of {', '.join(MERGE_METHODS)}"),
    ] = "linear",
    weights: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Weights, one per adapter  [default: 1 each]"),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(metavar="R", help="Rank of the merged adapter, for methods that truncate"),
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(metavar="P", help="Fraction of entries to keep, for methods that prune"),
    ] = None,
    merge_space: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT", help="What to prune: delta (B A) or factors (B and A)  [default: delta]"
        ),
    ] = None,
    common_fraction: Annotated[
        float | None,
        typer.Option(
            metavar="P", help="iso: fraction of common directions; 1 is Iso-C  [default: 1]"
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Seed of dare_linear and dare_ties  [default: 0]"),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE", help="float32, float16 or bfloat16  [default: as in the adapters]"
        ),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Name of the base model, if the adapters name it differently"
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an adapter that is in DIR")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Merge several LoRA adapters of one base model into one adapter.

    Reads and writes PEFT's format. The base model can be any, and is not loaded.
    """
    reporter = Reporter(quiet)
    with reporter.live():
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
            progress=lambda done, total: reporter.count(done, total, "layers"),
        )
    if as_json:
        print_json(report.to_json())
    else:
        print_merge(report)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--weights is {text!r}; expected numbers separated by commas") from None
