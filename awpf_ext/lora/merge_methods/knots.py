"""KnOTS: TIES in a basis shared by all adapters."""

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
)
from awpf_ext.lora.merge_methods.entrywise import merge_entries
from awpf_ext.lora.merge_methods.ties import TIES


def knots(layer: str, terms: Sequence[Term], settings: MergeSettings) -> Merged:
    """TIES on aligned coordinates (KnOTS-TIES, arXiv 2410.19735).

    D_t = s_t B_t A_t. The SVD of [D_1 | ... | D_T] = U S [V_1' | ... | V_T'] gives one output
    basis U for all of them. TIES with `density` and the weights merges the S V_t' entry by entry,
    and the result is U TIES(S V_1', ..., S V_T'). Each layer is trimmed on its own.

    Output rank: that of the basis, at most sum_t r_t; `rank` cuts it. No delta is ever computed: U
    comes from a QR of the stacked B and a QR of each A_t'.
    """
    q, core = torch.linalg.qr(torch.cat([term.scaling * term.b for term in terms], dim=1))
    right = [torch.linalg.qr(term.a.mT) for term in terms]
    ranks = [term.rank for term in terms]
    columns = [part @ r.mT for part, (_, r) in zip(core.split(ranks, dim=1), right, strict=True)]
    u, s, vh = torch.linalg.svd(torch.cat(columns, dim=1), full_matrices=False)
    kept = max(1, numerical_rank(s, sum(ranks)))
    aligned = s[:kept, None] * vh[:kept]
    widths = [column.shape[1] for column in columns]
    parts = [
        part @ basis.mT
        for part, (basis, _) in zip(aligned.split(widths, dim=1), right, strict=True)
    ]
    merged = merge_entries(parts, terms, TIES, settings, layer)
    return cut_to_rank(q @ u[:, :kept], merged, settings.rank)


def dense_knots(layer: str, terms: Sequence[DenseTerm], settings: MergeSettings) -> Tensor:
    """`knots` of whole matrices."""
    parts = [term.delta for term in terms]
    u, s, _ = torch.linalg.svd(torch.cat(parts, dim=1), full_matrices=False)
    basis = u[:, : max(1, numerical_rank(s, max(parts[0].shape)))]
    aligned = [basis.mT @ part for part in parts]  # S V_t'
    product: Tensor = basis @ merge_entries(aligned, terms, TIES, settings, layer)
    return product
