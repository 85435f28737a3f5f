"""Stack: the weighted sum of the deltas by concatenating their factors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from awpf_ext.lora.merge_methods.base import Merged, MergeSettings, Term


def stack(layer: str, terms: Sequence[Term], settings: MergeSettings) -> Merged:
    """[B_1 | ... | B_T] [w_1 s_1 A_1; ...; w_T s_T A_T], the sum without any factorisation (FLoRA,
    arXiv 2409.05976).

    Output rank: sum_t r_t. The B_t are not modified.
    """
    b = torch.cat([term.b for term in terms], dim=1)
    return Merged(b, torch.cat([term.coefficient * term.a for term in terms]))
