"""Fusion with a weight for each direction of a change, chosen on held-out rows.

A change D = U S V' of the adapter is applied direction by direction,

    A(w) = A_old + U diag(w) U' D + w_rest (D - U U' D),   0 <= w <= 1,

U being the first left singular vectors of D. The weights, including w_rest, minimise the
cross-entropy of held-out rows plus a penalty that pulls them to their mean and their mean to a
prior tau, and are then clamped to [0, 1]. With more rows the penalty counts less:

    mean CE + (rho / rows) (sum_i (w_i - mean w)^2 + (mean w - tau)^2).

With rho -> infinity all weights are tau. The rows are classified with an adapter that was not
trained on them, so its change is not the one that is fused; both are weighted along the same U.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from awpf_ext.ops.low_rank import low_rank_sum

STEPS = 50
SMALLEST_SQUARE = 1e-24  # of a length: an embedding of zeros has cosines of zero


class DirectionWeights(NamedTuple):
    """Weights of the directions U (d, r), the largest first, and of the rest of the change."""

    directions: Tensor
    weights: Tensor  # (r,)
    rest: float

    def fused(self, old: Tensor, new: Tensor) -> Tensor:
        """A(w) for the change from `old` to `new`."""
        change = new - old
        fused: Tensor = low_rank_sum(
            self.directions.unsqueeze(0),
            (self.weights - self.rest).unsqueeze(0),
            (change.mT @ self.directions).unsqueeze(0),
            base=old + self.rest * change,
        )
        return fused


class HeldOutChange(NamedTuple):
    """Held-out rows, and the change of an adapter that was not trained on them."""

    old: Tensor  # the adapter before the change
    new: Tensor
    x: Tensor  # (n, d) held-out features
    labels: Tensor  # (n,)
    texts: Tensor  # (C, d) the texts that embeddings are compared with
    logit_scale: float


def direction_weights(
    change: Tensor, rank: int, prior: float, strength: float, held_out: HeldOutChange
) -> DirectionWeights:
    """The weights of the first `rank` directions of `change` and of the rest.

    prior: tau. strength: rho, of the pull to the mean and of the mean to tau.
    """
    directions = torch.linalg.svd(change, full_matrices=False).U[:, :rank]
    logits, labels = logits_by_weights(directions, held_out), held_out.labels
    weights = torch.full((directions.shape[1] + 1,), prior, device=change.device)
    weights.requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        mean = weights.mean()
        pull = (weights - mean).square().sum() + (mean - prior).square()
        loss = cross_entropy(logits(weights), labels) + strength / len(labels) * pull
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    found = weights.detach().clamp(0, 1)
    return DirectionWeights(directions, found[:-1], float(found[-1]))


def logits_by_weights(directions: Tensor, held_out: HeldOutChange) -> Callable[[Tensor], Tensor]:
    """The logits (n, C) of the held-out rows as a function of the weights, the last for the rest.

    An embedding is b + U (w * a) + w_rest c: b is the embedding before the change, U a its movement
    along U, and c the rest. Their products with each other and with the texts are made once.
    """
    before = held_out.x @ held_out.old.mT
    moved = held_out.x @ (held_out.new - held_out.old).mT
    along = moved @ directions
    beyond = moved - along @ directions.mT
    texts = held_out.texts.mT
    before_texts, beyond_texts = before @ texts, beyond @ texts
    direction_texts = directions.mT @ texts
    crossed, along_square = 2 * along * (before @ directions), along.square()
    squares = [(x * y).sum(1) for x, y in ((before, before), (before, beyond), (beyond, beyond))]

    def logits(weights: Tensor) -> Tensor:
        w, rest = weights[:-1], weights[-1]
        products = torch.addmm(before_texts + rest * beyond_texts, along * w, direction_texts)
        square = squares[0] + 2 * rest * squares[1] + rest.square() * squares[2]
        square = square + crossed @ w + along_square @ w.square()
        scale = held_out.logit_scale * square.clamp_min(SMALLEST_SQUARE).rsqrt()
        return products * scale[:, None]

    return logits
