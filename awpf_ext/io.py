"""Files that are whole or absent: atomic writes, checked tensors, folder locks.

A write goes to a temporary name in the same folder, is flushed to the disk, and only then takes
its name; a process killed at any moment leaves the old file or the new one, and at worst a leftover
named `.NAME.*.tmp`. Tensors are kept as safetensors with a checksum, so that a damaged file is
refused instead of read.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from awpf_ext.errors import DataError, UserError, reason

PathLike = str | os.PathLike[str]
Buffer = bytes | memoryview

# Tests install a function here to act (raise, kill the process) at the moments that `fault_point`
# names: "writing NAME" inside the file, "written NAME" before the flush, "synced NAME" before the
# rename and "renamed NAME" after it, NAME being the final file name.
FAULT_HOOK: Callable[[str], None] | None = None

_CHECKSUM = "sha256"
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


def fault_point(name: str) -> None:
    """Does nothing, unless a test has installed `FAULT_HOOK`."""
    if FAULT_HOOK is not None:
        FAULT_HOOK(name)


def write_atomic(path: PathLike, data: Buffer | Iterable[Buffer]) -> None:
    """Write `data` (one buffer, or several in order) so that `path` is never seen half written."""
    with open_atomic(path) as file:
        for buffer in [data] if isinstance(data, bytes | memoryview) else data:
            file.write(buffer)
            fault_point(f"writing {Path(path).name}")


@contextmanager
def open_atomic(path: PathLike) -> Iterator[BinaryIO]:
    """A new file to write and seek in, which takes its name `path` once the block is done."""
    path = Path(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            yield file
            file.flush()
            fault_point(f"written {path.name}")
            os.fsync(file.fileno())
        fault_point(f"synced {path.name}")
        temporary.replace(path)
        fault_point(f"renamed {path.name}")
        sync_folder(path.parent)
    except OSError as error:
        raise DataError(_write_failure(path, error)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: PathLike) -> None:
    """Delete what killed writers left in `folder`; call it only while holding the folder's lock."""
    for leftover in Path(folder).glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def write_json(path: PathLike, obj: Any) -> None:
    """Write `obj` as indented UTF-8 JSON, atomically; NaN and infinity are refused (not JSON)."""
    text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def read_json(path: PathLike) -> Any:
    """The object in a JSON file; DataError where the file is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {reason(error)}") from error


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
        dtype, shape = DTYPES[parts[name][0].dtype], _joined_shape(name, parts[name])
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)

    def buffers() -> Iterator[Buffer]:
        yield len(encoded).to_bytes(8, "little") + encoded
        for name in names:
            yield from map(bytes_of, parts[name])

    write_atomic(path, buffers())


def load_tensors(path: PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors (mapped from the file, not copied) and metadata that `save_tensors` wrote.

    The whole file is checked first: DataError with the reason where it is missing, cut off, altered
    or not one of ours.
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


@contextmanager
def lock(
    path: PathLike, *, wait: bool = True, on_wait: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold the lock file `path`; the kernel frees it when its holder ends, however it ends.

    Where another process holds it: UserError naming that process, or with `wait` one call of
    `on_wait` with its name, then patience. The file itself stays: deleting it would let two
    processes lock two files of one name.
    """
    import fcntl

    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise DataError(f"cannot lock {path}: {reason(error)}") from error
    try:
        told = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = os.pread(handle, 200, 0).decode(errors="replace") or "another process"
                if not wait:
                    raise UserError(f"{path.parent} is in use by {holder}") from None
                if on_wait is not None and not told:
                    on_wait(holder)
                told = True
                time.sleep(0.1)
            except OSError as error:
                raise DataError(f"cannot lock {path}: {reason(error)}") from error
        with suppress(OSError):  # a full disk: the name is a courtesy, the lock holds without it
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        try:
            yield
        finally:
            with suppress(OSError):
                os.ftruncate(handle, 0)
    finally:
        os.close(handle)  # frees the lock


def bytes_of(tensor: Tensor) -> memoryview:
    """The elements in row order, as they lie in a file."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _joined_shape(name: str, parts: Sequence[Tensor]) -> list[int]:
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
            digest.update(bytes_of(part))
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Make a rename durable; only POSIX lets a folder be opened for this."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _write_failure(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"cannot write {path}: the disk is full; what was written before is intact, "
            "so free some space and run the same again"
        )
    return f"cannot write {path}: {reason(error)}"
