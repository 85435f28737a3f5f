"""The kernel two-sample test: is the MMD between x and y larger than chance would make it?"""

from __future__ import annotations

from typing import Generic

import numpy as np
from torch import Tensor
from typing_extensions import NamedTuple

from awpf_ext.ops._arguments import (
    accepts_numpy,
    check_choice,
    check_integer,
    result_dtype,
    shown,
)
from awpf_ext.ops._estimators import ESTIMATORS, estimator_weights
from awpf_ext.ops._rbf import rbf_permutation_sums
from awpf_ext.ops._samples import check_unbiased, pool
from awpf_ext.ops._types import Bandwidth, Estimator, Offsets, Scales, TensorOrArray
from awpf_ext.ops.bandwidth import compute_gamma

# A split that equals the given one, with x and y exchanged, has the same MMD up to rounding, and
# must count as a tie.
TIE = 1e-9

MOST_PERMUTATIONS = 2**24


class MMDTest(NamedTuple, Generic[TensorOrArray]):
    """Result of :func:`awpf_ext.mmd_test`."""

    statistic: TensorOrArray
    """The squared MMD, one value per problem."""
    p_value: TensorOrArray
    """Its p-value."""
    null: TensorOrArray
    """(..., permutations): the squared MMD of each random split."""


@accepts_numpy
def mmd_test(
    x: TensorOrArray,
    y: TensorOrArray,
    *,
    permutations: int = 1000,
    seed: int = 0,
    bandwidth: Bandwidth = "median",
    scales: Scales = (1.0,),
    estimator: Estimator = "unbiased",
    x_offsets: Offsets | None = None,
    y_offsets: Offsets | None = None,
    validate: bool = False,
) -> MMDTest[TensorOrArray]:
    """Permutation test of "x and y come from the same distribution".

    The pooled points are split at random `permutations` times into samples of the same sizes. The
    p-value is (1 + number of splits with an MMD at least as large) / (1 + permutations), so that it
    is never zero, and the test is exact for any sample size. Not differentiable.

    Args:
        x: Points (..., n, d).
        y: Points (..., m, d). Batch dimensions broadcast.
        permutations: Number of random splits, at most 2^24.
        seed: Seed of the splits, which depend on nothing else: they are the same on every device,
            for every problem of a batch and for any number of threads.
        bandwidth: As in :func:`awpf_ext.mmd`; "median" is that of the pooled points, and therefore
            the same for every split.
        scales: As in :func:`awpf_ext.mmd`.
        estimator: As in :func:`awpf_ext.mmd`.
        x_offsets: As in :func:`awpf_ext.mmd`.
        y_offsets: As in :func:`awpf_ext.mmd`.
        validate: As in :func:`awpf_ext.mmd`.

    Returns:
        The squared MMD, its p-value, and the values under the random splits.

    Example:
        >>> x = torch.linspace(0, 1, 40).reshape(20, 2)
        >>> test = awpf_ext.mmd_test(x, x + 1.0, permutations=99)
        >>> print(f"p = {test.p_value:.2f}")
        p = 0.01
    """
    check_choice("estimator", estimator, ESTIMATORS)
    permutations = check_integer("permutations", permutations, MOST_PERMUTATIONS)
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise ValueError(f"seed must be an integer from 0 to 2^63 - 1, got {shown(seed)}")
    samples = pool("mmd_test", x, y, x_offsets, y_offsets, validate)
    check_unbiased(estimator, samples.smallest)
    gamma = compute_gamma(bandwidth, scales, samples.z, samples.rows, samples.shape, validate)
    sums = rbf_permutation_sums(samples.z, samples.rows, gamma, permutations, int(seed))
    sizes = samples.sizes().unsqueeze(1)
    values = estimator_weights(sizes, estimator).value(sums[..., 0], sums[..., 1], sums[..., 2])
    means = sums[:, :1, 0] / sizes[..., 0] ** 2 + sums[:, :1, 2] / sizes[..., 1] ** 2
    statistic, null = values[:, :1], values[:, 1:]
    reached = (null >= statistic - TIE * means).sum(dim=1)
    dtype = result_dtype(samples.z.dtype)
    result: MMDTest[Tensor] = MMDTest(
        statistic.reshape(samples.shape).to(dtype),
        ((1 + reached).double() / (1 + permutations)).reshape(samples.shape).to(dtype),
        null.reshape(*samples.shape, permutations).to(dtype),
    )
    return result  # type: ignore[return-value]
