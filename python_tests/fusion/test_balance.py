"""The balance factor and its three normalisations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from awpf_ext import mmd, separability
from awpf_ext.fusion import BalanceFactor, balance_factor
from awpf_ext.fusion.balance import NORMALISATIONS


def sides(shift: float, spread: float = 0.3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat_interleave(10)
    centres = torch.randn(8, 5, generator=generator)
    old = centres[labels] + spread * torch.randn(40, 5, generator=generator)
    new = centres[labels] + shift + spread * torch.randn(40, 5, generator=generator)
    return old, labels, new, labels + 4


def test_formula():
    assert balance_factor(1.0, 0.5) == pytest.approx(1 / 1.5)
    assert balance_factor(0.5, 0.8) == pytest.approx(0.5 / 0.7)
    assert balance_factor(0.0, 0.3) == 0
    assert balance_factor(0.0, 1.0) == 0
    with pytest.raises(ValueError, match=r"alignment is 1\.2; expected"):
        balance_factor(1.2, 0.5)


def test_measures_are_those_of_the_operations():
    old, old_labels, new, new_labels = sides(0.5)
    balance = BalanceFactor()(old, old_labels, new, new_labels)
    assert balance.mmd2 == pytest.approx(float(mmd(old, new)))
    smaller = min(float(separability(old, old_labels)), float(separability(new, new_labels - 4)))
    assert balance.separability == pytest.approx(smaller)
    assert balance.alignment == 1  # the first distance is the largest so far
    assert balance.tau == pytest.approx(1 / (2 - smaller))
    assert balance.weight == pytest.approx(balance.tau)


def test_numpy():
    given = sides(0.5)
    assert BalanceFactor()(*(side.numpy() for side in given)) == BalanceFactor()(*given)


def test_a_side_of_one_class_has_no_separability():
    old, old_labels, new, new_labels = sides(0.5)
    one = BalanceFactor()(old, old_labels, new[:10], new_labels[:10])
    assert one.separability == pytest.approx(float(separability(old, old_labels)))
    both = BalanceFactor()(old[:10], old_labels[:10], new[:10], new_labels[:10])
    assert both.separability == 0
    assert both.tau == 0.5


def test_running_maximum():
    factor = BalanceFactor()
    far = factor(*sides(1.0))
    near = factor(*sides(0.2))
    assert near.alignment == pytest.approx(near.mmd2 / far.mmd2)
    assert near.tau == pytest.approx(balance_factor(near.alignment, near.separability))
    farther = factor(*sides(3.0))
    assert farther.alignment == 1


def test_bounded():
    balance = BalanceFactor(normalisation="bounded")(*sides(0.5))
    assert balance.alignment == pytest.approx(balance.mmd2 / 2)


def test_both_by_running_maximum():
    factor = BalanceFactor(normalisation="both_running_max")
    first = factor(*sides(0.5))
    assert first.tau == 1  # M = J = 1
    second = factor(*sides(0.2, spread=0.8))
    expected = balance_factor(second.mmd2 / first.mmd2, second.separability / first.separability)
    assert second.tau == pytest.approx(expected)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_tau_is_a_fraction(normalisation):
    factor = BalanceFactor(normalisation=normalisation)
    for shift in (0.0, 2.0, 0.1, 5.0):
        assert 0 <= factor(*sides(shift)).tau <= 1


def test_scale_is_clipped():
    assert BalanceFactor(scale=0)(*sides(0.5)).weight == 0
    assert BalanceFactor(scale=100)(*sides(0.5)).weight == 1


def test_state_carries_the_maxima():
    factor, restored = BalanceFactor(), BalanceFactor()
    factor(*sides(1.0))
    restored.load_state_dict(factor.state_dict())
    assert restored(*sides(0.2)) == factor(*sides(0.2))


def test_bad_settings():
    with pytest.raises(ValueError, match="scale is -1; expected a finite number of 0 or more"):
        BalanceFactor(scale=-1)
    with pytest.raises(ValueError, match="normalisation is 'max'; expected one of running_max"):
        BalanceFactor(normalisation="max")  # type: ignore[arg-type]
