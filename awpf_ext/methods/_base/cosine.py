"""Scaled cosines without normalising first: s x't / |x| for texts t of length 1.

The rows of the product with the texts are scaled, which reads and writes (n, classes) entries
instead of (n, d), forward and backward.
"""

from __future__ import annotations

from torch import Tensor

SMALLEST_NORM = 1e-12  # as in torch's normalize: a row of zeros has cosines of zero


def inverse_norms(x: Tensor) -> Tensor:
    """(n, 1): 1 / |x| of the rows of x (n, d)."""
    return x.square().sum(-1, keepdim=True).clamp_min(SMALLEST_NORM**2).rsqrt()


def scaled_cosines(x: Tensor, texts: Tensor, scale: float) -> Tensor:
    """(n, classes): `scale` times the cosines of x (n, d) with L2-normalised texts (classes, d)."""
    return (x @ texts.T) * (scale * inverse_norms(x))
