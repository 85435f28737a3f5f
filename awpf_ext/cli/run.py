"""`awpf run` and `awpf features`."""

from __future__ import annotations

import hashlib
import json
import re
import time
from pathlib import Path
from typing import Annotated

import typer

from awpf_ext.cli.app import handle_errors, print_json
from awpf_ext.cli.options import OUTPUT, Json, Quiet, takes_config
from awpf_ext.cli.progress import Reporter
from awpf_ext.cli.references import (
    ReferencesOption,
    chosen_references,
    print_references,
    references_json,
    train_references,
)
from awpf_ext.cli.report import ReportOption, closing_report
from awpf_ext.cli.tables import print_features, print_line, print_result
from awpf_ext.distributed import init_distributed
from awpf_ext.errors import UserError
from awpf_ext.finetuning.roles import Role
from awpf_ext.runs.checkpoint import Resume
from awpf_ext.runs.config import ConfigLayer, RunConfig, resolve_config
from awpf_ext.runs.folder import RunFolder
from awpf_ext.runs.references import by_method, read_references
from awpf_ext.runs.run import SharedFeatures, load_features, run_configured
from awpf_ext.runs.run import threads as threads_of
from awpf_ext.runs.wording import pluralize

Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="Folder of the run  [default: one per configuration, in runs/]",
        rich_help_panel=OUTPUT,
    ),
]
Resuming = Annotated[
    bool,
    typer.Option("--resume", help="Continue the unfinished run in DIR", rich_help_panel=OUTPUT),
]
ResumingIntact = Annotated[
    bool,
    typer.Option(
        "--resume-intact",
        help="The same if files are damaged: continue after the last intact task",
        rich_help_panel=OUTPUT,
    ),
]
TensorBoard = Annotated[
    bool,
    typer.Option(
        "--tensorboard",
        help="Write curves for TensorBoard to DIR/tensorboard",
        rich_help_panel=OUTPUT,
    ),
]


@handle_errors
@takes_config()
def run(
    layers: list[ConfigLayer],
    out: Out = None,
    resume: Resuming = False,
    resume_intact: ResumingIntact = False,
    tensorboard: TensorBoard = False,
    references: ReferencesOption = None,
    report: ReportOption = True,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train one method task by task.

    Prints the accuracy after each task: on all classes seen so far, on the classes of earlier tasks
    (old) and on the classes of this task (new). A run that was stopped continues with --resume.
    Methods that fine-tune CLIP can train in several processes: torchrun --no-python
    --nproc-per-node N awpf run ...
    """
    resolved = resolve_config(layers)
    chosen = resolved.config
    folder = RunFolder(out or default_folder(chosen))
    resuming: Resume = "intact" if resume_intact else resume
    planned = chosen_references(references, layers, chosen, folder, report=report)
    try:
        with init_distributed() as world:
            reporter = Reporter(quiet or not world.is_main)
            load = SharedFeatures(world)
            if resolved.unused:
                reporter.note(f"{chosen.method} ignores {', '.join(resolved.unused)}")
            with reporter.live():
                result, finished = run_configured(
                    chosen,
                    folder,
                    resume=resuming,
                    progress=reporter,
                    tensorboard=tensorboard,
                    load=load,
                    world=world,
                )
    except KeyboardInterrupt:
        tasks = len(folder.task_result_files())
        kept = (
            f"{pluralize(tasks, 'task')} kept in {folder}" if tasks else "encoded images are kept"
        )
        raise KeyboardInterrupt(f": {kept}; the same command with --resume continues") from None
    if not world.is_main:
        return
    if finished:
        reporter.note(f"{folder}: this run is already finished; this is its result")
    if not as_json:
        print_result(result)
    try:
        source = load if world.size == 1 else SharedFeatures()
        failed = train_references(planned, folder, source, resuming, reporter)
    except KeyboardInterrupt:
        if report:
            closing_report(folder.path, reporter)
        kept = f"the run in {folder} is finished"
        raise KeyboardInterrupt(f": {kept}; the same command continues its references") from None
    saved = read_references(folder, result).results if planned else ()
    beside = [reference for method, reference in by_method(saved) if method not in failed]
    if beside and not as_json:
        print_references(result, beside)
    if not as_json:
        print_line((str(folder), "dim"))
    results = [kept.result_file for kept in (folder, *(one.folder for one in planned))]
    page = closing_report(folder.path, reporter, made_from=results) if report else None
    if as_json:
        facts = {**result.to_full_json(), "folder": str(folder)}
        if planned:
            facts["references"] = references_json(beside, folder)
        print_json(facts if page is None else {**facts, "report": str(page)})
    elif page is not None:
        print_line((str(page), "dim"))


@handle_errors
@takes_config(roles=(Role.FEATURES, Role.FILES, Role.MACHINE))
def features(layers: list[ConfigLayer], as_json: Json = False, quiet: Quiet = False) -> None:
    """Encode the images of a data set into the feature store.

    Every run does this itself if the store lacks its features. Several processes can share the
    images: torchrun --no-python --nproc-per-node N awpf features ...
    """
    chosen = resolve_config(layers).config
    if chosen.dataset.startswith("features:"):
        raise UserError(f"{chosen.dataset} is features already; there are no images to encode")
    start = time.perf_counter()
    try:
        with init_distributed() as world, threads_of(chosen.threads):
            reporter = Reporter(quiet or not world.is_main)
            with reporter.live():
                loaded = load_features(chosen, reporter, world)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(": encoded images are kept; the same command continues") from None
    if not world.is_main:
        return
    seconds = time.perf_counter() - start
    facts = {
        "store": str(chosen.store.expanduser()),
        "train": list(loaded.train_x.shape),
        "test": list(loaded.test_x.shape),
        "classes": loaded.num_classes,
        "images_per_second": reporter.rates,  # empty if all features were in the store
        "seconds": seconds,
        "provenance": dict(loaded.provenance),
    }
    if as_json:
        print_json(facts)
    else:
        print_features(facts)


def default_folder(config: RunConfig) -> Path:
    """A folder for every identity: the same command finds it again, a different run does not."""
    name, _, where = config.dataset.partition(":")
    readable = re.sub(r"[^\w.+-]+", "-", Path(where).stem if where else name)
    identity = json.dumps(config.identity(), sort_keys=True)
    tasks = f"b{config.base}-inc{config.increment}" if config.protocol == "class" else "domains"
    short = hashlib.sha256(identity.encode()).hexdigest()[:6]
    return Path("runs") / f"{readable}-{config.method}-{tasks}-{short}"
