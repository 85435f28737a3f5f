"""The merge methods: each merges one layer from the factors that the adapters have for it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from awpf_ext.lora.merge_methods.base import (
    DenseTerm,
    ImpossibleMergeError,
    Merged,
    MergeMethod,
    MergeSettings,
    Term,
    dense_sum,
)
from awpf_ext.lora.merge_methods.dare import DARE_LINEAR, DARE_TIES, dare_linear, dare_ties
from awpf_ext.lora.merge_methods.entrywise import EntryRule, merge_dense_entrywise
from awpf_ext.lora.merge_methods.icm import icm_weights
from awpf_ext.lora.merge_methods.iso import dense_iso, iso
from awpf_ext.lora.merge_methods.knots import dense_knots, knots
from awpf_ext.lora.merge_methods.linear import linear
from awpf_ext.lora.merge_methods.magnitude_prune import MAGNITUDE_PRUNE, magnitude_prune
from awpf_ext.lora.merge_methods.stack import stack
from awpf_ext.lora.merge_methods.svd import svd
from awpf_ext.lora.merge_methods.ties import TIES, ties
from awpf_ext.lora.merge_methods.tsv import dense_tsv, tsv

_PRUNING = ("rank", "density", "merge_space")


def _by_entries(rule: EntryRule) -> dict[str, Any]:
    return {"merge_dense": partial(merge_dense_entrywise, rule=rule), "others": "same"}


# The TIES paper keeps a fifth of the entries.
MERGE_METHODS: Mapping[str, MergeMethod] = {
    "linear": MergeMethod(linear, merge_dense=dense_sum),
    "stack": MergeMethod(stack),
    "svd": MergeMethod(svd, takes=("rank",), merge_dense=dense_sum),
    "ties": MergeMethod(ties, takes=_PRUNING, density=0.2, **_by_entries(TIES)),
    "dare_linear": MergeMethod(dare_linear, takes=(*_PRUNING, "seed"), **_by_entries(DARE_LINEAR)),
    "dare_ties": MergeMethod(dare_ties, takes=(*_PRUNING, "seed"), **_by_entries(DARE_TIES)),
    "magnitude_prune": MergeMethod(magnitude_prune, takes=_PRUNING, **_by_entries(MAGNITUDE_PRUNE)),
    "knots": MergeMethod(knots, takes=("rank", "density"), density=0.2, merge_dense=dense_knots),
    "tsv": MergeMethod(tsv, takes=("rank",), merge_dense=dense_tsv, others="mean"),
    "iso": MergeMethod(
        iso,
        takes=("rank", "common_fraction"),
        keeps_one=False,
        merge_dense=dense_iso,
        others="mean",
    ),
    "icm": MergeMethod(linear, weigh=icm_weights),
}

__all__ = [
    "MERGE_METHODS",
    "DenseTerm",
    "ImpossibleMergeError",
    "MergeMethod",
    "MergeSettings",
    "Merged",
    "Term",
]
