"""Raw calls with nonsense are errors: never a crash, and never an access out of bounds."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import native_build
import pytest
import raw_fuzz
import torch

import awpf_ext

AWPF = torch.ops.awpf
DOUBLE = torch.float64
torch.manual_seed(3)
POINTS = torch.randn(10, 3)
TWO = torch.tensor([[[0, 4], [4, 10]]])
GAMMA = torch.ones(1, 2, dtype=DOUBLE)

EMPTY_LABELS = torch.zeros(1, 0, dtype=torch.int64)
NO_RANK = torch.ones(1, 1, 0, dtype=DOUBLE)
BAD_CALLS = [
    ("rbf_sums", (POINTS, torch.tensor([[[0, 11], [0, 2]]]), None, GAMMA, None, False), "rows"),
    ("rbf_sums", (POINTS, torch.tensor([[[-1, 3], [0, 2]]]), None, GAMMA, None, False), "rows"),
    ("rbf_sums", (POINTS, torch.tensor([[[5, 3], [0, 2]]]), None, GAMMA, None, False), "rows"),
    ("rbf_sums", (POINTS, TWO.int(), None, GAMMA, None, False), "rows must be int64"),
    ("rbf_sums", (POINTS, TWO[0], None, GAMMA, None, False), "rows must have shape"),
    ("rbf_sums", (POINTS, TWO.flip(2), None, GAMMA, None, False), "rows"),
    ("rbf_sums", (POINTS, TWO, torch.tensor([[[0, 99]]]), GAMMA, None, False), "columns"),
    ("rbf_sums", (POINTS, TWO, TWO.repeat(2, 1, 1), GAMMA, None, False), "columns"),
    ("rbf_sums", (POINTS, TWO, None, GAMMA.float(), None, False), "gamma must be float64"),
    ("rbf_sums", (POINTS, TWO, None, GAMMA.repeat(2, 1), None, False), "gamma must have shape"),
    ("rbf_sums", (POINTS, TWO, None, -GAMMA, None, False), "bandwidth"),
    ("rbf_sums", (POINTS, TWO, None, GAMMA[:, :0], None, False), "bandwidth"),
    ("rbf_sums", (POINTS, TWO, None, GAMMA, torch.zeros(1, 2, dtype=DOUBLE), False), "centre"),
    ("rbf_sums", (POINTS.T, TWO, None, GAMMA, None, False), "z must be contiguous"),
    ("rbf_sums", (POINTS.int(), TWO, None, GAMMA, None, False), "z must be float16"),
    ("rbf_sums", (POINTS[0], TWO, None, GAMMA, None, False), "z must have two dimensions"),
    ("rbf_sums", (POINTS[:, :0].clone(), TWO, None, GAMMA, None, False), "at least one feature"),
    (
        "rbf_sums",
        (POINTS[[0] * 65536], torch.tensor([[[0, 65536]] * 32768]), None, GAMMA, None, False),
        "at most 2.31 - 1 pooled rows",
    ),
    ("rbf_sums", (POINTS * math.nan, TWO, None, GAMMA, None, False), "NaN or an infinity"),
    (
        "rbf_sums_backward",
        (torch.ones(1, 2, 3, dtype=DOUBLE), POINTS, TWO, None, GAMMA, None, False),
        "grad",
    ),
    (
        "rbf_sums_and_gradient",
        (POINTS, TWO, GAMMA, torch.ones(1, 3, 2, dtype=DOUBLE), False),
        "coefficients",
    ),
    ("rbf_permutation_sums", (POINTS, TWO[:, :1], GAMMA, 3, 0, False), "rows"),
    ("rbf_permutation_sums", (POINTS, TWO, GAMMA, -1, 0, False), "permutations"),
    ("rbf_permutation_sums", (POINTS, TWO, GAMMA, 2**63 - 1, 0, False), "permutations"),
    ("rbf_permutation_sums", (POINTS, TWO, GAMMA, 2**63 - 2, 0, False), "not enough memory"),
    ("rbf_permutation_sums", (POINTS, TWO, GAMMA, 2**44, 0, False), "not enough memory"),
    ("median_square_distance", (POINTS, TWO, 1, 0), "max_rows"),
    ("median_square_distance", (POINTS[:, :0].clone(), TWO, 9, 0), "at least one feature"),
    ("scatter", (POINTS[None], torch.full((1, 10), 3), 3), "label 3 of row 0"),
    ("scatter", (POINTS[None], torch.full((1, 10), -1), 3), "label -1"),
    ("scatter", (POINTS[None], torch.zeros(1, 9, dtype=torch.int64), 3), "labels"),
    ("scatter", (POINTS[None], torch.zeros(1, 10), 3), "labels must be int64"),
    ("scatter", (POINTS[None], torch.zeros(1, 10, dtype=torch.int64), 0), "num_classes"),
    (
        "scatter",
        (torch.ones(2, 6, 0), torch.zeros(2, 6, dtype=torch.int64), 3),
        "at least one feature",
    ),
    ("scatter", (torch.ones(1, 0, 2**31), EMPTY_LABELS, 1), "not enough memory"),
    ("scatter", (torch.ones(1, 0, 2**40), EMPTY_LABELS, 1), "not enough memory"),
    ("scatter", (POINTS[None], torch.zeros(1, 10, dtype=torch.int64), 2**30), "num_classes"),
    ("scatter", (POINTS[None], torch.zeros(1, 10, dtype=torch.int64), 2**63 - 1), "num_classes"),
    ("scatter", (torch.ones(1, 0, 768), EMPTY_LABELS, 2**23), "num_classes is too large"),
    ("scatter", (torch.ones(1, 0, 2**62), EMPTY_LABELS, 4), "num_classes is too large"),
    (
        "low_rank_sum",
        (torch.ones(1, 1, 2**40, 0), torch.ones(1, 1, 2**40, 0), NO_RANK, None),
        "not enough memory",
    ),
    (
        "low_rank_sum",
        (torch.ones(0, 1, 2**40, 0), torch.ones(0, 1, 2**40, 0), NO_RANK[:0].clone(), None),
        "not enough memory",
    ),
    ("scatter", (POINTS[None], None, 1), "expected a tensor for every argument"),
    ("low_rank_sum", (torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 5), GAMMA, None), "u and v"),
    ("low_rank_sum", (torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4), GAMMA, None), "coefficients"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), BAD_CALLS)
def test_direct_calls_are_checked(name, arguments, message, capfd):
    with pytest.raises((ValueError, RuntimeError), match=message):
        getattr(AWPF, name)(*arguments)
    assert capfd.readouterr().err == ""  # torch prints its C++ stack where it cannot allocate


def test_memory_that_cannot_be_had_is_a_memory_error(capfd):
    many = torch.ones(1, 2**24, 0)
    with pytest.raises(MemoryError, match=r"^not enough memory for a result of shape \(1, "):
        awpf_ext.low_rank_sum(many, None, many)
    assert capfd.readouterr().err == ""


def test_random_calls_are_errors_or_have_results():
    library = Path(awpf_ext.__file__).parent / "awpf_cpu.so"
    check_random_calls(library, seed=1, calls=3000)


@pytest.mark.slow  # compiles the kernels where they changed
def test_random_calls_do_nothing_that_cpp_leaves_undefined(pytestconfig):
    """The same against kernels that end the process where an integer overflows, and the like."""
    library = native_build.sanitised_kernels(pytestconfig)
    assert b"__ubsan_handle_add_overflow_abort" in library.read_bytes()
    check_random_calls(library, seed=21, calls=3000)


def check_random_calls(library: Path, seed: int, calls: int) -> None:
    done = subprocess.run(
        [sys.executable, raw_fuzz.__file__, str(library), str(seed), str(calls)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=500,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"the last of {len(lines)} calls was {lines[-1:]}\n{done.stderr}"
    assert "Exception raised from" not in done.stderr  # torch's C++ stack
    summary = dict(line.split(" ", 1)[::-1] for line in lines[calls:])
    for name in raw_fuzz.OPERATIONS:  # damage must leave something to compute
        assert int(summary[f"{name} has a result"]) > calls / 50
        assert int(summary[f"{name} is an error"]) > calls / 50
