"""A PEFT LoRA adapter on the disk: what is in it, checked, and read a layer at a time."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from awpf_ext.errors import DataError, UserError, reason
from awpf_ext.io import DTYPES
from awpf_ext.lora.adapter_config import FILE as CONFIG
from awpf_ext.lora.adapter_config import LoraConfig, read_config

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # PEFT's, before a module's name in the base model

_FACTOR = re.compile(
    r"(?P<module>.+)\.(?:lora_(?P<linear>[AB])(?:\.[^.]+)?\.weight"
    r"|lora_embedding_(?P<embedding>[AB])(?:\.[^.]+)?)"
)
_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


_CARRIED = {name: dtype for dtype, name in DTYPES.items()}


class _Entry(NamedTuple):
    """A tensor in a safetensors file."""

    dtype: str
    shape: tuple[int, ...]
    start: int  # of its bytes in the file
    end: int


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
        """All but the rank: what adapters of one model have in common."""
        return self.a_shape[1:], (self.b_shape[0], *self.b_shape[2:]), self.embedding


@dataclass(frozen=True, eq=False)
class LoraAdapter:
    """An adapter that is open for reading."""

    folder: Path
    config: LoraConfig
    layers: Mapping[str, LoraLayer]  # by the module's name in the base model
    others: Mapping[str, str]  # what is no factor: its name, and its key in the file
    dtype: torch.dtype
    sha256: str  # of the tensors' file
    _entries: Mapping[str, _Entry]
    _file: BufferedReader

    @property
    def name(self) -> str:
        return str(self.folder)

    def width(self, key: str) -> int:
        """Bytes of an element of a tensor."""
        dtype = _CARRIED.get(self._entries[key].dtype)
        return 1 if dtype is None else dtype.itemsize

    def read(self, key: str) -> Tensor:
        """One tensor, copied; DataError where it holds a NaN or an infinity.

        Not mapped: pages that were read would count as memory until the file is closed, and a file
        that shrinks meanwhile would end the process.
        """
        path, entry = self.folder / WEIGHTS, self._entries[key]
        buffer = torch.empty(entry.end - entry.start, dtype=torch.uint8)
        try:
            self._file.seek(entry.start)
            found = self._file.readinto(buffer.numpy().data)
        except OSError as error:
            raise DataError(f"cannot read {path}: {reason(error)}") from None
        if found != buffer.numel():
            raise DataError(f"cannot read {path}: it has changed while it was read")
        if entry.dtype not in _CARRIED:
            raise DataError(f"{path}: {key} has type {entry.dtype}, which cannot be carried over")
        tensor = buffer.view(_CARRIED[entry.dtype]).reshape(entry.shape)
        if not bool(tensor.isfinite().all()):
            raise DataError(f"{path}: {key} holds a NaN or an infinity")
        return tensor


@contextmanager
def open_adapter(folder: str | Path) -> Iterator[LoraAdapter]:
    """Check a folder's config and tensors, and hold the file open; nothing is unpickled."""
    from safetensors import SafetensorError, safe_open

    folder = Path(folder).expanduser()
    path = _weights_file(folder)
    config = read_config(folder)
    try:
        with safe_open(path, framework="pt"):  # checks the header against the file
            pass
        file = path.open("rb")
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot read {path}: {reason(error)}") from None
    with file:
        try:
            entries = _entries(file)
        except ValueError as error:
            raise DataError(f"cannot read {path}: {error}") from None
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
            dtype=_joint_type(entries[key] for layer in layers.values() for key in layer[:2]),
            sha256=_sha256(file),
            _entries=entries,
            _file=file,
        )


def _weights_file(folder: Path) -> Path:
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}; expected an adapter's folder with {CONFIG} and {WEIGHTS}"
        )
    path = folder / WEIGHTS
    if not path.is_file() and (folder / "adapter_model.bin").exists():
        raise UserError(
            f"{folder} has adapter_model.bin, a pickle, which is not opened here; load the "
            "adapter with PEFT and save it again: save_pretrained(FOLDER) writes safetensors"
        )
    for needed in (path, folder / CONFIG):
        if not needed.is_file():
            raise UserError(f"{folder} is no LoRA adapter: it has no file {needed.name}")
    return path


def _entries(file: BufferedReader) -> dict[str, _Entry]:
    """Where each tensor lies in a file that safetensors has checked."""
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length), object_pairs_hook=_once)
    header.pop("__metadata__", None)
    return {
        key: _Entry(
            entry["dtype"],
            tuple(entry["shape"]),
            *(8 + length + offset for offset in entry["data_offsets"]),
        )
        for key, entry in header.items()
    }


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a key that is there twice may mean different things to different readers."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is in its header twice")
    return found


def _sha256(file: BufferedReader) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def _joint_type(entries: Iterable[_Entry]) -> torch.dtype:
    types = {_TYPES[entry.dtype] for entry in entries}
    return functools.reduce(torch.promote_types, types)


def _sorted_keys(path: Path, keys: list[str]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Keys of the factors by module and side, and the others without PEFT's prefix."""
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
    entries: Mapping[str, _Entry],
    config: LoraConfig,
) -> LoraLayer:
    embedding = "Ae" in keys
    sides = ("Ae", "Be") if embedding else ("A", "B")
    if set(keys) != set(sides):
        raise DataError(f"{path}: {module} needs two factors, but has {', '.join(keys.values())}")
    shapes = []
    for key in (keys[side] for side in sides):
        dtype, shape = entries[key].dtype, entries[key].shape
        if dtype not in _TYPES:
            raise DataError(f"{path}: {key} has type {dtype}; expected one of {', '.join(_TYPES)}")
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
