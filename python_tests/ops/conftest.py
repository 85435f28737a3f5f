"""The tests of the operations need torch and the package's first two floors only.

`pytest python_tests/ops --device cuda` runs them on a GPU: tensors are made there unless a test
says otherwise.
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

# About processes, threads, memory or errors of the CPU; on CUDA values are not looked at unasked.
OF_THE_CPU = {
    "test_bad_input.py",
    "test_determinism.py",
    "test_instruction_sets.py",
    "test_memory.py",
    "test_raw_ops.py",
    "test_sharded.py",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where the operations' tests make tensors")


@pytest.fixture(autouse=True)
def _device(request: pytest.FixtureRequest) -> Iterator[None]:
    device = request.config.getoption("--device", "cpu")
    if device == "cpu":
        yield
        return
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    if request.node.path.name in OF_THE_CPU:
        pytest.skip("is about the CPU")
    with torch.device(device):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    try:
        return (yield)
    except TypeError as error:
        if "can't convert cuda" not in str(error):
            raise
    pytest.skip("compares with NumPy arrays, which are on the CPU")
