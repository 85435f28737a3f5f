"""TSV-Merge: make the singular vectors of different tasks orthogonal to each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from awpf_ext.lora.merge_methods.base import (
    DenseTerm,
    Merged,
    MergeSettings,
    Term,
    cut_to_rank,
    numerical_rank,
    orthogonalised,
    svd_of,
    svd_of_matrix,
)
from awpf_ext.ops.low_rank import LowRank


def tsv(layer: str, terms: Sequence[Term], settings: MergeSettings) -> Merged:
    """TSV-M of task singular vectors (arXiv 2412.00081).

    D_t = s_t B_t A_t = U_t S_t V_t', truncated to its min(r_t, floor(min(m, n) / T)) leading
    triplets. U = [U_1 | ... | U_T] and V likewise are replaced by their polar factors, the nearest
    matrices with orthonormal columns: result = polar(U) diag(w_1 S_1, ..., w_T S_T) polar(V)'.

    Output rank: the number of triplets of all tasks; `rank` cuts it.
    """
    size = min(terms[0].b.shape[0], terms[0].a.shape[1])
    weights = [term.weight for term in terms]
    return cut_to_rank(*_merged([svd_of(term) for term in terms], weights, size), settings.rank)


def dense_tsv(layer: str, terms: Sequence[DenseTerm], settings: MergeSettings) -> Tensor:
    """`tsv` of whole matrices: floor(min(m, n) / T) triplets of each, without those of 0."""
    triplets = [_without_zeros(svd_of_matrix(term.delta)) for term in terms]
    left, right = _merged(triplets, [term.weight for term in terms], min(terms[0].delta.shape))
    product: Tensor = left @ right
    return product


def _merged(
    triplets: Sequence[LowRank], weights: Sequence[float], size: int
) -> tuple[Tensor, Tensor]:
    """The result as two factors; size: min(m, n)."""
    per_task = max(1, size // len(triplets))
    u = orthogonalised(torch.cat([found.u[:, :per_task] for found in triplets], dim=1))
    v = orthogonalised(torch.cat([found.v[:, :per_task] for found in triplets], dim=1))
    s = torch.cat(
        [weight * found.s[:per_task] for weight, found in zip(weights, triplets, strict=True)]
    )
    return u, s[:, None] * v.mT


def _without_zeros(found: LowRank) -> LowRank:
    """Vectors of zero singular values are arbitrary, and would turn those of the other tasks."""
    kept = numerical_rank(found.s, max(len(found.u), len(found.v)))
    return LowRank(found.u[:, :kept], found.s[:kept], found.v[:, :kept])
