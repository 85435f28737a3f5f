"""What every test may rely on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# `from references import ...` in the tests of the operations; the checkout itself stays off the path, so that an
# installed package is what is tested.
sys.path.append(str(Path(__file__).parent / "ops"))


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """A test neither depends on the one before it nor leaves its number of threads to the next."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
