"""mmd_matrix: every pair of groups equals the single call; and the median bandwidth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from references import FIVE, estimate, gammas_of, kernel, median_distance, sampled_median_distance

import awpf_ext


def groups_of(sizes, d, dtype=torch.float64):
    """Rows in random order, with their labels."""
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels))]
    x = torch.randn(len(labels), d, dtype=torch.float64) + 0.2 * labels.unsqueeze(1)
    return x.to(dtype), labels


def expected_matrix(x, labels, gammas, estimator):
    """From the whole kernel matrix, summed by membership."""
    member = torch.nn.functional.one_hot(labels).double()
    sums, sizes = member.T @ kernel(x, x, gammas) @ member, member.sum(0)
    within = sums.diagonal()
    n, m = sizes.unsqueeze(1), sizes.unsqueeze(0)
    matrix = estimate(within.unsqueeze(1), sums, within.unsqueeze(0), n, m, estimator)
    return matrix.fill_diagonal_(0)


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 3e-7), (torch.float16, 3e-7)]
)
@pytest.mark.parametrize("sizes", [[4, 9, 2, 17], [230, 300, 40], [32] * 20, [2, 449, 2]])
def test_equals_the_reference(sizes, dtype, tolerance, estimator):
    x, labels = groups_of(sizes, 7, dtype)
    found = awpf_ext.mmd_matrix(x, labels, bandwidth=2.5, scales=FIVE, estimator=estimator)
    expected = expected_matrix(x, labels, gammas_of([2.5], FIVE), estimator)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (found.double() - expected).abs().max() < tolerance
    assert torch.equal(found, found.T)
    assert torch.equal(found.diagonal(), torch.zeros(len(sizes), dtype=found.dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_many_tiny_groups(dtype):
    """One or two rows each: hundreds of groups meet within a single block."""
    sizes = [1 + (k % 2) for k in range(300)]
    x, labels = groups_of(sizes, 3, dtype)
    found = awpf_ext.mmd_matrix(x, labels, bandwidth=40.0)
    expected = expected_matrix(x, labels, gammas_of([40.0]), "biased")
    assert (found.double() - expected).abs().max() < (1e-13 if dtype == torch.float64 else 3e-7)


def test_the_median_is_that_of_all_rows_together():
    x, labels = groups_of([8, 5, 9], 4)
    sigma = float(sampled_median_distance(x))
    found = awpf_ext.mmd_matrix(x, labels)
    assert torch.allclose(found, awpf_ext.mmd_matrix(x, labels, bandwidth=sigma), rtol=1e-12)


def test_the_order_of_the_rows_does_not_matter():
    x, labels = groups_of([30, 20, 25], 4)
    order = torch.randperm(75)
    found = awpf_ext.mmd_matrix(x[order], labels[order], bandwidth=2.0)
    assert torch.allclose(found, awpf_ext.mmd_matrix(x, labels, bandwidth=2.0), atol=1e-14)


def test_labels_of_any_integer_type_and_numpy():
    x, labels = groups_of([6, 7, 8], 4)
    expected = awpf_ext.mmd_matrix(x, labels)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        assert torch.equal(awpf_ext.mmd_matrix(x, labels.to(dtype)), expected)
    found = awpf_ext.mmd_matrix(x.numpy(), labels.numpy())
    assert isinstance(found, np.ndarray)
    assert np.array_equal(found, expected.numpy())
    assert torch.equal(awpf_ext.mmd_matrix(x, labels, num_groups=3), expected)


def test_strided_points_and_labels():
    x, labels = groups_of([6, 7, 8], 4)
    wide = torch.zeros(42, 8, dtype=torch.float64)
    wide[::2, ::2] = x
    spread = torch.zeros(42, dtype=torch.int64)
    spread[::2] = labels
    found = awpf_ext.mmd_matrix(wide[::2, ::2], spread[::2])
    assert torch.equal(found, awpf_ext.mmd_matrix(x, labels))


def test_a_single_group():
    x, labels = groups_of([6], 4)
    assert torch.equal(awpf_ext.mmd_matrix(x, labels), torch.zeros(1, 1).double())


# ---- median bandwidth ----


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [2, 3, 4, 15, 45, 46, 47, 113, 257, 600, 1023, 1025, 2500])
def test_it_is_the_lower_median_over_the_pairs_that_are_looked_at(size, dtype):
    x = torch.randn(size, 21).to(dtype)
    expected = float(sampled_median_distance(x))
    found = awpf_ext.median_bandwidth(x)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert float(found) == pytest.approx(expected, rel=1e-12 if dtype == torch.float64 else 1e-7)


def test_two_samples_are_pooled():
    x, y = torch.randn(20, 3).double(), torch.randn(31, 3).double() + 1
    assert torch.equal(
        awpf_ext.median_bandwidth(x, y), awpf_ext.median_bandwidth(torch.cat([x, y]))
    )
    batch = awpf_ext.median_bandwidth(x.expand(4, 20, 3), y)
    assert torch.equal(batch, awpf_ext.median_bandwidth(x, y).expand(4))


def test_up_to_46_rows_all_pairs_are_looked_at():
    for size in (5, 45, 46):
        x = torch.randn(size, 2).double()
        expected = float(median_distance(x))
        assert float(awpf_ext.median_bandwidth(x)) == pytest.approx(expected, rel=1e-12)


def test_of_more_rows_it_is_close_to_the_median_of_all_pairs():
    for size in (100, 500, 2500):
        x = torch.randn(size, 10).double()
        found = float(awpf_ext.median_bandwidth(x))
        assert found == pytest.approx(float(median_distance(x)), rel=0.05)
        assert found == float(awpf_ext.median_bandwidth(x))


@pytest.mark.parametrize("size", [100, 1000, 3000])
def test_the_pairs_are_of_rows_from_everywhere(size):
    """Pairs of neighbours would give a median of a few rows, pairs of the first 1,024 rows a third
    of the right one."""
    spaced = torch.arange(size).double().unsqueeze(1)
    assert 0.22 * size < float(awpf_ext.median_bandwidth(spaced)) < 0.36 * size


def test_data_far_from_the_origin():
    x = 1e6 + torch.randn(60, 4).double()
    assert float(awpf_ext.median_bandwidth(x)) == pytest.approx(
        float(sampled_median_distance(x)), rel=1e-9
    )


@pytest.mark.parametrize("scale", [1e8, 1e-8])
def test_points_of_different_scales_keep_their_distances(scale):
    """Also of one cluster far from the other; no two rows are equal, whatever their distance."""
    x, y = torch.randn(5, 8) * scale, torch.randn(31, 8)
    expected = float(median_distance(torch.cat([x, y])))
    assert float(awpf_ext.median_bandwidth(x, y)) == pytest.approx(expected, rel=1e-6)
    far = torch.cat([x.double() + 1e9, x.double() - 1e9])
    assert float(awpf_ext.median_bandwidth(far)) == pytest.approx(
        float(median_distance(far)), rel=1e-12
    )


@pytest.mark.parametrize("size", [30, 200])
def test_a_point_that_is_not_finite(size):
    x = torch.randn(size, 4)
    x[size - 3, 1] = float("nan")
    with pytest.raises(ValueError, match=f"row {size - 3} .* NaN or an infinity"):
        awpf_ext.median_bandwidth(x)
    with pytest.raises(ValueError, match="too large"):
        awpf_ext.median_bandwidth(torch.randn(size, 4).double() * 1e200)


def test_duplicates_up_to_half_of_the_pairs():
    x = torch.tensor([[0.0], [0.0], [0.0], [5.0], [5.0]]).double()  # 4 zeros and 6 fives
    assert float(awpf_ext.median_bandwidth(x)) == 5.0
    with pytest.raises(ValueError, match="median distance is zero"):
        awpf_ext.median_bandwidth(torch.tensor([[0.0], [0.0], [0.0], [5.0]]).double())


def test_equal_points_that_are_not_representable_count_as_zero():
    """Rounding of the inner products must not make up a bandwidth."""
    x = torch.randn(2, 200).double()[[0] * 30 + [1] * 10]
    with pytest.raises(ValueError, match="median distance is zero"):
        awpf_ext.median_bandwidth(x)


def test_numpy():
    x = np.random.default_rng(0).standard_normal((3, 12, 4))
    found = awpf_ext.median_bandwidth(x)
    assert isinstance(found, np.ndarray)
    assert found.shape == (3,)
    assert found[1] == float(awpf_ext.median_bandwidth(torch.from_numpy(x[1])))
