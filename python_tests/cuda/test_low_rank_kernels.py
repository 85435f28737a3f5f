"""The CUDA kernels of low_rank_sum: packing, products on tensor cores, the epilogue."""

from __future__ import annotations

import pytest
import torch

import awpf_ext

TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Of one rounding of the result, and of the sums in single precision.
BOUND = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 1e-6, torch.float64: 1e-14}


def factors(batch, terms, m, n, r, dtype):
    u, v = torch.randn(batch, terms, m, r).to(dtype), torch.randn(batch, terms, n, r).to(dtype)
    coefficients = torch.randn(batch, terms, r).double()
    return u, v, coefficients, torch.randn(batch, m, n).to(dtype)


def reference(u, v, coefficients, base):
    total = torch.einsum("btmr,btr,btnr->bmn", u.double(), coefficients, v.double())
    return total if base is None else total + base.double()


def relative_error(found, expected):
    return float((found.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    ("batch", "terms", "m", "n", "r"),
    # tiles and slabs that end early or exactly, odd rows (no pairs), a long depth
    [(1, 1, 1, 1, 1), (2, 3, 5, 4, 2), (1, 10, 33, 47, 3), (1, 2, 130, 257, 16), (1, 7, 4, 9, 50)],
)
def test_equals_the_reference(kernels, batch, terms, m, n, r, dtype):
    u, v, coefficients, base = factors(batch, terms, m, n, r, dtype)
    for under in (base, None):
        found = kernels.low_rank_sum(u, v, coefficients, under)
        assert found.dtype == dtype
        assert relative_error(found, reference(u, v, coefficients, under)) < BOUND[dtype]


def test_the_order_of_threads_and_blocks_changes_no_bit(emulated, emulator_order):
    for dtype in (torch.float32, torch.float64):
        given = factors(2, 3, 140, 33, 13, dtype)
        expected = emulated.low_rank_sum(*given)
        for kind, seed in ((1, 0), (2, 1)):
            emulator_order(kind, seed)
            assert torch.equal(emulated.low_rank_sum(*given), expected)
        emulator_order(0, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_rounding_to_half_precision_is_that_of_torch(kernels, dtype):
    """Ties to even, subnormal numbers and overflow, in products of one term."""
    u = torch.randn(200, 1) * torch.exp(12 * torch.randn(200, 1).clamp(-1.5, 1.5))
    u = torch.cat([u, torch.tensor([[65519.0], [65520.0], [2.0**-25], [2.0**-24 * 1.5]])]).to(dtype)
    v = torch.randn(40, 1).to(dtype)
    found = kernels.low_rank_sum(u[None, None], v[None, None], torch.ones(1, 1, 1).double(), None)
    assert torch.equal(found[0], (u.float() @ v.float().T).to(dtype))


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e18, 1e37])
def test_single_precision_over_its_whole_range(kernels, scale):
    """Rows are scaled by powers of two, so nothing overflows or underflows on the way."""
    u, v, coefficients, _ = factors(1, 2, 20, 30, 5, torch.float32)
    u, v = u * scale, v * min(1.0, 1e37 / scale)
    found = kernels.low_rank_sum(u, v, coefficients, None)
    expected = reference(u, v, coefficients, None)
    tolerance = 1e-6 * expected.abs().max() + 2.0**-149
    assert ((found.double() - expected).abs() <= tolerance).all()


def test_rows_of_different_sizes_keep_their_own_accuracy(kernels):
    u, v, coefficients, _ = factors(1, 2, 20, 30, 5, torch.float32)
    u *= torch.logspace(-12, 12, 20).unsqueeze(1)
    v *= torch.logspace(9, -9, 30).unsqueeze(1)
    found = kernels.low_rank_sum(u, v, coefficients, None).double()
    lengths = torch.einsum(
        "btmr,btr,btnr->bmn", u.double().abs(), coefficients.abs(), v.double().abs()
    )
    error = (found - reference(u, v, coefficients, None)).abs()
    assert (error <= 1e-6 * lengths).all()


def test_degenerate_shapes(kernels):
    base = torch.randn(2, 3, 4)
    for terms, r in ((0, 5), (2, 0)):
        u, v, coefficients, _ = factors(2, terms, 3, 4, r, torch.float32)
        assert torch.equal(kernels.low_rank_sum(u, v, coefficients, base), base)
        assert not kernels.low_rank_sum(u, v, coefficients, None).any()
    for shape in ((0, 1, 3, 4, 2), (1, 1, 0, 4, 2), (1, 1, 3, 0, 2)):
        given = factors(*shape, torch.float32)
        assert kernels.low_rank_sum(*given).shape == given[3].shape


def test_the_public_function_runs_on_it(device):
    u, v, s, base = (value.to(device) for value in factors(2, 2, 3, 4, 2, torch.float64))
    leaves = [value.requires_grad_() for value in (u, s, v)]
    weights = torch.randn(2, 2, device=device).double().requires_grad_()
    assert torch.autograd.gradcheck(awpf_ext.low_rank_sum, (*leaves, weights, base))
    compiled = torch.compile(awpf_ext.low_rank_sum, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(u, s, v), awpf_ext.low_rank_sum(u, s, v))
