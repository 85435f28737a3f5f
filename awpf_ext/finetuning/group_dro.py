"""Group distributionally robust optimisation over classes: those with large losses weigh more.

With L_k the mean loss of class k in the batch and K classes in all,

    v_k <- (1 - momentum) v_k + momentum L_k      for the classes of the batch
    p = softmax(v / lambda)                       over all K classes
    loss = sum over the batch's K_B classes of (K / K_B) p_k L_k, with p held fixed

p maximises sum_k p_k v_k - lambda KL(p || uniform): lambda -> infinity gives the mean over classes,
lambda -> 0 the worst class alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

UNKNOWN = math.nan  # v of a class that no batch has contained yet


class ClassWeights:
    """Keeps v of every class and computes the class weights and the loss from it."""

    def __init__(
        self,
        classes: int,
        *,
        dro_lambda: float,
        momentum: float,
        device: torch.device | str = "cpu",
    ) -> None:
        """classes: how many there will be in all tasks. dro_lambda: lambda."""
        self.values = torch.full((classes,), UNKNOWN, device=device)
        self._dro_lambda = dro_lambda
        self._momentum = momentum

    def weights(self, among: Tensor) -> Tensor:
        """p of all classes: a softmax over the classes of `among` seen so far, zero elsewhere."""
        known = self._known(among)
        weights = torch.zeros_like(self.values)
        weights[known] = torch.softmax(self.values[known] / self._dro_lambda, dim=0)
        return weights

    def loss(self, losses: Tensor, labels: Tensor, among: Tensor) -> Tensor:
        """The weighted loss of a batch from the losses of its samples; updates v.

        among: the classes that samples are drawn from. A class without samples keeps its v, which
        is out of date, and gets no weight.
        """
        present, group, sizes = labels.unique(return_inverse=True, return_counts=True)
        means = losses.new_zeros(len(present)).index_add(0, group, losses) / sizes
        self._update(present, means.detach())
        count = len(self._known(among))
        weighted: Tensor = self.weights(among)[present] * means
        return weighted.sum() * (count / len(present))

    def _known(self, classes: Tensor) -> Tensor:
        return classes[~self.values[classes].isnan()]

    def _update(self, present: Tensor, means: Tensor) -> None:
        before = self.values[present]
        mixed = (1 - self._momentum) * before + self._momentum * means
        self.values[present] = torch.where(before.isnan(), means.float(), mixed.float())

    def state_dict(self) -> dict[str, Tensor]:
        return {"values": self.values}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.values = state["values"].to(self.values.device, copy=True)
