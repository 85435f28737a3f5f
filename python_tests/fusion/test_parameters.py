"""The fusions against their formulas, and their properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from awpf_ext.fusion import FUSIONS, delta_stack, fuse, qr_mask, stack, svd_mask

METHODS = list(FUSIONS)


def pair(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    old = torch.randn(*shape, generator=generator, dtype=torch.float64)
    new = old + 0.3 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    return old.to(dtype), new.to(dtype)


def masked(basis: Tensor, old: Tensor, new: Tensor, bias: float) -> Tensor:
    r_old, r_new = basis.T @ old, basis.T @ new
    distance = (r_new - r_old).abs()
    mask = torch.clamp(distance / distance.max() + bias, max=1)
    return basis @ (mask * r_new + (1 - mask) * r_old)


@pytest.mark.parametrize("shape", [(7, 7), (9, 5), (5, 9)])
def test_masks_equal_their_formulas(shape):
    old, new = pair(*shape)
    basis = torch.linalg.svd(old)[0]
    torch.testing.assert_close(svd_mask(old, new, 0.4), masked(basis, old, new, 0.4))
    basis = torch.linalg.qr(old, mode="complete")[0]
    torch.testing.assert_close(qr_mask(old, new, 0.4), masked(basis, old, new, 0.4))


@given(seed=st.integers(0, 10**6), flips=st.lists(st.booleans(), min_size=6, max_size=6))
@settings(max_examples=30, deadline=None)
def test_masks_do_not_see_the_signs_of_the_basis(seed, flips):
    old, new = pair(6, 6, seed=seed)
    signs = torch.tensor([-1.0 if flip else 1.0 for flip in flips], dtype=torch.float64)
    singular = torch.linalg.svd(old)[0] * signs
    torch.testing.assert_close(svd_mask(old, new, 0.6), masked(singular, old, new, 0.6))
    q, r = torch.linalg.qr(old)
    positive = q * r.diagonal().sign()
    torch.testing.assert_close(qr_mask(old, new, 0.6), masked(positive, old, new, 0.6))


@given(seed=st.integers(0, 10**6), weight=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_full_rank_stacks_are_interpolation(seed, weight):
    old, new = pair(5, 8, seed=seed)
    expected = (1 - weight) * old + weight * new
    torch.testing.assert_close(stack(old, new, weight), expected)
    torch.testing.assert_close(delta_stack(old, new, weight), expected)
    torch.testing.assert_close(stack(old, new, weight, rank=50), expected)


def test_stack_equals_the_product_of_the_stacked_factors():
    old, new = pair(8, 6)
    w, r = 0.3, 2
    factors = []
    for matrix in (old, new):
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        factors.append((u[:, :r] * s[:r].sqrt(), s[:r].sqrt()[:, None] * vh[:r]))
    (b_old, a_old), (b_new, a_new) = factors
    product = torch.cat([b_old, b_new], 1) @ torch.cat([(1 - w) * a_old, w * a_new], 0)
    torch.testing.assert_close(stack(old, new, w, r), product)
    torch.testing.assert_close(product, (1 - w) * b_old @ a_old + w * b_new @ a_new)


def test_delta_stack_adds_the_best_low_rank_part_of_the_change():
    old, new = pair(8, 6)
    u, s, vh = torch.linalg.svd(new - old, full_matrices=False)
    expected = old + 0.7 * (u[:, :3] * s[:3]) @ vh[:3]
    torch.testing.assert_close(delta_stack(old, new, 0.7, 3), expected)


@pytest.mark.parametrize("method", METHODS)
def test_equal_sides_come_back_unchanged(method):
    old, _ = pair(6, 6)
    torch.testing.assert_close(fuse(old, old.clone(), method), old)


def test_extreme_weights_and_biases_return_a_side():
    old, new = pair(6, 6)
    for method in ("stack", "delta_stack"):
        torch.testing.assert_close(fuse(old, new, method, weight=0), old)
        torch.testing.assert_close(fuse(old, new, method, weight=1), new)
    for method in ("svd_mask", "qr_mask"):
        torch.testing.assert_close(fuse(old, new, method, bias=1), new)


@pytest.mark.parametrize("method", METHODS)
def test_batches_equal_their_entries(method):
    old, new = pair(2, 3, 6, 4)
    batched = fuse(old, new, method)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(batched[i, j], fuse(old[i, j], new[i, j], method))
    mapped = torch.vmap(torch.vmap(lambda o, n: fuse(o, n, method)))(old, new)
    torch.testing.assert_close(mapped, batched)


@pytest.mark.parametrize("method", ["stack", "delta_stack"])
def test_one_weight_for_each_batch_entry(method):
    old, new = pair(3, 5, 5)
    weight = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    fused = fuse(old, new, method, weight=weight, rank=2)
    for i in range(3):
        expected = fuse(old[i], new[i], method, weight=float(weight[i]), rank=2)
        torch.testing.assert_close(fused[i], expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_types(method, dtype):
    old, new = pair(6, 6, dtype=dtype)
    fused = fuse(old, new, method)
    assert fused.dtype == dtype
    expected = fuse(old.double(), new.double(), method)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(fused.double(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("method", METHODS)
def test_non_contiguous_inputs(method):
    old, new = pair(6, 8)
    torch.testing.assert_close(
        fuse(old.T, new.T, method), fuse(old.T.contiguous(), new.T.contiguous(), method)
    )


def test_numpy_in_numpy_out():
    old, new = pair(4, 4)
    fused = fuse(old.numpy(), new.numpy(), "svd_mask")
    assert isinstance(fused, np.ndarray)
    np.testing.assert_allclose(fused, fuse(old, new, "svd_mask").numpy())


@pytest.mark.parametrize("method", METHODS)
def test_gradients(method):
    old, new = pair(4, 4)
    old.requires_grad_()
    new.requires_grad_()
    assert torch.autograd.gradcheck(lambda o, n: fuse(o, n, method), (old, new))


@pytest.mark.parametrize("method", METHODS)
def test_compiles_whole(method):
    old, new = pair(6, 6, dtype=torch.float32)
    compiled = torch.compile(lambda o, n: fuse(o, n, method), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(old, new), fuse(old, new, method), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        ((torch.ones(3), torch.ones(3)), {}, ValueError, r"\(3,\) and \(3,\); expected two equal"),
        ((torch.ones(3, 3), torch.ones(3, 4)), {}, ValueError, "expected two equal shapes"),
        ((torch.ones(0, 3), torch.ones(0, 3)), {}, ValueError, "expected m and n above 0"),
        ((torch.ones(3, 3), torch.ones(3, 3).double()), {}, TypeError, "one floating-point type"),
        ((torch.ones(2, 2).int(), torch.ones(2, 2).int()), {}, TypeError, "floating-point"),
        ((torch.ones(2, 2), [[1.0]]), {}, TypeError, "new is a list"),
        ((torch.eye(2), torch.eye(2), "mean"), {}, ValueError, "'mean'; expected one of svd_mask"),
        ((torch.eye(2), torch.eye(2)), {"weight": 1.5}, ValueError, "weight is 1.5"),
        ((torch.eye(2), torch.eye(2)), {"weight": float("nan")}, ValueError, "weight is nan"),
        ((torch.eye(2), torch.eye(2)), {"weight": torch.ones(3)}, ValueError, "weight has shape"),
        ((torch.eye(2), torch.eye(2)), {"rank": 0}, ValueError, "rank is 0"),
        ((torch.eye(2), torch.eye(2)), {"bias": 0.5}, ValueError, "delta_stack takes weight and"),
        ((torch.eye(2), torch.eye(2), "svd_mask"), {"rank": 1}, ValueError, "takes bias only"),
        ((torch.eye(2), torch.eye(2), "qr_mask"), {"bias": -1.0}, ValueError, "bias is -1.0"),
    ],
)
def test_bad_input_is_told_plainly(arguments, settings, error, message):
    with pytest.raises(error, match=message):
        fuse(*arguments, **settings)
