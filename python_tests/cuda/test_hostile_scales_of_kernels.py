"""Data that mix scales on the CUDA kernels: a part of the sweep that the CPU kernels pass."""

from __future__ import annotations

import pytest
import torch
from hostile_scales import DOUBLE, Case, cases, measure, two_clusters_in_both

SIZES = ((2, 2, 1), (40, 39, 5), (60, 80, 3))


@pytest.mark.usefixtures("small_or_not")
def test_sums_and_gradients_of_the_sweep(kernels):
    torch.manual_seed(31)
    chosen = list(cases(sizes=SIZES))[::7]
    ratios = [
        (ratio, name, case.name)
        for case in chosen
        for name, ratio in measure(case, kernels).items()
    ]
    assert len(ratios) > 150
    assert sorted((entry for entry in ratios if not entry[0] <= 1), reverse=True) == []


@pytest.mark.usefixtures("small_or_not")
def test_equal_rows_have_the_kernel_value_one(kernels):
    torch.manual_seed(32)
    few = torch.randn(4, 130)
    z = few[torch.randint(0, 4, (20,))]
    each = torch.stack([torch.arange(20), torch.arange(20) + 1], -1)[None]
    gamma = torch.tensor([[1e20]], dtype=DOUBLE)
    values = kernels.rbf_sums(z, each, None, gamma, None, False)[0]
    assert torch.equal(values, (z[:, None] == z).all(-1).double())


def test_points_that_overflow_give_nan(kernels):
    z = torch.tensor([[0.0], [1e150], [1.0]], dtype=DOUBLE)
    rows, gamma = torch.tensor([[[0, 1], [1, 3]]]), torch.tensor([[1e20]], dtype=DOUBLE)
    assert torch.isnan(kernels.rbf_sums(z, rows, None, gamma, None, False)).all()


def test_gradients_of_more_features_than_a_chunk(kernels):
    torch.manual_seed(33)
    x, y = two_clusters_in_both(12, 9, 140, 1e9)
    ratios = measure(Case("", x, y, [12.0, 40.0]), kernels)
    assert {name: ratio for name, ratio in ratios.items() if not ratio <= 1} == {}
