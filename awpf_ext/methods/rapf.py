"""RAPF (arXiv 2407.14143, ECCV 2024), faithful to its authors' code.

Per task, the loss is cross-entropy over the classes seen, on the task's images and on
pseudo-features of old classes drawn from N(mu_c, Sigma_c) before the adapter, plus a hinge loss on
pairs of an old and a new class with similar texts. Then the adapters before and after the task are
mixed, element by element, in the left singular basis of the old one.

The presets have the published settings, including the uniform initialisation of the adapter. The
hinge loss of a batch is estimated from at most `hinge_draws` draws instead of an unbounded number.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from awpf_ext.data.stream import Task
from awpf_ext.fusion import svd_mask
from awpf_ext.methods._base.adapter import AdapterMethod
from awpf_ext.methods._base.adapter_config import AdapterConfig
from awpf_ext.methods._base.method import MethodConfig
from awpf_ext.methods.registry import register


class RapfConfig(AdapterConfig):
    class_balance: bool = Field(
        False, description="RAPF takes the mean over all rows, not over classes"
    )
    hinge: bool = Field(True, description="Hinge loss between similar old and new classes")
    mask_bias: float = Field(
        0.7, ge=0, le=1, description="Bias b of the mask: minimum weight of the new adapter"
    )


@register("rapf")
class Rapf(AdapterMethod):
    """Replay, hinge, SVD-mask."""

    Config: ClassVar[type[MethodConfig]] = RapfConfig
    config: RapfConfig

    def fuse(self, old: Tensor, new: Tensor, task: Task) -> Tensor:
        """A = U [M R_new + (1 - M) R_old], M = min(1, |R_new - R_old| / max + b), R = U' A."""
        return svd_mask(old, new, self.config.mask_bias)
