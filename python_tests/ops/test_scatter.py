"""scatter against a loop over the rows and scikit-learn's LDA; separability."""

from __future__ import annotations

import error_bounds
import numpy as np
import pytest
import references
import torch
from torch.autograd import gradcheck, gradgradcheck

import awpf_ext

# The kernel sums up to 256 products in float32, and such sums in double.
SINGLE = error_bounds.sum_error(torch.float32, 256)
TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def labelled(n, d, classes, dtype=torch.float64):
    labels = torch.randint(0, classes, (n,))
    return (torch.randn(n, d, dtype=torch.float64) + labels.unsqueeze(1)).to(dtype), labels


def relative_error(found, expected):
    scale = expected.abs().max().clamp(min=1e-300)
    return float((found.double() - expected).abs().max() / scale)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    ("n", "d", "classes"),
    [(1, 1, 1), (7, 3, 2), (40, 17, 5), (300, 33, 10), (1100, 65, 3), (600, 130, 40), (20, 520, 4)],
)
def test_equals_the_reference_on_the_rounded_input(n, d, classes, dtype):
    x, labels = labelled(n, d, classes, dtype)
    found = awpf_ext.scatter(x, labels, classes)
    within, between, means, counts = references.scatter(x, labels, classes)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert {part.dtype for part in found[:3]} == {wide}
    tolerance = 1e-13 if dtype == torch.float64 else SINGLE
    assert torch.equal(found.counts, counts)
    assert relative_error(found.means, means) < tolerance
    assert relative_error(found.within, within) < tolerance
    assert relative_error(found.between, between) < tolerance
    assert torch.equal(found.within, found.within.T)
    assert torch.equal(found.between, found.between.T)


@pytest.mark.parametrize(
    ("name", "make"),
    {
        "mean 20": lambda n, d: 20 + 0.5 * torch.randn(n, d),
        "mean 1000": lambda n, d: 1000 + 0.5 * torch.randn(n, d),
        "mixed scales": lambda n, d: torch.randn(n, d) * torch.exp(2 * torch.randn(1, d)),
        "near duplicates": lambda n, d: torch.randn(1, d) + 1e-3 * torch.randn(n, d),
    }.items(),
)
def test_single_precision_on_hard_data(name, make):
    x = make(700, 40)
    labels = torch.randint(0, 6, (700,))
    found = awpf_ext.scatter(x, labels, 6)
    within, between, means, _ = references.scatter(x, labels, 6)
    scale = within.diagonal().sqrt()
    assert ((found.within - within) / torch.outer(scale, scale)).abs().max() < SINGLE, name
    scale = between.diagonal().sqrt()
    assert ((found.between - between) / torch.outer(scale, scale)).abs().max() < SINGLE, name
    assert relative_error(found.means, means) < 1e-7, name


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-25, 1e-20, 1e-16, 1e18, 1e19, 1e30, 8e37])
@pytest.mark.parametrize("others", ["all alike", "some of the usual size", "some constant"])
def test_squares_that_leave_single_precision(scale, others):
    """Points fit in float32 and the scatter in float64, but squares of the points do not fit."""
    x, labels = scale * torch.randn(300, 6), torch.randint(0, 4, (300,))
    if others == "some of the usual size":
        x[:, :2] = torch.randn(300, 2)
    elif others == "some constant":
        x[:, :2] = torch.tensor([0.1, 0.0])
    within, between, _, _ = references.scatter(x, labels, 4)
    found = awpf_ext.ScatterAccumulator(4, 6).update(x, labels).result()
    for part, expected in ((found.within, within), (found.between, between)):
        spread = expected.diagonal().sqrt().clamp(min=1e-17 if others == "some constant" else 0)
        spread[2:] = expected.diagonal()[2:].sqrt()
        scaled = (part - expected) / torch.outer(spread, spread)
        assert scaled.nan_to_num().abs().max() < SINGLE
    expected = between.trace() / (between.trace() + within.trace())
    assert float(awpf_ext.separability(x, labels)) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-25, 1e19])
def test_squares_of_bfloat16_that_leave_single_precision(scale):
    x, labels = (scale * torch.randn(300, 6)).bfloat16(), torch.randint(0, 4, (300,))
    found = awpf_ext.ScatterAccumulator(4, 6).update(x, labels).result()
    assert relative_error(found.within, references.scatter(x, labels, 4)[0]) < SINGLE


def test_within_and_between_make_the_total():
    x, labels = labelled(90, 8, 4)
    found = awpf_ext.scatter(x, labels)
    centred = x - x.mean(0)
    assert torch.allclose(found.within + found.between, centred.T @ centred, rtol=1e-11)


def test_absent_and_single_row_classes():
    x = torch.randn(6, 4).double()
    labels = torch.tensor([1, 1, 1, 4, 4, 6])
    found = awpf_ext.scatter(x, labels, 9)
    within, between, means, counts = references.scatter(x, labels, 9)
    assert torch.equal(found.counts, counts)
    assert torch.allclose(found.within, within)
    assert torch.allclose(found.between, between)
    assert torch.equal(found.means[[0, 2, 3, 5, 7, 8]], torch.zeros(6, 4).double())
    assert torch.equal(found.means[6], x[5])
    assert torch.allclose(found.means, means)


def test_scikit_learn_agrees():
    sklearn = pytest.importorskip("sklearn.discriminant_analysis")
    x, labels = labelled(200, 6, 4)
    lda = sklearn.LinearDiscriminantAnalysis(solver="eigen", store_covariance=True)
    lda.fit(x.numpy(), labels.numpy())
    found = awpf_ext.scatter(x.numpy(), labels.numpy())
    assert np.allclose(found.within / 200, lda.covariance_, rtol=1e-10)
    assert np.allclose(found.means, lda.means_, rtol=1e-12)
    assert np.allclose(found.counts / 200, lda.priors_)
    spread = found.means - lda.priors_ @ found.means
    assert np.allclose(found.between / 200, (lda.priors_ * spread.T) @ spread, rtol=1e-10)


def test_batches_strides_and_broadcast_labels():
    x = torch.randn(2, 3, 30, 5).double()
    labels = torch.randint(0, 4, (30,))
    found = awpf_ext.scatter(x, labels, 4)
    assert [tuple(part.shape) for part in found] == [
        (2, 3, 5, 5),
        (2, 3, 5, 5),
        (2, 3, 4, 5),
        (2, 3, 4),
    ]
    turned = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    for i in range(2):
        for j in range(3):
            alone = awpf_ext.scatter(x[i, j], labels, 4)
            for part, other in zip(found, alone, strict=True):
                assert torch.equal(part[i, j], other)
    for part, other in zip(awpf_ext.scatter(turned, labels, 4), found, strict=True):
        assert torch.equal(part, other)
    spread = torch.stack([labels, labels], dim=1)[:, 0]
    assert torch.equal(awpf_ext.scatter(x, spread.int(), 4).within, found.within)


def test_numpy():
    x, labels = labelled(30, 4, 3, torch.float32)
    expected = awpf_ext.scatter(x, labels)
    found = awpf_ext.scatter(x.numpy()[::-1][::-1], labels.numpy())
    assert isinstance(found, awpf_ext.Scatter)
    for part, other in zip(found, expected, strict=True):
        assert isinstance(part, np.ndarray)
        assert np.array_equal(part, other.numpy())


def test_empty_batches():
    found = awpf_ext.scatter(torch.randn(0, 5, 3), torch.zeros(0, 5, dtype=torch.int64), 2)
    assert [tuple(part.shape) for part in found] == [(0, 3, 3), (0, 3, 3), (0, 2, 3), (0, 2)]


# ---- derivatives ----


def first_three(labels, classes):
    return lambda x: tuple(awpf_ext.scatter(x, labels, classes))[:3]


@pytest.mark.parametrize("n", [3, 12])
def test_first_and_second_derivatives(n):
    x, labels = labelled(n, 3, 3)
    function = first_three(labels, 4)
    x.requires_grad_()
    assert gradcheck(function, (x,))
    assert gradgradcheck(function, (x,))


def test_derivatives_of_a_batch():
    x = torch.randn(2, 5, 3).double().requires_grad_()
    labels = torch.randint(0, 2, (2, 5))
    assert gradcheck(first_three(labels, 2), (x,))


def test_single_precision_gradients():
    x, labels = labelled(500, 20, 5, torch.float32)
    weights = [torch.randn(20, 20), torch.randn(20, 20), torch.randn(5, 20)]

    def gradient(points):
        points = points.clone().requires_grad_()
        parts = first_three(labels, 5)(points)
        sum((w.to(p.dtype) * p).sum() for w, p in zip(weights, parts, strict=True)).backward()
        return points.grad

    assert relative_error(gradient(x), gradient(x.double())) < 1e-5
    half = x.bfloat16()
    assert gradient(half).dtype == torch.bfloat16
    assert relative_error(gradient(half), gradient(half.double())) < 8e-3


# ---- separability ----


def test_trace_criterion():
    x, labels = labelled(60, 5, 3)
    within, between, _, _ = references.scatter(x, labels, 3)
    expected = between.trace() / (between.trace() + within.trace())
    assert float(awpf_ext.separability(x, labels)) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 1.0])
def test_fisher_criterion(shrinkage):
    x, labels = labelled(60, 5, 3)
    within, between, _, _ = references.scatter(x, labels, 3)
    ridge = shrinkage * within.trace() / 5 * torch.eye(5, dtype=torch.float64)
    expected = torch.linalg.solve((1 - shrinkage) * within + ridge, between).trace()
    found = awpf_ext.separability(x, labels, "fisher", shrinkage=shrinkage)
    assert float(found) == pytest.approx(float(expected), rel=1e-10)


def test_bounds_and_limits():
    for _ in range(20):
        x, labels = labelled(int(torch.randint(1, 30, ())), 3, 3, torch.float32)
        assert 0 <= float(awpf_ext.separability(x, labels)) <= 1
        x, labels = labelled(30, 3, 3, torch.float32)
        assert float(awpf_ext.separability(x, labels, "fisher", shrinkage=0.5)) >= 0
    x = torch.eye(2).double()[[0, 0, 1, 1]]
    assert float(awpf_ext.separability(x, torch.tensor([0, 0, 1, 1]))) == 1.0
    assert float(awpf_ext.separability(x, torch.tensor([0, 1, 0, 1]))) == 0.0
    same = torch.ones(5, 3).double()
    assert float(awpf_ext.separability(same, torch.tensor([0, 1, 0, 1, 1]))) == 0.0
    assert float(awpf_ext.separability(x, torch.zeros(4).long())) == 0.0


def test_rotation_translation_and_scale_change_nothing():
    x, labels = labelled(50, 4, 3)
    turn = torch.linalg.qr(torch.randn(4, 4).double())[0]
    for criterion in ("trace", "fisher"):
        plain = float(awpf_ext.separability(x, labels, criterion))
        moved = float(awpf_ext.separability(3 * x @ turn + 7, labels, criterion))
        assert moved == pytest.approx(plain, rel=1e-9)


def test_more_features_than_rows():
    x, labels = labelled(12, 40, 3)
    value = awpf_ext.separability(x, labels, "fisher")
    assert torch.isfinite(value)
    assert float(value) > 0


@pytest.mark.parametrize("criterion", ["trace", "fisher"])
def test_separability_has_derivatives(criterion):
    x, labels = labelled(9, 2, 3)
    x.requires_grad_()

    def value(points):
        return awpf_ext.separability(points, labels, criterion, num_classes=3)

    assert gradcheck(value, (x,))
    assert gradgradcheck(value, (x,))


def test_separability_of_a_batch_and_of_arrays():
    x = torch.randn(4, 20, 3).double()
    labels = torch.randint(0, 2, (4, 20))
    for criterion in ("trace", "fisher"):
        found = awpf_ext.separability(x, labels, criterion, num_classes=2)
        for k in range(4):
            alone = awpf_ext.separability(x[k], labels[k], criterion, num_classes=2)
            assert float(found[k]) == pytest.approx(float(alone), rel=1e-12)
        arrays = awpf_ext.separability(x.numpy(), labels.numpy(), criterion, num_classes=2)
        assert isinstance(arrays, np.ndarray)
