"""The biased and the unbiased estimator of the squared MMD, as weights of block sums."""

from __future__ import annotations

from typing import NamedTuple, get_args

import torch
from torch import Tensor

from awpf_ext.ops._arguments import is_traced
from awpf_ext.ops._constants import cached, repeated_constant
from awpf_ext.ops._samples import PooledSamples
from awpf_ext.ops._types import Estimator

ESTIMATORS = get_args(Estimator)


class EstimatorWeights(NamedTuple):
    """Squared MMD = xx S_xx + 2 xy S_xy + yy S_yy + constant, where S are the sums of the kernel
    over the blocks, diagonals included."""

    xx: Tensor
    xy: Tensor
    yy: Tensor
    constant: Tensor
    square: Tensor  # (..., 2, 2): xx, xy, xy, yy

    def value(self, xx: Tensor, xy: Tensor, yy: Tensor) -> Tensor:
        """The squared MMD from the block sums."""
        within = self.xx * xx + self.yy * yy  # in this order symmetric in x and y to the last bit
        return within + 2 * self.xy * xy + self.constant


def estimator_weights(sizes: Tensor, estimator: Estimator) -> EstimatorWeights:
    """The weights for sample sizes (..., 2)."""
    n, m = sizes[..., 0], sizes[..., 1]
    xy = -1 / (n * m)
    if estimator == "biased":
        xx, yy, constant = 1 / (n * n), 1 / (m * m), torch.zeros_like(n)
    else:  # without the diagonals, whose sums are n and m
        xx, yy = 1 / (n * (n - 1)), 1 / (m * (m - 1))
        constant = -1 / (n - 1) - 1 / (m - 1)
    square = torch.stack([xx, xy, xy, yy], dim=-1)
    return EstimatorWeights(xx, xy, yy, constant, square.reshape(*n.shape, 2, 2))


def weights_for(samples: PooledSamples, estimator: Estimator) -> EstimatorWeights:
    """The weights for each problem."""
    if samples.lengths is None or is_traced():
        return estimator_weights(samples.sizes(), estimator)
    return _weights_for_batch(*samples.lengths, len(samples.rows), estimator, samples.z.device)


@cached
def _weights_for_batch(
    n: int, m: int, problems: int, estimator: Estimator, device: torch.device
) -> EstimatorWeights:
    return estimator_weights(repeated_constant((float(n), float(m)), problems, device), estimator)
