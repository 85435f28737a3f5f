"""Native libraries that only tests use, built on demand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def _program(name: str) -> str:
    """From its PyPI package, which need not be on PATH, or the system's."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"this library is built on demand, which needs {name}")
    return found


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(command)}\n{done.stdout}{done.stderr}", pytrace=False)


def _compiler() -> str:
    for compiler in (os.environ.get("CXX", "c++"), "g++"):
        if shutil.which(compiler):
            return compiler
    pytest.skip("this library is built on demand, which needs a C++ compiler")


def build(config: pytest.Config, name: str, target: str, *options: str) -> Path:
    """Build a library in pytest's cache, so that only changes are compiled again."""
    if not (ROOT / "CMakeLists.txt").exists():
        pytest.skip("this library is built on demand, which needs the checkout")
    cmake, ninja = _program("cmake"), _program("ninja")
    _compiler()
    release = f"{torch.__version__}-{sys.version_info.major}.{sys.version_info.minor}"
    folder = str(config.cache.mkdir(f"{name}-{release}"))
    run(
        *(cmake, "-S", str(ROOT), "-B", folder, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"),
        *(f"-DPython_EXECUTABLE={sys.executable}", "-DAWPF_CUDA=0", *options),
    )
    run(ninja, "-C", folder, target)
    return Path(folder) / f"{target}.so"


def sanitised_kernels(config: pytest.Config) -> Path:
    """The CPU kernels for the baseline, which end the process at undefined behaviour."""
    command = [_compiler(), "-fsanitize=undefined", "-x", "c++", "-", "-o", os.devnull]
    tried = subprocess.run(command, input=b"int main() {}", capture_output=True, check=False)
    if tried.returncode:
        pytest.skip("the C++ compiler has no sanitiser of undefined behaviour (libubsan)")
    return build(config, "sanitised", "awpf_cpu", "-DAWPF_SANITISE=1", "-DCMAKE_BUILD_TYPE=None")
