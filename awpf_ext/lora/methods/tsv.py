"""TSV-Merge: singular vectors of different tasks made orthogonal to each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from awpf_ext.lora.methods.base import Merged, Settings, Term, at_most, orthogonalised, svd_of


def tsv(layer: str, terms: Sequence[Term], settings: Settings) -> Merged:
    """TSV-M of task singular vectors (arXiv 2412.00081).

    D_t = s_t B_t A_t = U_t S_t V_t', cut to its leading min(r_t, floor(min(m, n) / T)) triplets.
    With U = [U_1 | ... | U_T] and V likewise, both are replaced by their polar factors, the nearest
    orthonormal columns: result = polar(U) diag(w_1 S_1, ..., w_T S_T) polar(V)'.

    Output rank: sum_t of the triplets; `rank` cuts it.
    """
    m, n = terms[0].b.shape[0], terms[0].a.shape[1]
    share = max(1, min(m, n) // len(terms))
    triplets = [svd_of(term) for term in terms]
    u = orthogonalised(torch.cat([found.u[:, :share] for found in triplets], dim=1))
    v = orthogonalised(torch.cat([found.v[:, :share] for found in triplets], dim=1))
    s = torch.cat(
        [term.weight * found.s[:share] for term, found in zip(terms, triplets, strict=True)]
    )
    return at_most(u, s[:, None] * v.mT, settings.rank)
