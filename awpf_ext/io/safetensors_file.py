"""The safetensors format: files with a checksum, files written one tensor at a time, and reading.

`save_tensors` and `load_tensors` keep this package's own files: a checksum over all content lets a
damaged file be refused. `TensorWriter` and `open_tensors` handle files of other programs (LoRA
adapters) one tensor at a time, so that a file never has to fit into memory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from awpf_ext.errors import DataError, reason
from awpf_ext.io.atomic import Buffer, PathLike, fault_point, write_atomic

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
TORCH_DTYPES = {name: dtype for dtype, name in DTYPES.items()}

_CHECKSUM = "sha256"


class TensorEntry(NamedTuple):
    """One tensor of a file, as its header describes it."""

    dtype: str
    shape: tuple[int, ...]
    start: int  # of its bytes in the file
    end: int


def save_tensors(
    path: PathLike,
    tensors: Mapping[str, Tensor | Sequence[Tensor]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors and string metadata as one safetensors file with a checksum, atomically.

    A sequence of tensors is written as their concatenation along the first dimension, one part at a
    time, so that parts mapped from other files are never in memory together.
    """
    # Widest elements first, as safetensors itself does, keeps every tensor aligned.
    parts = {name: [v] if isinstance(v, Tensor) else list(v) for name, v in tensors.items()}
    names = sorted(parts, key=lambda name: (-parts[name][0].element_size(), name))
    header: dict[str, Any] = {
        "__metadata__": {**(metadata or {}), _CHECKSUM: _digest(parts, metadata or {})}
    }
    end = 0
    for name in names:
        start, end = end, end + sum(part.nbytes for part in parts[name])
        shape = _joined_shape(name, parts[name])
        header[name] = _described(parts[name][0].dtype, shape, start, end)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)

    def buffers() -> Iterator[Buffer]:
        yield len(encoded).to_bytes(8, "little") + encoded
        for name in names:
            yield from map(_bytes_of, parts[name])

    write_atomic(path, buffers())


def load_tensors(path: PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors (mapped from the file, not copied) and metadata that `save_tensors` wrote.

    The whole file is checked first. DataError gives the reason if it is missing, truncated, altered
    or was not written by `save_tensors`.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot read {path}: {reason(error)}") from error
    checksum = metadata.pop(_CHECKSUM, None)
    if checksum is None:
        raise DataError(f"cannot read {path}: it has no checksum, so awpf_ext did not write it")
    if _digest({name: [tensor] for name, tensor in tensors.items()}, metadata) != checksum:
        raise DataError(f"cannot read {path}: it is damaged (its checksum does not match)")
    return tensors, metadata


class TensorWriter:
    """Writes a safetensors file one tensor at a time and keeps none of them in memory.

    The header comes first in the file but is known last, so space is reserved for it: `names` lists
    all tensors to come, and a shape with its offsets takes at most `_ENTRY` bytes beside the name.
    Wide elements have to be written before narrow ones, since some readers need aligned tensors.
    """

    _ENTRY = 200

    def __init__(self, file: BinaryIO, names: list[str], name: str) -> None:
        """name: the file's final name, for `fault_point`."""
        reserved = 100 + sum(len(json.dumps(name)) + self._ENTRY for name in names)
        self._file = file
        self._name = name
        self._reserved = reserved + -reserved % 8
        self._header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        self._end = 0
        file.write(self._reserved.to_bytes(8, "little") + b" " * self._reserved)

    def write(self, name: str, tensor: Tensor) -> None:
        assert self._end % tensor.element_size() == 0
        start, self._end = self._end, self._end + tensor.nbytes
        self._header[name] = _described(tensor.dtype, list(tensor.shape), start, self._end)
        self._file.write(_bytes_of(tensor))
        fault_point(f"writing {self._name}")

    def finish(self) -> None:
        """Write the header; the rest of its space stays blank, as the format allows."""
        encoded = json.dumps(self._header).encode()
        assert len(encoded) <= self._reserved
        self._file.seek(8)
        self._file.write(encoded)


@dataclass(frozen=True, eq=False)
class TensorFile:
    """A safetensors file that is open for reading."""

    path: Path
    entries: Mapping[str, TensorEntry]
    _file: BufferedReader

    def read(self, name: str) -> Tensor:
        """A copy of one tensor.

        It is not mapped: pages that were read would count as memory until the file is closed, and a
        file that is truncated meanwhile would end the process.
        """
        entry = self.entries[name]
        buffer = torch.empty(entry.end - entry.start, dtype=torch.uint8)
        try:
            self._file.seek(entry.start)
            found = self._file.readinto(buffer.numpy().data)
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {reason(error)}") from None
        if found != buffer.numel():
            raise DataError(f"cannot read {self.path}: it has changed while it was read")
        if entry.dtype not in TORCH_DTYPES:
            raise DataError(
                f"{self.path}: {name} has type {entry.dtype}, which cannot be carried over"
            )
        return buffer.view(TORCH_DTYPES[entry.dtype]).reshape(entry.shape)

    def sha256(self) -> str:
        """The hash of the whole file."""
        digest = hashlib.sha256()
        self._file.seek(0)
        while piece := self._file.read(1 << 20):
            digest.update(piece)
        return digest.hexdigest()


@contextmanager
def open_tensors(path: Path) -> Iterator[TensorFile]:
    """Check a file's header and hold the file open; DataError if it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt"):  # checks the header against the file
            pass
        file = path.open("rb")
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot read {path}: {reason(error)}") from None
    with file:
        try:
            entries = _read_entries(file)
        except ValueError as error:
            raise DataError(f"cannot read {path}: {error}") from None
        yield TensorFile(path, entries, file)


def _read_entries(file: BufferedReader) -> dict[str, TensorEntry]:
    """Where each tensor lies in a file that safetensors has checked."""
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length), object_pairs_hook=_without_duplicates)
    header.pop("__metadata__", None)
    return {
        name: TensorEntry(
            entry["dtype"],
            tuple(entry["shape"]),
            *(8 + length + offset for offset in entry["data_offsets"]),
        )
        for name, entry in header.items()
    }


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; different readers may take different values of a repeated key."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is in its header twice")
    return found


def _described(dtype: torch.dtype, shape: list[int], start: int, end: int) -> dict[str, object]:
    """A tensor's entry in the header."""
    return {"dtype": DTYPES[dtype], "shape": shape, "data_offsets": [start, end]}


def _bytes_of(tensor: Tensor) -> memoryview:
    """The elements in row-major order, as the file holds them."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _joined_shape(name: str, parts: Sequence[Tensor]) -> list[int]:
    """The shape of the parts' concatenation."""
    first = parts[0]
    for part in parts[1:]:
        if part.dtype != first.dtype or part.shape[1:] != first.shape[1:] or part.dim() == 0:
            raise ValueError(f"tensors[{name!r}]: parts differ in dtype or in row shape")
    if len(parts) == 1:
        return list(first.shape)
    return [sum(part.shape[0] for part in parts), *first.shape[1:]]


def _digest(parts: Mapping[str, Sequence[Tensor]], metadata: Mapping[str, str]) -> str:
    """SHA-256 over metadata, names, types, shapes and bytes, whatever their order in the file."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(parts):
        described = [name, DTYPES[parts[name][0].dtype], _joined_shape(name, parts[name])]
        digest.update(json.dumps(described).encode())
        for part in parts[name]:
            digest.update(_bytes_of(part))
    return digest.hexdigest()
