"""The CUDA kernels compiled for the CPU, every thread of a block emulated (csrc/emulator)."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
NAMESPACE = "awpf_emulated::"


def _program(name: str) -> str:
    """From its PyPI package, which need not be on PATH, or the system's."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"the emulated kernels are built on demand, which needs {name}")
    return found


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(command)}\n{done.stdout}{done.stderr}", pytrace=False)


def load(config: pytest.Config) -> Path:
    """Load the library; built in pytest's cache, so that only changes are compiled again."""
    if not (ROOT / "CMakeLists.txt").exists():
        pytest.skip("the emulated kernels are built on demand, which needs the checkout")
    cmake, ninja = _program("cmake"), _program("ninja")
    if not any(shutil.which(compiler) for compiler in (os.environ.get("CXX", "c++"), "g++")):
        pytest.skip("the emulated kernels are built on demand, which needs a C++ compiler")
    release = f"{torch.__version__}-{sys.version_info.major}.{sys.version_info.minor}"
    build = str(config.cache.mkdir(f"emulated-{release}"))
    _run(
        *(cmake, "-S", str(ROOT), "-B", build, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"),
        *(f"-DPython_EXECUTABLE={sys.executable}", "-DAWPF_CUDA=0"),
    )
    _run(ninja, "-C", build, "awpf_emulated")
    library = Path(build) / "awpf_emulated.so"
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
    _run(compiler, *flags, "-DAWPF_EMULATE", f"-I{csrc}", *map(str, sources), "-o", str(library))
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
