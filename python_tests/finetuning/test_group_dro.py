"""Class weights: the estimator, the limits of lambda, the averages, classes without samples."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch

from awpf_ext.finetuning.group_dro import ClassWeights, effective_number, lambda_for

LABELS = torch.tensor([0, 0, 1, 2, 2, 2])
LOSSES = torch.tensor([1.0, 3.0, 5.0, 0.0, 1.0, 2.0])  # means 2, 5, 1
COUNTS = torch.tensor([2, 1, 3])
MEANS = torch.tensor([2.0, 5.0, 1.0])


def known(classes=3, **settings):
    """Class weights that have seen all losses."""
    groups = ClassWeights(classes, **settings)
    groups.replace(LOSSES, LABELS)
    return groups


def batch_loss(groups, rows):
    """The loss of a batch, as GDRO computes it."""
    return (groups.sample_weights(LABELS[rows], COUNTS) * LOSSES[rows]).mean()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("adjustment", [0.0, 2.0])
def test_the_mean_over_all_batches_is_the_objective(size, adjustment):
    """Rare classes count for what they weigh, however often they appear."""
    groups = known(dro_lambda=2.0, adjustment=adjustment)
    expected = torch.softmax((MEANS + adjustment / COUNTS.sqrt()) / 2, 0) @ MEANS
    batches = [torch.tensor(rows) for rows in combinations(range(6), size)]
    found = torch.stack([batch_loss(groups, rows) for rows in batches]).mean()
    torch.testing.assert_close(found, expected)


def test_a_large_lambda_gives_the_mean_over_classes():
    for groups in (known(dro_lambda=1e9), known(effective_classes=1.0)):
        assert batch_loss(groups, torch.arange(6)).item() == pytest.approx((2 + 5 + 1) / 3)


def test_a_small_lambda_gives_the_worst_class():
    for groups in (known(dro_lambda=1e-6), known(effective_classes=1e-9)):
        assert groups.weights(COUNTS).tolist() == pytest.approx([0, 1, 0], abs=1e-6)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_lambda_follows_from_the_effective_number_of_classes(share, scale):
    losses = scale * torch.randn(80, generator=torch.Generator().manual_seed(5))
    groups = ClassWeights(80, effective_classes=share)
    groups.replace(losses, torch.arange(80))
    weights, dro_lambda = groups.weights_and_lambda(torch.ones(80, dtype=torch.int64))
    assert effective_number(weights) == pytest.approx(1 + 79 * share, rel=1e-3)
    torch.testing.assert_close(weights, torch.softmax(losses.double() / dro_lambda, 0))


def test_an_effective_number_that_no_lambda_has_gives_the_nearest_weights():
    """Three equal largest losses cannot weigh less than three classes."""
    values = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    weights = torch.softmax(values / lambda_for(values, 1.0), 0)
    torch.testing.assert_close(weights, torch.tensor([1 / 3, 1 / 3, 1 / 3, 0]).double())
    assert lambda_for(torch.ones(4), 1.0) > 0


def test_values_follow_their_recurrence_and_weights_are_a_softmax():
    groups = ClassWeights(3, dro_lambda=2.0, new_weight=0.9)
    groups.update(LOSSES, LABELS)
    groups.update(torch.tensor([4.0]), torch.tensor([2]))
    expected = torch.tensor([2.0, 5.0, 0.1 * 1 + 0.9 * 4])
    torch.testing.assert_close(groups.values, expected)
    torch.testing.assert_close(groups.weights(COUNTS), torch.softmax(expected.double() / 2, 0))


def test_few_samples_weigh_more_with_a_group_adjustment():
    counts = torch.tensor([1, 100, 100])
    groups = ClassWeights(3, dro_lambda=1.0, adjustment=3.0)
    groups.replace(torch.ones(3), torch.arange(3))
    expected = torch.softmax(torch.tensor([3.0, 0.3, 0.3]).double(), 0)
    torch.testing.assert_close(groups.weights(counts), expected)


def test_a_class_that_was_not_met_yet_weighs_like_the_mean_of_the_others():
    groups = ClassWeights(4, dro_lambda=1.0)
    assert groups.weights(torch.tensor([1, 1, 1, 1])).tolist() == pytest.approx([0.25] * 4)
    groups.replace(torch.tensor([1.0, 3.0]), torch.tensor([0, 1]))
    expected = torch.softmax(torch.tensor([1.0, 3.0, 2.0, 2.0]).double(), 0)
    torch.testing.assert_close(groups.weights(torch.ones(4, dtype=torch.int64)), expected)


def test_classes_without_samples_get_no_weight():
    groups = known(classes=5, dro_lambda=1.0)
    found = groups.weights(torch.tensor([3, 0, 1, 0, 2]))
    assert found[[1, 3]].tolist() == [0, 0]
    assert found.sum().item() == pytest.approx(1)
    assert groups.sample_weights(torch.tensor([0, 2]), torch.tensor([3, 0, 1])).isfinite().all()


def test_huge_losses_and_a_restored_state_give_finite_equal_weights():
    groups = ClassWeights(3, dro_lambda=0.1)
    groups.replace(torch.tensor([200.0, 0.0, -30.0]), torch.arange(3))
    assert groups.weights(COUNTS).isfinite().all()
    again = ClassWeights(3, dro_lambda=0.1)
    again.load_state_dict(groups.state_dict())
    assert torch.equal(again.weights(COUNTS), groups.weights(COUNTS))


def test_no_samples_give_no_weights():
    weights, dro_lambda = ClassWeights(3).weights_and_lambda(torch.zeros(3, dtype=torch.int64))
    assert weights.tolist() == [0, 0, 0]
    assert math.isfinite(dro_lambda)
