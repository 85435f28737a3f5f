"""The balance factor: how much of the new task's parameters to take, from MMD and LDA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from awpf_ext.ops.mmd import mmd
from awpf_ext.ops.scatter import separability

Normalisation = Literal["running_max", "bounded", "both_running_max"]
NORMALISATIONS: tuple[Normalisation, ...] = ("running_max", "bounded", "both_running_max")


class Balance(NamedTuple):
    """What one fusion step was weighed by."""

    mmd: float  # squared MMD between the two sides
    separability: float  # LDA's J, the smaller of the two sides
    alignment: float  # the MMD normalised to [0, 1]
    tau: float  # the balance factor
    weight: float  # clip(scale * tau, 0, 1), on the new side


def balance_factor(alignment: float, separability: float) -> float:
    """tau = M / (M + 1 - J), both in [0, 1] (Dynamic Weighted Learning, CVPR 2021).

    Distributions far apart (M large) or classes far apart (J large) give tau near 1; where M = 0
    and J = 1 the formula is 0/0, and tau is 0: nothing to align.
    """
    for name, value in (("alignment", alignment), ("separability", separability)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; expected 0 to 1")
    total = alignment + (1 - separability)  # in this order tau cannot round above 1
    return alignment / total if total > 0 else 0.0


class BalanceFactor:
    """Weighs adjacent tasks: M from their squared MMD, J from their classes' separability.

    normalisation:
      running_max       M = MMD^2 / largest MMD^2 so far in the run; J as it is, already in [0, 1]
      bounded           M = MMD^2 / 2, its upper bound; J as it is
      both_running_max  both divided by their largest so far
    J is the trace ratio tr S_B / (tr S_B + tr S_W), the smaller of the two sides; a side of one
    class has no J, and where neither has one J is 0.
    """

    def __init__(self, scale: float = 1.0, normalisation: Normalisation = "running_max") -> None:
        if not scale >= 0:
            raise ValueError(f"scale is {scale}; expected 0 or more")
        if normalisation not in NORMALISATIONS:
            raise ValueError(
                f"normalisation is {normalisation!r}; expected one of {', '.join(NORMALISATIONS)}"
            )
        self.scale = scale
        self.normalisation = normalisation
        self._largest_mmd = 0.0
        self._largest_separability = 0.0

    def __call__(
        self, old_x: Tensor, old_labels: Tensor, new_x: Tensor, new_labels: Tensor
    ) -> Balance:
        """Compare features (n, d) of the two sides; the running maxima move on."""
        distance = max(float(mmd(old_x, new_x)), 0.0)
        spread = _smaller_separability((old_x, old_labels), (new_x, new_labels))
        self._largest_mmd = max(self._largest_mmd, distance)
        self._largest_separability = max(self._largest_separability, spread)
        if self.normalisation == "bounded":
            alignment, separated = min(distance / 2, 1.0), spread
        else:
            alignment, separated = _ratio(distance, self._largest_mmd), spread
        if self.normalisation == "both_running_max":
            separated = _ratio(spread, self._largest_separability)
        tau = balance_factor(alignment, separated)
        return Balance(distance, spread, alignment, tau, min(self.scale * tau, 1.0))

    def state_dict(self) -> dict[str, Tensor]:
        maxima = [self._largest_mmd, self._largest_separability]
        return {"maxima": torch.tensor(maxima, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._largest_mmd, self._largest_separability = state["maxima"].tolist()


def _smaller_separability(*sides: tuple[Tensor, Tensor]) -> float:
    """J of the side whose classes are less separated; a side of one class has none to separate."""
    found = []
    for x, labels in sides:
        classes, consecutive = torch.unique(labels, return_inverse=True)
        if len(classes) > 1:
            found.append(float(separability(x, consecutive, num_classes=len(classes))))
    return min([*found, 1.0]) if found else 0.0


def _ratio(value: float, largest: float) -> float:
    return value / largest if largest > 0 else 0.0
