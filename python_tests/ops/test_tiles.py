"""The product of float32 matrices by tiles of bfloat16: the portable form, and AMX against it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import awpf_ext

PROBE = Path(__file__).with_name("tile_probe.py")

Products = dict[str, tuple[Tensor, Tensor, Tensor]]


def products(name: str, folder: Path) -> Products:
    """Operands and results by name, computed with one instruction set."""
    if name not in awpf_ext.build_info()["instruction_sets_built"]:
        pytest.skip(f"{name} is not built on this platform")
    saved = folder / f"{name}.pt"
    done = subprocess.run(
        [sys.executable, str(PROBE), str(saved)],
        env={**os.environ, "AWPF_CPU_ISA": name},
        capture_output=True,
        text=True,
        check=False,
    )
    for reason in ("this machine does not have", "the operating system does not permit"):
        if f"AWPF_CPU_ISA={name}: {reason}" in done.stderr:
            pytest.skip(f"{name}: {reason} it")
    assert done.returncode == 0, done.stderr
    loaded: Products = torch.load(saved)
    return loaded


@pytest.fixture(scope="module")
def portable(tmp_path_factory) -> Products:
    return products("amx_portable", tmp_path_factory.mktemp("tiles"))


def largest_error(a: Tensor, b: Tensor, found: Tensor) -> Tensor:
    return (found.double() - a.double() @ b.double().T).abs().max()


@pytest.mark.parametrize("name", ["random", "similar"])
def test_no_less_accurate_than_single_precision(portable, name):
    """The inner products of rows of length 2.8 are up to 7.8."""
    a, b, found = portable[name]
    assert largest_error(a, b, found) < 3e-6
    assert largest_error(a, b, found) <= largest_error(a, b, a @ b.T) * 1.5


def test_ragged_sizes(portable):
    names = [name for name in portable if name.startswith("ragged")]
    assert len(names) == 5
    for name in names:
        a, b, found = portable[name]
        lengths = a.double().norm(dim=1, keepdim=True) * b.double().norm(dim=1)
        error = (found.double() - a.double() @ b.double().T).abs() / lengths
        assert error.max() < 3e-7, name


def test_whole_numbers_are_exact_whatever_parts_they_have(portable):
    """One part up to 8 bits, two up to 16, else three. Sums of more than 24 bits are rounded."""
    names = [name for name in portable if "bits by" in name]
    assert len(names) == 8
    for name in names:
        a, b, found = portable[name]
        rounding = 2e-7 if name in ("9 bits by 19", "19 bits by 9") else 0.0
        largest = float((a.double() @ b.double().T).abs().max())
        assert largest_error(a, b, found) <= rounding * largest, name


def tile_arithmetic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """One step of the depth as Intel documents it: two chains of fused multiply-adds, added.

    Numbers k and k + 16 are a pair. A double holds the product of two bfloat16 numbers, and so
    much of its sum with a float that rounding twice is rounding once.
    """
    halves = []
    for begin in (0, 16):
        chain = np.zeros((len(a), len(b)), np.float32)
        for k in range(begin, begin + 16):
            chain = (chain + np.outer(a[:, k], b[:, k]).astype(np.float64)).astype(np.float32)
        halves.append(chain)
    return halves[0] + halves[1]


def test_each_bit_is_as_documented(portable):
    a, b, found = portable["whole steps"]
    expected = tile_arithmetic(a.double().numpy(), b.double().numpy())
    assert np.array_equal(found.numpy(), expected)
    assert not np.array_equal(found.numpy(), (a @ b.T).numpy())


def test_rows_of_any_scale(portable):
    for name in ("mixed scales", "smallest"):
        a, b, found = portable[name]
        lengths = a.double().norm(dim=1, keepdim=True) * b.double().norm(dim=1)
        error = (found.double() - a.double() @ b.double().T).abs()
        normal = found.abs() >= 2.0**-126
        assert normal.any()
        assert (error[normal] / lengths[normal]).max() < 3e-7
        assert error[~normal].numel() == 0 or error[~normal].max() < 2.0**-126


def test_infinities_and_nans_are_those_of_the_plain_product(portable):
    a, b, found = portable["not finite"]
    finite = a.isfinite().all(dim=1)
    assert largest_error(a[finite], b, found[finite]) < 1e-5
    assert torch.equal(found[~finite].nan_to_num(nan=1.0), (a[~finite] @ b.T).nan_to_num(nan=1.0))
    assert found[3].isnan().all()
    assert found[40].isinf().any()


def test_the_instructions_give_the_bits_of_the_portable_form(portable, tmp_path):
    found = products("amx", tmp_path)
    assert found.keys() == portable.keys()
    for name, (_, _, result) in found.items():
        assert result.numpy().tobytes() == portable[name][2].numpy().tobytes(), name
