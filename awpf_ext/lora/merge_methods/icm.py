"""ICM-Fusion of adapters without any task data: the direction nearest to the farthest adapter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from awpf_ext.lora.icm.least_cosine import least_cosine_weights
from awpf_ext.lora.merge_methods.base import Term


def icm_weights(layers: Iterable[Sequence[Term]]) -> list[float]:
    """The weights w_t of the sum of the deltas of all layers that ICM-Fusion's data-free form is.

    An adapter is one vector D_t of its deltas in all layers. The result has the direction that
    maximises min_t cos(D, D_t) / w_t, exactly, and the norm sum w_t |D_t| / sum w_t. It is a
    weighted sum of the D_t, computed from their inner products; ranks may differ. ICM-Fusion (arXiv
    2508.04153, reconstructed from its abstract) adjusts the orientation of the tasks' vectors; that
    the smallest cosine should be as large as possible is our reading.

    No weight may be negative; only the ratios of the weights matter. Output rank: that of the sum.
    """
    gram, weights = None, [1.0]
    for terms in layers:
        weights = [term.weight for term in terms]
        own = _inner_products(terms)
        gram = own if gram is None else gram + own
    assert gram is not None
    return least_cosine_weights(gram, weights)


def _inner_products(terms: Sequence[Term]) -> Tensor:
    """(T, T): those of one layer's deltas, from the factors."""
    b = torch.cat([term.b.double() for term in terms], dim=1)
    a = torch.cat([term.scaling * term.a.double() for term in terms])
    products = (b.mT @ b) * (a @ a.mT)
    ranks = torch.tensor([term.rank for term in terms])
    owner = torch.arange(len(terms)).repeat_interleave(ranks)
    rows = torch.zeros(len(terms), len(owner), dtype=torch.float64).index_add(0, owner, products)
    return torch.zeros(len(terms), len(terms), dtype=torch.float64).index_add(1, owner, rows)
