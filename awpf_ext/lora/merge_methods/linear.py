"""Linear: the exact weighted sum of the deltas."""

from __future__ import annotations

from collections.abc import Sequence

from awpf_ext.lora.merge_methods.base import (
    Merged,
    MergeSettings,
    Term,
    cut,
    rank_of_sum,
    svd_of_sum,
)


def linear(layer: str, terms: Sequence[Term], settings: MergeSettings) -> Merged:
    """sum_t w_t s_t B_t A_t, exactly, with the smallest factors that represent it (task arithmetic,
    arXiv 2212.04089).

    Output rank: the rank of the sum, at most sum_t r_t. Singular values at rounding level are
    dropped.
    """
    svd = svd_of_sum(terms)
    merged = cut(svd, rank_of_sum(svd.s, terms))
    return Merged(merged.b, merged.a)
