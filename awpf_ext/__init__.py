"""Exact, fast MMD, scatter and low-rank kernels for PyTorch, and class-incremental learning with
CLIP built on them.

``run``, ``load_model``, ``merge`` and ``choose_merge`` need the extra "clip" and are imported when
they are first used, so that importing the package stays fast.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from awpf_ext._library import BuildInfo, build_info
from awpf_ext._library import __version__ as __version__
from awpf_ext.errors import not_installed as _not_installed
from awpf_ext.fusion import BalanceFactor, fuse
from awpf_ext.ops.bandwidth import median_bandwidth
from awpf_ext.ops.low_rank import LowRank, low_rank_sum, truncate
from awpf_ext.ops.mmd import mmd
from awpf_ext.ops.mmd_matrix import mmd_matrix
from awpf_ext.ops.mmd_test import MMDTest, mmd_test
from awpf_ext.ops.scatter import Scatter, scatter, separability
from awpf_ext.ops.scatter_accumulator import ScatterAccumulator

if TYPE_CHECKING:
    from awpf_ext.lora import choose_merge as choose_merge
    from awpf_ext.lora import merge as merge
    from awpf_ext.runs.export import load_model as load_model
    from awpf_ext.runs.run import run as run

__all__ = [
    "BalanceFactor",
    "BuildInfo",
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

_LAZY = {
    "choose_merge": "awpf_ext.lora",
    "load_model": "awpf_ext.runs.export",
    "merge": "awpf_ext.lora",
    "run": "awpf_ext.runs.run",
}

if not TYPE_CHECKING:  # type checkers would take every name for an attribute

    def __getattr__(name):
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            module = import_module(_LAZY[name])
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == "awpf_ext":
                raise
            raise ImportError(f"awpf_ext.{name}: {_not_installed(error.name)}") from error
        return globals().setdefault(name, getattr(module, name))


def __dir__() -> list[str]:
    # help(awpf_ext) asks for every name: those whose extra is missing would raise.
    lazy = _LAZY if find_spec("pydantic") else ("choose_merge", "merge")
    return sorted([*__all__, *lazy, "__version__"])
