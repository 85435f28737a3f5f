"""A whole run in one call: data set, features, tasks, method, training, and the folder of the run.

    import awpf_ext

    result = awpf_ext.run(dataset="features:clip.npz", increment=10, out="runs/first")
    print(result.average, result.last, result.forgetting)

The command line calls the same functions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from typing_extensions import Unpack

from awpf_ext import _library
from awpf_ext.clip import load_backbone
from awpf_ext.clip.precision import AUTO, suited_precision
from awpf_ext.data import (
    ExtractProgress,
    FeatureSet,
    FeatureStore,
    Limits,
    TaskStream,
    class_order,
    extract_features,
    limited,
    load_dataset,
    task_stream,
)
from awpf_ext.data.stream import check_domains
from awpf_ext.distributed import SINGLE_PROCESS, World, local_gpu
from awpf_ext.errors import DataError, UserError
from awpf_ext.methods.registry import check_supported, method_for
from awpf_ext.runs.checkpoint import Resume
from awpf_ext.runs.config import ConfigLayer, RunConfig, read_config_file, resolve_config
from awpf_ext.runs.diagnostics import collect_diagnostics
from awpf_ext.runs.folder import RunFolder
from awpf_ext.runs.loggers import check_tensorboard, write_tensorboard
from awpf_ext.runs.options import RunOptions
from awpf_ext.runs.result import Result
from awpf_ext.runs.trainer import Progress, train

RunProgress = Callable[[Progress | ExtractProgress], None]
FeatureSource = Callable[[RunConfig, RunProgress | None], FeatureSet]


class RunOutcome(NamedTuple):
    """The result of a run, and whether a finished run in the folder had it already."""

    result: Result
    reused: bool


def run(
    config: str | Path | None = None,
    *,
    out: str | Path | None = None,
    resume: Resume = False,
    progress: RunProgress | None = None,
    tensorboard: bool = False,
    **options: Unpack[RunOptions],
) -> Result:
    """Run a protocol: data, features, tasks, a method.

    The configuration is a YAML file, options, or both; options override the file.

    Args:
        config: A YAML file with the keys of `options`.
        out: The folder of the run; without it nothing is written. If it holds the finished run,
            its result is returned.
        resume: Continue an unfinished run; with "intact" even if its last files are damaged.
        progress: Called with every progress report.
        tensorboard: Write logs for TensorBoard into the folder, too.
        options: Keys of the command line with underscores, settings of the method, and settings
            for one method under its name.

    Returns:
        Accuracies after each task, forgetting, and what the run was made of.

    Example:
        ``awpf_ext.run(dataset="features:clip.npz", method="awpf", increment=10, out="runs/first")``
    """
    layers = [] if config is None else [read_config_file(Path(config))]
    configured = resolve_config([*layers, ConfigLayer("run()", dict(options))])
    if configured.unused:
        raise UserError(f"{configured.config.method} has no {', '.join(configured.unused)}")
    folder = None if out is None else RunFolder(out)
    outcome = run_configured(
        configured.config, folder, resume=resume, progress=progress, tensorboard=tensorboard
    )
    return outcome.result


def run_configured(
    config: RunConfig,
    folder: RunFolder | None,
    *,
    resume: Resume = False,
    progress: RunProgress | None = None,
    tensorboard: bool = False,
    load: FeatureSource | None = None,
    world: World = SINGLE_PROCESS,
) -> RunOutcome:
    """`run` with a complete configuration.

    load: reads the features, by default `load_features`. world: the processes that make this run
    together, if its method supports that.
    """
    config = with_settled_precision(config, *([] if folder is None else [folder]))
    if tensorboard:
        check_tensorboard(folder)
    saved = None if folder is None else _saved_result(folder, config, resume, world)
    if saved is None:
        check_supported(config.method, config.protocol, world)
        with threads(config.threads):
            result = _train(config, folder, resume, progress, load, world)
    else:
        result = saved
    if tensorboard and folder is not None and world.is_main:
        write_tensorboard(folder, result)
    return RunOutcome(result, reused=saved is not None)


def _saved_result(
    folder: RunFolder, config: RunConfig, resume: Resume, world: World
) -> Result | None:
    """The result of the finished run in the folder; None if the run has to be made or resumed."""
    status = folder.status(config)
    world.barrier()  # every process has read the folder before the main process writes to it
    if status.state == "unfinished" and not resume:
        raise UserError(
            f"{folder} holds an unfinished run ({status.tasks} tasks done): resume it "
            "(--resume) or choose another folder"
        )
    return status.result


def _train(
    config: RunConfig,
    folder: RunFolder | None,
    resume: Resume,
    progress: RunProgress | None,
    load: FeatureSource | None,
    world: World,
) -> Result:
    """Train on all tasks; the main process writes what the folder keeps."""
    device = trainer_device(config.device)
    start = time.perf_counter()
    features = (load or partial(load_features, world=world))(config, progress)
    stream = _stream(config, features, device)
    seconds = time.perf_counter() - start
    method = method_for(stream, config.method, config.settings, seed=config.seed, world=world)
    written = folder if world.is_main else None
    with nullcontext() if written is None else written.hold():
        if written is not None:
            written.create(config, stream)
        result = train(stream, method, folder=folder, resume=resume, progress=progress)
        result = _completed(result, seconds)
        if written is not None:
            written.finish(config, result, collect_diagnostics(stream, method))
    return result


def _stream(config: RunConfig, features: FeatureSet, device: torch.device) -> TaskStream:
    if not len(features.test_y):
        raise DataError("the data set has no test images, so nothing can be measured")
    return task_stream(
        features,
        protocol=config.protocol,
        base=config.base,
        increment=config.increment,
        order=config.order,
        device=device,
    )


def load_features(
    config: RunConfig, progress: RunProgress | None = None, world: World = SINGLE_PROCESS
) -> FeatureSet:
    """The features of the configured data set: precomputed, from the store, or computed now.

    world: the processes that call this together and share the encoding.
    """
    config = with_settled_precision(config)
    data = load_dataset(config.dataset, class_names=config.class_names)
    data = limited(data, Limits(config.train_limit, config.test_limit, config.imbalance))
    if isinstance(data, FeatureSet):
        return data
    if config.protocol == "class":  # an invalid order is found before hours of encoding
        class_order(config.order, len(data.class_keys))
    else:
        class_order(config.order, len(check_domains(data.name, data.domain_names)), "domain")
    backbone = load_backbone(
        config.model,
        config.pretrained,
        precision=config.precision,
        device=encoder_device(config.device),
        cache_dir=config.cache_dir,
    )
    return extract_features(
        data,
        backbone,
        FeatureStore(config.store),
        prompt=config.prompt,
        on_unreadable=config.on_unreadable,
        batch_size=config.encode_batch,
        workers=config.workers,
        progress=progress,
        world=world,
    )


class SharedFeatures:
    """Loads features once for successive runs that share them; a `FeatureSource`."""

    def __init__(self, world: World = SINGLE_PROCESS) -> None:
        self._world = world
        self._key: dict[str, Any] | None = None
        self._features: FeatureSet | None = None

    def __call__(self, config: RunConfig, progress: RunProgress | None) -> FeatureSet:
        key = config.features_identity()
        if self._features is None or key != self._key:
            self._features, self._key = load_features(config, progress, self._world), key
        return self._features


def with_settled_precision(config: RunConfig, *begun: RunFolder) -> RunConfig:
    """The configuration with the precision that auto stands for.

    It is that of the first folder of `begun` that holds a run, so that a run keeps its precision on
    every processor; otherwise the one that suits the device.
    """
    if config.precision != AUTO:
        return config
    found = (folder.config().precision for folder in begun if folder.is_run)
    precision = next(found, None) or suited_precision(encoder_device(config.device))
    return config.model_copy(update={"precision": precision})


def encoder_device(device: str) -> torch.device:
    """The device that encodes images; auto: a GPU if there is one, one per process of torchrun."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu" and not torch.cuda.is_available():
        raise UserError(f"device is {device!r}, but torch {torch.__version__} sees no GPU here")
    return torch.device("cuda", local_gpu()) if device == "cuda" else torch.device(device)


def trainer_device(device: str) -> torch.device:
    """The device that trains; auto: the encoder's, if the operations of this package support it."""
    chosen = encoder_device(device)
    try:
        _library.require(chosen, "mmd")
    except NotImplementedError as error:
        if device != "auto":
            raise UserError(f"device is {device!r}, but {error}") from None
        return torch.device("cpu")
    return chosen


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Run a block with `count` threads of torch; None leaves their number unchanged."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _completed(result: Result, seconds: float) -> Result:
    """The result with the time for the features and the instruction set added."""
    first = result.tasks[0]
    timed = replace(first, seconds={"features": seconds, **first.seconds})
    provenance = {
        **result.provenance,
        "instruction_set": _library.build_info().get("instruction_set"),
    }
    return replace(result, tasks=(timed, *result.tasks[1:]), provenance=provenance)
