"""Finds and loads the native libraries, and says which kernels can be used."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from pathlib import Path
from typing import Any

import torch
from typing_extensions import NotRequired, TypedDict

__version__ = "0.1.0"

_FOLDER = Path(__file__).parent
_OLDEST_TORCH = (2, 10)


def _torch_release() -> tuple[int, int]:
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


def _load_cpu() -> str | None:
    """Load the CPU kernels; the reason if that fails, otherwise None."""
    if _torch_release() < _OLDEST_TORCH:
        return f"torch {torch.__version__} is older than 2.10; upgrade torch"
    library = _FOLDER / "awpf_cpu.so"
    if not library.exists():
        return "the native library was not built; install the package with `pip install .`"
    try:
        torch.ops.load_library(str(library))
        _instruction_set()
    except (OSError, RuntimeError, ValueError) as error:
        return f"{library.name} cannot be loaded: {error}"
    return None


def _ask(question: str) -> str:
    function = getattr(ctypes.CDLL(str(_FOLDER / "awpf_cpu.so")), question)
    function.restype = ctypes.c_char_p
    return str(function().decode())


def _instruction_set() -> str:
    """The instruction set in use; RuntimeError if AWPF_CPU_ISA asks for one that cannot be used."""
    answer = _ask("awpf_instruction_set")
    if answer.startswith("awpf_ext: "):
        raise RuntimeError(answer.removeprefix("awpf_ext: "))
    return answer


def sampled_rows(seed: int, rows: int, count: int) -> torch.Tensor:
    """Indices of `count` of `rows` rows, drawn with a seed as the kernels draw them."""
    indices = torch.empty(count, dtype=torch.int64)
    draw = ctypes.CDLL(str(_FOLDER / "awpf_cpu.so")).awpf_sampled_rows
    numbers = (ctypes.c_int64(number) for number in (seed, rows, count))
    draw(*numbers, ctypes.c_void_p(indices.data_ptr()))
    return indices


def _check_switch() -> str | None:
    """Check the spelling of AWPF_CPU_ISA before anything is loaded."""
    wanted = os.environ.get("AWPF_CPU_ISA")
    known = ("amx", "avx512", "avx2", "baseline", "amx_portable")
    if wanted is None or wanted in known:
        return None
    return f"AWPF_CPU_ISA is {wanted!r}; expected one of {', '.join(known)}"


MISSING_CPU: str | None = _check_switch() or _load_cpu()
"""Why the CPU kernels cannot be used, or None."""


def _facts() -> Any:
    """The module with facts about the build, or None if it is missing."""
    try:
        from awpf_ext import _C  # type: ignore[attr-defined]
    except ImportError:
        return None
    return _C


def _let_signals_interrupt() -> None:
    """Let Ctrl-C end a long CPU kernel. Without the native module it waits for the kernel's end."""
    facts = _facts()
    if MISSING_CPU is None and facts is not None:
        register = ctypes.CDLL(str(_FOLDER / "awpf_cpu.so")).awpf_interrupt_by
        register(*(ctypes.c_void_p(at) for at in (facts.interrupt_wanted, facts.raise_interrupt)))


_let_signals_interrupt()


def _load_cuda() -> str | None:
    """Load the CUDA kernels in addition; the reason if that fails, otherwise None."""
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
"""Why the CUDA kernels cannot be used, or None. No GPU is touched to find out."""

_OLDEST_GPU = (8, 0)


def cuda_status() -> str:
    """The state of the CUDA kernels, in one sentence."""
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
    """Raise a clear error if `function` has no kernel for `device`."""
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


class BuildInfo(TypedDict):
    """Result of :func:`awpf_ext.build_info`; the native module must be built for the last keys."""

    awpf_ext: str
    torch: str
    python: str
    cpu_kernels: str
    threads: int
    cuda_kernels: str
    instruction_set: NotRequired[str]
    instruction_sets_rejected: NotRequired[dict[str, str]]
    instruction_sets_built: NotRequired[list[str]]
    built_against_torch: NotRequired[str]
    compiler: NotRequired[str]


def build_info() -> BuildInfo:
    """Versions, the instruction set in use, the number of threads, and the state of the kernels.

    Returns:
        A dictionary. The values of "cpu_kernels" and "cuda_kernels" begin with "ready", or say why
        the kernels cannot be used. "instruction_sets_rejected" says why better instruction sets
        than the one in use are not; it is empty if AWPF_CPU_ISA names the one to use.

    Example:
        >>> awpf_ext.build_info()["cpu_kernels"]
        'ready'
    """
    info: BuildInfo = {
        "awpf_ext": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu_kernels": MISSING_CPU or "ready",
        "threads": torch.get_num_threads(),
        "cuda_kernels": cuda_status(),
    }
    if MISSING_CPU is None:
        info["instruction_set"] = _instruction_set()
        rejected = _ask("awpf_rejected_instruction_sets").splitlines()
        info["instruction_sets_rejected"] = dict(line.split(": ", 1) for line in rejected)
    facts = _facts()
    if facts is None:
        return info
    info["instruction_sets_built"] = facts.instruction_sets.split(", ")
    info["built_against_torch"] = facts.torch_version
    info["compiler"] = facts.compiler
    return info
