"""`awpf run` and `awpf features`."""

from __future__ import annotations

import hashlib
import json
import re
import time
from pathlib import Path
from typing import Annotated

import typer

from awpf_ext.cli import options as o
from awpf_ext.cli.app import handle_errors, print_json
from awpf_ext.cli.progress import Reporter
from awpf_ext.cli.report import ReportOption, closing_report
from awpf_ext.cli.tables import print_features, print_line, print_result
from awpf_ext.distributed import init_distributed
from awpf_ext.errors import UserError
from awpf_ext.runs.checkpoint import Resume
from awpf_ext.runs.config import RunConfig, resolve_config
from awpf_ext.runs.folder import RunFolder
from awpf_ext.runs.run import load_features, run_configured
from awpf_ext.runs.run import threads as threads_of
from awpf_ext.runs.wording import pluralize

Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="folder of the run [a name of its own below runs/]"),
]
Resuming = Annotated[bool, typer.Option("--resume", help="go on with an unfinished run in DIR")]
ResumingIntact = Annotated[
    bool,
    typer.Option("--resume-intact", help="the same where files are damaged: keep the whole tasks"),
]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="curves in DIR/tensorboard")]


@handle_errors
def run(
    context: typer.Context,
    dataset: o.Dataset = None,
    class_names: o.ClassNames = None,
    train_limit: o.TrainLimit = None,
    test_limit: o.TestLimit = None,
    protocol: o.Protocol = None,
    base: o.Base = None,
    increment: o.Increment = None,
    order: o.Order = None,
    method: o.Method = None,
    preset: o.Preset = None,
    seed: o.Seed = None,
    init: o.Init = None,
    batch_size: o.BatchSize = None,
    model: o.Model = None,
    pretrained: o.Pretrained = None,
    precision: o.Precision = None,
    prompt: o.Prompt = None,
    device: o.Device = None,
    threads: o.Threads = None,
    config: o.ConfigFile = None,
    assignments: o.Assignments = None,
    out: Out = None,
    resume: Resuming = False,
    resume_intact: ResumingIntact = False,
    tensorboard: TensorBoard = False,
    report: ReportOption = True,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Learn all tasks with one method.

    Prints the accuracy after each task, on all classes seen, on those of earlier tasks (old) and on
    those of the task (new). Killed or interrupted, a run goes on with --resume. Under torchrun
    (torchrun --no-python --nproc-per-node N awpf run ...) several processes learn one model, in
    methods that fine-tune CLIP.
    """
    configured = resolve_config(o.layers(context))
    chosen = configured.config
    folder = RunFolder(out or default_folder(chosen))
    resuming: Resume = "intact" if resume_intact else resume
    try:
        with init_distributed() as world:
            reporter = Reporter(quiet or not world.is_main)
            if configured.unused:
                reporter.note(f"{chosen.method} has no {', '.join(configured.unused)}: left out")
            with reporter.watching():
                result, finished = run_configured(
                    chosen,
                    folder,
                    resume=resuming,
                    progress=reporter,
                    tensorboard=tensorboard,
                    world=world,
                )
    except KeyboardInterrupt:
        tasks = len(folder.task_result_files())
        kept = (
            f"{pluralize(tasks, 'task')} kept in {folder}" if tasks else "what is encoded is kept"
        )
        raise KeyboardInterrupt(f": {kept}; the same command with --resume goes on") from None
    if not world.is_main:
        return
    if finished:
        reporter.note(f"{folder}: this run is finished already; here is its result")
    if not as_json:
        print_result(result, folder.path)
    page = closing_report(folder.path, reporter, keep=finished) if report else None
    if as_json:
        facts = {**result.to_full_json(), "folder": str(folder)}
        print_json(facts if page is None else {**facts, "report": str(page)})
    elif page is not None:
        print_line((str(page), "dim"))


@handle_errors
def features(
    context: typer.Context,
    dataset: o.Dataset = None,
    class_names: o.ClassNames = None,
    train_limit: o.TrainLimit = None,
    test_limit: o.TestLimit = None,
    model: o.Model = None,
    pretrained: o.Pretrained = None,
    precision: o.Precision = None,
    prompt: o.Prompt = None,
    device: o.Device = None,
    threads: o.Threads = None,
    config: o.ConfigFile = None,
    assignments: o.Assignments = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Encode a data set's images into the feature store.

    Every run does so by itself where it finds no features; this does it alone, and under torchrun
    (torchrun --no-python --nproc-per-node N awpf features ...) in several processes, each with its
    share of the images.
    """
    chosen = resolve_config(o.layers(context)).config
    if chosen.dataset.startswith("features:"):
        raise UserError(f"{chosen.dataset} is features already; there is nothing to encode")
    start = time.perf_counter()
    try:
        with init_distributed() as world, threads_of(chosen.threads):
            reporter = Reporter(quiet or not world.is_main)
            with reporter.watching():
                found = load_features(chosen, reporter, world)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(": what is encoded is kept; the same command goes on") from None
    if not world.is_main:
        return
    seconds = time.perf_counter() - start
    facts = {
        "store": str(chosen.store.expanduser()),
        "train": list(found.train_x.shape),
        "test": list(found.test_x.shape),
        "classes": found.num_classes,
        "images_per_second": reporter.rates,  # empty: all were in the store
        "seconds": seconds,
        "provenance": dict(found.provenance),
    }
    if as_json:
        print_json(facts)
    else:
        print_features(facts)


def default_folder(config: RunConfig) -> Path:
    """One name for one run: the same command finds its folder again, another command does not."""
    name, _, where = config.dataset.partition(":")
    readable = re.sub(r"[^\w.+-]+", "-", Path(where).stem if where else name)
    identity = json.dumps(config.identity(), sort_keys=True)
    tasks = f"b{config.base}-inc{config.increment}" if config.protocol == "class" else "domains"
    short = hashlib.sha256(identity.encode()).hexdigest()[:6]
    return Path("runs") / f"{readable}-{config.method}-{tasks}-{short}"
