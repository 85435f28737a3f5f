"""Fixtures that run the CUDA kernels on the emulator (csrc/emulator), which needs no GPU, and on a
GPU if there is one."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map_only

from awpf_ext import _library

sys.path.append(str(Path(__file__).parents[1] / "ops"))  # `import references`

import emulation

FORWARD, BACKWARD, SHUFFLED = 0, 1, 2
RESIDENT = 6


@pytest.fixture(scope="session")
def emulated_library(request: pytest.FixtureRequest) -> Path:
    return emulation.load(request.config)


@pytest.fixture(scope="session")
def emulated(emulated_library: Path) -> Any:
    """The raw operations on the emulator, for CPU tensors."""
    return torch.ops.awpf_emulated


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The small kernels of the tests of the emulator itself."""
    library = emulation.build_probe(tmp_path_factory.mktemp("probe"))
    library.mistake.restype = library.on_hopper.restype = ctypes.c_char_p
    library.schedule_errors.restype = library.partial_sum_errors.restype = ctypes.c_int64
    library.pair_schedule_errors.restype = library.panel_errors.restype = ctypes.c_int64
    library.scale_for.restype = ctypes.c_double
    return library


class OnGpu:
    """The raw operations for CPU tensors, which are copied to the GPU and back."""

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
    """The raw operations of the CUDA kernels, for CPU tensors."""
    if request.param == "emulated":
        return request.getfixturevalue("emulated")
    _need_gpu()
    return OnGpu()


@pytest.fixture(params=["emulated", "gpu"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """A device on which the public functions run the CUDA kernels."""
    if request.param == "emulated":
        request.getfixturevalue("use_emulated")
        return torch.device("cpu")
    _need_gpu()
    return torch.device("cuda")


@pytest.fixture
def gpu() -> torch.device:
    """A GPU, for tests that have no meaning on the emulator."""
    _need_gpu()
    return torch.device("cuda")


@pytest.fixture
def use_emulated(emulated: Any) -> Iterator[None]:
    """While it lives, `torch.ops.awpf` runs on the emulator for CPU tensors."""
    with emulation.in_place_of_the_cpus():
        yield


@pytest.fixture
def launches(emulated_library: Path) -> Callable[[Callable[[], Any]], int]:
    """launches(call) runs the call and returns how many kernels it launched on the emulator."""
    count = ctypes.CDLL(str(emulated_library)).awpf_emulator_launches
    count.restype = ctypes.c_int64

    def during(call: Callable[[], Any]) -> int:
        before: int = count()
        call()
        return int(count()) - before

    return during


@pytest.fixture
def resident_blocks(emulated_library: Path) -> Iterator[Callable[[int], None]]:
    """resident_blocks(count) limits how many blocks of a cooperative launch run at once."""
    choose = ctypes.CDLL(str(emulated_library)).awpf_emulator_resident
    yield choose
    choose(RESIDENT)


@pytest.fixture(params=["one launch", "several launches"])
def small_or_not(request: pytest.FixtureRequest, resident_blocks: Callable[[int], None]) -> None:
    """Small problems are computed in one launch or, like large ones, in several."""
    resident_blocks(RESIDENT if request.param == "one launch" else 0)


@pytest.fixture
def emulator_order(emulated_library: Path) -> Iterator[Callable[[int, int], None]]:
    """emulator_order(kind, seed) chooses the order in which blocks and threads run."""
    choose = ctypes.CDLL(str(emulated_library)).awpf_emulator_order
    choose.argtypes = [ctypes.c_int, ctypes.c_uint64]
    yield lambda kind, seed=0: choose(kind, seed)
    choose(FORWARD, 0)


@pytest.fixture
def capability(emulated_library: Path) -> Iterator[Callable[[int], None]]:
    """capability(90) makes the emulated device one of compute capability 9.0."""
    choose = ctypes.CDLL(str(emulated_library)).awpf_emulator_capability
    yield choose
    choose(80)


@pytest.fixture
def single_precision(emulated_library: Path) -> Iterator[Callable[[int], None]]:
    """On the emulator, pools of at least 512 rows are in single precision, whatever they are like.

    single_precision(0) leaves the choice to the rule.
    """
    choose = ctypes.CDLL(str(emulated_library)).awpf_emulator_single_precision
    choose.argtypes = [ctypes.c_int64]
    choose(512)
    yield choose
    choose(0)
