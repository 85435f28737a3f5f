"""low_rank_sum against the terms one after the other; truncate against the full SVD."""

from __future__ import annotations

import error_bounds
import numpy as np
import pytest
import references
import torch
from torch.autograd import gradcheck, gradgradcheck

import awpf_ext

TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Of one rounding of the result, and of the sums in single precision.
TOLERANCE = {
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
    torch.float32: 1e-6,
    torch.float64: 1e-14,
}


def factors(*batch, terms, m, n, r, dtype=torch.float64):
    u, v = torch.randn(*batch, terms, m, r), torch.randn(*batch, terms, n, r)
    s, weights = torch.rand(*batch, terms, r) + 0.1, torch.randn(*batch, terms)
    base = torch.randn(*batch, m, n)
    return tuple(value.to(dtype) for value in (u, s, v, weights, base))


def relative_error(found, expected):
    return float((found.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    ("terms", "m", "n", "r"),
    [
        (1, 1, 1, 1),
        (3, 5, 4, 2),
        (10, 33, 47, 3),
        (2, 230, 260, 40),
        (7, 113, 129, 50),
        (1, 4, 500, 330),
    ],
)
def test_equals_the_reference(terms, m, n, r, dtype):
    u, s, v, weights, base = factors(terms=terms, m=m, n=n, r=r, dtype=dtype)
    found = awpf_ext.low_rank_sum(u, s, v, weights, base)
    assert found.dtype == dtype
    expected = references.low_rank_sum(list(u), list(s), list(v), weights.tolist(), base)
    assert relative_error(found, expected) < TOLERANCE[dtype]
    plain = awpf_ext.low_rank_sum(u, None, v)
    ones = [torch.ones(r)] * terms
    expected = references.low_rank_sum(list(u), ones, list(v), [1.0] * terms, None)
    assert relative_error(plain, expected) < TOLERANCE[dtype]


def test_sums_of_half_precision_are_rounded_once():
    """Many small terms on a large base: adding them one by one in bfloat16 would lose them all."""
    u = torch.full((64, 8, 1), 0.0625).bfloat16()
    found = awpf_ext.low_rank_sum(u, None, u, base=torch.ones(8, 8).bfloat16())
    assert torch.equal(found, torch.full((8, 8), 1.25).bfloat16())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_rounding_to_half_precision_is_that_of_torch(dtype):
    """Ties to even, denormals, overflow: all values of a product of one term, and of a base."""
    u = torch.randn(3000, 1) * torch.exp(12 * torch.randn(3000, 1).clamp(-1.5, 1.5))
    u = torch.cat([u, torch.tensor([[65519.0], [65520.0], [2.0**-25], [2.0**-24 * 1.5]])]).to(dtype)
    v = torch.randn(40, 1).to(dtype)
    expected = (u.float() @ v.float().T).to(dtype)
    assert torch.equal(awpf_ext.low_rank_sum(u[None], None, v[None]), expected)


def test_one_term_at_weight_one_comes_back():
    u, s, v, _, base = factors(terms=1, m=6, n=5, r=3)
    expected = u[0] @ torch.diag(s[0]) @ v[0].T
    assert torch.allclose(awpf_ext.low_rank_sum(u, s, v, [1.0]), expected, rtol=1e-14)
    assert torch.equal(awpf_ext.low_rank_sum(u, s, v, [0.0], base), base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ragged_ranks(dtype):
    ranks = [1, 5, 3, 40]
    us = [torch.randn(9, r).to(dtype) for r in ranks]
    vs = [torch.randn(7, r).to(dtype) for r in ranks]
    ss = [torch.rand(r).to(dtype) for r in ranks]
    base = torch.randn(9, 7).to(dtype)
    weights = [0.5, -1.0, 2.0, 0.25]
    expected = references.low_rank_sum(us, ss, vs, weights, base)
    found = awpf_ext.low_rank_sum(us, ss, vs, weights, base)
    assert relative_error(found, expected) < TOLERANCE[dtype]
    found = awpf_ext.low_rank_sum(tuple(us), None, tuple(vs))
    expected = references.low_rank_sum(us, [torch.ones(r) for r in ranks], vs, [1.0] * 4, None)
    assert relative_error(found, expected) < TOLERANCE[dtype]


def test_batches_broadcast():
    u, s, v, weights, base = factors(4, terms=3, m=5, n=6, r=2)
    u = u[:1].unsqueeze(0)  # (1, 1, terms, m, r) against (2, 1, ...) and (4, ...)
    s = torch.rand(2, 1, 3, 2).double()
    found = awpf_ext.low_rank_sum(u, s, v, weights, base)
    assert found.shape == (2, 4, 5, 6)
    for i in range(2):
        for j in range(4):
            expected = references.low_rank_sum(
                list(u[0, 0]), list(s[i, 0]), list(v[j]), weights[j].tolist(), base[j]
            )
            assert torch.allclose(found[i, j], expected, rtol=1e-13)
    one_weight = awpf_ext.low_rank_sum(u, s, v, torch.tensor([1.0, 0.0, 0.0]).double())
    assert torch.allclose(one_weight, awpf_ext.low_rank_sum(u[:, :, :1], s[:, :, :1], v[:, :1]))


def test_strides_and_arrays():
    u, s, v, weights, base = factors(2, terms=3, m=5, n=6, r=2)
    expected = awpf_ext.low_rank_sum(u, s, v, weights, base)
    turned = [value.transpose(-1, -2).contiguous().transpose(-1, -2) for value in (u, s, v, base)]
    found = awpf_ext.low_rank_sum(*turned[:3], weights, turned[3])
    assert torch.equal(found, expected)
    arrays = awpf_ext.low_rank_sum(*(value.numpy() for value in (u, s, v, weights, base)))
    assert isinstance(arrays, np.ndarray)
    assert np.array_equal(arrays, expected.numpy())
    ragged = awpf_ext.low_rank_sum([u[0, 0].numpy()], [s[0, 0].numpy()], [v[0, 0].numpy()])
    assert isinstance(ragged, np.ndarray)
    assert np.allclose(ragged, (u[0, 0] * s[0, 0] @ v[0, 0].T).numpy(), rtol=1e-13)


def test_degenerate_shapes():
    base = torch.randn(2, 3, 4)
    none = awpf_ext.low_rank_sum(torch.randn(2, 0, 3, 5), None, torch.randn(2, 0, 4, 5), base=base)
    assert torch.equal(none, base)
    rank_0 = awpf_ext.low_rank_sum(torch.randn(2, 1, 3, 0), None, torch.randn(2, 1, 4, 0))
    assert torch.equal(rank_0, torch.zeros(2, 3, 4))
    assert awpf_ext.low_rank_sum(torch.randn(0, 1, 3, 2), None, torch.randn(0, 1, 4, 2)).shape == (
        0,
        3,
        4,
    )


# ---- derivatives ----


def test_first_and_second_derivatives():
    leaves = [value.requires_grad_() for value in factors(2, terms=2, m=3, n=2, r=2)]
    assert gradcheck(awpf_ext.low_rank_sum, leaves)
    assert gradgradcheck(awpf_ext.low_rank_sum, leaves)


def test_derivatives_of_ragged_terms():
    us = [torch.randn(3, r).double().requires_grad_() for r in (1, 2)]
    vs = [torch.randn(2, r).double().requires_grad_() for r in (1, 2)]
    ss = [torch.rand(r).double().requires_grad_() for r in (1, 2)]
    weights = torch.rand(2).double().requires_grad_()

    def function(u0, u1, s0, s1, v0, v1, w):
        return awpf_ext.low_rank_sum([u0, u1], [s0, s1], [v0, v1], w)

    assert gradcheck(function, (*us, *ss, *vs, weights))
    assert gradgradcheck(function, (*us, *ss, *vs, weights))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_gradients_of_every_type_equal_those_in_float64(dtype):
    values = factors(terms=3, m=30, n=20, r=4, dtype=dtype)

    def gradients(inputs):
        leaves = [value.clone().requires_grad_() for value in inputs]
        total = awpf_ext.low_rank_sum(*leaves)
        generator = torch.Generator().manual_seed(5)
        (total * torch.randn(30, 20, generator=generator).to(dtype)).sum().backward()
        return [leaf.grad for leaf in leaves]

    wide = gradients([value.double() for value in values])
    for found, expected in zip(gradients(values), wide, strict=True):
        assert found.dtype == dtype
        assert relative_error(found, expected) < 10 * TOLERANCE[dtype]


# ---- truncate ----


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("rank", [1, 3, 6])
@pytest.mark.parametrize(("m", "n", "r"), [(40, 30, 2), (9, 7, 4), (30, 60, 5)])
def test_truncate_is_the_best_of_its_rank(m, n, r, rank, dtype):
    """By QR where the stacked rank is small, by an SVD of the sum where it is not."""
    u, s, v, weights, _ = factors(terms=3, m=m, n=n, r=r, dtype=dtype)
    exact = references.low_rank_sum(list(u), list(s), list(v), weights.tolist(), None)
    found = awpf_ext.truncate(u, s, v, rank, weights)
    assert isinstance(found, awpf_ext.LowRank)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert {part.dtype for part in found} == {wide}
    assert [tuple(part.shape) for part in found] == [(m, rank), (rank,), (n, rank)]
    left, right = (u.double() * s[:, None] * weights[:, None, None]).norm(), v.double().norm()
    error_bounds.check_truncation(found, exact, left * right)


def test_a_rank_above_that_of_the_sum_gives_all_there_is():
    u, s, v, weights, _ = factors(terms=2, m=40, n=30, r=3)
    exact = references.low_rank_sum(list(u), list(s), list(v), weights.tolist(), None)
    found = awpf_ext.truncate(u, s, v, 100, weights)
    assert found.s.shape == (6,)
    assert torch.allclose((found.u * found.s) @ found.v.T, exact, atol=1e-12)
    u, s, v, weights, _ = factors(terms=4, m=8, n=6, r=3)
    assert awpf_ext.truncate(u, s, v, 100, weights).s.shape == (6,)


def test_truncated_terms_that_cancel():
    u, s, v, _, _ = factors(terms=1, m=40, n=30, r=3)
    twice = [
        value.repeat(2, 1, 1) if value.dim() == 3 else value.repeat(2, 1) for value in (u, s, v)
    ]
    found = awpf_ext.truncate(*twice, 2, [1.0, -1.0])
    assert float(found.s.abs().max()) < 1e-12
    assert torch.isfinite(found.u).all()


def test_truncate_ragged_batched_and_arrays():
    us, vs = ([torch.randn(k, r).double() for r in (1, 4, 2)] for k in (30, 20))
    ss = [torch.rand(r).double() for r in (1, 4, 2)]
    exact = references.low_rank_sum(us, ss, vs, [1.0, 2.0, 3.0], None)
    found = awpf_ext.truncate(us, ss, vs, 3, [1.0, 2.0, 3.0])
    rebuilt = (found.u * found.s) @ found.v.T
    assert torch.allclose(rebuilt, references.best_of_rank(exact, 3), atol=1e-11)

    u, s, v, weights, _ = factors(2, 2, terms=2, m=30, n=25, r=3)
    batch = awpf_ext.truncate(u, s, v, 4, weights)
    assert batch.u.shape == (2, 2, 30, 4)
    assert batch.s.shape == (2, 2, 4)
    for i, j in ((0, 1), (1, 0)):
        alone = awpf_ext.truncate(u[i, j], s[i, j], v[i, j], 4, weights[i, j])
        assert torch.allclose(batch.s[i, j], alone.s, rtol=1e-10)
    arrays = awpf_ext.truncate(u.numpy(), s.numpy(), v.numpy(), 4, weights.numpy())
    assert isinstance(arrays, awpf_ext.LowRank)
    assert isinstance(arrays.u, np.ndarray)


def test_a_truncated_sum_goes_back_into_the_sum():
    u, s, v, weights, base = factors(terms=3, m=30, n=25, r=2)
    kept = awpf_ext.truncate(u, s, v, 6, weights)
    expected = awpf_ext.low_rank_sum(u, s, v, weights, base)
    found = awpf_ext.low_rank_sum(kept.u[None], kept.s[None], kept.v[None], base=base)
    assert torch.allclose(found, expected, atol=1e-12)
