"""torch.set_float32_matmul_precision("medium"): float32 points are rounded to float16 before they
are multiplied."""

from __future__ import annotations

import pytest
import torch
from references import block_gradient, block_sums

import awpf_ext

DOUBLE = torch.float64
ROWS = torch.tensor([[[0, 30], [30, 300], [300, 301], [301, 420], [420, 560]]])
TWO = torch.tensor([[[0, 250], [250, 560]]])
GAMMA = torch.tensor([[0.01, 0.02]], dtype=DOUBLE)


def points():
    return torch.randn(560, 20) + 3


def kept(z):
    """The centred points, rounded to float16."""
    centre = z.double().mean(0)
    return (z.double() - centre).float().half().double()


@pytest.fixture
def medium():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("device", [80, 90])
@pytest.mark.parametrize("rows", [ROWS, TWO], ids=["many sums", "few sums"])
def test_sums_are_those_of_rounded_points(emulated, capability, device, rows):
    capability(device)
    z = points()
    found = emulated.rbf_sums(z, rows, None, GAMMA, None, True)
    assert torch.allclose(found, block_sums(kept(z), rows, None, GAMMA), rtol=2e-6, atol=0)
    exact = block_sums(z, rows, None, GAMMA)
    assert not torch.allclose(found, exact, rtol=1e-6, atol=0)
    assert torch.allclose(found, exact, rtol=1e-3, atol=0)


def test_few_points_are_no_exception(emulated):
    """Otherwise they would be computed in double precision."""
    z, rows = points()[:20], torch.tensor([[[0, 9], [9, 20]]])
    found = emulated.rbf_sums(z, rows, None, GAMMA, None, True)
    assert torch.allclose(found, block_sums(kept(z), rows, None, GAMMA), rtol=1e-6, atol=0)
    assert not torch.allclose(found, block_sums(z, rows, None, GAMMA), rtol=1e-9, atol=0)


def test_gradients_and_permutations_too(emulated):
    z, weights = points(), torch.tensor([[1.0, -2], [-2, 3]], dtype=DOUBLE)
    expected = block_gradient(kept(z), [250, 310], GAMMA[0].tolist(), weights)
    sums, gradient = emulated.rbf_sums_and_gradient(z, TWO, GAMMA, weights[None], True)
    assert torch.allclose(sums, block_sums(kept(z), TWO, None, GAMMA), rtol=2e-6, atol=0)
    assert (gradient - expected).abs().max() < 1e-5 * expected.abs().max()
    alone = emulated.rbf_sums_backward(weights[None], z, TWO, None, GAMMA, None, True)
    assert torch.equal(alone, gradient)
    found = emulated.rbf_permutation_sums(z, TWO, GAMMA, 3, 0, True)
    rounded = torch.ops.awpf.rbf_permutation_sums(kept(z), TWO, GAMMA, 3, 0, False)
    assert torch.allclose(found, rounded, rtol=2e-6, atol=0)


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float16, torch.bfloat16], ids=str)
def test_it_is_about_float32_alone(emulated, dtype):
    z = points().to(dtype)
    with_it = emulated.rbf_sums(z, ROWS, None, GAMMA, None, True)
    assert torch.equal(with_it, emulated.rbf_sums(z, ROWS, None, GAMMA, None, False))


def test_the_setting_reaches_every_kernel(use_emulated, emulated, request):
    x, y = points().view(2, 280, 20)[:, :150].unbind()

    def results():
        weights = torch.eye(20, requires_grad=True)
        value = awpf_ext.mmd(x @ weights, y, bandwidth=5.0)
        value.backward()
        batches = x.view(3, 50, 20), y.view(3, 50, 20)
        gradient = torch.func.grad(lambda a, b: awpf_ext.mmd(a, b, bandwidth=5.0))
        return {
            "mmd": awpf_ext.mmd(x, y, bandwidth=5.0),
            "its gradient": weights.grad,
            "vmap of the gradient": torch.func.vmap(gradient)(*batches),
            "matrix": awpf_ext.mmd_matrix(x, torch.arange(150) % 5, num_groups=5, bandwidth=5.0),
            "null": awpf_ext.mmd_test(x, y, permutations=9, bandwidth=5.0).null,
        }

    exact = results()
    request.getfixturevalue("medium")
    for name, found in results().items():
        assert not torch.allclose(found, exact[name], rtol=1e-6, atol=0), name
        assert torch.allclose(found, exact[name], rtol=0.1, atol=1e-3), name


def test_it_is_a_constant_of_a_compiled_trace(use_emulated, medium):
    x, y = points().view(2, 280, 20)[:, :150].unbind()

    def value(a):
        return awpf_ext.mmd(a, y, bandwidth=5.0)

    compiled = torch.compile(value, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), value(x))


def test_the_cpu_ignores_it(request):
    x, y = points().view(2, 280, 20).unbind()
    before = awpf_ext.mmd(x, y, bandwidth=5.0)
    request.getfixturevalue("medium")
    assert torch.equal(awpf_ext.mmd(x, y, bandwidth=5.0), before)
