"""Ways to fuse the parameters of adjacent tasks, and the balance factor that weighs them."""

from __future__ import annotations

from awpf_ext.fusion.balance import Balance, BalanceFactor, balance_factor
from awpf_ext.fusion.direction_weights import DirectionWeights, HeldOutChange, direction_weights
from awpf_ext.fusion.parameters import FUSIONS, delta_stack, fuse, qr_mask, stack, svd_mask

__all__ = [
    "FUSIONS",
    "Balance",
    "BalanceFactor",
    "DirectionWeights",
    "HeldOutChange",
    "balance_factor",
    "delta_stack",
    "direction_weights",
    "fuse",
    "qr_mask",
    "stack",
    "svd_mask",
]
