"""`awpf merge`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from awpf_ext.cli.app import handle_errors, print_json
from awpf_ext.cli.merge_choice import (
    Choose,
    ClassNames,
    Device,
    Imbalance,
    Model,
    Pretrained,
    Prompt,
    Scales,
    TrainLimit,
    ValidationLimit,
    choosing_score,
    option_name,
    print_ranking,
)
from awpf_ext.cli.options import Json, Quiet
from awpf_ext.cli.progress import Reporter
from awpf_ext.cli.tables import print_merge
from awpf_ext.errors import UserError
from awpf_ext.lora import MERGE_METHODS, choose_merge
from awpf_ext.lora import merge as merge_sources

Value = TypeVar("Value")


@handle_errors
def merge(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE",
            help="Folders of LoRA adapters in PEFT's format; with --base, open_clip checkpoints",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write")],
    base: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Checkpoint that the SOURCEs were fine-tuned from, or open_clip:MODEL:TAG",
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "-m",
            metavar="NAME",
            help=f"One of {', '.join(MERGE_METHODS)}; with --choose several  [default: linear; "
            "with --choose all but stack]",
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B,...",
            help="Weights, one per SOURCE; with --choose several times  [default: 1 each]",
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(metavar="R", help="Rank of the result, for methods that truncate"),
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
            metavar="TYPE", help="float32, float16 or bfloat16  [default: as in the SOURCEs]"
        ),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Name of the base model, if the adapters name it differently"
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the result of another merge in DIR")
    ] = False,
    choose: Choose = None,
    scales: Scales = None,
    train_limit: TrainLimit = None,
    imbalance: Imbalance = None,
    validation_limit: ValidationLimit = None,
    class_names: ClassNames = None,
    prompt: Prompt = None,
    model: Model = None,
    pretrained: Pretrained = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Merge several LoRA adapters of one base model into one adapter.

    Reads and writes PEFT's format. The base model can be any, and is not loaded. With --base,
    merges CLIP models that were fine-tuned completely; the result is a checkpoint of open_clip.
    With --choose, tries many merges and writes the best; if it is interrupted, the same command
    continues.
    """
    of_images: dict[str, Any] = {
        "train_limit": train_limit,
        "imbalance": imbalance,
        "limit": validation_limit,
        "class_names": class_names,
        "prompt": prompt,
        "model": model,
        "pretrained": pretrained,
        "device": device,
    }
    given = {key: value for key, value in of_images.items() if value is not None}
    settings: dict[str, Any] = {
        "base": base,
        "rank": rank,
        "density": density,
        "merge_space": merge_space,
        "common_fraction": common_fraction,
        "seed": seed,
        "dtype": dtype,
        "base_model": base_model,
        "force": force,
    }
    every = [_numbers("--weights", text) for text in weights or []]
    reporter = Reporter(quiet)
    with reporter.live():
        if choose is None:
            for name, value in (("scales", scales), *given.items()):
                if value is not None:
                    name = "validation_limit" if name == "limit" else name
                    raise UserError(f"{option_name(name)} needs --choose VALIDATION")
            report = merge_sources(
                sources,
                out,
                method=_only("--method", method or ["linear"]),
                weights=_only("--weights", every) if every else None,
                progress=lambda done, total: reporter.count(done, total, "layers"),
                **settings,
            )
        else:
            score = choosing_score(choose, sources, base, given)
            report = choose_merge(
                sources,
                out,
                score,
                methods=method,
                weights=every or None,
                scales=None if scales is None else _numbers("--scales", scales),
                progress=lambda done, total: reporter.count(done, total, "merges"),
                **settings,
            )
    if as_json:
        print_json(report.to_json())
        return
    if choose is not None:
        print_ranking(report, score)
    print_merge(report)


def _only(option: str, values: Sequence[Value]) -> Value:
    if len(values) > 1:
        raise UserError(f"{option} is given {len(values)} times; only --choose takes several")
    return values[0]


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} is {text!r}; expected numbers separated by commas") from None
