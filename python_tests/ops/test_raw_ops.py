"""The raw operations: what the public ones do not reach, registration, safe direct calls."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from references import FIVE, block_sums

import awpf_ext  # noqa: F401 - registers the operations

AWPF = torch.ops.awpf
DOUBLE = torch.float64


def ranges(*pairs):
    return torch.tensor([[list(pair) for pair in pairs]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rows_against_other_columns(dtype):
    z = torch.randn(900, 13).to(dtype)
    rows, columns = ranges((0, 5), (5, 400), (400, 400)), ranges((400, 650), (650, 900))
    gamma = torch.tensor([[0.02, 0.04, 0.08]], dtype=DOUBLE)
    expected = block_sums(z, rows, columns, gamma)
    found = AWPF.rbf_sums(z, rows, columns, gamma, None, False)
    tolerance = 1e-13 if dtype == DOUBLE else 1e-8
    assert torch.allclose(found, expected, rtol=tolerance, atol=0)
    assert torch.equal(found[0, 2], torch.zeros(2, dtype=DOUBLE))


def test_a_given_centre_moves_nothing_but_rounding():
    """Pieces of one set share a centre, so that their sums round alike wherever they are."""
    z = 5 + torch.randn(700, 9)
    rows, gamma = ranges((0, 300), (300, 700)), torch.full((1, 1), 0.05, dtype=DOUBLE)
    centre = z.double().mean(0, keepdim=True)
    given = AWPF.rbf_sums(z, rows, None, gamma, centre, False)
    assert torch.allclose(given, AWPF.rbf_sums(z, rows, None, gamma, None, False), rtol=1e-9)
    far = AWPF.rbf_sums(z.double(), rows, None, gamma, centre + 1000, False)
    assert torch.allclose(far, given, rtol=1e-7)


def test_rows_may_overlap_and_repeat():
    z = torch.randn(40, 3).double()
    rows, gamma = ranges((0, 30), (10, 40), (0, 30)), torch.ones(1, 1, dtype=DOUBLE)
    found = AWPF.rbf_sums(z, rows, rows.clone(), gamma, None, False)
    assert torch.allclose(found, block_sums(z, rows, None, gamma), rtol=1e-13)


def test_rectangular_gradients_equal_the_square_ones():
    z, gamma = torch.randn(700, 17).double(), torch.tensor([[0.03, 0.06]], dtype=DOUBLE)
    rows, columns = ranges((0, 100), (100, 350)), ranges((350, 500), (500, 700))
    grad = torch.randn(1, 2, 2, dtype=DOUBLE)
    found = AWPF.rbf_sums_backward(grad, z, rows, columns, gamma, None, False)
    every = torch.cat([rows, columns], dim=1)
    whole = torch.zeros(1, 4, 4, dtype=DOUBLE)
    whole[:, :2, 2:] = grad
    expected = AWPF.rbf_sums_backward(whole, z, every, None, gamma, None, False)
    assert torch.allclose(found, expected, rtol=1e-11, atol=1e-13)
    _, gradient = AWPF.rbf_sums_and_gradient(z, every, gamma, whole, False)
    assert torch.allclose(gradient, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_sums_and_gradient_in_one_pass_are_those_of_two(dtype):
    z, gamma = torch.randn(1100, 17).to(dtype), torch.tensor([[0.03, 0.06]], dtype=DOUBLE)
    rows = ranges((0, 100), (100, 350), (350, 351), (400, 1100))
    coefficients = torch.randn(1, 4, 4, dtype=DOUBLE)
    sums, gradient = AWPF.rbf_sums_and_gradient(z, rows, gamma, coefficients, False)
    assert gradient.dtype == (DOUBLE if dtype == DOUBLE else torch.float32)
    exact = dtype == DOUBLE
    expected = AWPF.rbf_sums(z, rows, None, gamma, None, False)
    assert torch.allclose(sums, expected, rtol=1e-12 if exact else 1e-8)
    alone = AWPF.rbf_sums_backward(coefficients, z, rows, None, gamma, None, False)
    scale = float(alone.abs().max())
    tolerance = {torch.bfloat16: 8e-3, torch.float32: 2e-6, DOUBLE: 1e-12}[dtype]
    assert float((gradient - alone.to(gradient.dtype)).abs().max()) < tolerance * scale


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, DOUBLE], ids=str)
def test_weighted_sums_are_the_sums_weighted(dtype):
    z, gamma = torch.randn(60, 5).to(dtype), torch.rand(2, 3, dtype=DOUBLE)
    rows = torch.tensor([[[0, 20], [20, 31], [31, 31]], [[31, 32], [40, 50], [50, 60]]])
    coefficients, constant = torch.randn(2, 3, 3, dtype=DOUBLE), torch.randn(2, dtype=DOUBLE)
    found = AWPF.rbf_weighted_sums(z, rows, gamma, coefficients, constant, False)
    sums = AWPF.rbf_sums(z, rows, None, gamma, None, False)
    expected = constant + (coefficients * sums).sum((-2, -1))
    assert found.dtype == (DOUBLE if dtype == DOUBLE else torch.float32)
    assert torch.allclose(found.double(), expected, rtol=1e-13 if dtype == DOUBLE else 1e-6)
    many = torch.func.vmap(lambda c, k: AWPF.rbf_weighted_sums(z, rows, gamma, c, k, False))
    both = many(torch.stack([coefficients, -coefficients]), torch.stack([constant, constant + 1]))
    assert torch.equal(both[0], found)
    assert torch.allclose(both[1].double(), 1 + 2 * constant - expected, rtol=1e-5, atol=1e-4)


def test_weights_of_sums_are_checked():
    coefficients, constant = torch.ones(1, 2, 2, dtype=DOUBLE), torch.zeros(1, dtype=DOUBLE)
    for bad in (coefficients.float(), coefficients[:, :1], torch.ones(2, 2, 2, dtype=DOUBLE)):
        with pytest.raises(RuntimeError, match="coefficients must"):
            AWPF.rbf_weighted_sums(POINTS, TWO, GAMMA, bad.contiguous(), constant, False)
    for bad in (constant.float(), constant[0], torch.zeros(2, dtype=DOUBLE)):
        with pytest.raises(RuntimeError, match="constant must"):
            AWPF.rbf_weighted_sums(POINTS, TWO, GAMMA, coefficients, bad, False)


def test_rows_outside_every_group_get_no_gradient():
    z = torch.randn(30, 3)
    rows, gamma = ranges((5, 12), (20, 28)), torch.ones(1, 1, dtype=DOUBLE)
    gradient = AWPF.rbf_sums_backward(
        torch.ones(1, 2, 2, dtype=DOUBLE), z, rows, None, gamma, None, False
    )
    outside = torch.ones(30, dtype=torch.bool)
    outside[5:12] = outside[20:28] = False
    assert torch.equal(gradient[outside], torch.zeros(15, 3))
    assert (gradient[~outside] != 0).any(1).all()


# ---- the exponential in csrc/cpu/vec.h, seen through sums ----


def pairs_at(distances, dtype):
    """One problem a distance: a point at the origin, and one that far from it."""
    z = torch.zeros(len(distances), 2, 1, dtype=dtype)
    z[:, 1, 0] = torch.as_tensor(distances).to(dtype)
    first = 2 * torch.arange(len(distances))
    borders = torch.stack([first, first + 1, first + 2], -1)
    return z.view(-1, 1), torch.stack([borders[:, :2], borders[:, 1:]], 1)


def test_exp_in_double_precision():
    """Two points a problem: the sum across is a single value of exp."""
    distances = [*np.linspace(0, 40, 4001), *np.linspace(0, 1, 1001) ** 4, 1e-160, 1e-8, 37.6]
    z, rows = pairs_at(distances, DOUBLE)
    gamma = torch.full((len(distances), 1), 0.5, dtype=DOUBLE)
    found = AWPF.rbf_sums(z, rows, None, gamma, None, False)[:, 0, 1]
    for distance, value in zip(distances, found.tolist(), strict=True):
        expected = math.exp(-(distance**2) / 2)
        # The exponent is rounded, too: the error grows with it. Beyond the normal numbers stands
        # the smallest of them.
        allowed = (2 + distance**2) * 2.0**-52 * expected + 2.0**-1020
        assert abs(value - expected) <= allowed, distance


def test_exp_of_mixtures_by_squaring():
    distances = torch.linspace(0, 30, 500, dtype=DOUBLE)
    z, rows = pairs_at(distances, DOUBLE)
    for ratios in (FIVE, (1.0, 8.0, 64.0), (1.0, 3.0, 16.0)):
        gamma = 0.1 * torch.tensor([ratios], dtype=DOUBLE).expand(500, -1).contiguous()
        found = AWPF.rbf_sums(z, rows, None, gamma, None, False)[:, 0, 1]
        expected = torch.exp(-gamma * distances.unsqueeze(1) ** 2).mean(1)
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("ratios", [(1.0,), FIVE])
def test_exp_in_single_precision(ratios):
    """Errors of single values average out in a sum; one that all values share would stay."""
    z = torch.randn(2500, 12)
    exact = z.double()
    for mean_exponent in (0.01, 0.1, 1.0, 3.0):
        gamma = torch.tensor([ratios], dtype=DOUBLE) * mean_exponent / 24
        found, expected = (
            float(AWPF.rbf_sums(points, ranges((0, 2500)), None, gamma, None, False)) - 2500
            for points in (z, exact)
        )
        assert 0 < abs(found - expected) < 2.0**-25 * expected, mean_exponent


def test_no_kernel_exceeds_one():
    """Equal points far from the centre: rounding gives squared distances of either sign."""
    z = 1e6 * torch.randn(2, 200, dtype=DOUBLE)[[0] * 20 + [1] * 20]
    found = AWPF.rbf_sums(
        z, ranges((0, 20), (20, 40)), None, torch.ones(1, 1, dtype=DOUBLE), None, False
    )
    assert float(found.max()) <= 400


# ---- registration ----

torch.manual_seed(3)
POINTS = torch.randn(10, 3)
TWO = torch.tensor([[[0, 4], [4, 10]]])
GAMMA = torch.ones(1, 2, dtype=DOUBLE)
SAMPLE_CALLS = {
    "rbf_sums": (POINTS, TWO, None, GAMMA, None, False),
    "rbf_sums of columns": (
        POINTS,
        TWO[:, :1].clone(),
        TWO[:, 1:].clone(),
        GAMMA,
        torch.zeros(1, 3, dtype=DOUBLE),
        False,
    ),
    "rbf_weighted_sums": (
        POINTS,
        TWO,
        GAMMA,
        torch.ones(1, 2, 2, dtype=DOUBLE),
        torch.ones(1, dtype=DOUBLE),
        False,
    ),
    "rbf_sums_backward": (torch.ones(1, 2, 2, dtype=DOUBLE), POINTS, TWO, None, GAMMA, None, False),
    "rbf_sums_and_gradient": (POINTS, TWO, GAMMA, torch.ones(1, 2, 2, dtype=DOUBLE), False),
    "rbf_permutation_sums": (POINTS, TWO, GAMMA, 7, 1, False),
    "median_square_distance": (POINTS, TWO, 1024, 0),
    "scatter": (torch.randn(2, 10, 3), torch.randint(0, 3, (2, 10)), 3),
    "low_rank_sum": (
        torch.randn(2, 3, 4, 5),
        torch.randn(2, 3, 6, 5),
        torch.rand(2, 3, 5, dtype=DOUBLE),
        None,
    ),
    "low_rank_sum on a base": (
        torch.randn(1, 2, 4, 5).bfloat16(),
        torch.randn(1, 2, 6, 5).bfloat16(),
        torch.rand(1, 2, 5, dtype=DOUBLE),
        torch.randn(1, 4, 6).bfloat16(),
    ),
}


@pytest.mark.parametrize("name", SAMPLE_CALLS)
def test_opcheck(name):
    torch.library.opcheck(getattr(AWPF, name.split()[0]).default, SAMPLE_CALLS[name])


def test_every_operation_is_among_the_sample_calls():
    registered = {
        schema.name.removeprefix("awpf::")
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("awpf::")
    }
    assert registered == {name.split()[0] for name in SAMPLE_CALLS}


def test_schemas_are_the_published_ones():
    """They are public: a change here is a new major version."""
    arguments = {
        "rbf_sums": "Tensor z, Tensor rows, Tensor? columns, Tensor gamma, Tensor? centre, "
        "bool allow_fp16",
        "rbf_weighted_sums": "Tensor z, Tensor rows, Tensor gamma, Tensor coefficients, "
        "Tensor constant, bool allow_fp16",
        "rbf_sums_backward": "Tensor grad, Tensor z, Tensor rows, Tensor? columns, Tensor gamma, "
        "Tensor? centre, bool allow_fp16",
        "rbf_sums_and_gradient": "Tensor z, Tensor rows, Tensor gamma, Tensor coefficients, "
        "bool allow_fp16",
        "rbf_permutation_sums": "Tensor z, Tensor rows, Tensor gamma, SymInt permutations, "
        "int seed, bool allow_fp16",
        "median_square_distance": "Tensor z, Tensor rows, SymInt max_rows, int seed",
        "scatter": "Tensor x, Tensor labels, SymInt num_classes",
        "low_rank_sum": "Tensor u, Tensor v, Tensor coefficients, Tensor? base",
    }
    results = {
        "rbf_sums_and_gradient": "(Tensor, Tensor)",
        "scatter": f"({4 * 'Tensor, '}"[:-2] + ")",
    }
    for name, expected in arguments.items():
        schema = f"awpf::{name}({expected}) -> {results.get(name, 'Tensor')}"
        assert str(getattr(AWPF, name).default._schema) == schema
