"""`awpf predict` and `awpf export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from awpf_ext.cli.app import handle_errors, print_json
from awpf_ext.cli.options import Json, Quiet
from awpf_ext.cli.progress import Reporter, print_error
from awpf_ext.cli.tables import print_line, print_predictions
from awpf_ext.errors import DataError
from awpf_ext.runs.wording import percent, pluralize


@handle_errors
def predict(
    model: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a run, or a file from `awpf export`")
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Image files")],
    top: Annotated[
        int, typer.Option("--top", "-k", metavar="K", help="Number of classes per image")
    ] = 5,
    pretrained: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Weights of the backbone, if they have moved"),
    ] = None,
    cache_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for downloaded weights")
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="Device: auto, cpu, cuda or cuda:N")
    ] = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Classify images among all classes that a run has learned."""
    from awpf_ext.runs.export import BackboneSource, backbone_of, load_model
    from awpf_ext.runs.predict import predict as classify
    from awpf_ext.runs.run import encoder_device

    source = BackboneSource(pretrained, cache_dir, encoder_device(device))
    reporter = Reporter(quiet)
    with reporter.live():
        learned = load_model(model, source)
        clip = learned.method.clip
        backbone = backbone_of(learned.facts, source) if clip is None else clip.backbone
        predictions = classify(learned, backbone, images, top=top, progress=reporter.count)
    if as_json:
        print_json({"predictions": [prediction.to_json() for prediction in predictions]})
    else:
        print_predictions(predictions)
    unreadable = [prediction for prediction in predictions if prediction.error is not None]
    for prediction in unreadable:
        print_error(f"cannot read {prediction.image}: {prediction.error}")
    if unreadable:
        raise typer.Exit(DataError.exit_code)


@handle_errors
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run")],
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="File to write")],
    open_clip: Annotated[
        bool,
        typer.Option(
            "--open-clip",
            help="Write the fine-tuned CLIP alone, as a checkpoint of open_clip (train=full)",
        ),
    ] = False,
    pretrained: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Weights of the backbone, if they have moved"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write what a run has learned to one file.

    `awpf predict` takes it in place of the run; in Python, awpf_ext.load_model loads it. A
    checkpoint (--open-clip) can be merged with others (`awpf merge --base`) and be the backbone of
    runs (--pretrained).
    """
    from awpf_ext.runs.export import BackboneSource, export_clip, export_run

    write = export_clip if open_clip else export_run
    model = write(run, out, BackboneSource(pretrained))
    facts = {key: model.facts[key] for key in ("method", "tasks", "accuracy")}
    classes, size = len(model.class_names), out.expanduser().stat().st_size
    if as_json:
        print_json({"file": str(out), "bytes": size, "classes": classes, **facts})
    else:
        print_line(
            (facts["method"], "bold"),
            f" after {pluralize(facts['tasks'], 'task')}: {pluralize(classes, 'class')}, "
            f"accuracy {percent(facts['accuracy'])}, {size / 1000:,.0f} kB",
        )
        print_line((str(out), "dim"))
