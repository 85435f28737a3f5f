"""The kernel two-sample test: is the MMD of x and y larger than chance would make it?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from awpf_ext.ops._arguments import accepts_numpy, check_choice, result_dtype
from awpf_ext.ops._rbf import rbf_permutation_sums
from awpf_ext.ops._samples import check_unbiased, exponents, pool
from awpf_ext.ops.mmd import ESTIMATORS, estimate

# A split that is the given one in other words (x and y exchanged) has the same MMD up to
# rounding, and must count as a tie.
_TIE = 1e-9


class MMDTest(NamedTuple):
    """The squared MMD, its p-value, and the values under random splits (in a last dimension)."""

    statistic: Tensor
    p_value: Tensor
    null: Tensor


@accepts_numpy
def mmd_test(
    x: Any,
    y: Any,
    *,
    permutations: int = 1000,
    seed: int = 0,
    bandwidth: float | Sequence[float] | Tensor | str = "median",
    scales: Sequence[float] = (1.0,),
    estimator: str = "unbiased",
    x_offsets: Any = None,
    y_offsets: Any = None,
    check: bool = False,
) -> MMDTest:
    """Permutation test of "x and y come from the same distribution".

    The pooled points are split at random ``permutations`` times into samples of the same sizes;
    the p-value is (1 + number of splits with an MMD at least as large) / (1 + permutations), so
    it is never zero and the test is exact at any sample size. The splits depend on ``seed``
    alone, the same on every device, for every member of a batch and for any number of threads.
    Other arguments as in :func:`awpf_ext.mmd`; a median bandwidth is that of the pooled points,
    so it is the same for every split.
    """
    check_choice("estimator", estimator, ESTIMATORS)
    if not isinstance(permutations, int) or isinstance(permutations, bool) or permutations < 1:
        raise ValueError(f"permutations must be an integer of at least 1, got {permutations!r}")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise ValueError(f"seed must be an integer from 0 to 2^63 - 1, got {seed!r}")
    samples = pool("mmd_test", x, y, x_offsets, y_offsets, check)
    check_unbiased(estimator, samples.least)
    gamma = exponents(bandwidth, scales, samples.z, samples.rows, samples.shape, check)
    sums = rbf_permutation_sums(samples.z, samples.rows, gamma, permutations, seed)
    sizes = samples.sizes().unsqueeze(1)
    values = estimate(sizes, estimator).value(sums[..., 0], sums[..., 1], sums[..., 2])
    means = sums[:, :1, 0] / sizes[..., 0] ** 2 + sums[:, :1, 2] / sizes[..., 1] ** 2
    statistic, null = values[:, :1], values[:, 1:]
    reached = (null >= statistic - _TIE * means).sum(dim=1)
    dtype = result_dtype(samples.z.dtype)
    return MMDTest(
        statistic.reshape(samples.shape).to(dtype),
        ((1 + reached).double() / (1 + permutations)).reshape(samples.shape).to(dtype),
        null.reshape(*samples.shape, permutations).to(dtype),
    )
