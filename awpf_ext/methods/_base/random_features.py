"""Random features: fixed, drawn from a seed, and therefore stored nowhere.

    relu:     h = sqrt(2 / D) relu(R'f),        R standard normal, (d, D)
    fourier:  h = sqrt(2 / D) cos(R'f / b + o), o uniform in [0, 2 pi)

f is L2-normalised. The expectation of h.h' is the arc-cosine kernel of order 1, and exp(-|f - f'|^2
/ 2 b^2). They are drawn on the CPU, so that a model gives the same on every device.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from awpf_ext.methods._base.method import MethodConfig


class ReluFeatures:
    """x -> sqrt(2 / D) relu(R'n(x)), (n, D)."""

    def __init__(self, dim: int, width: int, seed: int, device: torch.device) -> None:
        self.projection = _normal(dim, width, seed).mul_((2 / width) ** 0.5).to(device)

    def __call__(self, x: Tensor) -> Tensor:
        return (normalize(x, dim=-1) @ self.projection).relu_()


class FourierConfig(MethodConfig):
    """Settings of a method on random Fourier features."""

    width: int = Field(2000, ge=1, description="Number D of random features")
    bandwidth: float = Field(
        2.0,
        gt=0,
        description="Bandwidth b of the kernel, for L2-normalised features",
    )


class FourierFeatures:
    """x -> sqrt(2 / D) cos(R'n(x) / b + o), (n, D)."""

    def __init__(
        self, dim: int, width: int, bandwidth: float, seed: int, device: torch.device
    ) -> None:
        self.projection = _normal(dim, width, seed).div_(bandwidth).to(device)
        offsets = torch.rand(width, generator=_generator(seed + 1)) * (2 * math.pi)
        self.offsets = offsets.to(device)

    def __call__(self, x: Tensor) -> Tensor:
        projected = torch.addmm(self.offsets, normalize(x, dim=-1), self.projection)
        return projected.cos_().mul_((2 / len(self.offsets)) ** 0.5)


def unit(x: Tensor) -> Tensor:
    """The L2-normalised features themselves."""
    return normalize(x, dim=-1)


def _normal(dim: int, width: int, seed: int) -> Tensor:
    return torch.randn(dim, width, generator=_generator(seed))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
