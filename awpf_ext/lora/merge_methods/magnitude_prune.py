"""Magnitude pruning: trim small entries, then add."""

from __future__ import annotations

from collections.abc import Sequence

from awpf_ext.lora.merge_methods.base import Merged, MergeSettings, Term
from awpf_ext.lora.merge_methods.entrywise import EntryRule, merge_entrywise

MAGNITUDE_PRUNE = EntryRule(random=False, elect_sign=False)


def magnitude_prune(layer: str, terms: Sequence[Term], settings: MergeSettings) -> Merged:
    """The weighted sum of the D_t, after in each the fraction `density` of the entries with the
    largest magnitudes has been kept and the others have been set to 0.
    """
    return merge_entrywise(layer, terms, settings, MAGNITUDE_PRUNE)
