"""SVD: the weighted sum of the deltas, truncated to a chosen rank."""

from __future__ import annotations

from collections.abc import Sequence

from awpf_ext.lora.merge_methods.base import (
    Merged,
    MergeSettings,
    Term,
    cut,
    largest_rank,
    svd_of_sum,
)


def svd(layer: str, terms: Sequence[Term], settings: MergeSettings) -> Merged:
    """The best approximation of sum_t w_t s_t B_t A_t at a given rank (Eckart and Young).

    Output rank: `rank`, by default the largest r_t; never above sum_t r_t. Computed by a QR of the
    stacked factors and an SVD of the small core.
    """
    return cut(svd_of_sum(terms), settings.rank or largest_rank(terms))
