"""Derivatives of mmd: right in every precision, defined at distance zero, none beyond the first."""

from __future__ import annotations

import pytest
import torch
import torch.autograd.forward_ad as forward_mode
from references import FIVE, autograd_mmd, block_gradient, gammas_of, mmd_weights
from torch.autograd import gradcheck

import awpf_ext

# torch's own forward mode still compiles decompositions with torch.jit.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

ESTIMATORS = ("biased", "unbiased")
PAIR = torch.tensor([0, 0, 1, 1, 1])


def leaves(*values):
    return [value.detach().clone().requires_grad_() for value in values]


def gradients(function, *values):
    points = leaves(*values)
    return torch.autograd.grad(function(*points).sum(), points)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("n", "m", "d"), [(5, 3, 2), (2, 2, 1), (7, 9, 5)])
def test_gradcheck(n, m, d, estimator):
    x, y = leaves(torch.randn(n, d).double(), torch.randn(m, d).double() + 0.5)
    assert gradcheck(
        lambda a, b: awpf_ext.mmd(a, b, bandwidth=[1.0, 2.0, 0.7], estimator=estimator), (x, y)
    )


def test_gradcheck_of_a_batch_with_bandwidths_of_its_own():
    x, y = leaves(torch.randn(3, 4, 2).double(), torch.randn(3, 5, 2).double())
    sigma = torch.tensor([[0.7, 1.0], [2.0, 1.5], [1.0, 1.1]]).double()
    assert gradcheck(lambda a, b: awpf_ext.mmd(a, b, bandwidth=sigma), (x, y))


def test_gradcheck_of_a_ragged_batch():
    x, y = leaves(torch.randn(9, 3).double(), torch.randn(7, 3).double())
    offsets = {"x_offsets": [0, 2, 9], "y_offsets": [0, 4, 7]}
    assert gradcheck(lambda a, b: awpf_ext.mmd(a, b, bandwidth=1.2, **offsets), (x, y))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradcheck_of_the_matrix(estimator):
    (x,) = leaves(torch.randn(11, 3).double())
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 2, 2])
    assert gradcheck(
        lambda a: awpf_ext.mmd_matrix(a, labels, bandwidth=[1.0, 1.7], estimator=estimator), (x,)
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("shape", [(230, 215, 33), (600, 500, 70), (449, 225, 1), (300, 225, 321)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 4e-6), (torch.bfloat16, 4e-3)]
)
def test_large_gradients_equal_autograd_in_float64(shape, dtype, tolerance, estimator):
    n, m, d = shape
    x, y = torch.randn(n, d).to(dtype), (1.2 * torch.randn(m, d) + 0.4).to(dtype)
    found = gradients(
        lambda a, b: awpf_ext.mmd(a, b, bandwidth=d**0.5, scales=FIVE, estimator=estimator), x, y
    )
    expected = by_hand(x, y, gammas_of([d**0.5], FIVE), estimator)
    for got, want in zip(found, expected, strict=True):
        assert got.dtype == dtype
        assert (got.double() - want).abs().max() <= tolerance * want.abs().max()


@pytest.mark.parametrize("scale", [1e-15, 1e17, 1e23])
def test_gradients_of_points_of_any_size(scale):
    x, y = torch.randn(500, 16) * scale, (torch.randn(500, 16) + 0.5) * scale
    found = gradients(lambda a, b: awpf_ext.mmd(a, b, bandwidth=4 * scale), x, y)
    expected = gradients(
        lambda a, b: awpf_ext.mmd(a, b, bandwidth=4 * scale), x.double(), y.double()
    )
    for got, want in zip(found, expected, strict=True):
        assert (got.double() - want).abs().max() <= 4e-6 * want.abs().max()


def by_hand(x, y, gammas, estimator):
    sizes = [len(x), len(y)]
    weights = mmd_weights(*sizes, estimator)
    return block_gradient(torch.cat([x, y]), sizes, gammas, weights).split(sizes)


def test_the_hand_made_gradient_is_that_of_autograd():
    x, y = torch.randn(9, 4).double(), torch.randn(6, 4).double()
    gammas = gammas_of([1.0, 2.5])
    for estimator in ESTIMATORS:
        wanted = gradients(lambda a, b, e=estimator: autograd_mmd(a, b, gammas, e), x, y)
        for got, want in zip(by_hand(x, y, gammas, estimator), wanted, strict=True):
            assert torch.allclose(got, want, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("make", ["mean 20", "near duplicates", "far clusters", "mixed scales"])
def test_single_precision_gradients_on_hard_data(make):
    n, m, d = 400, 350, 40
    z = {
        "mean 20": lambda: 20 + 0.5 * torch.randn(n + m, d),
        "near duplicates": lambda: torch.randn(1, d) + 1e-3 * torch.randn(n + m, d),
        "far clusters": lambda: torch.randn(n + m, d) + 20 * (torch.arange(n + m) % 2)[:, None],
        "mixed scales": lambda: torch.randn(n + m, d) * torch.exp(torch.randn(1, d)),
    }[make]()
    sigma = float(awpf_ext.median_bandwidth(z))
    x, y = z[:n], z[n:]
    found = gradients(lambda a, b: awpf_ext.mmd(a, b, bandwidth=sigma, scales=FIVE), x, y)
    expected = by_hand(x, y, gammas_of([sigma], FIVE), "biased")
    for got, want in zip(found, expected, strict=True):
        assert (got.double() - want).abs().max() <= 5e-5 * want.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [4, 300])
def test_equal_points_have_a_gradient(dtype, size):
    """A square root of the distance would give NaN here."""
    x = torch.randn(1, 5).to(dtype).expand(size, 5)
    for got in gradients(lambda a, b: awpf_ext.mmd(a, b, bandwidth=1.0), x, x):
        assert torch.equal(got, torch.zeros_like(got))
    y = torch.cat([x[:2], torch.randn(size, 5).to(dtype)])
    for got in gradients(lambda a, b: awpf_ext.mmd(a, b), x, y):
        assert torch.isfinite(got).all()


def test_gradients_of_thousands_of_tiny_problems():
    x, y = torch.randn(2000, 3, 2).double(), torch.randn(2000, 2, 2).double()
    of_x, of_y = gradients(lambda a, b: awpf_ext.mmd(a, b, bandwidth=1.3), x, y)
    for k in range(0, 2000, 97):
        one, other = by_hand(x[k], y[k], gammas_of([1.3]), "biased")
        assert torch.allclose(of_x[k], one, rtol=1e-11, atol=1e-14)
        assert torch.allclose(of_y[k], other, rtol=1e-11, atol=1e-14)


def test_a_gradient_for_one_side_alone():
    x, y = torch.randn(20, 3).double(), torch.randn(30, 3).double() + 1
    of_x, of_y = gradients(lambda a, b: awpf_ext.mmd(a, b, bandwidth=1.0), x, y)
    assert torch.equal(gradients(lambda a: awpf_ext.mmd(a, y, bandwidth=1.0), x)[0], of_x)
    assert torch.equal(gradients(lambda b: awpf_ext.mmd(x, b, bandwidth=1.0), y)[0], of_y)


def test_the_same_tensor_on_both_sides():
    x = torch.randn(6, 3).double()
    (got,) = gradients(lambda a: awpf_ext.mmd(a, a + 1, bandwidth=1.0), x)
    (want,) = gradients(lambda a: autograd_mmd(a, a + 1, gammas_of([1.0])), x)
    assert torch.allclose(got, want, atol=1e-14)


def test_a_given_gradient_scales_each_problem():
    x, y = leaves(torch.randn(3, 6, 2).double(), torch.randn(3, 4, 2).double())
    value = awpf_ext.mmd(x, y, bandwidth=1.0)
    (plain,) = torch.autograd.grad(value.sum(), x, retain_graph=True)
    (scaled,) = torch.autograd.grad((value * torch.tensor([2.0, 0.0, -1.0])).sum(), x)
    assert torch.allclose(scaled, plain * torch.tensor([2.0, 0.0, -1.0]).view(3, 1, 1), rtol=1e-13)


def test_the_median_bandwidth_has_no_gradient():
    x, y = torch.randn(15, 3).double(), torch.randn(11, 3).double() + 1
    sigma = awpf_ext.median_bandwidth(x, y)
    assert not awpf_ext.median_bandwidth(x.clone().requires_grad_(), y).requires_grad
    by_median = gradients(lambda a, b: awpf_ext.mmd(a, b), x, y)
    by_value = gradients(lambda a, b: awpf_ext.mmd(a, b, bandwidth=sigma), x, y)
    for got, want in zip(by_median, by_value, strict=True):
        assert torch.allclose(got, want, rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [10, 700])
def test_the_value_does_not_depend_on_whether_a_gradient_is_wanted(dtype, size):
    x, y = torch.randn(size, 9, dtype=dtype), torch.randn(size - 3, 9, dtype=dtype) + 0.2
    plain = awpf_ext.mmd(x, y, bandwidth=3.0)
    tracked = awpf_ext.mmd(x.clone().requires_grad_(), y, bandwidth=3.0)
    assert float(tracked.detach()) == pytest.approx(float(plain), rel=2e-5, abs=1e-9)


def test_descent_brings_the_samples_together():
    x, y = torch.randn(60, 2).double() + 1, torch.randn(50, 2).double()
    start = float(awpf_ext.mmd(x, y, bandwidth=1.5))
    for _ in range(60):
        x = x - 30 * gradients(lambda a: awpf_ext.mmd(a, y, bandwidth=1.5), x)[0]
    assert float(awpf_ext.mmd(x, y, bandwidth=1.5)) < start / 10


# ---- what does not exist is refused, never zero ----


def test_second_derivatives_are_refused():
    (x,) = leaves(torch.randn(5, 2).double())
    y = torch.randn(4, 2).double()
    (first,) = torch.autograd.grad(awpf_ext.mmd(x, y, bandwidth=1.0), x, create_graph=True)
    with pytest.raises((NotImplementedError, RuntimeError), match="second derivative"):
        torch.autograd.grad(first.sum(), x)
    matrix = awpf_ext.mmd_matrix(x, PAIR, bandwidth=1.0)
    (first,) = torch.autograd.grad(matrix.sum(), x, create_graph=True)
    with pytest.raises((NotImplementedError, RuntimeError), match="second derivative"):
        torch.autograd.grad(first.sum(), x)


def test_hessians_are_refused():
    x, y = torch.randn(5, 2).double(), torch.randn(4, 2).double()
    with pytest.raises((NotImplementedError, RuntimeError)):
        torch.func.hessian(lambda a: awpf_ext.mmd(a, y, bandwidth=1.0))(x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: awpf_ext.mmd(x, x.detach() + 1, bandwidth=1.0),
        lambda x: awpf_ext.mmd_matrix(x, PAIR, num_groups=2, bandwidth=1.0),
        lambda x: awpf_ext.scatter(x, PAIR, 2).within,
        lambda x: awpf_ext.separability(x, PAIR, num_classes=2),
        lambda x: awpf_ext.low_rank_sum(x[None], None, x[None]),
    ],
    ids=["mmd", "mmd_matrix", "scatter", "separability", "low_rank_sum"],
)
def test_forward_mode_is_refused(function):
    x = torch.randn(5, 2).double()
    with pytest.raises((NotImplementedError, RuntimeError), match="forward"):
        torch.func.jvp(function, (x,), (torch.ones_like(x),))
    with (
        forward_mode.dual_level(),
        pytest.raises((NotImplementedError, RuntimeError), match="forward"),
    ):
        function(forward_mode.make_dual(x, torch.ones_like(x)))


def test_a_gradient_of_shared_rows_is_refused():
    """Groups of a raw call may overlap for sums; a gradient would be written twice."""
    z, gamma = torch.randn(6, 2), torch.ones(1, 1).double()
    shared = torch.tensor([[[0, 4], [3, 6]]])
    assert torch.ops.awpf.rbf_sums(z, shared, None, gamma, None, False).shape == (1, 2, 2)
    grad = torch.ones(1, 2, 2).double()
    with pytest.raises((ValueError, RuntimeError), match="share rows"):
        torch.ops.awpf.rbf_sums_backward(grad, z, shared, None, gamma, None, False)
    with pytest.raises((ValueError, RuntimeError), match="share rows"):
        torch.ops.awpf.rbf_sums_and_gradient(z, shared, gamma, grad, False)
