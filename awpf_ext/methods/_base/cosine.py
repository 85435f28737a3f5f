"""Scaled cosines without normalising first: s x't / |x| for texts t of length 1.

The rows of the product with the texts are scaled, which reads and writes (n, classes) entries
instead of (n, d), forward and backward. The gradients are written out: a step of the adapter's
training has so little arithmetic that recording every small operation would take much of it. With
y = s x't / |x| and g = dL/dy,

    dL/dx = (s / |x|) sum g t - (sum g y / |x|^2) x,

whose last term removes the part along x, because the length of x changes nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SMALLEST_NORM = 1e-12  # as in torch's normalize: a row of zeros has cosines of zero


def scaled_cosines(x: Tensor, texts: Tensor, scale: float) -> Tensor:
    """(n, classes): `scale` times the cosines of x (n, d) with L2-normalised texts (classes, d).

    Differentiable in x.
    """
    cosines: Tensor = _ScaledCosines.apply(x, texts, scale)
    return cosines


def row_products(x: Tensor, targets: Tensor) -> Tensor:
    """(n, 1): the inner product of each x / |x| with its own target (n, d).

    Differentiable in x.
    """
    products: Tensor = _RowProducts.apply(x, targets)
    return products


def row_norms(x: Tensor) -> Tensor:
    """(n, 1): the norms of the rows of x (n, d), at least `SMALLEST_NORM`."""
    norms: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norms.clamp_min_(SMALLEST_NORM)


class _ScaledCosines(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, texts: Tensor, scale: float) -> Tensor:
        lengths = row_norms(x).div_(scale)
        cosines = (x @ texts.T).div_(lengths)
        ctx.scale = scale
        ctx.save_for_backward(x, texts, lengths, cosines)
        return cosines

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, texts, lengths, cosines = ctx.saved_tensors
        of_products = grads[0] / lengths
        radial = (of_products * cosines).sum(1, keepdim=True).div_(lengths)
        of_x = of_products @ texts
        return of_x.addcmul_(x, radial, value=-1 / ctx.scale**2), None, None


class _RowProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, targets: Tensor) -> Tensor:
        norms = row_norms(x)
        products = (x * targets).sum(1, keepdim=True).div_(norms)
        ctx.save_for_backward(x, targets, norms, products)
        return products

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, targets, norms, products = ctx.saved_tensors
        of_products = grads[0] / norms
        radial = (of_products * products).div_(norms)
        return (targets * of_products).addcmul_(x, radial, value=-1), None
