"""RAPF (arXiv 2407.14143, ECCV 2024), faithful to its authors' code.

Per task: cross-entropy over the classes seen on the task's images and on pseudo-features of old
classes, drawn from N(mu_c, Sigma_c) before the adapter; plus a hinge on pairs of an old and a new
class whose texts are close. Then the adapters before and after the task are mixed, element by
element, in the left singular basis of the old one.

The presets give the published settings, among them the uniform initialisation of the adapter; the
hinge of a batch is estimated from at most `hinge_draws` draws instead of an unbounded number.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from awpf_ext.data.stream import Task
from awpf_ext.fusion import svd_mask
from awpf_ext.methods._base.adapter import AdapterConfig, AdapterMethod
from awpf_ext.methods._base.method import MethodConfig
from awpf_ext.methods.registry import register


class RapfConfig(AdapterConfig):
    class_balance: bool = Field(False, description="RAPF takes the mean over all rows")
    hinge: bool = Field(True, description="hinge between similar old and new classes")
    mask_bias: float = Field(0.7, ge=0, le=1, description="b: the least share of the new adapter")


@register("rapf")
class Rapf(AdapterMethod):
    """Replay, hinge, SVD-mask."""

    Config: ClassVar[type[MethodConfig]] = RapfConfig
    config: RapfConfig

    def fuse(self, old: Tensor, new: Tensor, task: Task) -> Tensor:
        """A = U [M R_new + (1 - M) R_old], M = min(1, |R_new - R_old| / max + b), R = U' A."""
        return svd_mask(old, new, self.config.mask_bias)
