"""Linear discriminant analysis: Gaussian classes with one covariance S and equal priors.

log p(c | x) = x'S^-1 mu_c - mu_c'S^-1 mu_c / 2 + what is the same for all classes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from awpf_ext.errors import UserError
from awpf_ext.methods._base.class_statistics import ClassStatistics
from awpf_ext.methods._base.pooled_covariance import pooled_covariance


class LinearClassifier(NamedTuple):
    """Scores x W' + b of classes; a class that it knows nothing of has the bias -inf."""

    weight: Tensor  # (C, d)
    bias: Tensor  # (C,)

    @property
    def known(self) -> Tensor:
        """(C,) whether a class can be predicted."""
        return self.bias.isfinite()

    def scores(self, x: Tensor) -> Tensor:
        """(n, C), for x of shape (n, d)."""
        return torch.addmm(self.bias, x, self.weight.mT)


def lda_classifier(statistics: ClassStatistics) -> LinearClassifier:
    """LDA of all classes of the statistics, with their shrunk pooled covariance, in float32.

    The scores are log posteriors up to a constant, for features x as they entered the statistics.
    Classes without images have the bias -inf: their softmax is 0. Where such scores are added to
    others with a weight, treat `known` first, since 0 times -inf is not a number.
    """
    return lda_of(statistics.means, statistics.counts, pooled_covariance(statistics).covariance)


def lda_of(means: Tensor, counts: Tensor, covariance: Tensor) -> LinearClassifier:
    """LDA from the means (C, d) and numbers of images of the classes, and S (d, d).

    One Cholesky factorisation in the precision of S; the result is float32.
    """
    means = means.to(covariance.dtype)
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if failed:
        raise UserError(
            "the covariance of the features is singular, so that LDA has no solution (for klda: "
            "expected a bandwidth nearer to 2, the default)"
        )
    weight = torch.cholesky_solve(means.mT, factor).mT
    bias = -(weight * means).sum(1) / 2
    return LinearClassifier(
        weight.float().contiguous(), bias.float().masked_fill(counts == 0, -math.inf)
    )
