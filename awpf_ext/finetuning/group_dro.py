"""Group distributionally robust optimisation over classes: those with large losses weigh more.

With L_k the mean loss of the n_k samples of class k, K classes that have samples, and N samples,

    a_k = v_k + C / sqrt(n_k)              v_k: L_k as last estimated; C: group adjustment
    p = softmax(a / lambda)                over the K classes
    loss of a batch = mean over its samples i of (N p_{y_i} / n_{y_i}) l_i, with p held fixed

The batch is a uniform draw from the N samples, so if l_i does not depend on the batch, the mean of
the loss over all batches is sum_k p_k L_k, however often a class appears. p maximises
sum_k p_k a_k - lambda KL(p || uniform): lambda -> infinity gives the mean over classes, lambda -> 0
the worst class alone. A loss has no natural unit, so lambda can be found from a number that has:
the effective number of classes, 1 / sum p^2 = 1 + share (K - 1).

A few samples that are seen again and again are soon fitted, so that their loss is below that of
unseen samples of their class. The adjustment is for this (Sagawa et al., arXiv 1911.08731).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

UNKNOWN = math.nan  # v of a class that no batch has contained yet
SMALLEST, LARGEST = 1e-8, 1e8  # lambda, in units of the range of a
CANDIDATES, ROUNDS = 64, 5  # of the search for lambda: each round leaves one part in 63


class ClassWeights:
    """Keeps v of every class and computes the class weights p from it."""

    def __init__(
        self,
        classes: int,
        *,
        dro_lambda: float | None = None,
        effective_classes: float = 0.5,
        adjustment: float = 0.0,
        new_weight: float = 0.3,
        device: torch.device | str = "cpu",
    ) -> None:
        """classes: how many there will be in all tasks. dro_lambda: lambda; None: it follows from
        effective_classes, the share above. adjustment: C. new_weight: that of a batch's loss in v.
        """
        self.values = torch.full((classes,), UNKNOWN, device=device)
        self._dro_lambda = dro_lambda
        self._effective_classes = effective_classes
        self._adjustment = adjustment
        self._new_weight = new_weight
        self._latest: tuple[Tensor, Tensor, float] | None = None  # counts, weights, lambda

    def weights(self, counts: Tensor) -> Tensor:
        """p of each class of `counts`, the n_k; 0 for a class without samples.

        A class that no batch has contained yet gets the mean v of the others.
        """
        weights, _ = self.weights_and_lambda(counts)
        return weights

    def weights_and_lambda(self, counts: Tensor) -> tuple[Tensor, float]:
        """`weights`, and the lambda that they were computed with."""
        if self._latest is not None and self._latest[0] is counts:
            return self._latest[1:]
        sizes = counts.cpu()  # the search for lambda would wait for an accelerator many times
        weights = torch.zeros(len(sizes), dtype=torch.float64)
        present = sizes > 0
        adjusted = self._adjusted(sizes, present)
        dro_lambda = self._dro_lambda
        if dro_lambda is None:
            effective = 1 + self._effective_classes * (len(adjusted) - 1)
            dro_lambda = lambda_for(adjusted, effective)
        weights[present] = torch.softmax(adjusted / dro_lambda, dim=0)
        self._latest = counts, weights.to(counts.device), dro_lambda
        return self._latest[1:]

    def sample_weights(self, labels: Tensor, counts: Tensor) -> Tensor:
        """N p_y / n_y of each sample, float32; their mean over all N samples is 1."""
        by_class = self.weights(counts) * counts.sum() / counts.clamp(min=1)
        return by_class[labels].float()

    def update(self, losses: Tensor, labels: Tensor) -> None:
        """Move v of the classes of a batch towards the mean losses of their samples."""
        present, means = class_means(losses.detach(), labels)
        self._latest = None
        before = self.values[present]
        mixed = (1 - self._new_weight) * before + self._new_weight * means
        self.values[present] = torch.where(before.isnan(), means, mixed)

    def replace(self, losses: Tensor, labels: Tensor) -> None:
        """Set v of the classes among `labels` to the mean losses of their samples."""
        self._latest = None
        present, means = class_means(losses, labels)
        self.values[present] = means

    def state_dict(self) -> dict[str, Tensor]:
        return {"values": self.values}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._latest = None
        self.values = state["values"].to(self.values.device, copy=True)

    def _adjusted(self, counts: Tensor, present: Tensor) -> Tensor:
        values = self.values[: len(counts)].cpu()[present].double()
        known = ~values.isnan()
        mean = values[known].mean() if bool(known.any()) else values.new_zeros(())
        return torch.where(known, values, mean) + self._adjustment / counts[present].double().sqrt()


def class_means(losses: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The classes among `labels`, and the mean loss of each, float32."""
    present, group, sizes = labels.unique(return_inverse=True, return_counts=True)
    sums = losses.new_zeros(len(present), dtype=torch.float64).index_add(0, group, losses.double())
    return present, (sums / sizes).float()


def lambda_for(values: Tensor, effective: float) -> float:
    """The lambda at which p = softmax(values / lambda) has 1 / sum p^2 = `effective`.

    1 / sum p^2 grows with lambda, from the number of largest values to the number of values; beyond
    these the nearest lambda of a wide interval is returned.
    """
    spread = float(values.max() - values.min()) if len(values) else 0.0
    if not spread > 0:
        return 1.0  # all weights are equal, whatever lambda is
    low, high = math.log(SMALLEST * spread), math.log(LARGEST * spread)
    for _ in range(ROUNDS):
        tried = torch.linspace(low, high, CANDIDATES, dtype=torch.float64)
        weights = torch.softmax(values.double() / tried.exp()[:, None], dim=1)
        too_few = weights.square().sum(dim=1).reciprocal() < effective
        above = min(max(int(too_few.sum()), 1), CANDIDATES - 1)
        low, high = float(tried[above - 1]), float(tried[above])
    return math.exp(high)


def effective_number(weights: Tensor) -> float:
    """1 / sum p^2: K for K equal weights, 1 if one class has all the weight."""
    return 1 / float(weights.double().square().sum())
