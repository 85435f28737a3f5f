"""Isotropic merging: Iso-C and Iso-CTS."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from awpf_ext.lora.merge_methods.base import (
    Merged,
    MergeSettings,
    Term,
    cut,
    cut_to_rank,
    numerical_rank,
    orthogonalised,
    rank_of_sum,
    svd_of_sum,
)
from awpf_ext.ops.low_rank import LowRank, truncate


def iso(layer: str, terms: Sequence[Term], settings: MergeSettings) -> Merged:
    """The sum with a flat spectrum (arXiv 2502.04959).

    With `common_fraction` 1 this is Iso-C: sum_t w_t s_t B_t A_t = U S V' becomes mean(S) U V'.
    Below 1 it is Iso-CTS: k of the R leading triplets are kept as the common subspace, and each
    task adds the leading (R - k) / T triplets of (I - U_k U_k') w_t s_t B_t A_t; k is
    R * common_fraction, adjusted so that T divides R - k. The collected U and V are replaced by
    their polar factors, and all singular values by their mean.

    R is the rank of the sum. The paper's matrices have full rank, R = min(m, n); here directions
    that no adapter changes are excluded from the mean and from the result.

    Output rank: R. `rank` cuts it. As all singular values are then equal, the triplets that had the
    largest ones before are kept: first those of the sum, then those of the tasks.
    """
    found = svd_of_sum(terms)
    total = rank_of_sum(found.s, terms)
    wanted = total - int(total * settings.common_fraction)
    per_task = min(round(wanted / len(terms)), total // len(terms))
    common = total - per_task * len(terms)
    u, s, v = found.u[:, :common], found.s[:common], found.v[:, :common]
    if per_task:
        tasks = [_task_triplets(term, u, per_task, float(found.s[0])) for term in terms]
        order = torch.cat([task.s for task in tasks]).argsort(descending=True, stable=True)
        s = torch.cat([s, torch.cat([task.s for task in tasks])[order]])
        u = torch.cat([u, torch.cat([task.u for task in tasks], dim=1)[:, order]], dim=1)
        v = torch.cat([v, torch.cat([task.v for task in tasks], dim=1)[:, order]], dim=1)
        u, v = orthogonalised(u), orthogonalised(v)
    flat = s.mean().expand(s.shape[0])
    if per_task and not (_orthonormal(u) and _orthonormal(v)):  # tasks share directions exactly
        return cut_to_rank(u * flat, v.mT, settings.rank)
    return cut(LowRank(u, flat, v), settings.rank or s.shape[0])


def _task_triplets(term: Term, common: Tensor, count: int, scale: float) -> LowRank:
    """The leading triplets of a task's delta outside the common output directions."""
    b = term.b - common @ (common.mT @ term.b)
    u, s, v = truncate([b], None, [term.a.mT], rank=count, weights=[term.coefficient])
    kept = numerical_rank(s, common.shape[1] + term.rank, scale)
    return LowRank(u[:, :kept], s[:kept], v[:, :kept])


def _orthonormal(columns: Tensor) -> bool:
    identity = torch.eye(columns.shape[1], dtype=columns.dtype)
    return torch.allclose(columns.mT @ columns, identity, atol=1e-3)
