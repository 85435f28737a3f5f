"""Isotropic merging: Iso-C and Iso-CTS."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from awpf_ext.lora.methods.base import (
    Merged,
    Settings,
    Term,
    at_most,
    cut,
    numerical_rank,
    orthogonalised,
    rank_of_sum,
    summed,
)
from awpf_ext.ops.low_rank import LowRank, truncate


def iso(layer: str, terms: Sequence[Term], settings: Settings) -> Merged:
    """The sum with a flat spectrum (arXiv 2502.04959).

    With `common` 1, Iso-C: sum_t w_t s_t B_t A_t = U S V' becomes mean(S) U V'. With `common` below
    1, Iso-CTS: of the R triplets the k leading ones stay, and each task adds the (R - k) / T
    leading triplets of what U_k U_k' leaves of its w_t s_t B_t A_t; k is R * common, moved to where
    T divides R - k. The collected U and V are replaced by their polar factors and all singular
    values by their mean.

    R is the rank of the sum. The paper's matrices have full rank, R = min(m, n); here the
    directions in which no adapter does anything are left out of the mean and of the result.

    Output rank: R. `rank` cuts it; all singular values being equal, those stay that led before:
    of the sum, then of the tasks.
    """
    found = summed(terms)
    total = rank_of_sum(found.s, terms)
    wanted = total - int(total * settings.common)
    share = min(round(wanted / len(terms)), total // len(terms))
    common = total - share * len(terms)
    u, s, v = found.u[:, :common], found.s[:common], found.v[:, :common]
    if share:
        tasks = [_left(term, u, share, float(found.s[0])) for term in terms]
        order = torch.cat([task.s for task in tasks]).argsort(descending=True, stable=True)
        s = torch.cat([s, torch.cat([task.s for task in tasks])[order]])
        u = torch.cat([u, torch.cat([task.u for task in tasks], dim=1)[:, order]], dim=1)
        v = torch.cat([v, torch.cat([task.v for task in tasks], dim=1)[:, order]], dim=1)
        u, v = orthogonalised(u), orthogonalised(v)
    flat = s.mean().expand(s.shape[0])
    if share and not (_orthonormal(u) and _orthonormal(v)):  # tasks share directions exactly
        return at_most(u * flat, v.mT, settings.rank)
    return cut(LowRank(u, flat, v), settings.rank or s.shape[0])


def _left(term: Term, common: Tensor, share: int, scale: float) -> LowRank:
    """Leading triplets of a task's delta without its part in the common output directions."""
    b = term.b - common @ (common.mT @ term.b)
    u, s, v = truncate([b], None, [term.a.mT], rank=share, weights=[term.coefficient])
    kept = numerical_rank(s, common.shape[1] + term.rank, scale)
    return LowRank(u[:, :kept], s[:kept], v[:, :kept])


def _orthonormal(columns: Tensor) -> bool:
    identity = torch.eye(columns.shape[1], dtype=columns.dtype)
    return torch.allclose(columns.mT @ columns, identity, atol=1e-3)
