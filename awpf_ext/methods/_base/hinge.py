"""RAPF's hinge loss: old classes stay closer to their own texts than to similar new texts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import relu

from awpf_ext.methods._base.cosine import row_products
from awpf_ext.methods._base.replay import shuffled_cycle


def hard_pairs(text: Tensor, old_classes: Tensor, new_classes: Tensor, threshold: float) -> Tensor:
    """(pairs, 2): every (old, new) pair whose L2-normalised texts are closer than `threshold`."""
    distances = (2 - 2 * text[old_classes] @ text[new_classes].T).clamp_min(0).sqrt()
    old, new = (distances < threshold).nonzero(as_tuple=True)
    return torch.stack([old_classes[old], new_classes[new]], dim=1)


def pair_schedule(
    pairs: Tensor, batches: int, *, draws: int, limit: int, generator: torch.Generator
) -> Tensor:
    """(batches, m, 2): the pair of each draw; per batch `draws` for each pair, at most `limit`.

    If the limit is reached, the pairs rotate through the epoch in a random order, so that the mean
    over the draws still estimates the mean over all pairs.
    """
    if not len(pairs):
        return pairs.new_empty(batches, 0, 2)
    per_batch = min(draws * len(pairs), limit)
    return shuffled_cycle(pairs, batches * per_batch, generator).view(batches, per_batch, 2)


def hinge_loss(directions: Tensor, text: Tensor, pairs: Tensor, margin: float) -> Tensor:
    """Mean of max(0, margin - cos(e, t_old) + cos(e, t_new)), e = A f with f of the old class."""
    old, new = pairs.unbind(1)
    differences = text.index_select(0, new) - text.index_select(0, old)
    return relu(margin + row_products(directions, differences)).mean()
