"""The global contrastive loss: each sample against all others', by moving averages.

A sample i is an image with embedding e_i and the text t_y of its class y; T is the temperature. Its
partition functions are means over negatives, which are those of other classes only:

    image side   g_i = mean over classes c != y of exp((e_i . t_c - e_i . t_y) / T)
    text side    g_i = mean over images j of other classes of exp((e_j . t_y - e_i . t_y) / T)

and its loss, in units of cross-entropy, is 1/2 log(eps + g_i) of the image side and the same of the
text side. The classes are all at hand, so the image side is exact. The images are not: a batch
gives an estimate of the text side's g_i, whose logarithm is biased, so that a moving average over
the sample's visits stands in for it (SogCLR, Yuan et al. 2022):

    u_i <- (1 - gamma) u_i + gamma g_i        loss log(eps + u_i), gradient (grad g_i) / (eps + u_i)

Everything is kept as a logarithm. At T = 0.01 the exponents reach 200, beyond what float32's exp
takes; log u_i does not, and u_i >= gamma g_i keeps the gradient's factor below 1 / gamma.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

UNKNOWN = math.nan  # the estimate of a sample that has not been visited yet


class MovingAverages:
    """log u of each sample, indexed by sample id."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._log_u = torch.empty(0, device=device)

    def __getitem__(self, ids: Tensor) -> Tensor:
        """log u of samples; NaN for samples that have not been visited."""
        self._make_room(ids)
        return self._log_u[ids]

    @torch.no_grad()
    def update(self, ids: Tensor, log_g: Tensor, gamma: float) -> Tensor:
        """log u after u <- (1 - gamma) u + gamma g; g itself for a new sample."""
        before = self[ids]
        if gamma < 1:
            mixed = torch.logaddexp(before + math.log1p(-gamma), log_g + math.log(gamma))
            after = torch.where(before.isnan(), log_g, mixed)
        else:
            after = log_g.detach()
        self._log_u[ids] = after
        return after

    def keep(self, ids: Tensor) -> None:
        """Forget all other samples."""
        kept = self[ids]
        self._log_u.fill_(UNKNOWN)
        self._log_u[ids] = kept

    def state_dict(self) -> dict[str, Tensor]:
        known = (~self._log_u.isnan()).nonzero().flatten()
        return {"ids": known, "log_u": self._log_u[known]}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._log_u = self._log_u[:0]
        ids = state["ids"].to(self._log_u.device)
        self._make_room(ids)
        self._log_u[ids] = state["log_u"].to(self._log_u.device)

    def _make_room(self, ids: Tensor) -> None:
        needed = int(ids.max()) + 1 if len(ids) else 0
        if needed > len(self._log_u):
            grown = self._log_u.new_full((max(needed, 2 * len(self._log_u)),), UNKNOWN)
            grown[: len(self._log_u)] = self._log_u
            self._log_u = grown


def global_contrastive(
    similarities: Tensor,
    labels: Tensor,
    ids: Tensor,
    averages: MovingAverages,
    *,
    temperature: float,
    gamma: float,
    eps: float,
) -> Tensor:
    """The loss of each sample of a batch, in units of cross-entropy; updates `averages`.

    similarities: (n, classes) cosines of the images with the texts of all classes seen. A side
    without negatives adds nothing. The value is that of the moving average, the gradient that of
    g_i / (eps + u_i) with u_i held fixed.
    """
    scaled = similarities.float() / temperature
    positive = scaled.gather(1, labels[:, None]).squeeze(1)
    losses = 0 * positive
    if scaled.shape[1] > 1:
        losses = losses + 0.5 * _log_with(_image_side(scaled, labels, positive), eps)
    if len(labels.unique()) > 1:
        log_g = _text_side(scaled, labels, positive)
        denominator = _log_with(averages.update(ids, log_g.detach(), gamma), eps)
        ratio = (log_g - denominator).exp()  # g / (eps + u), at most 1 / gamma
        losses = losses + 0.5 * (denominator + ratio - ratio.detach())
    return losses


def gamma_at(epoch: int, final: float, epochs: int) -> float:
    """1 in epoch 0, then along a cosine to `final` in epoch `epochs` and after."""
    if epoch >= epochs:
        return final
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def _image_side(scaled: Tensor, labels: Tensor, positive: Tensor) -> Tensor:
    """log g of the image side: over the texts of the other classes."""
    own = torch.zeros_like(scaled, dtype=torch.bool).scatter_(1, labels[:, None], True)
    others = scaled.masked_fill(own, -math.inf)
    return torch.logsumexp(others - positive[:, None], dim=1) - math.log(scaled.shape[1] - 1)


def _text_side(scaled: Tensor, labels: Tensor, positive: Tensor) -> Tensor:
    """log g of the text side: over the batch's images of other classes.

    The sum depends on the class alone, so it is taken once per class of the batch.
    """
    classes, group, sizes = labels.unique(return_inverse=True, return_counts=True)
    own = labels[:, None] == classes
    sums = torch.logsumexp(scaled[:, classes].masked_fill(own, -math.inf), dim=0)
    means: Tensor = sums - (len(labels) - sizes).log()
    return means[group] - positive


def _log_with(log_value: Tensor, eps: float) -> Tensor:
    """log(value + eps) of a value given by its logarithm."""
    if eps == 0:
        return log_value
    return torch.logaddexp(log_value, log_value.new_tensor(math.log(eps)))
