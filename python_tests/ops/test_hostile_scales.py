"""The contract of single precision holds for data that mix scales: an outlier millions of
bandwidths away, clusters far apart, equal rows at tiny bandwidths; of float64 input, too."""

from __future__ import annotations

import pytest
import torch
from hostile_scales import (
    DOUBLE,
    DTYPES,
    Case,
    Reference,
    bandwidths,
    cases,
    coarse_and_fine,
    duplicates,
    measure,
    one_outlier,
    two_clusters_in_both,
)
from references import estimate, sampled_median_distance

import awpf_ext

AWPF = torch.ops.awpf


def test_sums_and_gradients_of_several_hundred_cases():
    torch.manual_seed(13)
    ratios = [
        (ratio, name, case.name) for case in cases() for name, ratio in measure(case, AWPF).items()
    ]
    assert len(ratios) > 2400
    assert sorted((entry for entry in ratios if not entry[0] <= 1), reverse=True) == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("strength", [1e5, 1e8, 1e14])
@pytest.mark.parametrize(
    "make", [one_outlier, two_clusters_in_both, coarse_and_fine], ids=lambda make: make.__name__
)
def test_public_functions_with_the_default_bandwidth(make, strength, dtype):
    torch.manual_seed(1)
    x, y = (sample.to(dtype) for sample in make(41, 30, 12, strength))
    z = torch.cat([x, y])
    sigma = float(awpf_ext.median_bandwidth(x, y))
    assert sigma == pytest.approx(float(sampled_median_distance(z)), rel=1e-6)
    exact = Reference.of(Case("", x, y, [float(sampled_median_distance(z))])).sums(41)
    labels = (torch.arange(71) >= 41).long()
    matrix = awpf_ext.mmd_matrix(z, labels, estimator="unbiased")
    batch = awpf_ext.mmd(torch.stack([x, x]), torch.stack([y, y]), estimator="unbiased")
    test = awpf_ext.mmd_test(x, y, permutations=9)
    wanted = float(estimate(exact[0, 0], exact[0, 1], exact[1, 1], 41, 30, "unbiased"))
    allowed = 1e-5 * abs(wanted) + 1e-9 * float(exact[0, 0] / 41**2 + exact[1, 1] / 30**2)
    for found in (matrix[0, 1], *batch, test.statistic):
        assert float(found) == pytest.approx(wanted, rel=0, abs=allowed)
    assert float(awpf_ext.mmd(x, y)) >= 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sigma", [1.0, 1e-8, 1e-20])
def test_equal_rows_have_the_kernel_value_one(dtype, sigma):
    """And no others, as far apart as these are."""
    torch.manual_seed(2)
    few = torch.randn(7, 33).to(dtype)
    z = few[torch.randint(0, 7, (40,))]
    each = torch.stack([torch.arange(40), torch.arange(40) + 1], -1)[None]
    gamma = torch.tensor([[0.5 / sigma**2]], dtype=DOUBLE)
    values = AWPF.rbf_sums(z, each, None, gamma, None, False)[0]
    equal = (z[:, None] == z).all(-1)
    if sigma < 1:
        assert (values[equal] == 1).all()
        assert (values[~equal] < 1e-300).all()
    else:
        assert torch.allclose(values[equal], torch.ones(1, dtype=DOUBLE), rtol=0, atol=1e-12)


def test_a_gradient_that_lies_between_equal_rows_is_zero():
    torch.manual_seed(3)
    x, y = duplicates(30, 20, 6, 1e12)
    x.requires_grad_()
    awpf_ext.mmd(x, y, bandwidth=1.0).backward()
    assert x.grad.abs().max() < 1e-290


def test_float64_at_the_ends_of_its_range():
    torch.manual_seed(4)
    x, y = torch.randn(20, 5, dtype=DOUBLE), torch.randn(15, 5, dtype=DOUBLE) + 0.3
    wanted = float(awpf_ext.mmd(x, y, bandwidth=2.0))
    for scale in (2.0**500, 2.0**-500):
        found = float(awpf_ext.mmd(x * scale, y * scale, bandwidth=2.0 * scale))
        assert found == pytest.approx(wanted, rel=1e-12)
    with pytest.raises(ValueError, match="squared norms overflow"):
        awpf_ext.mmd(x * 1e155, y, bandwidth=1.0)
    with pytest.raises(ValueError, match="too many bandwidths apart"):
        awpf_ext.mmd(x * 1e100, y, bandwidth=1e-60)


def test_medians_of_mixed_scales():
    for d in (1, 8):
        x, y = coarse_and_fine(5, 31, d, 1e8)
        for dtype in DTYPES:
            pooled = torch.cat([x, y]).to(dtype)
            found = awpf_ext.median_bandwidth(pooled[:5], pooled[5:])
            assert float(found) == pytest.approx(float(sampled_median_distance(pooled)), rel=1e-6)


def test_a_median_whose_square_vanishes():
    x = 1e-170 * torch.randn(9, 2, dtype=DOUBLE)
    with pytest.raises(ValueError, match=r"so close that their squares vanish"):
        awpf_ext.mmd(x, x + 1e-165)


def test_narrow_and_wide_bandwidths_of_one_mixture():
    """Each kernel decides by itself what is close."""
    torch.manual_seed(5)
    x, y = two_clusters_in_both(60, 50, 9, 1e3)
    x[3], x[4] = y[5], x[6] + 1e-7
    sigmas = [1e-7, 1e-3, 1.0, *bandwidths(x, y, 9)["of very different width"]]
    ratios = measure(Case("", x, y, sigmas), AWPF)
    assert {name: ratio for name, ratio in ratios.items() if not ratio <= 1} == {}
