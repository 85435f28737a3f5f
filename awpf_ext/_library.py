"""Finds and loads the native libraries, and says what is live."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from pathlib import Path
from typing import Any

import torch

__version__ = "0.1.0"

_FOLDER = Path(__file__).parent
_OLDEST_TORCH = (2, 10)


def _torch_release() -> tuple[int, int]:
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


def _load_cpu() -> str | None:
    """Load the CPU kernels; the reason when they cannot be."""
    if _torch_release() < _OLDEST_TORCH:
        return f"torch {torch.__version__} is older than 2.10; upgrade torch"
    library = _FOLDER / "awpf_cpu.so"
    if not library.exists():
        return "the native library was not built; install the package with `pip install .`"
    try:
        torch.ops.load_library(str(library))
        _instruction_set(library)
    except (OSError, RuntimeError, ValueError) as error:
        return f"{library.name} cannot be loaded: {error}"
    return None


def _instruction_set(library: Path) -> str:
    name = ctypes.CDLL(str(library)).awpf_instruction_set
    name.restype = ctypes.c_char_p
    return str(name().decode())


def shuffled_places(seed: int, rows: int, count: int) -> torch.Tensor:
    """The `count` of `rows` places that a seeded choice takes, as the kernels choose them."""
    places = torch.empty(count, dtype=torch.int64)
    choose = ctypes.CDLL(str(_FOLDER / "awpf_cpu.so")).awpf_shuffled_places
    numbers = (ctypes.c_int64(number) for number in (seed, rows, count))
    choose(*numbers, ctypes.c_void_p(places.data_ptr()))
    return places


def _check_switch() -> str | None:
    """The library would abort the process on a bad AWPF_CPU_ISA from a C function: refuse it
    here."""
    wanted = os.environ.get("AWPF_CPU_ISA")
    known = ("avx512", "avx2", "baseline")
    if wanted is None or wanted in known:
        return None
    return f"AWPF_CPU_ISA is {wanted!r}; expected one of {', '.join(known)}"


MISSING_CPU: str | None = _check_switch() or _load_cpu()
"""Why the CPU kernels are not live, or None."""


def _facts() -> Any:
    """The module of facts about the build, None where it is missing."""
    try:
        from awpf_ext import _C  # type: ignore[attr-defined]
    except ImportError:
        return None
    return _C


def _load_cuda() -> str | None:
    """Load the CUDA kernels beside those for the CPU; the reason when they cannot be."""
    if MISSING_CPU is not None:
        return MISSING_CPU
    library, facts = _FOLDER / "awpf_cuda.so", _facts()
    if facts is None:
        return "the native module was not built; install the package with `pip install .`"
    if not library.exists():
        return str(facts.cuda_status)
    if torch.version.cuda is None:
        return f"built, but torch {torch.__version__} is not a CUDA build"
    built, running = (version.split(".")[0] for version in (facts.cuda_version, torch.version.cuda))
    if built != running:
        return (
            f"built for CUDA {built}, but torch {torch.__version__} is of CUDA {running}; "
            f"reinstall the package beside this torch, with `pip install --no-build-isolation .` "
            f"and the nvcc of CUDA {running}"
        )
    try:
        torch.ops.load_library(str(library))
    except (OSError, RuntimeError) as error:
        return f"{library.name} cannot be loaded: {error}"
    return None


MISSING_CUDA: str | None = _load_cuda()
"""Why the CUDA kernels are not live, or None. No GPU is touched to find out."""

_OLDEST_GPU = (8, 0)


def cuda_status() -> str:
    """What became of the CUDA kernels, in a sentence."""
    return MISSING_CUDA or f"ready, {_facts().cuda_status}"


@functools.lru_cache
def _missing_on(index: int) -> str | None:
    capability = torch.cuda.get_device_capability(index)
    if capability >= _OLDEST_GPU:
        return None
    name = torch.cuda.get_device_name(index)
    return (
        f"made for compute capability 8.0 and newer, and {name} has {capability[0]}.{capability[1]}"
    )


def require(device: torch.device, function: str) -> None:
    """Raise a clear error where `function` has no kernel for `device`."""
    if device.type == "cpu" or device.type == "meta":
        if MISSING_CPU is not None:
            raise ImportError(f"awpf_ext.{function}: {MISSING_CPU}")
        return
    if device.type == "cuda":
        traced = torch.compiler.is_compiling()
        reason = MISSING_CUDA or (None if traced else _missing_on(device.index or 0))
        if reason is None:
            return
        raise NotImplementedError(
            f"awpf_ext.{function}: the CUDA kernels are {reason}; "
            "move the tensors to the CPU with .cpu()"
        )
    raise NotImplementedError(
        f"awpf_ext.{function}: no kernel for device type {device.type!r}; "
        "move the tensors to the CPU with .cpu()"
    )


def build_info() -> dict[str, Any]:
    """Versions, the instruction set in use, threads, and what became of the CUDA kernels."""
    info: dict[str, Any] = {
        "awpf_ext": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu_kernels": MISSING_CPU or "ready",
        "threads": torch.get_num_threads(),
        "cuda_kernels": cuda_status(),
    }
    if MISSING_CPU is None:
        info["instruction_set"] = _instruction_set(_FOLDER / "awpf_cpu.so")
    facts = _facts()
    if facts is None:
        return info
    info["instruction_sets_built"] = facts.instruction_sets.split(", ")
    info["built_against_torch"] = facts.torch_version
    info["compiler"] = facts.compiler
    return info
