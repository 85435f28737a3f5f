"""Writing a PEFT LoRA adapter: its folder is complete or absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from awpf_ext import io
from awpf_ext.errors import DataError, UserError, reason
from awpf_ext.lora.adapter_config import CONFIG
from awpf_ext.lora.adapter_reader import ADAPTER_TENSORS
from awpf_ext.lora.checkpoint_reader import CHECKPOINT

ADAPTERS = "adapters"  # the folder below a run's that its LoRAs are kept in
MERGE_REPORT = "merge.json"
TRAINING = "training.json"
POPULATION = "population.safetensors"
_LOCK = ".lock"
_OLD = ".old.tmp"  # ends the name of a folder that is being replaced


class AdapterFiles(NamedTuple):
    """A trained adapter in PEFT's format: tensors by PEFT's names, and the configuration."""

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    training: Mapping[str, Any] | None = None  # what it was trained on; PEFT ignores this file
    population: Mapping[str, Tensor] | None = None  # other LoRAs of the task; ignored, too


def write_adapter(out: Path, adapter: AdapterFiles) -> None:
    """Write an adapter's folder; an existing adapter is replaced."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(out, replace=True) as folder:
        io.write_json(folder / CONFIG, dict(adapter.config))
        if adapter.training is not None:
            io.write_json(folder / TRAINING, dict(adapter.training))
        if adapter.population is not None:
            io.save_tensors(folder / POPULATION, adapter.population, {})
        io.save_tensors(folder / ADAPTER_TENSORS, adapter.tensors, {"format": "pt"})


@contextmanager
def new_folder(out: Path, replace: bool) -> Iterator[Path]:
    """A folder to fill, which is renamed to `out` when the block ends.

    What a killed merge has left beside `out` is removed; its lock tells it from one at work.
    """
    if out.name in ("", ".."):
        raise UserError(f"{out} is no name for a new folder")
    temporary = out.parent / f".{out.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
    try:
        for leftover in sorted(out.parent.glob(f".{out.name}.*.tmp")):
            _clear(leftover, out)
        check_free(out, replace)
        with io.lock(temporary / _LOCK, wait=False):
            yield temporary
            io.sync_folder(temporary)
            check_free(out, replace)  # it may have been created meanwhile
            _take_name(temporary, out)
    except OSError as error:
        raise DataError(f"cannot write {out}: {reason(error)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_free(out: Path, replace: bool) -> None:
    """`out` may be absent or empty; with `replace` it may be a result, but nothing else."""
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir() or out.is_symlink():
        raise UserError(f"{out} exists and is no folder; choose another name")
    found = {path.name for path in out.iterdir()} - {_LOCK}
    if not found:
        return
    if not replace:
        raise UserError(f"{out} exists; choose another name, or replace it with force (--force)")
    adapter, checkpoint = {CONFIG, ADAPTER_TENSORS}, {CHECKPOINT}
    strange = sorted(found - adapter - checkpoint - {MERGE_REPORT, TRAINING, POPULATION})
    if strange or not (adapter <= found or checkpoint <= found):
        what = f"it holds {strange[0]}" if strange else "it is no adapter and no checkpoint"
        raise UserError(f"{out} is not replaced: {what}; choose another name")


def _take_name(temporary: Path, out: Path) -> None:
    """The lock moves with the folder, so that no process takes it for a leftover."""
    old = temporary.with_suffix(_OLD)
    if out.exists():
        out.rename(old)
    io.fault_point(f"moved {out.name}")
    temporary.rename(out)
    (out / _LOCK).unlink()
    io.sync_folder(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def _clear(leftover: Path, out: Path) -> None:
    """Remove leftovers of a killed merge; a folder that it was replacing is restored."""
    if leftover.name.endswith(_OLD):
        if out.exists():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.rename(out)
        return
    with suppress(UserError, DataError), io.lock(leftover / _LOCK, wait=False):
        shutil.rmtree(leftover, ignore_errors=True)
