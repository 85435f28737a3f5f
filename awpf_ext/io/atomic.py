"""Atomic writes: a file is completely written or absent.

A write goes to a temporary name in the same folder, is flushed to the disk, and only then takes its
name. A process that is killed leaves the old file or the new one, and at worst a leftover named
`.NAME.*.tmp`.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from awpf_ext.errors import DataError, reason

PathLike = str | os.PathLike[str]
Buffer = bytes | memoryview

# Tests install a function here to act (raise, kill the process) at the moments that `fault_point`
# names: "writing NAME" inside the file, "written NAME" before the flush, "synced NAME" before the
# rename and "renamed NAME" after it, NAME being the final file name.
FAULT_HOOK: Callable[[str], None] | None = None


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
    """The object in a JSON file; DataError if the file is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {reason(error)}") from error


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
