"""Files: atomic writes, safetensors with a checksum, locks."""

from __future__ import annotations

from awpf_ext.io import atomic
from awpf_ext.io.atomic import (
    PathLike,
    fault_point,
    open_atomic,
    read_json,
    remove_leftovers,
    sync_folder,
    write_atomic,
    write_json,
)
from awpf_ext.io.locks import lock
from awpf_ext.io.safetensors_file import (
    DTYPES,
    TensorWriter,
    load_tensors,
    open_tensors,
    save_tensors,
)

__all__ = [
    "DTYPES",
    "PathLike",
    "TensorWriter",
    "atomic",
    "fault_point",
    "load_tensors",
    "lock",
    "open_atomic",
    "open_tensors",
    "read_json",
    "remove_leftovers",
    "save_tensors",
    "sync_folder",
    "write_atomic",
    "write_json",
]
