"""The MMD kernels for Hopper, run by the emulator, against float64 and the portable ones.

With more than 16 sums, a problem is not computed by the single launch for small problems.
"""

from __future__ import annotations

import pytest
import test_mmd_accuracy as accuracy
import torch
from references import block_sums

DOUBLE = torch.float64
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

pytestmark = pytest.mark.usefixtures("single_precision")


def ranges(ends):
    ends = torch.as_tensor(ends)
    return torch.stack([ends[:-1], ends[1:]], -1).unsqueeze(0)


def wide(rows, d):
    """Gammas for which single precision is accurate, with points from about N(0, 1)^d."""
    return torch.tensor([[2e-5 * rows * 2.0**k for k in range(3)]], dtype=DOUBLE) / d


@pytest.fixture
def portable(emulated, capability):
    """The sums found by the portable kernels."""

    def call(*arguments):
        capability(80)
        sums = emulated.rbf_sums(*arguments, False)
        capability(90)
        return sums

    return call


@pytest.fixture(autouse=True)
def on_hopper(capability):
    capability(90)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "d"), [(515, 1), (601, 33), (577, 130)])
def test_sums_of_groups_some_empty(emulated, portable, dtype, n, d):
    z = (torch.randn(n, d) + (dtype == torch.float32)).to(dtype)
    rows, gamma = ranges([0, 0, 3, 50, 180, 513, n]), wide(n, d)
    found, expected = (
        emulated.rbf_sums(z, rows, None, gamma, None, False),
        block_sums(z, rows, None, gamma),
    )
    assert torch.equal(found == 0, expected == 0)
    assert torch.allclose(found, expected, rtol=2e-7, atol=0)
    assert torch.equal(found, found.mT)
    assert torch.allclose(found, portable(z, rows, None, gamma, None), rtol=2e-7, atol=0)


def test_sums_are_those_of_other_kernels(emulated, portable):
    """Bits differ, since every 32 of the depth are rounded together, not every 16."""
    z, rows = torch.randn(550, 40), ranges([0, 1, 2, 3, 300, 550])
    found = emulated.rbf_sums(z, rows, None, wide(550, 40), None, False)
    assert not torch.equal(found, portable(z, rows, None, wide(550, 40), None))


def test_bits_do_not_depend_on_the_order_of_threads_and_blocks(emulated, emulator_order):
    rows, gamma = ranges([0, 100, 250, 251, 330, 520]), wide(520, 70)
    z = torch.randn(520, 70)
    for points in (z, z.bfloat16()):
        seen = []
        for kind, seed in ((0, 0), (1, 0), (2, 11)):
            emulator_order(kind, seed)
            seen.append(emulated.rbf_sums(points, rows, None, gamma, None, False))
        assert torch.equal(seen[0], seen[1])
        assert torch.equal(seen[0], seen[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_sums_of_rectangles_with_a_given_centre(emulated, dtype):
    """A pair with only one strip, several tiles in a segment, columns of two separate groups."""
    z = (torch.randn(4700, 13) + 5).to(dtype)
    rows = torch.tensor([[[0, 5], [20, 120], [120, 120], [500, 545]]])
    columns = torch.tensor([[[600, 601], [700, 2000], [2100, 4700], [130, 420], [430, 431]]])
    gamma, centre = wide(4000, 13), torch.full((1, 13), 4.7, dtype=DOUBLE)
    for given in (None, centre):
        found = emulated.rbf_sums(z, rows, columns, gamma, given, False)
        expected = block_sums(z, rows, columns, gamma)
        assert torch.allclose(found, expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sums_of_ragged_problems(emulated, dtype):
    """Problems in fp16, in double precision, without rows, in fp16 again: the ring goes on."""
    z = torch.randn(1900, 40).to(dtype)
    bounds = [
        [[100, 400], [400, 730], [730, 731], [731, 731], [740, 745]],
        [[0, 40], [60, 99], [40, 41], [41, 42], [42, 60]],
        [[5, 5], [9, 9], [9, 9], [9, 9], [9, 9]],
        [[800, 1100], [1100, 1101], [1150, 1400], [1400, 1413], [1500, 1890]],
    ]
    rows, gamma = torch.tensor(bounds), wide(600, 40).repeat(4, 1)
    found = emulated.rbf_sums(z, rows, None, gamma, None, False)
    assert torch.allclose(found, block_sums(z, rows, None, gamma), rtol=1e-7, atol=0)


def test_bad_values_become_nan_where_they_are_and_nowhere_else(emulated):
    z, gamma = torch.randn(1300, 4), wide(600, 4).repeat(2, 1)
    ends = torch.tensor([[0, 100, 200, 300, 400, 640], [650, 700, 800, 900, 1000, 1300]])
    rows = torch.stack([ends[:, :-1], ends[:, 1:]], -1)
    z[900, 2] = float("inf")
    found = emulated.rbf_sums(z, rows, None, gamma, None, False)
    assert torch.isnan(found[1]).all()
    assert not torch.isnan(found[0]).any()


@pytest.mark.parametrize("make", accuracy.DATA, ids=lambda make: make.__name__)
def test_the_contract_of_single_precision(emulated, make, single_precision):
    """By the sums of two samples, with a group without rows between them."""
    single_precision(0)
    n, m = 330, 300

    def sums(z, _, gamma):
        blocks = emulated.rbf_sums(z, ranges([0, n, n, n + m]), None, gamma, None, False)[0]
        return blocks[[0, 2]][:, [0, 2]]

    worst = max(accuracy.ratios(make(n + m, 24), n, sums))
    assert worst[0] <= 1, worst
