"""Finds and loads the native libraries, and says what is live."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path
from typing import Any

import torch

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


def cuda_status() -> str:
    """What became of the CUDA kernels, in a sentence."""
    try:
        from awpf_ext import _C  # type: ignore[attr-defined]
    except ImportError:
        return "not built: the native module is missing"
    return str(_C.cuda_status)


def require(device: torch.device, function: str) -> None:
    """Raise a clear error where `function` has no kernel for `device`."""
    if device.type == "cpu" or device.type == "meta":
        if MISSING_CPU is not None:
            raise ImportError(f"awpf_ext.{function}: {MISSING_CPU}")
        return
    if device.type == "cuda":
        raise NotImplementedError(
            f"awpf_ext.{function}: the CUDA kernels are {cuda_status()}; "
            "move the tensors to the CPU with .cpu()"
        )
    raise NotImplementedError(
        f"awpf_ext.{function}: no kernel for device type {device.type!r}; "
        "move the tensors to the CPU with .cpu()"
    )


def build_info() -> dict[str, Any]:
    """Versions, the instruction set in use, threads, and what became of the CUDA kernels."""
    from awpf_ext import __version__

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
    try:
        from awpf_ext import _C  # type: ignore[attr-defined]
    except ImportError:
        return info
    info["instruction_sets_built"] = _C.instruction_sets.split(", ")
    info["built_against_torch"] = _C.torch_version
    info["compiler"] = _C.compiler
    return info
