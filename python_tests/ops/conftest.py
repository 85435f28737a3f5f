"""The tests of the operations need torch and the package's first two floors only.

`pytest python_tests/ops --device cuda` runs them on a GPU: tensors are made there unless a test
says otherwise. `--device emulated` runs them on the CUDA kernels, emulated on the CPU; ten minutes
or so.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# `from references import ...`; the checkout itself stays off the path, so that an installed package
# is what is tested.
sys.path.append(str(Path(__file__).parent))

import emulation

# About processes, threads, memory or errors of the CPU; on CUDA values are not looked at unasked.
OF_THE_CPU = {
    "test_bad_input.py",
    "test_determinism.py",
    "test_instruction_sets.py",
    "test_fork.py",
    "test_interrupts.py",
    "test_memory.py",
    "test_raw_calls.py",
    "test_raw_ops.py",
    "test_sharded.py",
    "test_tensor_kinds.py",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", default="cpu", choices=("cpu", "cuda", "emulated"), help="where operations run"
    )


@pytest.fixture(autouse=True)
def _device(request: pytest.FixtureRequest) -> Iterator[None]:
    device = request.config.getoption("--device", "cpu")
    if device == "cpu":
        yield
        return
    if request.node.path.name in OF_THE_CPU:
        pytest.skip("is about the CPU")
    if device == "emulated":
        request.getfixturevalue("_emulated_library")
        with emulation.in_place_of_the_cpus():
            yield
        return
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    with torch.device(device):
        yield


@pytest.fixture(scope="session")
def _emulated_library(request: pytest.FixtureRequest) -> Path:
    return emulation.load(request.config)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    on_cpu = item.config.getoption("--device", "cpu") == "cpu"
    try:
        return (yield)
    except TypeError as error:
        if on_cpu or "can't convert cuda" not in str(error):
            raise
        reason = "compares with NumPy arrays, which are on the CPU"
    except pytest.fail.Exception as error:
        if on_cpu or "DID NOT RAISE ValueError" not in str(error):
            raise
        reason = "values are not looked at unasked"
    pytest.skip(reason)
