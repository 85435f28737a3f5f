"""Exact, fast MMD, scatter and low-rank kernels for PyTorch, and class-incremental learning with
CLIP on top of them."""

from __future__ import annotations

from awpf_ext._library import __version__ as __version__
from awpf_ext._library import build_info
from awpf_ext.fusion import BalanceFactor, fuse
from awpf_ext.ops.low_rank import LowRank, low_rank_sum, truncate
from awpf_ext.ops.mmd import median_bandwidth, mmd, mmd_matrix
from awpf_ext.ops.mmd_test import MMDTest, mmd_test
from awpf_ext.ops.scatter import Scatter, ScatterAccumulator, scatter, separability

__all__ = [
    "BalanceFactor",
    "LowRank",
    "MMDTest",
    "Scatter",
    "ScatterAccumulator",
    "build_info",
    "fuse",
    "low_rank_sum",
    "median_bandwidth",
    "mmd",
    "mmd_matrix",
    "mmd_test",
    "scatter",
    "separability",
    "truncate",
]
