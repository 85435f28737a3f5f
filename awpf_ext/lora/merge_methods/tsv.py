"""TSV-Merge: make the singular vectors of different tasks orthogonal to each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from awpf_ext.lora.merge_methods.base import (
    Merged,
    MergeSettings,
    Term,
    cut_to_rank,
    orthogonalised,
    svd_of,
)


def tsv(layer: str, terms: Sequence[Term], settings: MergeSettings) -> Merged:
    """TSV-M of task singular vectors (arXiv 2412.00081).

    D_t = s_t B_t A_t = U_t S_t V_t', truncated to its min(r_t, floor(min(m, n) / T)) leading
    triplets. U = [U_1 | ... | U_T] and V likewise are replaced by their polar factors, the nearest
    matrices with orthonormal columns: result = polar(U) diag(w_1 S_1, ..., w_T S_T) polar(V)'.

    Output rank: the number of triplets of all tasks; `rank` cuts it.
    """
    m, n = terms[0].b.shape[0], terms[0].a.shape[1]
    per_task = max(1, min(m, n) // len(terms))
    triplets = [svd_of(term) for term in terms]
    u = orthogonalised(torch.cat([found.u[:, :per_task] for found in triplets], dim=1))
    v = orthogonalised(torch.cat([found.v[:, :per_task] for found in triplets], dim=1))
    s = torch.cat(
        [term.weight * found.s[:per_task] for term, found in zip(terms, triplets, strict=True)]
    )
    return cut_to_rank(u, s[:, None] * v.mT, settings.rank)
