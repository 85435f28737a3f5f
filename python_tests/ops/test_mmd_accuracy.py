"""The contract of single precision: |error| <= 1e-5 MMD^2 + 1e-9 (mean Kxx + mean Kyy).

On hard data, for both estimators, measured on the float64 block sums, before the result itself is
rounded to float32; half precision on the rounded input.
"""

from __future__ import annotations

import math

import pytest
import torch
from references import FIVE, estimate, square_distances

import awpf_ext

SIZES = (
    (9, 12, 7),
    (64, 64, 512),
    (140, 130, 512),
    (260, 256, 64),
    (330, 190, 16),
    (600, 450, 100),
)


def mean_20(n, d):
    return 20 + 0.5 * torch.randn(n, d)


def mean_1000(n, d):
    return 1000 + 0.5 * torch.randn(n, d)


def near_duplicates(n, d):
    return 3 * torch.randn(1, d) + 1e-3 * torch.randn(n, d)


def exact_duplicates(n, d):
    return torch.randn(8, d)[torch.randint(0, 8, (n,))]


def tight_clusters(n, d):
    return exact_duplicates(n, d) + 1e-4 * torch.randn(n, d)


def mixed_scales_of_rows(n, d):
    return torch.randn(n, d) * torch.exp(2 * torch.randn(n, 1))


def mixed_scales_of_features(n, d):
    return torch.randn(n, d) * torch.exp(2 * torch.randn(1, d))


def one_outlier(n, d):
    points = torch.randn(n, d)
    points[0] *= 1000
    return points


def two_far_clusters(n, d):
    return torch.randn(n, d) + 100 * (torch.arange(n) % 2).unsqueeze(1)


def ten_far_clusters(n, d):
    return (30 * torch.randn(10, d))[torch.randint(0, 10, (n,))] + 0.1 * torch.randn(n, d)


def unit_vectors(n, d):
    return torch.nn.functional.normalize(torch.randn(n, d) + 2, dim=1)


def separate_duplicates(n, d):
    """Few different kernel values, and different ones within x, within y and between them."""
    return torch.randn(3, d)[torch.arange(n) * 3 // n]


def equal_features(n, d):
    """Every step of an inner product adds the same number, and is rounded the same way."""
    return torch.rand(n, 1).expand(n, d).contiguous()


def pairs_of_near_duplicates(n, d):
    """Nearly every row of x has its like in y, so that the MMD nearly vanishes."""
    half = torch.randn((n + 1) // 2, d)
    return torch.cat([half, half + 1e-4 * torch.randn_like(half)])[:n]


DATA = (
    mean_20,
    mean_1000,
    near_duplicates,
    exact_duplicates,
    tight_clusters,
    mixed_scales_of_rows,
    mixed_scales_of_features,
    one_outlier,
    two_far_clusters,
    ten_far_clusters,
    unit_vectors,
    separate_duplicates,
    equal_features,
    pairs_of_near_duplicates,
)


def kernels(mean_square: float, rows: int) -> dict[str, list[float]]:
    """Exponents from much wider than the data to much narrower."""
    sharp = 4.4e-4 * rows
    return {
        "five about the median": [0.25 * scale / mean_square for scale in FIVE],
        "five wide": [0.01 * scale / mean_square for scale in FIVE],
        "three not in ratio 2": [0.1 * scale / mean_square for scale in (0.3, 1.0, 2.5)],
        "five very wide": [1e-6 * scale / mean_square for scale in FIVE],
        "from very wide to narrow": [scale / mean_square for scale in (1e-3, 0.1, 1.0, 10.0)],
        "one in proportion to the rows": [sharp / mean_square],
        "five in proportion": [sharp * scale / 1.55 / mean_square for scale in FIVE],
        "one narrow": [2.5 / mean_square],
        "five very narrow": [0.02 * rows * scale / mean_square for scale in FIVE],
    }


def block_sums_of(squares: torch.Tensor, n: int, gammas: list[float]) -> tuple[torch.Tensor, ...]:
    """xx, xy, yy from the squared distances of the pooled points."""
    values = sum(torch.exp(-gamma * squares) for gamma in gammas) / len(gammas)
    return values[:n, :n].sum(), values[:n, n:].sum(), values[n:, n:].sum()


def sums_alone(z, rows, gamma):
    return torch.ops.awpf.rbf_sums(z, rows, None, gamma, None, False)[0]


def sums_with_gradient(z, rows, gamma):
    coefficients = torch.ones(1, 2, 2, dtype=torch.float64)
    return torch.ops.awpf.rbf_sums_and_gradient(z, rows, gamma, coefficients, False)[0][0]


def sums_of_permutations(z, rows, gamma):
    xx, xy, yy = torch.ops.awpf.rbf_permutation_sums(z, rows, gamma, 0, 0, False)[0, 0]
    return torch.stack([torch.stack([xx, xy]), torch.stack([xy, yy])])


def ratios(z: torch.Tensor, n: int, block_sums=sums_alone) -> list[tuple[float, str]]:
    """Every error over its bound, and where."""
    m = z.shape[0] - n
    rows = torch.tensor([[[0, n], [n, n + m]]])
    mean_square = float((z.double() - z.double().mean(0)).square().sum(1).mean())
    squares = square_distances(z, z)
    found_ratios = []
    for name, gammas in kernels(mean_square, n + m).items():
        gamma = torch.tensor([gammas], dtype=torch.float64)
        sums = block_sums(z, rows, gamma)
        exact = block_sums_of(squares, n, gammas)
        scale = float(exact[0]) / n**2 + float(exact[2]) / m**2
        for estimator in ("biased", "unbiased"):
            value = float(estimate(sums[0, 0], sums[0, 1], sums[1, 1], n, m, estimator))
            wanted = float(estimate(*exact, n, m, estimator))
            ratio = abs(value - wanted) / (1e-5 * abs(wanted) + 1e-9 * scale)
            # NaN would lose every comparison.
            ratio = ratio if math.isfinite(ratio) else math.inf
            found_ratios.append((ratio, f"{name}, {estimator}, n={n} m={m} d={z.shape[1]}"))
    return found_ratios


@pytest.mark.parametrize("make", DATA, ids=lambda make: make.__name__)
def test_single_precision(make):
    worst = max(max(ratios(make(n + m, d), n)) for n, m, d in SIZES)
    assert worst[0] <= 1, worst


@pytest.mark.parametrize("block_sums", [sums_with_gradient, sums_of_permutations])
@pytest.mark.parametrize("make", DATA, ids=lambda make: make.__name__)
def test_single_precision_of_the_other_ways_to_the_same_sums(make, block_sums):
    worst = max(ratios(make(580, 24), 320, block_sums))
    assert worst[0] <= 1, worst


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "make", [mean_20, near_duplicates, mixed_scales_of_features, unit_vectors, ten_far_clusters]
)
def test_half_precision_on_the_rounded_input(make, dtype):
    worst = max(max(ratios(make(n + m, d).to(dtype), n)) for n, m, d in SIZES[2:5])
    assert worst[0] <= 1, worst


@pytest.mark.parametrize(
    ("groups", "each", "far", "spread"), [(40, 200, 8, 1e-3), (20, 300, 4, 3e-2)]
)
def test_two_collapsed_groups_among_many(groups, each, far, spread):
    """They hardly show in a sample of the pool."""
    z = torch.randn(groups, each, 128)
    z[[3, 7]] = (far**0.5 * torch.randn(128)) + spread * torch.randn(2, each, 128)
    ends = each * torch.arange(groups + 1)
    rows = torch.stack([ends[:-1], ends[1:]], -1).unsqueeze(0)
    gamma = torch.tensor([[1 / (2 * 128 * 4)]], dtype=torch.float64)
    found, exact = (sums_alone(points.view(-1, 128), rows, gamma) for points in (z, z.double()))
    pair = [3, 7]
    values, wanted = ((s[pair][:, pair] / each**2) for s in (found, exact))
    error = abs(
        float((values - wanted)[0, 0] + (values - wanted)[1, 1] - 2 * (values - wanted)[0, 1])
    )
    bound = 1e-9 * float(wanted[0, 0] + wanted[1, 1])
    assert error <= bound


@pytest.mark.parametrize("n", [64, 150, 500])
def test_ordinary_features_are_not_computed_in_double(n):
    """Which shows in the bits; the bound is that of the tests above."""
    z = torch.nn.functional.normalize(torch.randn(2 * n, 512), dim=1)
    rows = torch.tensor([[[0, n], [n, 2 * n]]])
    gamma = torch.tensor([[2.0, 1.0, 0.5, 0.25, 0.125]], dtype=torch.float64)
    assert not torch.equal(sums_alone(z, rows, gamma), sums_alone(z.double(), rows, gamma))


def test_far_duplicates_in_a_small_sample():
    x, y = torch.randn(3000, 64), (48**0.5 * torch.randn(1, 64)).repeat(40, 1)
    worst = max(ratios(torch.cat([x, y]), 3000))
    assert worst[0] <= 1, worst


def test_the_result_carries_one_rounding_more():
    """What mmd returns is those sums, rounded once to float32."""
    x, y = mean_20(300, 20), mean_20(280, 20) + 0.1
    gamma = torch.tensor([[0.5 / 9.0]], dtype=torch.float64)
    rows = torch.tensor([[[0, 300], [300, 580]]])
    sums = torch.ops.awpf.rbf_sums(torch.cat([x, y]), rows, None, gamma, None, False)[0]
    expected = estimate(sums[0, 0], sums[0, 1], sums[1, 1], 300, 280, "biased").float()
    assert torch.equal(awpf_ext.mmd(x, y, bandwidth=3.0), expected)


@pytest.mark.parametrize("make", [mean_20, two_far_clusters, exact_duplicates, unit_vectors])
def test_large_samples(make):
    """Several panels, and a narrower kernel in single precision; float64 sums as the reference."""
    n, m, d = 1700, 1500, 48
    z = make(n + m, d)
    rows = torch.tensor([[[0, n], [n, n + m]]])
    mean_square = float((z.double() - z.double().mean(0)).square().sum(1).mean())
    for gammas in kernels(mean_square, n + m).values():
        gamma = torch.tensor([gammas], dtype=torch.float64)
        found, exact = (
            torch.ops.awpf.rbf_sums(points, rows, None, gamma, None, False)[0]
            for points in (z, z.double())
        )
        scale = float(exact[0, 0]) / n**2 + float(exact[1, 1]) / m**2
        for estimator in ("biased", "unbiased"):
            value, wanted = (
                float(estimate(s[0, 0], s[0, 1], s[1, 1], n, m, estimator)) for s in (found, exact)
            )
            assert abs(value - wanted) <= 1e-5 * abs(wanted) + 1e-9 * scale, (gammas, estimator)
