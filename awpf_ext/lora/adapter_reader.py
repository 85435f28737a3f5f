"""Reading a PEFT LoRA adapter: its content is checked and read one layer at a time."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from awpf_ext.errors import DataError, UserError
from awpf_ext.io.safetensors_file import TORCH_DTYPES, TensorEntry, TensorFile, open_tensors
from awpf_ext.lora.adapter_config import CONFIG, LoraConfig, read_config

ADAPTER_TENSORS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # PEFT's, before a module's name in the base model

_FACTOR = re.compile(
    r"(?P<module>.+)\.(?:lora_(?P<linear>[AB])(?:\.[^.]+)?\.weight"
    r"|lora_embedding_(?P<embedding>[AB])(?:\.[^.]+)?)"
)
_FACTOR_TYPES = {name: dtype for name, dtype in TORCH_DTYPES.items() if dtype.is_floating_point}


class LoraLayer(NamedTuple):
    """The factors of one module: their keys in the file and their shapes.

    A is (r, in), of a convolution (r, in, kernel...); B is (out, r), of a convolution
    (out, r, 1...). An embedding has (r, entries) and (width, r).
    """

    a_key: str
    b_key: str
    a_shape: tuple[int, ...]
    b_shape: tuple[int, ...]
    embedding: bool
    scaling: float

    @property
    def rank(self) -> int:
        return self.a_shape[0]

    @property
    def shape(self) -> tuple[tuple[int, ...], tuple[int, ...], bool]:
        """The shapes without the rank, which adapters of the same model have in common."""
        return self.a_shape[1:], (self.b_shape[0], *self.b_shape[2:]), self.embedding


@dataclass(frozen=True, eq=False)
class LoraAdapter:
    """An adapter that is open for reading."""

    folder: Path
    config: LoraConfig
    layers: Mapping[str, LoraLayer]  # by the module's name in the base model
    others: Mapping[str, str]  # tensors that are not factors: keys in the file by name
    dtype: torch.dtype
    sha256: str  # of the file with the tensors
    _tensors: TensorFile

    @property
    def name(self) -> str:
        return str(self.folder)

    def width(self, key: str) -> int:
        """Bytes per element of a tensor."""
        dtype = TORCH_DTYPES.get(self._tensors.entries[key].dtype)
        return 1 if dtype is None else dtype.itemsize

    def read(self, key: str) -> Tensor:
        """A copy of one tensor; DataError if it holds a NaN or an infinity."""
        tensor = self._tensors.read(key)
        if not bool(tensor.isfinite().all()):
            raise DataError(f"{self._tensors.path}: {key} holds a NaN or an infinity")
        return tensor


@contextmanager
def open_adapter(folder: str | Path) -> Iterator[LoraAdapter]:
    """Check a folder's config and tensors, and hold the file open; nothing is unpickled."""
    folder = Path(folder).expanduser()
    path = _weights_file(folder)
    config = read_config(folder)
    with open_tensors(path) as tensors:
        entries = tensors.entries
        factors, others = _sorted_keys(path, list(entries))
        layers = {
            module: _layer(path, module, keys, entries, config) for module, keys in factors.items()
        }
        if not layers:
            raise DataError(f"{path} has no LoRA factors (no keys with lora_A and lora_B)")
        yield LoraAdapter(
            folder=folder,
            config=config,
            layers=layers,
            others=others,
            dtype=_common_dtype(entries[key] for layer in layers.values() for key in layer[:2]),
            sha256=tensors.sha256(),
            _tensors=tensors,
        )


def _weights_file(folder: Path) -> Path:
    if folder.is_file():
        raise UserError(
            f"{folder} is a file, but an adapter is a folder; to merge checkpoints of whole models "
            "name the one that they were fine-tuned from: base (--base)"
        )
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}; expected an adapter's folder with {CONFIG} and "
            f"{ADAPTER_TENSORS}"
        )
    path = folder / ADAPTER_TENSORS
    if not path.is_file() and (folder / "adapter_model.bin").exists():
        raise UserError(
            f"{folder} has adapter_model.bin, a pickle, which is not opened here; load the "
            "adapter with PEFT and save it again: save_pretrained(FOLDER) writes safetensors"
        )
    for needed in (path, folder / CONFIG):
        if not needed.is_file():
            raise UserError(f"{folder} is no LoRA adapter: it has no file {needed.name}")
    return path


def _common_dtype(entries: Iterable[TensorEntry]) -> torch.dtype:
    types = {_FACTOR_TYPES[entry.dtype] for entry in entries}
    return functools.reduce(torch.promote_types, types)


def _sorted_keys(path: Path, keys: list[str]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Keys of the factors by module and side, and the other keys by name without PEFT's prefix."""
    factors: dict[str, dict[str, str]] = {}
    others = {}
    for key in sorted(keys):
        found = _FACTOR.fullmatch(key)
        if found is None:
            if ".lora_" in key:
                raise UserError(f"{path} has {key}: only factors lora_A and lora_B can be merged")
            others[key.removeprefix(PREFIX)] = key
            continue
        embedding = found["linear"] is None
        side = found["embedding" if embedding else "linear"] + ("e" if embedding else "")
        sides = factors.setdefault(found["module"].removeprefix(PREFIX), {})
        if side in sides:
            raise DataError(f"{path} has two tensors for one factor: {sides[side]} and {key}")
        sides[side] = key
    return factors, others


def _layer(
    path: Path,
    module: str,
    keys: Mapping[str, str],
    entries: Mapping[str, TensorEntry],
    config: LoraConfig,
) -> LoraLayer:
    embedding = "Ae" in keys
    sides = ("Ae", "Be") if embedding else ("A", "B")
    if set(keys) != set(sides):
        raise DataError(f"{path}: {module} needs two factors, but has {', '.join(keys.values())}")
    shapes = []
    for key in (keys[side] for side in sides):
        dtype, shape = entries[key].dtype, entries[key].shape
        if dtype not in _FACTOR_TYPES:
            raise DataError(
                f"{path}: {key} has type {dtype}; expected one of {', '.join(_FACTOR_TYPES)}"
            )
        if len(shape) < 2 or 0 in shape:
            raise DataError(f"{path}: {key} has shape {shape}; expected a factor's, e.g. (16, 768)")
        shapes.append(shape)
    a_shape, b_shape = shapes
    rank = a_shape[0]
    if len(a_shape) != len(b_shape) or math.prod(b_shape) != b_shape[0] * rank:
        hint = " (grouped convolutions cannot be merged)" if len(b_shape) > 2 else ""
        raise DataError(
            f"{path}: the factors of {module} have shapes {a_shape} and {b_shape}; expected "
            f"(r, in...) and (out, r...){hint}"
        )
    if config.expected_rank(module) != rank:
        raise DataError(
            f"{path}: the factors of {module} have rank {rank}, but {CONFIG} says "
            f"{config.expected_rank(module)}"
        )
    a_key, b_key = (keys[side] for side in sides)
    return LoraLayer(a_key, b_key, a_shape, b_shape, embedding, config.scaling(module, rank))
