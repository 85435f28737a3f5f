"""Small problems in one launch: the number of launches, which blocks wait, and the same results."""

from __future__ import annotations

import pytest
import torch
from references import block_gradient, block_sums

import awpf_ext

DOUBLE = torch.float64

pytestmark = pytest.mark.usefixtures("single_precision")


def batch(problems, n, m, d, dtype=torch.float32):
    """Pooled rows of `problems` pairs of samples one after the other, their ranges, and gammas for
    which single precision is accurate."""
    first = (n + m) * torch.arange(problems)
    rows = torch.stack([first, first + n, first + n, first + n + m], -1).view(problems, 2, 2)
    gamma = 2e-5 * max(n + m, 512) / d * torch.tensor([[1.0, 2.0, 4.0]]).double()
    return torch.randn(problems * (n + m), d).to(dtype) + 1, rows, gamma.repeat(problems, 1)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("problems", "n", "m"), [(1, 512, 512), (5, 150, 40), (100, 3, 5)])
def test_sums_of_small_problems_are_one_launch(emulated, launches, dtype, problems, n, m):
    z, rows, gamma = batch(problems, n, m, 9, dtype)
    found = []
    count = launches(lambda: found.append(emulated.rbf_sums(z, rows, None, gamma, None, False)))
    assert count == 1
    expected = block_sums(z, rows, None, gamma)
    bound = 1e-13 if dtype == DOUBLE or n + m < 512 else 2e-8
    assert ((found[0] - expected).abs() <= bound * expected.abs().amax((1, 2), keepdim=True)).all()


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_weighted_sums_come_out_of_the_same_launch(emulated, launches, resident_blocks, dtype):
    z, rows, gamma = batch(5, 20, 30, 4, dtype)
    coefficients, constant = torch.randn(5, 2, 2, dtype=DOUBLE), torch.randn(5, dtype=DOUBLE)
    expected = (coefficients * block_sums(z, rows, None, gamma)).sum((-2, -1)) + constant
    found = []

    def call():
        weighted = emulated.rbf_weighted_sums
        found.append(weighted(z, rows, gamma, coefficients, constant, False))

    assert launches(call) == 1
    resident_blocks(0)
    assert launches(call) > 2
    for values in found:
        assert values.dtype == dtype
        tolerance = 1e-12 if dtype == DOUBLE else 1e-6
        assert torch.allclose(values.double(), expected, rtol=tolerance, atol=tolerance)


def test_a_gradient_is_four_launches(emulated, launches):
    z, rows, gamma = batch(3, 20, 10, 5)
    weights = torch.randn(3, 2, 2, dtype=DOUBLE)
    for points, expected in ((z, 4), (z.double(), 3)):
        both = emulated.rbf_sums_and_gradient
        assert launches(lambda z=points, f=both: f(z, rows, gamma, weights, False)) == expected


def test_what_is_not_small_takes_several_launches(emulated, launches, resident_blocks):
    def count(problems, n, m):
        z, rows, gamma = batch(problems, n, m, 2)
        return launches(lambda: emulated.rbf_sums(z, rows, None, gamma, None, False))

    assert count(1, 513, 512) > 1  # rows
    assert count(1000, 1, 1) > 1  # tables beyond what shared memory has room for
    groups = torch.arange(6).view(1, 6, 1) + torch.tensor([0, 1])
    many = (torch.randn(6, 2), groups, None, torch.ones(1, 1, dtype=DOUBLE), None)
    assert launches(lambda: emulated.rbf_sums(*many, False)) > 1  # sums of a problem
    resident_blocks(0)  # a device with too little shared memory
    assert count(1, 5, 5) > 1


@pytest.mark.parametrize("resident", [1, 2, 5, 6])
def test_any_number_of_blocks_gives_the_same_bits(emulated, resident_blocks, resident):
    for problems in (1, 4, 9):
        z, rows, gamma = batch(problems, 100, 60, 11)
        expected = emulated.rbf_sums(z, rows, None, gamma, None, False)
        resident_blocks(resident)
        assert torch.equal(emulated.rbf_sums(z, rows, None, gamma, None, False), expected)
        resident_blocks(6)


def test_the_order_of_threads_and_blocks_changes_no_bit(emulated, emulator_order):
    for problems, n, m in ((1, 300, 290), (8, 70, 60)):
        z, rows, gamma = batch(problems, n, m, 20)
        weights = torch.randn(problems, 2, 2, dtype=DOUBLE)
        expected = emulated.rbf_sums(z, rows, None, gamma, None, False)
        _, gradient = emulated.rbf_sums_and_gradient(z, rows, gamma, weights, False)
        for kind, seed in ((1, 0), (2, 1), (2, 2)):
            emulator_order(kind, seed)
            assert torch.equal(emulated.rbf_sums(z, rows, None, gamma, None, False), expected)
            sums, found = emulated.rbf_sums_and_gradient(z, rows, gamma, weights, False)
            assert torch.equal(sums, expected)
            assert torch.equal(found, gradient)
        emulator_order(0, 0)


def test_problems_that_share_rows_do_not_disturb_the_others(emulated):
    z, rows, gamma = batch(4, 300, 250, 5)
    rows[1, 1, 1] += 30  # reaches into problem 2
    found = emulated.rbf_sums(z, rows, None, gamma, None, False)
    expected = block_sums(z, rows, None, gamma)
    assert torch.allclose(found, expected, rtol=1e-8, atol=0)
    assert torch.allclose(found[1:3], expected[1:3], rtol=1e-13, atol=0)  # by differences
    weights = torch.ones(4, 2, 2, dtype=DOUBLE)
    _, gradient = emulated.rbf_sums_and_gradient(z, rows, gamma, weights, False)
    assert torch.isnan(gradient).all()


def test_gradients_of_a_batch(emulated):
    n, m = 300, 250
    z, rows, gamma = batch(3, n, m, 8)
    weights = torch.tensor([[1 / n**2, -1 / (n * m)], [-1 / (n * m), 1 / m**2]], dtype=DOUBLE)
    _, found = emulated.rbf_sums_and_gradient(z, rows, gamma, weights.repeat(3, 1, 1), False)
    for p, part in enumerate(found.split(n + m)):
        own = z[p * (n + m) : (p + 1) * (n + m)]
        expected = block_gradient(own, [n, m], gamma[p].tolist(), weights)
        assert (part - expected).abs().max() < 2e-6 * expected.abs().max()


@pytest.mark.usefixtures("use_emulated")
def test_the_public_function_starts_one_kernel_of_ours(launches):
    x, y = torch.randn(4, 30, 7), torch.randn(4, 20, 7)
    assert launches(lambda: awpf_ext.mmd(x, y, bandwidth=[1.0, 2.0])) == 1
    offsets = torch.tensor([0, 30, 45, 120])
    ragged = {"x_offsets": offsets, "y_offsets": torch.tensor([0, 1, 70, 80])}
    assert (
        launches(lambda: awpf_ext.mmd(x.view(-1, 7), y.view(-1, 7), bandwidth=1.0, **ragged)) == 1
    )


def test_small_problems_in_a_cuda_graph(gpu):
    """A cooperative launch is captured in a CUDA graph and replayed with other values."""
    x, y = torch.randn(3, 200, 64, device=gpu), torch.randn(3, 200, 64, device=gpu)

    def run():
        return awpf_ext.mmd(x, y, bandwidth=8.0)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()
    x.copy_(torch.randn_like(x) + 0.2)
    graph.replay()
    assert torch.equal(found, run())
