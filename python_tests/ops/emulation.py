"""The CUDA kernels compiled for the CPU, every thread of a block emulated (csrc/emulator)."""

from __future__ import annotations

import ctypes
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import native_build
import pytest
import torch
from native_build import ROOT

NAMESPACE = "awpf_emulated::"


def load(config: pytest.Config) -> Path:
    """Load the library, built on demand."""
    library = native_build.build(config, "emulated", "awpf_emulated")
    torch.ops.load_library(str(library))
    return library


def build_probe(folder: Path) -> ctypes.CDLL:
    """Kernels made for tests of the emulator, and loops over host code of the real ones."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("the probe of the emulator needs a C++ compiler")
    csrc, tests = ROOT / "csrc", ROOT / "python_tests" / "cuda"
    sources = [*sorted(tests.glob("probe*.cpp")), *sorted((csrc / "emulator").glob("*.cpp"))]
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-fvisibility=hidden"]
    library = folder / "probe.so"
    native_build.run(
        compiler, *flags, "-DAWPF_EMULATE", f"-I{csrc}", *map(str, sources), "-o", str(library)
    )
    return ctypes.CDLL(str(library))


def pointer(array: Any) -> ctypes.c_void_p:
    """Of a NumPy array's memory."""
    address: ctypes.c_void_p = array.ctypes.data_as(ctypes.c_void_p)
    return address


@contextmanager
def in_place_of_the_cpus() -> Iterator[None]:
    """Everything that calls `torch.ops.awpf` for CPU tensors runs on the emulator meanwhile."""
    library = torch.library.Library("awpf", "IMPL")
    everything: list[str] = torch._C._dispatch_get_all_op_names()
    emulated: Any = torch.ops.awpf_emulated
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a kernel is replaced
        for name in (n.removeprefix(NAMESPACE) for n in everything if n.startswith(NAMESPACE)):
            library.impl(name, getattr(emulated, name).default, "CPU", allow_override=True)
    try:
        yield
    finally:
        library._destroy()
