"""mmd against the naive reference: layouts, types, sizes, bandwidths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from references import FIVE, autograd_mmd, gammas_of, mmd, sampled_median_distance

import awpf_ext

ESTIMATORS = ("biased", "unbiased")
TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def samples(n, m, d, dtype=torch.float64, shift=0.3, batch=()):
    x = torch.randn(*batch, n, d, dtype=torch.float64)
    y = torch.randn(*batch, m, d, dtype=torch.float64) + shift
    return x.to(dtype), y.to(dtype)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    ("n", "m", "d"), [(11, 7, 3), (40, 33, 17), (170, 150, 65), (300, 280, 129)]
)
def test_equals_the_reference_on_the_rounded_input(n, m, d, dtype, estimator):
    x, y = samples(n, m, d, dtype)
    sigma = d**0.5
    found = awpf_ext.mmd(x, y, bandwidth=sigma, scales=FIVE, estimator=estimator)
    expected = mmd(x, y, gammas_of([sigma], FIVE), estimator)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert found.shape == ()
    tolerance = 1e-13 if dtype == torch.float64 else 2e-7 * abs(float(expected)) + 5e-9
    assert abs(float(found) - float(expected)) <= tolerance


def test_every_small_size_and_those_around_the_tiles():
    sizes = [1, 2, 3, 5, 8, 13, 14, 15, 16, 17, 27, 28, 29, 31, 32, 33, 63, 64, 65, 111, 112, 113]
    sizes += [127, 128, 129, 223, 224, 225, 255, 256, 257, 447, 448, 449]
    for n in sizes:
        for m in (1, 2, 15, 32, 225):
            x, y = samples(n, m, 3)
            found = awpf_ext.mmd(x, y, bandwidth=1.5)
            assert abs(float(found - mmd(x, y, gammas_of([1.5])))) < 1e-13, (n, m)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_number_of_features_around_the_tiles(dtype):
    for d in (1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 65, 319, 320, 321, 639, 641, 1000):
        x, y = samples(150, 141, d, dtype)
        found = awpf_ext.mmd(x, y, bandwidth=d**0.5, scales=(1.0, 3.0))
        expected = mmd(x, y, gammas_of([d**0.5], (1.0, 3.0)))
        tolerance = 1e-13 if dtype == torch.float64 else 2e-7 * float(expected) + 5e-9
        assert abs(float(found) - float(expected)) < tolerance, d


def test_a_single_point_on_each_side_is_known_in_closed_form():
    x, y = torch.tensor([[0.0]]).double(), torch.tensor([[3.0]]).double()
    assert float(awpf_ext.mmd(x, y, bandwidth=2.0)) == pytest.approx(
        2 - 2 * np.exp(-9 / 8), rel=1e-15
    )


def test_kernels_with_any_ratio_between_them():
    """Ratios 2, 4 and 8 go by squaring; all others by an exponential of their own."""
    x, y = samples(160, 150, 9)
    for sigmas in (
        [1.0, 2.0],
        [1.0, 2.0**0.5],
        [0.5, 0.9, 4.7, 40.0],
        [3.0, 3.0],
        [1.0, 16.0, 1.0001],
    ):
        for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 3e-8)):
            a, b = x.to(dtype), y.to(dtype)
            found = awpf_ext.mmd(a, b, bandwidth=sigmas)
            assert abs(float(found) - float(mmd(a, b, gammas_of(sigmas)))) < tolerance, (
                sigmas,
                dtype,
            )


@pytest.mark.parametrize("shift", [2.0**12, 2.0**30])
def test_the_pool_is_centred_before_anything_is_rounded(shift):
    """Points that a shift leaves exact have the same distances far from the origin."""
    x, y = (torch.round(value * 64) / 64 for value in samples(60, 50, 5))
    near = awpf_ext.mmd(x, y, bandwidth=2.0)
    assert abs(float(awpf_ext.mmd(x + shift, y + shift, bandwidth=2.0) - near)) < 1e-13
    sums = torch.ops.awpf.rbf_permutation_sums
    rows, gamma = torch.tensor([[[0, 60], [60, 110]]]), torch.ones(1, 1).double()
    z = torch.cat([x, y])
    assert torch.allclose(
        sums(z + shift, rows, gamma, 3, 0, False), sums(z, rows, gamma, 3, 0, False), rtol=1e-11
    )
    sigma = awpf_ext.median_bandwidth(z)
    assert float(awpf_ext.median_bandwidth(z + shift)) == pytest.approx(float(sigma), rel=1e-11)


def test_the_order_of_the_kernels_does_not_matter():
    x, y = samples(50, 40, 4, torch.float32)
    found = awpf_ext.mmd(x, y, bandwidth=[4.0, 1.0, 2.0])
    assert torch.equal(found, awpf_ext.mmd(x, y, bandwidth=[1.0, 2.0, 4.0]))


def test_forms_of_the_bandwidth_agree():
    x, y = samples(12, 9, 5, batch=(3,))
    reference = awpf_ext.mmd(x, y, bandwidth=[1.0, 3.0])
    each = torch.tensor([1.0, 3.0]).double().expand(3, 2)
    assert torch.equal(awpf_ext.mmd(x, y, bandwidth=each), reference)
    assert torch.equal(awpf_ext.mmd(x, y, bandwidth=(1, 3)), reference)
    assert torch.allclose(
        awpf_ext.mmd(x, y, bandwidth=1.0, scales=[1.0, 9.0]), reference, rtol=1e-13
    )
    one = awpf_ext.mmd(x, y, bandwidth=2)
    assert torch.equal(awpf_ext.mmd(x, y, bandwidth=torch.tensor(2.0)), one)
    assert torch.equal(awpf_ext.mmd(x, y, bandwidth=torch.full((3,), 2.0)), one)


def test_numpy_beside_torch_gives_torch():
    """What x and y are decides; a gradient is never dropped on the way."""
    x, y = samples(12, 9, 5)
    x.requires_grad_()
    found = awpf_ext.mmd(x, y, bandwidth=np.array([1.0, 2.0]))
    assert found.requires_grad
    assert torch.equal(found, awpf_ext.mmd(x, y, bandwidth=[1.0, 2.0]))
    ragged = awpf_ext.mmd(x, y, x_offsets=np.array([0, 5, 12]), y_offsets=np.array([0, 2, 9]))
    assert ragged.requires_grad


def test_a_bandwidth_for_each_problem():
    x, y = samples(12, 9, 5, batch=(2, 3))
    sigma = torch.rand(2, 3, dtype=torch.float64) + 0.5
    found = awpf_ext.mmd(x, y, bandwidth=sigma, scales=(0.5, 2.0))
    for i in range(2):
        for j in range(3):
            expected = mmd(x[i, j], y[i, j], gammas_of([float(sigma[i, j])], (0.5, 2.0)))
            assert float(found[i, j]) == pytest.approx(float(expected), rel=1e-12)


def test_the_median_bandwidth_is_the_default_and_is_that_of_the_pool():
    x, y = samples(31, 22, 6)
    sigma = float(sampled_median_distance(torch.cat([x, y])))
    found = awpf_ext.mmd(x, y, scales=(0.5, 1.0))
    assert float(found) == pytest.approx(
        float(mmd(x, y, gammas_of([sigma], (0.5, 1.0)))), rel=1e-12
    )


def test_scikit_learn_agrees():
    x, y = (value.numpy() for value in samples(70, 45, 12))
    gamma = 0.07
    rbf_kernel = pytest.importorskip("sklearn.metrics.pairwise").rbf_kernel
    kxx, kxy, kyy = (rbf_kernel(a, b, gamma) for a, b in ((x, x), (x, y), (y, y)))
    biased = kxx.mean() + kyy.mean() - 2 * kxy.mean()
    unbiased = (kxx.sum() - 70) / (70 * 69) + (kyy.sum() - 45) / (45 * 44) - 2 * kxy.mean()
    sigma = (0.5 / gamma) ** 0.5
    assert awpf_ext.mmd(x, y, bandwidth=sigma) == pytest.approx(biased, abs=1e-13)
    assert awpf_ext.mmd(x, y, bandwidth=sigma, estimator="unbiased") == pytest.approx(
        unbiased, abs=1e-13
    )


# ---- layouts ----


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_batch_dimensions_broadcast(estimator):
    x, _ = samples(13, 1, 5, batch=(4, 1))
    _, y = samples(1, 9, 5, batch=(3,))
    found = awpf_ext.mmd(x, y, bandwidth=2.0, estimator=estimator)
    assert found.shape == (4, 3)
    for i in range(4):
        for j in range(3):
            expected = float(mmd(x[i, 0], y[j], gammas_of([2.0]), estimator))
            assert float(found[i, j]) == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_gradients_of_a_broadcast_side_are_summed():
    x, y = samples(6, 5, 3, batch=(4,))
    x = x[0].clone().requires_grad_()
    y.requires_grad_()
    awpf_ext.mmd(x, y, bandwidth=1.0).sum().backward()
    a, b = x.detach().clone().requires_grad_(), y.detach().clone().requires_grad_()
    sum(autograd_mmd(a, b[k], gammas_of([1.0])) for k in range(4)).backward()
    assert torch.allclose(x.grad, a.grad, rtol=1e-12, atol=1e-14)
    assert torch.allclose(y.grad, b.grad, rtol=1e-12, atol=1e-14)


def test_any_strides_give_the_bits_of_the_contiguous_input():
    x, y = samples(40, 37, 11, torch.float32)
    expected = awpf_ext.mmd(x, y)
    wide = torch.randn(80, 33)
    wide[::2, ::3] = x
    assert torch.equal(awpf_ext.mmd(wide[::2, ::3], y), expected)
    assert torch.equal(awpf_ext.mmd(x.T.contiguous().T, y), expected)
    repeated = x[:1].expand(40, 11)
    assert torch.equal(awpf_ext.mmd(repeated, y), awpf_ext.mmd(repeated.contiguous(), y))


def test_inputs_are_left_alone():
    x, y = samples(300, 280, 11, torch.float32)
    before = x.clone(), y.clone()
    x.requires_grad_()
    awpf_ext.mmd(x, y).backward()
    assert torch.equal(x.detach(), before[0])
    assert torch.equal(y, before[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_ragged_batches_are_the_single_problems(dtype):
    sizes = [(3, 5), (1, 1), (17, 2), (33, 40), (150, 170)]
    pairs = [samples(n, m, 6, dtype) for n, m in sizes]
    offsets = [
        torch.tensor([0, *(pair[side].shape[0] for pair in pairs)]).cumsum(0) for side in (0, 1)
    ]
    x, y = (torch.cat([pair[side] for pair in pairs]).requires_grad_() for side in (0, 1))
    found = awpf_ext.mmd(x, y, x_offsets=offsets[0], y_offsets=offsets[1])
    assert found.shape == (len(sizes),)
    grads = torch.autograd.grad(found.sum(), (x, y))
    for k, pair in enumerate(pairs):
        a, b = (value.clone().requires_grad_() for value in pair)
        alone = awpf_ext.mmd(a, b)
        assert torch.equal(found[k], alone)
        alone.backward()
        assert torch.equal(grads[0][offsets[0][k] : offsets[0][k + 1]], a.grad)
        assert torch.equal(grads[1][offsets[1][k] : offsets[1][k + 1]], b.grad)


def test_offsets_may_be_lists_and_arrays():
    x, y = samples(10, 8, 3)
    expected = torch.stack([awpf_ext.mmd(x[:4], y[:2]), awpf_ext.mmd(x[4:], y[2:])])
    assert torch.equal(awpf_ext.mmd(x, y, x_offsets=[0, 4, 10], y_offsets=[0, 2, 8]), expected)
    found = awpf_ext.mmd(
        x.numpy(), y.numpy(), x_offsets=np.array([0, 4, 10]), y_offsets=np.array([0, 2, 8])
    )
    assert np.array_equal(found, expected.numpy())


@pytest.mark.parametrize("bandwidth", [200.0, "median"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_large_batch_is_the_single_problems(bandwidth, estimator):
    x, y = samples(3, 2, 1 << 16, torch.float32, batch=(41,))  # 51 MiB
    options = {"bandwidth": bandwidth, "estimator": estimator}
    found = awpf_ext.mmd(x, y, **options)
    each = [awpf_ext.mmd(a, b, **options) for a, b in zip(x, y, strict=True)]
    assert torch.equal(found, torch.stack(each))
    sigmas = 150 + torch.arange(41.0)
    each = [
        awpf_ext.mmd(a, b, bandwidth=float(sigma)) for a, b, sigma in zip(x, y, sigmas, strict=True)
    ]
    assert torch.equal(awpf_ext.mmd(x, y, bandwidth=sigmas), torch.stack(each))


def test_errors_of_a_large_batch_speak_of_all_of_it():
    x, y = samples(3, 2, 1 << 16, torch.float32, batch=(41,))
    with pytest.raises(ValueError, match=r"got shapes \(41, 3, 65536\) and \(41, 2, 65535\)"):
        awpf_ext.mmd(x, y[..., 1:])
    x[40, 2, 5] = torch.nan
    with pytest.raises(ValueError, match=r"row 122 .*NaN"):
        awpf_ext.mmd(x, y)


def test_thousands_of_tiny_problems():
    x, y = samples(3, 2, 4, torch.float32, batch=(3000,))
    found = awpf_ext.mmd(x, y, bandwidth=1.3)
    expected = torch.stack([mmd(a, b, gammas_of([1.3])) for a, b in zip(x, y, strict=True)])
    assert (found.double() - expected).abs().max() < 2e-7


def test_an_empty_batch_gives_an_empty_result():
    x, y = torch.randn(0, 5, 3), torch.randn(0, 4, 3)
    assert awpf_ext.mmd(x, y, bandwidth=1.0).shape == (0,)


# ---- NumPy ----


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numpy_in_numpy_out(dtype):
    x, y = (value.numpy().astype(dtype) for value in samples(20, 15, 4, batch=(2,)))
    found = awpf_ext.mmd(x, y)
    assert isinstance(found, np.ndarray)
    expected = awpf_ext.mmd(torch.from_numpy(x), torch.from_numpy(y)).numpy()
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    single = awpf_ext.mmd(x[0], y[0])
    assert isinstance(single, np.floating)
    assert float(single) == pytest.approx(float(expected[0]), rel=1e-6)


@pytest.mark.filterwarnings("error")
def test_numpy_arrays_that_torch_cannot_alias():
    x, y = (value.numpy() for value in samples(20, 15, 4))
    expected = awpf_ext.mmd(x, y)
    locked = x.copy()
    locked.setflags(write=False)
    assert awpf_ext.mmd(locked, y) == expected
    backwards = x[::-1, ::-1].copy()[::-1, ::-1]
    assert min(backwards.strides) < 0
    assert awpf_ext.mmd(backwards, y) == expected
    assert awpf_ext.mmd(np.asfortranarray(x), y) == expected
