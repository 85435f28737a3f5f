"""Class weights: the limits of lambda, the averages, and classes without samples."""

from __future__ import annotations

import math

import pytest
import torch

from awpf_ext.finetuning.group_dro import ClassWeights

LABELS = torch.tensor([0, 0, 1, 2, 2, 2])
LOSSES = torch.tensor([1.0, 3.0, 5.0, 0.0, 1.0, 2.0])  # means 2, 5, 1
ALL = torch.arange(3)


def weights(dro_lambda, classes=3, momentum=0.9):
    return ClassWeights(classes, dro_lambda=dro_lambda, momentum=momentum)


def test_a_large_lambda_gives_the_mean_over_classes():
    for dro_lambda in (1e9, math.inf):
        assert weights(dro_lambda).loss(LOSSES, LABELS, ALL).item() == pytest.approx(
            (2 + 5 + 1) / 3
        )


def test_a_small_lambda_gives_the_worst_class():
    losses = LOSSES.clone().requires_grad_()
    loss = weights(1e-6).loss(losses, LABELS, ALL)
    loss.backward()
    assert loss.item() == pytest.approx(5)
    assert losses.grad.tolist() == [0, 0, 1, 0, 0, 0]


def test_values_follow_their_recurrence_and_weights_are_a_softmax():
    groups = weights(2.0)
    groups.loss(LOSSES, LABELS, ALL)
    groups.loss(torch.tensor([4.0]), torch.tensor([2]), ALL)
    expected = torch.tensor([2.0, 5.0, 0.1 * 1 + 0.9 * 4])
    torch.testing.assert_close(groups.values, expected)
    torch.testing.assert_close(groups.weights(ALL), torch.softmax(expected / 2, 0))


def test_a_part_of_the_classes_stands_for_all():
    """K / K_B: a batch of one of three equal classes weighs as much as the three together."""
    groups = weights(1.0)
    groups.loss(torch.ones(3), ALL, ALL)
    assert groups.loss(torch.ones(1), torch.tensor([1]), ALL).item() == pytest.approx(1)


def test_weights_are_held_fixed_in_the_gradient():
    groups = weights(1.0)
    losses = LOSSES.clone().requires_grad_()
    groups.loss(losses, LABELS, ALL).backward()
    share = torch.softmax(torch.tensor([2.0, 5.0, 1.0]), 0)[LABELS]
    sizes = torch.tensor([2.0, 2, 1, 3, 3, 3])
    torch.testing.assert_close(losses.grad, share / sizes)


def test_classes_without_samples_or_not_met_get_no_weight():
    groups = weights(1.0, classes=5)
    groups.loss(LOSSES, LABELS, ALL)
    among = torch.tensor([0, 2, 4])  # 1 has none any more, 4 has not been met
    found = groups.weights(among)
    assert found[[1, 3, 4]].tolist() == [0, 0, 0]
    assert found.sum().item() == pytest.approx(1)


def test_huge_losses_and_a_restored_state_give_finite_equal_weights():
    groups = weights(0.1)
    groups.loss(torch.tensor([200.0, 0.0, -30.0]), ALL, ALL)
    assert groups.weights(ALL).isfinite().all()
    again = weights(0.1)
    again.load_state_dict(groups.state_dict())
    assert torch.equal(again.weights(ALL), groups.weights(ALL))
