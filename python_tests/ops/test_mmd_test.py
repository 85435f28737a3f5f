"""The permutation test: its p-values, its splits, its layouts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from references import estimate, gammas_of, mmd, split_sums

import awpf_ext

ESTIMATORS = ("biased", "unbiased")


def draw(n, m, d, shift=0.0, dtype=torch.float64, batch=()):
    x = torch.randn(*batch, n, d, dtype=torch.float64).to(dtype)
    y = (torch.randn(*batch, m, d, dtype=torch.float64) + shift).to(dtype)
    return x, y


def memberships(n, m, permutations, seed):
    """The pooled rows that each split calls x, read off block sums that tell the rows apart.

    Multiples c_i of unit vectors have |c_i e_i - c_j e_j|^2 = c_i^2 + c_j^2, so their kernel is
    w_i w_j with w = exp(-c^2): with arbitrary w, the three sums of a split belong to one subset.
    """
    total = n + m
    weights = 0.3 + 0.6 * torch.rand(total, generator=torch.Generator().manual_seed(1)).double()
    points = torch.diag((-weights.log()).sqrt())
    rows = torch.tensor([[[0, n], [n, total]]])
    gamma = torch.ones(1, 1).double()
    sums = torch.ops.awpf.rbf_permutation_sums(points, rows, gamma, permutations, seed, False)[0]
    subsets = list(itertools.combinations(range(total), n))
    table = []
    for subset in subsets:
        first = torch.zeros(total, dtype=torch.bool)
        first[list(subset)] = True
        table.append(split_sums(points, first, [1.0]))
    distance = (sums.unsqueeze(1) - torch.stack(table)).abs().amax(-1)
    assert float(distance.min(1).values.max()) < 1e-12
    assert float(distance.sort(1).values[:, 1].min()) > 1e-6
    return [subsets[index] for index in distance.argmin(1).tolist()], subsets


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (9, 6, 3), (113, 40, 5), (400, 300, 8)])
def test_the_statistic_is_the_mmd(n, m, d, dtype, estimator):
    if estimator == "unbiased" and n == 1:
        pytest.skip("the unbiased estimator needs two rows")
    x, y = draw(n, m, d, 0.5, dtype)
    found = awpf_ext.mmd_test(x, y, permutations=3, bandwidth=2.0, estimator=estimator)
    expected = float(mmd(x, y, gammas_of([2.0]), estimator))
    tolerance = 1e-13 if dtype == torch.float64 else 1e-6 * abs(expected) + 1e-8
    assert abs(float(found.statistic) - expected) <= tolerance
    assert found.statistic.dtype == found.null.dtype == found.p_value.dtype


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_null_is_the_mmd_of_the_splits(estimator):
    """Recomputed from the memberships that the same seed gives."""
    n, m, permutations = 4, 3, 40
    x, y = draw(n, m, 2)
    z = torch.cat([x, y])
    splits, _ = memberships(n, m, permutations, seed=5)
    assert splits[0] == tuple(range(n))
    found = awpf_ext.mmd_test(
        x, y, permutations=permutations, seed=5, bandwidth=[1.0, 2.5], estimator=estimator
    )
    for value, split in zip(found.null, splits[1:], strict=True):
        first = torch.zeros(n + m, dtype=torch.bool)
        first[list(split)] = True
        sums = split_sums(z, first, gammas_of([1.0, 2.5]))
        assert float(value) == pytest.approx(float(estimate(*sums, n, m, estimator)), abs=1e-13)


def test_the_p_value_counts_the_null():
    for shift in (0.0, 0.4, 3.0):
        x, y = draw(30, 25, 3, shift)
        found = awpf_ext.mmd_test(x, y, permutations=99)
        count = int((found.null >= found.statistic).sum())
        assert float(found.p_value) == pytest.approx((1 + count) / 100, rel=1e-12)
        assert found.null.shape == (99,)


def test_the_p_value_is_never_zero():
    x, y = draw(40, 40, 3, 50.0)
    assert float(awpf_ext.mmd_test(x, y, permutations=19).p_value) == 0.05
    assert float(awpf_ext.mmd_test(x, x, permutations=19).p_value) == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_ties_count(estimator, dtype):
    """x and y exchanged is the given split in other words, whatever rounding makes of it."""
    for seed in range(20):
        x, y = draw(3, 3, 4, 8.0, dtype)
        found = awpf_ext.mmd_test(x, y, permutations=60, seed=seed, estimator=estimator)
        splits, _ = memberships(3, 3, 60, seed)
        as_given = sum(split in ((0, 1, 2), (3, 4, 5)) for split in splits[1:])
        assert float(found.p_value) == pytest.approx((1 + as_given) / 61, rel=1e-6)


def test_a_seed_decides_the_splits():
    x, y = draw(40, 30, 3)
    first = awpf_ext.mmd_test(x, y, permutations=50, seed=3)
    again = awpf_ext.mmd_test(x, y, permutations=50, seed=3)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first.null, awpf_ext.mmd_test(x, y, permutations=50, seed=4).null)
    default = awpf_ext.mmd_test(x, y, permutations=50)
    assert torch.equal(default.null, awpf_ext.mmd_test(x, y, permutations=50, seed=0).null)
    largest = awpf_ext.mmd_test(x, y, permutations=5, seed=2**63 - 1)
    assert torch.isfinite(largest.null).all()


def test_more_permutations_continue_the_sequence():
    """Also beyond the number that is handled at a time."""
    x, y = draw(12, 10, 2)
    few = awpf_ext.mmd_test(x, y, permutations=20).null
    many = awpf_ext.mmd_test(x, y, permutations=5000).null
    assert many.shape == (5000,)
    assert torch.allclose(few, many[:20], atol=1e-14)
    assert len(torch.unique(many.round(decimals=12))) > 4000


@pytest.mark.parametrize(("n", "m"), [(3, 3), (2, 4), (1, 6)])
def test_every_split_is_equally_likely(n, m):
    permutations = 6000
    found, subsets = memberships(n, m, permutations, seed=11)
    counts = torch.tensor([found[1:].count(subset) for subset in subsets]).double()
    expected = permutations / len(subsets)
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    free = len(subsets) - 1
    assert chi_square < free + 5 * (2 * free) ** 0.5
    assert chi_square > free - 5 * (2 * free) ** 0.5  # not evener than chance, either


def test_p_values_are_uniform_under_the_null():
    x, y = draw(12, 9, 2, batch=(400,))
    p_values = awpf_ext.mmd_test(x, y, permutations=99, seed=1).p_value.sort().values
    grid = torch.arange(1, 401) / 400
    # Kolmogorov and Smirnov at about one in 10,000, and the steps of 1/100.
    assert (p_values - grid).abs().max() < 2.2 / 20 + 0.01
    for level in (0.05, 0.1, 0.5):
        assert float((p_values <= level).double().mean()) < level + 4 * (level / 400) ** 0.5


def test_a_shift_and_a_change_of_spread_are_found():
    x, y = draw(60, 50, 4, 0.9, batch=(20,))
    assert (awpf_ext.mmd_test(x, y, permutations=199).p_value < 0.05).all()
    x, y = draw(80, 80, 4)
    assert float(awpf_ext.mmd_test(x, 2.5 * y, permutations=199).p_value) < 0.05


# ---- layouts ----


def test_a_batch_is_the_single_tests():
    x, y = draw(14, 9, 3, 0.5, batch=(2, 3))
    found = awpf_ext.mmd_test(x, y, permutations=25, seed=2, estimator="biased")
    assert found.statistic.shape == found.p_value.shape == (2, 3)
    assert found.null.shape == (2, 3, 25)
    for i, j in itertools.product(range(2), range(3)):
        alone = awpf_ext.mmd_test(x[i, j], y[i, j], permutations=25, seed=2, estimator="biased")
        assert torch.equal(found.statistic[i, j], alone.statistic)
        assert torch.equal(found.p_value[i, j], alone.p_value)
        assert torch.equal(found.null[i, j], alone.null)


def test_a_ragged_batch_is_the_single_tests():
    sizes = [(4, 6), (2, 2), (40, 31)]
    pairs = [draw(n, m, 3, 0.5) for n, m in sizes]
    x_offsets = np.cumsum([0, *(n for n, _ in sizes)]).tolist()
    y_offsets = np.cumsum([0, *(m for _, m in sizes)]).tolist()
    x, y = (torch.cat([pair[side] for pair in pairs]) for side in (0, 1))
    found = awpf_ext.mmd_test(x, y, permutations=15, x_offsets=x_offsets, y_offsets=y_offsets)
    assert found.null.shape == (3, 15)
    for k, pair in enumerate(pairs):
        alone = awpf_ext.mmd_test(*pair, permutations=15)
        assert torch.equal(found.null[k], alone.null)
        assert torch.equal(found.p_value[k], alone.p_value)


def test_broadcasting_and_strides():
    x, y = draw(10, 12, 4, batch=(3,))
    found = awpf_ext.mmd_test(x[0], y, permutations=9)
    for k in range(3):
        assert torch.equal(found.null[k], awpf_ext.mmd_test(x[0], y[k], permutations=9).null)
    turned = y.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(awpf_ext.mmd_test(x[0], turned, permutations=9).null, found.null)


def test_numpy_and_inputs_that_require_a_gradient():
    x, y = draw(10, 12, 4)
    expected = awpf_ext.mmd_test(x, y, permutations=9)
    found = awpf_ext.mmd_test(x.numpy(), y.numpy(), permutations=9)
    assert isinstance(found, awpf_ext.MMDTest)
    assert isinstance(found.null, np.ndarray)
    assert np.array_equal(found.null, expected.null.numpy())
    assert float(found.p_value) == float(expected.p_value)
    seeded = awpf_ext.mmd_test(x, y, permutations=np.int64(9), seed=np.int64(0))
    assert torch.equal(seeded.null, expected.null)
    tracked = awpf_ext.mmd_test(x.clone().requires_grad_(), y, permutations=9)
    assert not tracked.statistic.requires_grad
    assert torch.equal(tracked.null, expected.null)


def test_single_precision_splits_are_those_of_double():
    """700 pooled rows go through single precision; the same seed gives the same splits."""
    x, y = draw(400, 300, 5, 0.1, torch.float32)
    single = awpf_ext.mmd_test(x, y, permutations=60, bandwidth=2.0)
    double = awpf_ext.mmd_test(x.double(), y.double(), permutations=60, bandwidth=2.0)
    assert (single.null.double() - double.null).abs().max() < 2e-7
    assert float(single.p_value) == pytest.approx(float(double.p_value), abs=2 / 61)
