"""The merge methods: each merges one layer from the factors that the adapters have for it."""

from __future__ import annotations

from collections.abc import Mapping

from awpf_ext.lora.merge_methods.base import Merged, MergeMethod, MergeSettings, Term
from awpf_ext.lora.merge_methods.dare import dare_linear, dare_ties
from awpf_ext.lora.merge_methods.icm import icm_weights
from awpf_ext.lora.merge_methods.iso import iso
from awpf_ext.lora.merge_methods.knots import knots
from awpf_ext.lora.merge_methods.linear import linear
from awpf_ext.lora.merge_methods.magnitude_prune import magnitude_prune
from awpf_ext.lora.merge_methods.stack import stack
from awpf_ext.lora.merge_methods.svd import svd
from awpf_ext.lora.merge_methods.ties import ties
from awpf_ext.lora.merge_methods.tsv import tsv

_PRUNING = ("rank", "density", "merge_space")

# The TIES paper keeps a fifth of the entries.
MERGE_METHODS: Mapping[str, MergeMethod] = {
    "linear": MergeMethod(linear),
    "stack": MergeMethod(stack),
    "svd": MergeMethod(svd, takes=("rank",)),
    "ties": MergeMethod(ties, takes=_PRUNING, density=0.2),
    "dare_linear": MergeMethod(dare_linear, takes=(*_PRUNING, "seed")),
    "dare_ties": MergeMethod(dare_ties, takes=(*_PRUNING, "seed")),
    "magnitude_prune": MergeMethod(magnitude_prune, takes=_PRUNING),
    "knots": MergeMethod(knots, takes=("rank", "density"), density=0.2),
    "tsv": MergeMethod(tsv, takes=("rank",)),
    "iso": MergeMethod(iso, takes=("rank", "common_fraction"), keeps_one=False),
    "icm": MergeMethod(linear, weigh=icm_weights),
}

__all__ = ["MERGE_METHODS", "MergeMethod", "MergeSettings", "Merged", "Term"]
