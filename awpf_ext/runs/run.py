"""A whole protocol in one call: data, features, tasks, a method, and the result in a folder.

    from awpf_ext.runs.run import run

    result = run(dataset="features:clip.npz", method="awpf", increment=10, out="runs/first")
    print(result.average, result.last, result.forgetting)

The command line calls the same functions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from awpf_ext import _library
from awpf_ext.clip import load_backbone
from awpf_ext.data import (
    ExtractProgress,
    FeatureSet,
    FeatureStore,
    Limits,
    class_order,
    extract_features,
    limited,
    load_dataset,
    task_stream,
)
from awpf_ext.data.stream import check_domains
from awpf_ext.distributed import SINGLE_PROCESS, World, local_gpu
from awpf_ext.errors import DataError, UserError
from awpf_ext.methods.registry import check_able, method_for
from awpf_ext.runs.checkpoint import Resume, RunFolder
from awpf_ext.runs.config import ConfigLayer, RunConfig, read_config_file, resolve_config
from awpf_ext.runs.diagnostics import collect_evidence, write_evidence
from awpf_ext.runs.folder import claim_folder, finish_folder, look_into
from awpf_ext.runs.loggers import check_tensorboard, write_tensorboard
from awpf_ext.runs.result import Result
from awpf_ext.runs.trainer import Progress, train

RunProgress = Callable[[Progress | ExtractProgress], None]
FeatureSource = Callable[[RunConfig, RunProgress | None], FeatureSet]


def run(
    config: str | Path | None = None,
    *,
    out: str | Path | None = None,
    resume: Resume = False,
    progress: RunProgress | None = None,
    tensorboard: bool = False,
    **options: Any,
) -> Result:
    """Run a protocol; the same keys as the command line's, from a YAML file, as options, or both.

    out: the folder that the run is kept in; without it nothing is written. A finished run there is
    read, not repeated. resume: go on with an unfinished one ("intact": even where its last files
    are damaged).
    """
    layers = [] if config is None else [read_config_file(Path(config))]
    configured = resolve_config([*layers, ConfigLayer("run()", options)])
    if configured.unused:
        raise UserError(f"{configured.config.method} has no {', '.join(configured.unused)}")
    return run_configured(
        configured.config, out=out, resume=resume, progress=progress, tensorboard=tensorboard
    )


def run_configured(
    config: RunConfig,
    *,
    out: str | Path | None = None,
    resume: Resume = False,
    progress: RunProgress | None = None,
    tensorboard: bool = False,
    features_of: FeatureSource | None = None,
    world: World = SINGLE_PROCESS,
) -> Result:
    """`run` for a configuration at hand; `features_of` may keep features between runs.

    world: the processes that make this run together, where its method is `distributed`.
    """
    folder = None if out is None else Path(out).expanduser()
    if tensorboard:
        check_tensorboard(folder)
    if folder is not None:
        found = look_into(folder, config)
        world.barrier()  # all have looked before the main process writes
        if found.result is not None:
            if tensorboard and world.is_main:
                write_tensorboard(folder, found.result)
            return found.result
        if found.started and not resume:
            raise UserError(
                f"{folder} holds an unfinished run ({found.tasks} tasks done): resume it "
                "(--resume) or choose another folder"
            )
    check_able(config.method, config.protocol, world)
    device = trainer_device(config.device)
    with threads(config.threads):
        start = time.perf_counter()
        source = features_of or partial(load_features, world=world)
        features = source(config, progress)
        if not len(features.test_y):
            raise DataError("the data set has no test images, so nothing can be measured")
        stream = task_stream(
            features,
            protocol=config.protocol,
            base=config.base,
            increment=config.increment,
            order=config.order,
            device=device,
        )
        reading = time.perf_counter() - start
        method = method_for(stream, config.method, config.settings, seed=config.seed, world=world)
        checkpoint = None
        if folder is not None:
            if world.is_main:
                claim_folder(folder, config, stream)
            checkpoint = RunFolder(folder)
        result = train(stream, method, checkpoint=checkpoint, resume=resume, progress=progress)
    result = _completed(result, reading)
    if folder is not None and world.is_main:
        write_evidence(folder, collect_evidence(stream, method))
        finish_folder(folder, config, result)
        if tensorboard:
            write_tensorboard(folder, result)
    return result


def load_features(
    config: RunConfig, progress: RunProgress | None = None, world: World = SINGLE_PROCESS
) -> FeatureSet:
    """The features of the configured data set: ready-made, from the store, or computed into it.

    world: the processes that call this together and share what is to be encoded.
    """
    data = load_dataset(config.dataset, class_names=config.class_names)
    data = limited(data, Limits(config.train_limit, config.test_limit, config.imbalance))
    if isinstance(data, FeatureSet):
        return data
    if config.protocol == "class":  # a mistake shows before hours of encoding
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


def encoder_device(device: str) -> torch.device:
    """Where images are encoded; auto: on the GPU where there is one, under torchrun its own."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu" and not torch.cuda.is_available():
        raise UserError(f"device is {device!r}, but torch {torch.__version__} sees no GPU here")
    return torch.device("cuda", local_gpu()) if device == "cuda" else torch.device(device)


def trainer_device(device: str) -> torch.device:
    """Where methods learn; auto: where the images are encoded, if our operations run there too."""
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
    """Run a block with that many threads (None: as many as before)."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _completed(result: Result, reading: float) -> Result:
    """With the time that features took, and the instruction set they were learned with."""
    first = result.tasks[0]
    timed = replace(first, seconds={"features": reading, **first.seconds})
    provenance = {
        **result.provenance,
        "instruction_set": _library.build_info().get("instruction_set"),
    }
    return replace(result, tasks=(timed, *result.tasks[1:]), provenance=provenance)
