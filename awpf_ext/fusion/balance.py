"""The balance factor: how much of the new task's parameters to keep, from MMD and LDA."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from awpf_ext.ops._arguments import (
    accepts_numpy,
    check_alike,
    check_labels,
    check_points,
    check_values,
    is_number,
    shown,
)
from awpf_ext.ops.mmd import mmd
from awpf_ext.ops.scatter import separability

Normalisation = Literal["running_max", "bounded", "both_running_max"]
NORMALISATIONS: tuple[Normalisation, ...] = ("running_max", "bounded", "both_running_max")


class Balance(NamedTuple):
    """The measures that one fusion step was weighted by."""

    mmd2: float  # squared MMD between the two sides
    separability: float  # LDA's J, the smaller of the two sides
    alignment: float  # the MMD normalised to [0, 1]
    tau: float  # the balance factor
    weight: float  # clip(scale * tau, 0, 1), the weight of the new side


def balance_factor(alignment: float, separability: float) -> float:
    """tau = M / (M + 1 - J), both in [0, 1] (Dynamic Weighted Learning, CVPR 2021).

    If the distributions are far apart (large M) or the classes are (large J), tau is near 1. For
    M = 0 and J = 1 the formula is 0/0, and tau is 0, because there is nothing to align.
    """
    for name, value in (("alignment", alignment), ("separability", separability)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; expected 0 to 1")
    total = alignment + (1 - separability)  # in this order tau cannot round above 1
    return alignment / total if total > 0 else 0.0


class BalanceFactor:
    """Weights for fusing adjacent tasks, from their MMD and the separability of their classes.

    tau = M / (M + 1 - J), with M from the squared MMD between the two sides and J the trace ratio
    tr S_B / (tr S_B + tr S_W), the smaller of the two sides. A side with one class has no J; if
    neither side has one, J is 0.

    Args:
        scale: The weight is scale times tau, clipped to [0, 1].
        normalisation: How M and J are brought to [0, 1]. "running_max" divides the squared MMD by
            its largest value so far; J is in [0, 1] already. "bounded" divides it by 2, its upper
            bound. "both_running_max" divides M and J by their largest values so far.

    Example:
        >>> factor = awpf_ext.BalanceFactor()
        >>> x, labels = torch.tensor([[0.0], [1.0], [4.0], [5.0]]), torch.tensor([0, 0, 1, 1])
        >>> balance = factor(x, labels, x + 2.0, labels + 2)
        >>> print(f"{balance.weight:.3f}")
        0.944
    """

    def __init__(self, scale: float = 1.0, normalisation: Normalisation = "running_max") -> None:
        if not is_number(scale) or not 0 <= scale < math.inf:
            raise ValueError(f"scale is {shown(scale)}; expected a finite number of 0 or more")
        if normalisation not in NORMALISATIONS:
            raise ValueError(
                f"normalisation is {normalisation!r}; expected one of {', '.join(NORMALISATIONS)}"
            )
        self.scale = scale
        self.normalisation = normalisation
        self._largest_mmd2 = 0.0
        self._largest_j = 0.0

    @accepts_numpy
    def __call__(
        self, old_x: Tensor, old_labels: Tensor, new_x: Tensor, new_labels: Tensor
    ) -> Balance:
        """Compare the two sides, and update the largest values.

        Args:
            old_x: Features (n, d) of the old side.
            old_labels: Their classes (n,).
            new_x: Features (m, d) of the new side.
            new_labels: Their classes (m,).

        Returns:
            What was measured, the balance factor tau, and the weight of the new side.
        """
        for side, x, labels in (("old", old_x, old_labels), ("new", new_x, new_labels)):
            check_values(f"{side}_x", check_points("BalanceFactor", f"{side}_x", x))
            check_labels(f"{side}_labels", labels, x)
        check_alike(old_x=old_x, new_x=new_x)
        mmd2 = max(float(mmd(old_x, new_x)), 0.0)
        j = _smaller_separability((old_x, old_labels), (new_x, new_labels))
        self._largest_mmd2 = max(self._largest_mmd2, mmd2)
        self._largest_j = max(self._largest_j, j)
        if self.normalisation == "bounded":
            alignment, normalised_j = min(mmd2 / 2, 1.0), j
        else:
            alignment, normalised_j = _ratio(mmd2, self._largest_mmd2), j
        if self.normalisation == "both_running_max":
            normalised_j = _ratio(j, self._largest_j)
        tau = balance_factor(alignment, normalised_j)
        return Balance(mmd2, j, alignment, tau, min(self.scale * tau, 1.0))

    def state_dict(self) -> dict[str, Tensor]:
        maxima = [self._largest_mmd2, self._largest_j]
        return {"maxima": torch.tensor(maxima, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._largest_mmd2, self._largest_j = state["maxima"].tolist()


def _smaller_separability(*sides: tuple[Tensor, Tensor]) -> float:
    """J of the side whose classes are less separated, among the sides with several classes."""
    found = []
    for x, labels in sides:
        classes, consecutive = torch.unique(labels, return_inverse=True)
        if len(classes) > 1:
            found.append(float(separability(x, consecutive, num_classes=len(classes))))
    return min([*found, 1.0]) if found else 0.0


def _ratio(value: float, largest: float) -> float:
    return value / largest if largest > 0 else 0.0
