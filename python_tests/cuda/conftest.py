"""The CUDA kernels: compiled for the CPU, every thread of a block emulated (csrc/emulator), and on
a GPU where there is one."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map_only

from awpf_ext import _library

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "python_tests" / "ops"))  # `import references`

FORWARD, BACKWARD, SHUFFLED = 0, 1, 2


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


@pytest.fixture(scope="session")
def emulated_library(request: pytest.FixtureRequest) -> Path:
    """Built in pytest's cache, so that only what has changed is compiled again."""
    if not (ROOT / "CMakeLists.txt").exists():
        pytest.skip("the emulated kernels are built on demand, which needs the checkout")
    cmake, ninja = _program("cmake"), _program("ninja")
    if not any(shutil.which(compiler) for compiler in (os.environ.get("CXX", "c++"), "g++")):
        pytest.skip("the emulated kernels are built on demand, which needs a C++ compiler")
    release = f"{torch.__version__}-{sys.version_info.major}.{sys.version_info.minor}"
    build = str(request.config.cache.mkdir(f"emulated-{release}"))
    _run(
        *(cmake, "-S", str(ROOT), "-B", build, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"),
        *(f"-DPython_EXECUTABLE={sys.executable}", "-DAWPF_CUDA=0"),
    )
    _run(ninja, "-C", build, "awpf_emulated")
    library = Path(build) / "awpf_emulated.so"
    torch.ops.load_library(str(library))
    return library


@pytest.fixture(scope="session")
def emulated(emulated_library: Path) -> Any:
    """The raw operations on the emulator, for CPU tensors."""
    return torch.ops.awpf_emulated


class OnGpu:
    """The raw operations for tensors on the CPU, which travel to the GPU and back."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operation = getattr(torch.ops.awpf, name)

        def call(*arguments: Any) -> Any:
            found = operation(*tree_map_only(torch.Tensor, lambda t: t.cuda(), arguments))
            return tree_map_only(torch.Tensor, lambda t: t.cpu(), found)

        return call


def _need_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    if _library.MISSING_CUDA is not None:
        pytest.skip(f"CUDA kernels: {_library.MISSING_CUDA}")


@pytest.fixture(params=["emulated", "gpu"])
def kernels(request: pytest.FixtureRequest) -> Any:
    """The raw operations of the CUDA kernels, for tensors on the CPU."""
    if request.param == "emulated":
        return request.getfixturevalue("emulated")
    _need_gpu()
    return OnGpu()


@pytest.fixture(params=["emulated", "gpu"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where the public functions run on the CUDA kernels."""
    if request.param == "emulated":
        request.getfixturevalue("use_emulated")
        return torch.device("cpu")
    _need_gpu()
    return torch.device("cuda")


@pytest.fixture
def gpu() -> torch.device:
    """A GPU; for what has no meaning on the emulator."""
    _need_gpu()
    return torch.device("cuda")


@pytest.fixture
def use_emulated(emulated: Any) -> Iterator[None]:
    """Everything that calls `torch.ops.awpf` for CPU tensors runs on the emulator meanwhile."""
    library = torch.library.Library("awpf", "IMPL")
    prefix = "awpf_emulated::"
    names = [n for n in torch._C._dispatch_get_all_op_names() if n.startswith(prefix)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a kernel is replaced
        for name in (name.removeprefix(prefix) for name in names):
            if torch._C._dispatch_has_kernel_for_dispatch_key(prefix + name, "CPU"):
                library.impl(name, getattr(emulated, name).default, "CPU", allow_override=True)
    yield
    library._destroy()


@pytest.fixture
def emulator_order(emulated_library: Path) -> Iterator[Callable[[int, int], None]]:
    """emulator_order(kind, seed): the order in which blocks and threads take turns."""
    choose = ctypes.CDLL(str(emulated_library)).awpf_emulator_order
    choose.argtypes = [ctypes.c_int, ctypes.c_uint64]
    yield lambda kind, seed=0: choose(kind, seed)
    choose(FORWARD, 0)
