"""Isotropic merging: Iso-C and Iso-CTS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from awpf_ext.lora.merge_methods.base import (
    DenseTerm,
    Merged,
    MergeSettings,
    Term,
    cut,
    cut_to_rank,
    dense_sum,
    numerical_rank,
    orthogonalised,
    rank_of_sum,
    svd_of_matrix,
    svd_of_sum,
)
from awpf_ext.ops.low_rank import LowRank, truncate

TaskTriplets = Callable[[Tensor, int, float], LowRank]


def iso(layer: str, terms: Sequence[Term], settings: MergeSettings) -> Merged:
    """The sum with a flat spectrum (arXiv 2502.04959).

    With `common_fraction` 1 this is Iso-C: sum_t w_t s_t B_t A_t = U S V' becomes mean(S) U V'.
    Below 1 it is Iso-CTS: k of the R leading triplets are kept as the common subspace, and each
    task adds the leading (R - k) / T triplets of (I - U_k U_k') w_t s_t B_t A_t; k is
    R * common_fraction, adjusted so that T divides R - k. The collected U and V are replaced by
    their polar factors, and all singular values by their mean.

    R is the rank of the sum. The paper's matrices have full rank, R = min(m, n); directions that no
    adapter changes are excluded from the mean and from the result.

    Output rank: R. `rank` cuts it. As all singular values are then equal, the triplets that had the
    largest ones before are kept: first those of the sum, then those of the tasks.
    """
    found = svd_of_sum(terms)
    tasks = [partial(_task_triplets, term) for term in terms]
    flat, exact = _isotropic(found, rank_of_sum(found.s, terms), tasks, settings)
    if not exact:
        return cut_to_rank(flat.u * flat.s, flat.v.mT, settings.rank)
    return cut(flat, settings.rank or flat.s.shape[0])


def dense_iso(layer: str, terms: Sequence[DenseTerm], settings: MergeSettings) -> Tensor:
    """`iso` of whole matrices as in the authors' code: R is min(m, n) for a sum of any rank.

    The singular values that are 0 count in the mean and are raised to it, too.
    """
    found = svd_of_matrix(dense_sum(layer, terms, settings))
    tasks = [partial(_dense_task_triplets, term) for term in terms]
    flat, _ = _isotropic(found, len(found.s), tasks, settings)
    product: Tensor = (flat.u * flat.s) @ flat.v.mT
    return product


def _isotropic(
    found: LowRank, total: int, of_tasks: Sequence[TaskTriplets], settings: MergeSettings
) -> tuple[LowRank, bool]:
    """The triplets with a flat spectrum, and whether their vectors are orthonormal."""
    count = len(of_tasks)
    wanted = total - int(total * settings.common_fraction)
    per_task = min(round(wanted / count), total // count)
    common = total - per_task * count
    u, s, v = found.u[:, :common], found.s[:common], found.v[:, :common]
    if per_task:
        tasks = [triplets(u, per_task, float(found.s[0])) for triplets in of_tasks]
        order = torch.cat([task.s for task in tasks]).argsort(descending=True, stable=True)
        s = torch.cat([s, torch.cat([task.s for task in tasks])[order]])
        u = torch.cat([u, torch.cat([task.u for task in tasks], dim=1)[:, order]], dim=1)
        v = torch.cat([v, torch.cat([task.v for task in tasks], dim=1)[:, order]], dim=1)
        u, v = orthogonalised(u), orthogonalised(v)
    flat = s.mean().expand(s.shape[0])
    # Tasks that share directions exactly leave vectors that are not orthonormal.
    return LowRank(u, flat, v), not per_task or (_orthonormal(u) and _orthonormal(v))


def _task_triplets(term: Term, common: Tensor, count: int, scale: float) -> LowRank:
    """The leading triplets of a task's delta outside the common output directions."""
    b = term.b - common @ (common.mT @ term.b)
    u, s, v = truncate([b], None, [term.a.mT], rank=count, weights=[term.coefficient])
    kept = numerical_rank(s, common.shape[1] + term.rank, scale)
    return LowRank(u[:, :kept], s[:kept], v[:, :kept])


def _dense_task_triplets(term: DenseTerm, common: Tensor, count: int, scale: float) -> LowRank:
    u, s, v = svd_of_matrix(term.weight * (term.delta - common @ (common.mT @ term.delta)))
    return LowRank(u[:, :count], s[:count], v[:, :count])


def _orthonormal(columns: Tensor) -> bool:
    identity = torch.eye(columns.shape[1], dtype=columns.dtype)
    return torch.allclose(columns.mT @ columns, identity, atol=1e-3)
