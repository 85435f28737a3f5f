"""The covariance that all classes share, shrunk as Ledoit and Wolf (2004) propose.

With the residuals r_i = x_i - mean of its class, of N images of C classes, in d dimensions:

    M = sum_i r_i r_i' / N,   m = tr(M) / d,
    b = (sum_i |r_i|^4 / N - |M|^2) / (N d),   D = |M - m I|^2 / d,   s = min(b, D) / D,

    S = N / (N - C) ((1 - s) M + s m I).

So S is N / (N - C) times scikit-learn's `ledoit_wolf(residuals, assume_centered=True)`: the factor
removes the bias from estimating C means. Everything comes from sums over images that can be kept
while the images are not. s is at least 1e-6, so that S always has an inverse.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from awpf_ext.methods._base.class_statistics import ClassStatistics

LEAST_SHRINKAGE = 1e-6  # the precision of the stored float32 factors


class PooledCovariance(NamedTuple):
    """The shrunk covariance S and how much of it is the multiple of the identity."""

    covariance: Tensor  # (d, d) float64
    shrinkage: float  # s, 0 to 1


def pooled_covariance(statistics: ClassStatistics) -> PooledCovariance:
    """The covariance of the images around the means of their classes."""
    return shrunk_covariance(
        statistics.scatter(),
        statistics.quartic_sum(),
        means=statistics.means,
        counts=statistics.counts,
    )


def shrunk_covariance(
    scatter: Tensor, quartic_sum: Tensor, *, means: Tensor, counts: Tensor
) -> PooledCovariance:
    """S from the sums of r r' (d, d) and |r|^4 and each class's mean (C, d) and number of images.

    Without two different images of any class there is nothing to estimate S from: then S is m I,
    m being the mean variance of the class means, or 1 if they do not differ either.
    """
    dim = len(scatter)
    images = int(counts.sum())
    classes = int((counts > 0).sum())
    variance = float(scatter.trace()) / dim
    if images == classes or variance <= 0:
        identity = torch.eye(dim, dtype=torch.float64, device=scatter.device)
        spread = means[counts > 0].double().var(0, correction=0).mean() if classes else 0.0
        return PooledCovariance(identity * (float(spread) or 1.0), 1.0)
    mean_variance = variance / images
    square = float(scatter.square().sum()) / images**2
    noise = (float(quartic_sum) / images - square) / (images * dim)
    distance = square / dim - mean_variance**2
    share = noise / distance if distance > 0 else 1.0
    share = min(max(share, LEAST_SHRINKAGE), 1.0)
    covariance = scatter * ((1 - share) / (images - classes))
    covariance.diagonal().add_(share * variance / (images - classes))
    return PooledCovariance(covariance, share)
