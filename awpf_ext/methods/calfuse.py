"""CalFuse (arXiv 2503.18672), reconstructed from its abstract.

Feature calibration combines CLIP's own feature with the adapted one,

    z = n(a n(f) + (1 - a) n(A f)),   a = sigmoid(theta) learned,

distillation preserves the predictions for old classes, and the adapters before and after the task
are mixed by RAPF's mask in the QR basis of the old one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import kl_div, log_softmax

from awpf_ext.data.stream import Task
from awpf_ext.fusion import qr_mask
from awpf_ext.methods._base.adapter import AdapterMethod, Batch
from awpf_ext.methods._base.adapter_config import AdapterConfig
from awpf_ext.methods._base.cosine import row_norms, scaled_cosines
from awpf_ext.methods._base.method import EpochProgress, MethodConfig
from awpf_ext.methods.registry import register


class CalfuseConfig(AdapterConfig):
    mask_bias: float = Field(
        0.7, ge=0, le=1, description="Bias b of the mask: minimum weight of the new adapter"
    )
    calibration: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Fixed weight a of CLIP's own feature; null = learned, starting from 0.5",
    )
    distillation: float = Field(1.0, ge=0, description="Weight of the distillation loss; 0 = off")
    temperature: float = Field(2.0, gt=0, description="Temperature T of the distillation")


@register("calfuse")
class Calfuse(AdapterMethod):
    """Calibration, distillation, QR-mask."""

    Config: ClassVar[type[MethodConfig]] = CalfuseConfig
    config: CalfuseConfig

    def __init__(self, config: CalfuseConfig, *, text: Tensor, **given: Any) -> None:
        super().__init__(config, text=text, **given)
        weight = 0.5 if config.calibration is None else config.calibration
        self.theta = torch.tensor(weight, device=self.device).logit()
        self.teacher = (self.adapter, self.theta)

    def direction(self, x: Tensor) -> Tensor:
        return calibrated(x, self.adapter, self.theta)

    def trained_parameters(self) -> list[Tensor]:
        return [self.adapter, self.theta] if self.config.calibration is None else [self.adapter]

    def train(self, task: Task, progress: EpochProgress) -> None:
        self.teacher = (self.adapter.clone(), self.theta.clone())
        super().train(task, progress)

    def loss(self, batch: Batch, task: Task) -> Tensor:
        logits, hinge = self.logits_and_hinge(batch, task)
        loss = self.classification_loss(logits, batch) + hinge
        if self.config.distillation and self.seen:
            loss = loss + self.config.distillation * self.distillation_loss(logits, batch)
        return loss

    def distillation_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """T^2 KL(old || new) over the old classes, on images and pseudo-features."""
        temperature = self.config.temperature
        with torch.no_grad():
            directions = calibrated(batch.x, *self.teacher)
            taught = scaled_cosines(directions, self.text[: self.seen], self.logit_scale)
        return temperature**2 * kl_div(
            log_softmax(logits[:, : self.seen] / temperature, dim=1),
            log_softmax(taught / temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )

    def fuse(self, old: Tensor, new: Tensor, task: Task) -> Tensor:
        """A = Q [M R_new + (1 - M) R_old], R = Q' A, with RAPF's mask M."""
        return qr_mask(old, new, self.config.mask_bias)

    def state_dict(self) -> dict[str, Tensor]:
        return {**super().state_dict(), "theta": self.theta}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.theta = state["theta"].to(self.device, copy=True)


def calibrated(features: Tensor, adapter: Tensor, theta: Tensor) -> Tensor:
    """a n(f) + (1 - a) n(A f), a = sigmoid(theta); differentiable in the adapter and theta."""
    mixed: Tensor = _Mixed.apply(features, features @ adapter.T, theta)
    return mixed


class _Mixed(torch.autograd.Function):
    """a n(f) + (1 - a) n(h) for rows f and h, with its gradient in h and theta written out."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, adapted: Tensor, theta: Tensor) -> Tensor:
        weight, norms = theta.sigmoid(), row_norms(adapted)
        own, rest = weight / row_norms(features), (1 - weight) / norms
        ctx.save_for_backward(features, adapted, weight, norms, own, rest)
        return (adapted * rest).addcmul_(features, own)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        features, adapted, weight, norms, own, rest = ctx.saved_tensors
        along = (grads[0] * adapted).sum(1, keepdim=True).mul_(rest)
        of_theta = None
        if ctx.needs_input_grad[2]:
            of_own = (grads[0] * features).sum(1, keepdim=True).mul_(own)
            of_theta = (1 - weight) * of_own.sum() - weight * along.sum()
        radial = along / norms.square()
        return None, (grads[0] * rest).addcmul_(adapted, radial, value=-1), of_theta
