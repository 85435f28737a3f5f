"""Class statistics: what draws are distributed like, few images, growth, storage."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from awpf_ext.methods._base.class_statistics import (
    ClassStatistics,
    StatisticsBlock,
    covariance_factor,
    truncate_factor,
)


def random_classes(counts: list[int], dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    mixing = torch.randn(dim, dim, generator=generator) / dim**0.5
    x = torch.randn(len(labels), dim, generator=generator) @ mixing + labels[:, None]
    order = torch.randperm(len(labels), generator=generator)
    return x[order], labels[order]


def draws(statistics: ClassStatistics, class_id: int, count: int = 200_000) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return statistics.draw(torch.full((count,), class_id), generator)


@pytest.mark.parametrize("count", [2, 3, 6, 7, 40])
def test_factor_is_a_factor_of_the_covariance(count):
    x, _ = random_classes([count], 6)
    factor = covariance_factor(x, x.mean(0))
    assert factor.shape == (min(count - 1, 6), 6)
    torch.testing.assert_close(factor.T @ factor, torch.cov(x.T), atol=1e-5, rtol=1e-5)


def test_factor_where_leading_features_are_constant():
    x, _ = random_classes([4], 8)
    x[:, :5] = 3.0
    factor = covariance_factor(x, x.mean(0))
    torch.testing.assert_close(factor.T @ factor, torch.cov(x.T), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shrinkage", [False, True])
@pytest.mark.parametrize("count", [3, 30])
def test_draws_have_the_mean_and_covariance_of_the_class(count, shrinkage):
    dim, added_variance = 5, 0.01
    x, labels = random_classes([4, count], dim)
    statistics = ClassStatistics(dim, added_variance=added_variance, shrinkage=shrinkage)
    statistics.add(x, labels, range(2))
    rows = x[labels == 1]
    expected = torch.cov(rows.T) + added_variance * torch.eye(dim)
    if shrinkage:
        off = ~torch.eye(dim, dtype=torch.bool)
        expected = expected + torch.where(off, expected[off].mean(), expected.diagonal().mean())
    drawn = draws(statistics, 1)
    torch.testing.assert_close(drawn.mean(0), rows.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(torch.cov(drawn.T), expected, atol=0.04, rtol=0.03)


def test_shrinkage_with_negative_mean_covariance():
    x = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [2.0, -2.0]])
    statistics = ClassStatistics(2, added_variance=1e-4, shrinkage=True)
    statistics.add(x, torch.zeros(3, dtype=torch.int64), range(1))
    expected = torch.cov(x.T) + 1e-4 * torch.eye(2)
    expected = expected * 2
    torch.testing.assert_close(torch.cov(draws(statistics, 0).T), expected, atol=0.1, rtol=0)


def test_a_class_of_one_image_borrows_the_mean_variance_of_the_others():
    x, labels = random_classes([20, 1, 30], 4)
    statistics = ClassStatistics(4, added_variance=1e-6)
    statistics.add(x, labels, range(3))
    variance = (x[labels == 0].var(0).mean() + x[labels == 2].var(0).mean()) / 2
    drawn = draws(statistics, 1)
    torch.testing.assert_close(drawn.mean(0), x[labels == 1][0], atol=0.02, rtol=0)
    torch.testing.assert_close(drawn.var(0), variance.expand(4), atol=0.02, rtol=0)


def test_only_classes_of_one_image_draw_with_the_added_variance_alone():
    x, labels = random_classes([1, 1], 3)
    statistics = ClassStatistics(3, added_variance=0.25)
    statistics.add(x, labels, range(2))
    variance = draws(statistics, 0).var(0)
    torch.testing.assert_close(variance, torch.full((3,), 0.25), atol=0.01, rtol=0)


def test_a_class_without_images_is_never_drawn():
    x, labels = random_classes([3, 0, 2], 4)
    statistics = ClassStatistics(4)
    statistics.add(x, labels, range(3))
    assert len(statistics) == 3
    assert statistics.drawable.tolist() == [0, 2]


def test_truncation_keeps_principal_directions_and_all_variance():
    x, _ = random_classes([50], 8)
    factor = covariance_factor(x, x.mean(0))
    kept, residual = truncate_factor(factor, 3)
    eigenvalues = torch.linalg.eigvalsh(torch.cov(x.T))
    torch.testing.assert_close(
        torch.linalg.eigvalsh(kept @ kept.T), eigenvalues[-3:], atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(residual, eigenvalues[:-3].sum() / 8, atol=1e-5, rtol=1e-4)
    whole, nothing = truncate_factor(factor, 8)
    assert whole is factor
    assert nothing == 0


def test_truncated_statistics_store_and_draw_less():
    x, labels = random_classes([40, 40], 8)
    statistics = ClassStatistics(8, max_rank=2)
    statistics.add(x, labels, range(2))
    assert statistics.blocks[0].ranks.tolist() == [2, 2]
    total = draws(statistics, 0).var(0).sum()
    torch.testing.assert_close(total, x[labels == 0].var(0).sum(), atol=0, rtol=0.02)


def test_blocks_restore_the_same_draws():
    x, labels = random_classes([5, 1, 20, 9], 6)
    statistics = ClassStatistics(6)
    statistics.add(x[labels < 2], labels[labels < 2], range(2))
    statistics.add(x[labels >= 2], labels[labels >= 2], range(2, 4))
    restored = ClassStatistics(6)
    for block in statistics.blocks:
        restored.append(StatisticsBlock(**block.tensors()))
    wanted = torch.tensor([3, 0, 1, 1, 2, 0])
    first = statistics.draw(wanted, torch.Generator().manual_seed(5))
    again = restored.draw(wanted, torch.Generator().manual_seed(5))
    assert torch.equal(first, again)


def test_adding_a_task_leaves_earlier_blocks_alone():
    x, labels = random_classes([5, 5], 6)
    statistics = ClassStatistics(6)
    statistics.add(x[labels == 0], labels[labels == 0], range(1))
    before = {name: tensor.clone() for name, tensor in statistics.blocks[0].tensors().items()}
    statistics.add(x[labels == 1], labels[labels == 1], range(1, 2))
    for name, tensor in statistics.blocks[0].tensors().items():
        assert torch.equal(tensor, before[name])


def test_classes_must_follow_those_already_there():
    x, labels = random_classes([5], 6)
    with pytest.raises(ValueError, match=r"range\(1, 2\); expected a range that starts at 0"):
        ClassStatistics(6).add(x, labels, range(1, 2))


def test_storage_is_low_rank_where_there_are_fewer_images_than_dimensions():
    x, labels = random_classes([4, 4], 100)
    statistics = ClassStatistics(100)
    statistics.add(x, labels, range(2))
    assert statistics.blocks[0].factors.shape == (6, 100)
    assert statistics.nbytes < 2 * 5 * 100 * 4


def test_drawing_nothing():
    x, labels = random_classes([4], 3)
    statistics = ClassStatistics(3)
    statistics.add(x, labels, range(1))
    nothing = statistics.draw(torch.empty(0, dtype=torch.int64), torch.Generator())
    assert nothing.shape == (0, 3)
