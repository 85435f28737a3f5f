"""`awpf merge --choose`: its options, what scores a merge, and the ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from awpf_ext.cli.tables import console, new_table, print_line
from awpf_ext.errors import UserError
from awpf_ext.lora import MergeReport, ProgramScore, ScoredMerge
from awpf_ext.runs.merge_score import ClipSource, ImageScore
from awpf_ext.runs.validation_images import is_dataset
from awpf_ext.runs.wording import percent

_PANEL = "Choosing"
_SHOWN = 20  # rows of the ranking
# Options that are about images, by the names of their arguments.
_OF_CLIP = ("model", "pretrained", "device")

Choose = Annotated[
    str | None,
    typer.Option(
        metavar="VALIDATION",
        help="Try all methods, scales and weights, and keep the best on VALIDATION: a data set of "
        "images (folder:DIR, ...), or a program whose last line of output is the score",
        rich_help_panel=_PANEL,
    ),
]
Scales = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,...",
        help="Factors on the weights  [default: 1/T of T SOURCEs, 0.3, 0.5, 0.75, 1, 1.5 and 2; "
        "with --weights 1]",
        rich_help_panel=_PANEL,
    ),
]
TrainLimit = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Validate on the training images that `awpf run --train-limit N` leaves over; for "
        "adapters in a run's folder N is known",
        rich_help_panel=_PANEL,
    ),
]
Imbalance = Annotated[
    float | None,
    typer.Option(
        metavar="RATIO",
        help="That of this `awpf run`, if it was given",
        rich_help_panel=_PANEL,
    ),
]
ValidationLimit = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Maximum number of images per class  [default: 20]",
        rich_help_panel=_PANEL,
    ),
]
ClassNames = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH", help="JSON or TXT file with the class names", rich_help_panel=_PANEL
    ),
]
Prompt = Annotated[
    str | None,
    typer.Option(
        metavar="PROMPT",
        help="Template of a class's text  [default: that of `awpf run`]",
        rich_help_panel=_PANEL,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="CLIP backbone by its open_clip name, if neither SOURCEs nor --base say it",
        rich_help_panel=_PANEL,
    ),
]
Pretrained = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="Weights of the adapters' backbone, if they have moved",
        rich_help_panel=_PANEL,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE",
        help="Device that encodes: auto, cpu, cuda or cuda:N  [default: auto]",
        rich_help_panel=_PANEL,
    ),
]


def choosing_score(
    validation: str, sources: Sequence[Path], base: str | None, options: Mapping[str, Any]
) -> ImageScore | ProgramScore:
    """What scores a merge; `options` are those given that are about images."""
    if is_dataset(validation):
        rest = {key: value for key, value in options.items() if key not in _OF_CLIP}
        clip = {key: value for key, value in options.items() if key in _OF_CLIP}
        return ImageScore(validation, clip=ClipSource(**clip), base=base, sources=sources, **rest)
    if options:
        name = "validation_limit" if "limit" in options else next(iter(options))
        raise UserError(
            f"{option_name(name)} is for a data set of images; {validation!r} is a program"
        )
    return ProgramScore(validation)


def option_name(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def print_ranking(report: MergeReport, score: ImageScore | ProgramScore) -> None:
    """The best merges by score, and how certain an accuracy is."""
    images = isinstance(score, ImageScore)
    by = "its score"
    if isinstance(score, ImageScore):
        by = f"{score.count:,} images of {score.classes:,} classes"
    print_line(f"{len(report.ranking)} merges by {report.validation} ({by}), best first\n")
    table = new_table(("method", "settings", "weights"), "accuracy" if images else "score")
    for scored in report.ranking[:_SHOWN]:
        table.add_row(Text(scored.method), *_row(scored, images))
    console().print(table)
    if (more := len(report.ranking) - _SHOWN) > 0:
        print_line((f"and {more} more, in {report.out / 'merge.json'}", "dim"))
    failed = [scored for scored in report.ranking if scored.error is not None]
    if failed:
        have = "merge has" if len(failed) == 1 else "merges have"
        print_line(f"\n{len(failed)} {have} no score; the first reason: {failed[0].error}")
    best = report.ranking[0].score
    if isinstance(score, ImageScore) and best is not None:
        low, high = map(percent, score.interval(best))
        print_line(
            f"\nThe 95 % interval of the best accuracy is {low} to {high}, not counting that these "
            "images chose it, which makes it optimistic. Differences between merges are more "
            "certain, since all see the same images."
        )
    print_line("")


def _row(scored: ScoredMerge, images: bool) -> tuple[str, str, str]:
    settings = ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
                         for key, value in scored.settings.items())  # fmt: skip
    weights = ", ".join(f"{weight:.3g}" for weight in scored.weights)
    if scored.score is None:
        return settings, weights, "none"
    return settings, weights, percent(scored.score) if images else f"{scored.score:.6g}"
