"""Reading checkpoints of whole CLIP models, in the formats that open_clip loads."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from awpf_ext.errors import DataError, UserError, reason
from awpf_ext.io.safetensors_file import DTYPES, TORCH_DTYPES, open_tensors
from awpf_ext.lora.adapter_reader import ADAPTER_TENSORS

CHECKPOINT = "open_clip_model.safetensors"  # open_clip's name for it in a folder
OPEN_CLIP = "open_clip:"  # begins the name of weights that open_clip knows

# open_clip drops these, too: they are settings, or can be computed.
_NO_PARAMETERS = ("input_resolution", "context_length", "vocab_size")
_POSITIONS = ".position_ids"
_PARALLEL = "module."  # what DistributedDataParallel puts before every name
_STATE = "state_dict"


class Parameter(NamedTuple):
    """One tensor of a checkpoint."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint that is open for reading."""

    path: Path
    parameters: Mapping[str, Parameter]
    sha256: str
    _read: Callable[[str], Tensor]

    @property
    def name(self) -> str:
        return str(self.path)

    def read(self, name: str) -> Tensor:
        """One tensor; DataError if it holds a NaN or an infinity."""
        tensor = self._read(name)
        if not bool(tensor.isfinite().all()):
            raise DataError(f"{self.path}: {name} holds a NaN or an infinity")
        return tensor


@contextmanager
def open_checkpoint(path: str | Path) -> Iterator[Checkpoint]:
    """Open a checkpoint: a safetensors file, a file of torch.save, or a folder of a merge.

    A safetensors file is read one tensor at a time. Of a file of torch.save only tensors are
    unpickled (weights_only), and they are mapped into memory if its format allows that.
    """
    path = _file(Path(path).expanduser())
    if path.suffix == ".safetensors":
        with open_tensors(path) as file:
            found = {
                name: Parameter(entry.shape, _dtype(path, name, entry.dtype))
                for name, entry in file.entries.items()
            }
            names = _own_names(path, found)
            parameters = {name: found[key] for name, key in names.items()}
            yield Checkpoint(path, parameters, file.sha256(), lambda name: file.read(names[name]))
        return
    tensors = _unpickled(path)
    names = _own_names(path, tensors)
    parameters = {
        name: Parameter(tuple(tensors[key].shape), tensors[key].dtype)
        for name, key in names.items()
    }
    yield Checkpoint(path, parameters, file_hash(path), lambda name: tensors[names[name]])


def weights_file(base: str | Path) -> Path:
    """The file of base weights: a path, or open_clip:MODEL:TAG, which may be downloaded."""
    if not str(base).startswith(OPEN_CLIP):
        return Path(base).expanduser()
    from awpf_ext.clip.weights import resolve_weights

    model, _, pretrained = str(base).removeprefix(OPEN_CLIP).partition(":")
    if not pretrained:
        raise UserError(f"base is {str(base)!r}; expected a checkpoint, or open_clip:MODEL:TAG")
    source = resolve_weights(model, pretrained, None)
    if source.file is None:
        raise UserError(f"base is {str(base)!r}: random weights are in no file")
    return source.file


def _file(path: Path) -> Path:
    if path.is_dir() and (path / CHECKPOINT).is_file():
        return path / CHECKPOINT
    if path.is_dir():
        what = "a LoRA adapter" if (path / ADAPTER_TENSORS).exists() else "a folder"
        raise UserError(
            f"{path} is {what}; with base (--base), the sources are checkpoints of whole models"
        )
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    return path


def _dtype(path: Path, name: str, dtype: str) -> torch.dtype:
    if dtype not in TORCH_DTYPES:
        raise DataError(f"{path}: {name} has type {dtype}, which cannot be merged")
    return TORCH_DTYPES[dtype]


def _own_names(path: Path, found: Mapping[str, Any]) -> dict[str, str]:
    """The keys in the file by the parameters' names in the model."""
    if "text" in found and all(key == "text" or key.startswith("state.") for key in found):
        raise UserError(
            f"{path} is a model that `awpf export` wrote; export the CLIP in it with --open-clip"
        )
    parallel = all(key.startswith(_PARALLEL) for key in found)
    names = {key.removeprefix(_PARALLEL) if parallel else key: key for key in found}
    kept = {
        name: key
        for name, key in names.items()
        if name not in _NO_PARAMETERS and not name.endswith(_POSITIONS)
    }
    if not kept:
        raise DataError(f"{path} holds no tensors")
    return kept


def _unpickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of torch.save: a state dict, or one under "state_dict"."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about TorchScript, which is refused
            try:
                loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # the format before torch 1.6 cannot be mapped
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises nearly any type
        first = reason(error).split("\n", 1)[0]
        raise DataError(
            f"cannot read {path}: {first} (expected a safetensors file or a state_dict saved by "
            "torch.save; TorchScript archives and other pickled objects are not read)"
        ) from None
    if isinstance(loaded, Mapping) and isinstance(loaded.get(_STATE), Mapping):
        loaded = loaded[_STATE]
    if not isinstance(loaded, Mapping):
        raise DataError(f"cannot read {path}: it holds a {type(loaded).__name__}, no state_dict")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise DataError(
                f"cannot read {path}: {name!r} is a {type(value).__name__}; expected a state_dict, "
                "names with tensors"
            )
        if value.layout != torch.strided or value.is_nested or value.is_meta:
            kind = "nested" if value.is_nested else "without data" if value.is_meta else "sparse"
            raise DataError(f"{path}: {name} is {kind}, which cannot be merged")
        if not value.is_complex() and value.dtype not in DTYPES:
            raise DataError(f"{path}: {name} has type {value.dtype}, which cannot be merged")
    return dict(loaded)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, which is never in memory as a whole."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
