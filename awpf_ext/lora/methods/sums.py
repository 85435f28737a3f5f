"""The weighted sum of the deltas: as it is, concatenated, or at a chosen rank."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from awpf_ext.lora.methods.base import (
    Merged,
    Settings,
    Term,
    cut,
    rank_of_sum,
    summed,
    widest,
)


def linear(layer: str, terms: Sequence[Term], settings: Settings) -> Merged:
    """sum_t w_t s_t B_t A_t, exactly, with the fewest factors that hold it (task arithmetic, arXiv
    2212.04089).

    Output rank: that of the sum, at most sum_t r_t; singular values that are rounding alone are
    left out.
    """
    svd = summed(terms)
    merged = cut(svd, rank_of_sum(svd.s, terms))
    return Merged(merged.b, merged.a)


def stack(layer: str, terms: Sequence[Term], settings: Settings) -> Merged:
    """[B_1 | ... | B_T] [w_1 s_1 A_1; ...; w_T s_T A_T], the sum without any factorisation (FLoRA,
    arXiv 2409.05976).

    Output rank: sum_t r_t. The B_t are not touched.
    """
    b = torch.cat([term.b for term in terms], dim=1)
    return Merged(b, torch.cat([term.coefficient * term.a for term in terms]))


def svd(layer: str, terms: Sequence[Term], settings: Settings) -> Merged:
    """The best approximation of sum_t w_t s_t B_t A_t at a rank (Eckart and Young).

    Output rank: `rank`, by default the largest r_t; never above sum_t r_t. By QR of the stacked
    factors and an SVD of the small core.
    """
    return cut(summed(terms), settings.rank or widest(terms))
