"""The merge methods: each merges one layer, from the adapters' factors of it."""

from __future__ import annotations

from collections.abc import Mapping

from awpf_ext.lora.methods.base import Merged, Method, Settings, Term
from awpf_ext.lora.methods.entries import dare_linear, dare_ties, magnitude_prune, ties
from awpf_ext.lora.methods.icm import icm, icm_layers
from awpf_ext.lora.methods.iso import iso
from awpf_ext.lora.methods.knots import knots
from awpf_ext.lora.methods.sums import linear, stack, svd
from awpf_ext.lora.methods.tsv import tsv

# The TIES paper keeps a fifth of the entries.
METHODS: Mapping[str, Method] = {
    "linear": Method(linear),
    "stack": Method(stack),
    "svd": Method(svd, takes=("rank",)),
    "ties": Method(ties, takes=("rank", "density", "on"), density=0.2),
    "dare_linear": Method(dare_linear, takes=("rank", "density", "on", "seed")),
    "dare_ties": Method(dare_ties, takes=("rank", "density", "on", "seed")),
    "magnitude_prune": Method(magnitude_prune, takes=("rank", "density", "on")),
    "knots": Method(knots, takes=("rank", "density"), density=0.2),
    "tsv": Method(tsv, takes=("rank",)),
    "iso": Method(iso, takes=("rank", "common"), keeps_one=False),
    "icm": Method(icm, takes=("seed",), together=icm_layers),
}

__all__ = ["METHODS", "Merged", "Method", "Settings", "Term"]
