"""The CUDA kernels of scatter: counting sort, means, products on tensor cores."""

from __future__ import annotations

import pytest
import references
import torch

import awpf_ext

BOUND = {torch.float64: 1e-13}


def relative_error(found, expected):
    scale = expected.abs().max().clamp(min=1e-300)
    return float((found.double() - expected).abs().max() / scale)


def labelled(n, d, classes, dtype=torch.float32):
    labels = torch.randint(0, classes, (n,))
    return (torch.randn(n, d, dtype=torch.float64) + labels.unsqueeze(1)).to(dtype), labels


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("n", "d", "classes"),
    # one tile and several, slabs that end early, more rows than a piece or a flush holds
    [(1, 1, 1), (33, 4, 3), (300, 33, 10), (70, 130, 2), (2200, 6, 3), (20, 260, 40)],
)
def test_equals_the_reference_on_the_rounded_input(kernels, n, d, classes, dtype):
    x, labels = labelled(n, d, classes, dtype)
    within, between, means, counts = kernels.scatter(x[None], labels[None], classes)
    expected = references.scatter(x, labels, classes)
    bound = BOUND.get(dtype, 5e-7)
    assert torch.equal(counts[0], expected[3])
    assert relative_error(means[0], expected[2]) < 1e-13
    assert relative_error(within[0], expected[0]) < bound
    assert relative_error(between[0], expected[1]) < 1e-12
    assert torch.equal(within[0], within[0].T)
    assert torch.equal(between[0], between[0].T)


def test_the_order_of_threads_and_blocks_changes_no_bit(emulated, emulator_order):
    x, labels = labelled(700, 140, 11)
    expected = emulated.scatter(x[None], labels[None], 11)
    for kind, seed in ((1, 0), (2, 1), (2, 2)):
        emulator_order(kind, seed)
        for part, other in zip(emulated.scatter(x[None], labels[None], 11), expected, strict=True):
            assert torch.equal(part, other)


def test_rows_of_no_class_do_not_count(kernels):
    x, labels = labelled(90, 7, 4)
    odd = labels.clone()
    odd[::3] = torch.tensor([-1, 4, 2**62, -(2**62), 2**31, 2**32 + 1]).repeat(5)
    kept = torch.arange(90) % 3 != 0
    found = kernels.scatter(x[None], odd[None], 4)
    expected = kernels.scatter(x[None, kept], labels[None, kept], 4)
    for part, other in zip(found, expected, strict=True):
        assert torch.equal(part, other)


def test_no_row_at_all_and_no_problem_at_all(kernels):
    for batch, n in ((2, 0), (0, 5)):
        labels = torch.zeros(batch, n, dtype=torch.int64)
        found = kernels.scatter(torch.randn(batch, n, 3), labels, 2)
        assert [tuple(part.shape) for part in found] == [
            (batch, 3, 3),
            (batch, 3, 3),
            (batch, 2, 3),
            (batch, 2),
        ]
        assert all(not part.any() for part in found)


def test_a_batch_is_its_members(kernels):
    x, labels = torch.randn(3, 50, 9), torch.randint(0, 4, (3, 50))
    found = kernels.scatter(x, labels, 4)
    for k in range(3):
        alone = kernels.scatter(x[k : k + 1], labels[k : k + 1], 4)
        for part, other in zip(found, alone, strict=True):
            assert relative_error(part[k : k + 1], other) < 1e-6


def test_many_classes_and_rows_in_their_order(kernels):
    """More classes than a thread block scans at once, and more classes than rows."""
    labels = torch.randint(0, 2500, (1200,))
    x = torch.arange(1200.0)[:, None] * torch.tensor([1.0, -0.5])
    found = kernels.scatter(x[None], labels[None], 2500)
    expected = references.scatter(x, labels, 2500)
    assert torch.equal(found[3][0], expected[3])
    assert torch.equal(found[2][0], expected[2])


@pytest.mark.parametrize(
    ("name", "make"),
    {
        "mean 1000": lambda n, d: 1000 + 0.5 * torch.randn(n, d),
        "mixed scales": lambda n, d: torch.randn(n, d) * torch.exp(2 * torch.randn(1, d)),
        "tiny": lambda n, d: 1e-30 * torch.randn(n, d),
        "huge": lambda n, d: 1e30 * torch.randn(n, d),
    }.items(),
)
def test_single_precision_on_hard_data(kernels, name, make):
    x, labels = make(400, 20), torch.randint(0, 6, (400,))
    within = kernels.scatter(x[None], labels[None], 6)[0][0]
    expected = references.scatter(x, labels, 6)[0]
    scale = expected.diagonal().sqrt()
    assert ((within - expected) / torch.outer(scale, scale)).abs().max() < 1e-6, name


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-25, 1e19, 1e30, 8e37])
def test_points_whose_squares_leave_single_precision(kernels, scale):
    x, labels = scale * torch.randn(300, 6), torch.randint(0, 4, (300,))
    x[:, 0], x[:, 1] = 0.1, torch.randn(300)  # a constant feature, and one of the usual size
    within, between, _, _ = kernels.scatter(x[None], labels[None], 4)
    expected = references.scatter(x, labels, 4)
    for found, reference in ((within[0], expected[0]), (between[0], expected[1])):
        deviation = reference.diagonal().sqrt().clamp(min=1e-8 * 0.1)
        deviation[2:] = reference.diagonal()[2:].sqrt()
        assert ((found - reference) / torch.outer(deviation, deviation)).abs().max() < 1e-6


@pytest.mark.parametrize("gap", [1e3, 1e6, 1e12])
def test_tight_classes_far_apart_fall_back_to_double(kernels, gap):
    """fp16 halves scaled for the gap would have no bits left for the spread within a class."""
    x, labels = labelled(200, 12, 5)
    spread = torch.randn(200, 12) * 1e-3
    x = (gap * labels.unsqueeze(1)).float() + spread
    within = kernels.scatter(x[None], labels[None], 5)[0][0]
    expected = references.scatter(x, labels, 5)[0]
    assert relative_error(within, expected) < 5e-7


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_what_is_not_finite_is_not_hidden(kernels, value):
    x, labels = labelled(60, 5, 3)
    x[17, 2] = value
    within, between, _, _ = kernels.scatter(x[None], labels[None], 3)
    assert not within[0, 2].isfinite().any()
    assert not between[0, 2].isfinite().any()
    others = [0, 1, 3, 4]
    assert within[0][others][:, others].isfinite().all()


def test_the_public_functions_run_on_it(device):
    x, labels = labelled(60, 5, 3, torch.float64)
    x, labels = x.to(device).requires_grad_(), labels.to(device)
    assert torch.autograd.gradcheck(lambda points: awpf_ext.scatter(points, labels, 3)[:3], (x,))
    halves = awpf_ext.ScatterAccumulator(3, 5, device)
    for part in (slice(0, 25), slice(25, 60)):
        halves.update(x[part].detach(), labels[part])
    whole = awpf_ext.scatter(x.detach(), labels, 3)
    assert relative_error(halves.result().within, whole.within) < 1e-13
    many = torch.func.vmap(lambda points: awpf_ext.scatter(points, labels, 3).within)
    assert relative_error(many(x.detach().expand(2, -1, -1))[1], whole.within) < 1e-13


def test_rows_of_no_class_have_no_gradient(device):
    x, labels = labelled(30, 4, 3)
    labels[::5] = 7
    x = x.to(device).requires_grad_()
    found = torch.autograd.grad(awpf_ext.scatter(x, labels.to(device), 3).within.sum(), x)[0]
    assert not found[::5].any()
    assert found[1::5].any()
