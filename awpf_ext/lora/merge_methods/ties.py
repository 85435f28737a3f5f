"""TIES: trim small entries, elect a sign for each entry, average the entries that agree."""

from __future__ import annotations

from collections.abc import Sequence

from awpf_ext.lora.merge_methods.base import Merged, MergeSettings, Term
from awpf_ext.lora.merge_methods.entrywise import EntryRule, merge_entrywise

TIES = EntryRule(random=False, elect_sign=True)


def ties(layer: str, terms: Sequence[Term], settings: MergeSettings) -> Merged:
    """TIES (arXiv 2306.01708) on the deltas D_t = s_t B_t A_t, one layer at a time.

    Trim: in each D_t the fraction `density` of the entries with the largest magnitudes is kept.
    Elect: the sign of each entry is that of the sum over t. Merge: the mean of w_t D_t over those t
    whose entry has the elected sign.
    """
    return merge_entrywise(layer, terms, settings, TIES)
