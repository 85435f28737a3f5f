"""DARE: drop entries at random and rescale the others; then a sum, or the election of TIES."""

from __future__ import annotations

from collections.abc import Sequence

from awpf_ext.lora.merge_methods.base import Merged, MergeSettings, Term
from awpf_ext.lora.merge_methods.entrywise import EntryRule, merge_entrywise

DARE_LINEAR = EntryRule(random=True, elect_sign=False)
DARE_TIES = EntryRule(random=True, elect_sign=True)


def dare_linear(layer: str, terms: Sequence[Term], settings: MergeSettings) -> Merged:
    """DARE (arXiv 2311.03099), then the weighted sum: each entry of D_t is kept with probability
    `density` and divided by it.

    Which entries are kept depends only on the seed, the layer's name and the adapter's content.
    """
    return merge_entrywise(layer, terms, settings, DARE_LINEAR)


def dare_ties(layer: str, terms: Sequence[Term], settings: MergeSettings) -> Merged:
    """DARE (arXiv 2311.03099), then the sign election and mean of TIES: each entry of D_t is kept
    with probability `density` and divided by it.

    Which entries are kept depends only on the seed, the layer's name and the adapter's content.
    """
    return merge_entrywise(layer, terms, settings, DARE_TIES)
