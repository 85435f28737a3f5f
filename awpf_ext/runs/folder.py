"""What a run's folder holds beside the checkpoints (checkpoint.py).

    config.yaml           the configuration; `awpf run --config` makes the run again from it
    bank.safetensors      the class texts, and what encodes images: all that prediction needs
    evidence.safetensors  predictions and embeddings of test images, for the report (evidence.py)
    result.json           the result once the run is finished; what `awpf run --json` prints

Every file is whole or absent, so that a run killed at any moment can be resumed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from awpf_ext import io
from awpf_ext.data import TaskStream
from awpf_ext.errors import AwpfError, CheckpointError, DataError, UserError
from awpf_ext.finetuning.roles import Role, keys_with
from awpf_ext.runs.checkpoint import RunFolder
from awpf_ext.runs.config import RunConfig, read_config_file, resolve_config
from awpf_ext.runs.result import Result, TaskResult


class Found(NamedTuple):
    """What is in a folder: nothing, a run under way, or a finished one."""

    started: bool
    tasks: int  # done so far
    result: Result | None


def look_into(folder: Path, config: RunConfig) -> Found:
    """The state of the run `config` in `folder`; CheckpointError where another run is there."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; expected a folder for the run")
    finished = (folder / "result.json").exists()
    if (folder / "config.yaml").exists():
        here, there = config.identity(), saved_config(folder).identity()
        # Files may move while a run is stopped; the trainer compares their content.
        left_out = () if finished else keys_with(RunConfig, Role.FILES)
        told = [
            f"{key} is {there[key]} there, {here[key]} here"
            for key in there
            if key in here and there[key] != here[key] and key not in left_out
        ]
        if told:
            raise CheckpointError(f"{folder} belongs to another run: {'; '.join(told)}")
    started = (folder / "config.yaml").exists() or (folder / "run.json").exists()
    tasks = len(list(folder.glob("task_*.json")))
    return Found(started, tasks, read_result(folder) if finished else None)


def saved_config(folder: Path) -> RunConfig:
    """The configuration of the run in `folder`."""
    path = folder / "config.yaml"
    if not path.exists():
        raise UserError(f"{folder} holds no run of `awpf run` (there is no {path.name} in it)")
    try:
        return resolve_config([read_config_file(path)]).config
    except AwpfError as error:
        raise CheckpointError(f"{folder} cannot be read by this version: {error}") from None


def claim_folder(folder: Path, config: RunConfig, stream: TaskStream) -> None:
    """Write what makes `folder` the folder of this run; nothing where it is already."""
    with RunFolder(folder).held():
        look_into(folder, config)
        if not (folder / "bank.safetensors").exists():
            facts = {
                "class_names": stream.class_names,
                "class_order": stream.class_order,
                "logit_scale": stream.logit_scale,
                "provenance": stream.provenance,
            }
            described = json.dumps(facts, ensure_ascii=False)
            text = stream.text.cpu()
            io.save_tensors(folder / "bank.safetensors", {"text": text}, {"awpf_ext": described})
        if not (folder / "config.yaml").exists():
            io.write_atomic(folder / "config.yaml", config.to_yaml().encode())


def finish_folder(folder: Path, config: RunConfig, result: Result) -> None:
    """Keep the result, and where its files were at the end; from now on the run is finished."""
    io.write_atomic(folder / "config.yaml", config.to_yaml().encode())
    io.write_json(folder / "result.json", result_to_json(result))


def result_to_json(result: Result) -> dict[str, Any]:
    """All of a result: its metrics, and the tasks that they are made of."""
    return {**result.to_json(), "tasks": [task.to_json() for task in result.tasks]}


def read_result(folder: Path) -> Result:
    """The result of the finished run in `folder`."""
    try:
        saved: Mapping[str, Any] = io.read_json(folder / "result.json")
        return Result(
            tasks=tuple(TaskResult.from_json(task) for task in saved["tasks"]),
            test_images=tuple(saved["test_images"]),
            provenance=dict(saved["provenance"]),
        )
    except (DataError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder}/result.json is damaged ({error}); delete it and resume the run"
        ) from None
