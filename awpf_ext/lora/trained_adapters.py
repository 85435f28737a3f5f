"""LoRAs trained by one run, read for another run on the same tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from awpf_ext import io
from awpf_ext.errors import DataError, UserError
from awpf_ext.lora.adapter_reader import LoraAdapter, open_adapter
from awpf_ext.lora.adapter_writer import ADAPTERS, POPULATION, TRAINING, AdapterFiles

# Settings that must agree for the factors to fit the same model.
_AGREE = (
    "base_model_name_or_path",
    "revision",
    "r",
    "lora_alpha",
    "use_rslora",
    "target_modules",
)
_CLOSE = 1e-3  # means of features may differ in the last digits between machines


def task_name(task: int) -> str:
    """The name of a task's adapter in a run's folder."""
    return f"task_{task:04d}"


class TrainedAdapters:
    """The adapters in a run's folder, each checked when it is read."""

    def __init__(self, run: str | Path, like: AdapterFiles) -> None:
        """like: an adapter with the expected configuration and shapes."""
        self._folder = Path(run).expanduser() / ADAPTERS
        self._like = like
        if not self._folder.is_dir():
            raise UserError(
                f"adapters is {run}, which has no folder adapters; expected the folder of a run "
                "of lora_merge or icm_fusion"
            )

    def read(self, task: int, training: Mapping[str, Any]) -> dict[str, Tensor]:
        """The tensors of a task's adapter; `training` describes the data it must be trained on."""
        folder = self._folder / task_name(task)
        with open_adapter(folder) as adapter:
            self._check_config(adapter)
            _check_training(folder, training)
            keys = [key for layer in adapter.layers.values() for key in layer[:2]]
            tensors = {key: adapter.read(key) for key in [*keys, *adapter.others.values()]}
        expected = self._like.tensors
        for name in sorted(expected.keys() | tensors.keys()):
            shapes = [
                tuple(some[name].shape) if name in some else None for some in (tensors, expected)
            ]
            if shapes[0] != shapes[1]:
                raise UserError(f"{folder}: {name} has shape {shapes[0]}; expected {shapes[1]}")
        return {name: tensors[name].float() for name in expected}

    def population_file(self, task: int) -> Path:
        """Of the other LoRAs of a task, beside its adapter; a run may keep none."""
        return self._folder / task_name(task) / POPULATION

    def _check_config(self, adapter: LoraAdapter) -> None:
        for key in _AGREE:
            found, expected = adapter.config.raw.get(key), self._like.config.get(key)
            if isinstance(found, list) and isinstance(expected, list):
                found, expected = sorted(map(str, found)), sorted(map(str, expected))
            if found != expected:
                raise UserError(
                    f"{adapter.name} has {key} {found!r}; expected {expected!r}, as this run's "
                    "settings and backbone have it"
                )


def _check_training(folder: Path, expected: Mapping[str, Any]) -> None:
    path = folder / TRAINING
    if not path.exists():
        raise UserError(f"{folder} has no {TRAINING}, so its training data is unknown")
    found = io.read_json(path)
    if not isinstance(found, dict):
        raise DataError(f"cannot read {path}: it holds a {type(found).__name__}, not an object")
    for key, value in expected.items():
        if not _alike(found.get(key), value):
            values = "" if isinstance(value, list) else f" ({found.get(key)!r}, here {value!r})"
            raise UserError(
                f"{folder} was trained with different {key}{values}; expected a run with the "
                "same data, limits, order and increment"
            )


def _alike(found: Any, expected: Any) -> bool:
    if not isinstance(expected, list):
        return bool(found == expected)
    if not isinstance(found, list) or len(found) != len(expected):
        return False
    numbers = [value for value in found if isinstance(value, int | float) and math.isfinite(value)]
    if len(numbers) != len(found):
        return False
    return torch.allclose(
        torch.tensor(numbers, dtype=torch.float64),
        torch.tensor(expected, dtype=torch.float64),
        rtol=0,
        atol=_CLOSE,
    )
