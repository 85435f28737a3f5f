"""The squared maximum mean discrepancy (MMD) between two samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from awpf_ext.ops._arguments import (
    FLOATING,
    accepts_numpy,
    check_alike,
    check_choice,
    check_points,
    result_dtype,
    shape_of,
)
from awpf_ext.ops._autograd import may_be_differentiated
from awpf_ext.ops._estimators import ESTIMATORS, estimator_weights, weights_for
from awpf_ext.ops._rbf import weighted_rbf_sums
from awpf_ext.ops._samples import blocks_of_problems, check_unbiased, check_width, pool
from awpf_ext.ops._sharded import agree, shard, sharded_rbf_sums, world_of
from awpf_ext.ops._types import Bandwidth, Estimator, Offsets, Scales, TensorOrArray
from awpf_ext.ops.bandwidth import compute_gamma, sharded_gamma

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@accepts_numpy
def mmd(
    x: TensorOrArray,
    y: TensorOrArray,
    *,
    bandwidth: Bandwidth = "median",
    scales: Scales = (1.0,),
    estimator: Estimator = "biased",
    x_offsets: Offsets | None = None,
    y_offsets: Offsets | None = None,
    group: ProcessGroup | None = None,
    validate: bool = False,
) -> TensorOrArray:
    """Squared MMD between x and y under a mixture of RBF kernels.

    The kernel is the mean of exp(-|a - b|^2 / (2 c sigma^2)) over all bandwidths sigma and scales
    c. The result is differentiable once in x and y.

    Args:
        x: Points (..., n, d).
        y: Points (..., m, d), of the dtype and on the device of x. Batch dimensions broadcast.
        bandwidth: sigma, as a number, a sequence of numbers, or a tensor (one value per problem, or
            several in a last dimension). "median" is the median distance between the pooled points
            (:func:`awpf_ext.median_bandwidth`), which carries no gradient.
        scales: Factors c of sigma^2, one or several.
        estimator: "biased" is non-negative up to rounding, and zero for equal samples. "unbiased"
            has mean zero if both samples come from one distribution, so that about half of its
            values are negative then.
        x_offsets: Offsets of a ragged batch: sample b is ``x[x_offsets[b]:x_offsets[b + 1]]``.
        y_offsets: The same for y.
        group: A torch.distributed process group over whose ranks the rows are spread. Every rank
            passes its own x (n, d) and y (m, d), either possibly without rows, and gets the value
            for the rows of all ranks.
        validate: Check the values of CUDA tensors too, which waits for the GPU. Without it, NaN, a
            median of zero or wrong offsets there result in NaN or a wrong value. The values of CPU
            tensors are always checked.

    Returns:
        One value per problem, float64 for float64 points, otherwise float32.

    Example:
        >>> x = torch.linspace(0, 1, 20).reshape(10, 2)
        >>> print(f"{awpf_ext.mmd(x, x + 0.5, bandwidth=1.0):.3f}")
        0.278
    """
    check_choice("estimator", estimator, ESTIMATORS)
    if group is not None:
        if x_offsets is not None or y_offsets is not None:
            raise ValueError("x_offsets and y_offsets cannot be given together with group")
        return _sharded_mmd(x, y, bandwidth, scales, estimator, group)  # type: ignore[return-value]
    offsets = (x_offsets, y_offsets)
    if offsets == (None, None) and not may_be_differentiated(x, y, bandwidth):
        values = _by_blocks(x, y, bandwidth, scales, estimator)
        if values is not None:
            return values  # type: ignore[return-value]
    return _at_once(x, y, bandwidth, scales, estimator, offsets, validate)  # type: ignore[return-value]


def _at_once(
    x: Any,
    y: Any,
    bandwidth: Bandwidth,
    scales: Scales,
    estimator: Estimator,
    offsets: tuple[Offsets | None, Offsets | None] = (None, None),
    validate: bool = False,
) -> Tensor:
    samples = pool("mmd", x, y, *offsets, validate)
    check_unbiased(estimator, samples.smallest)
    gamma = compute_gamma(bandwidth, scales, samples.z, samples.rows, samples.shape, validate)
    weights = weights_for(samples, estimator)
    value = weighted_rbf_sums(
        samples.z, samples.rows, gamma, weights.square, weights.constant, samples.problem_ids
    )
    return value.reshape(samples.shape)


def _by_blocks(
    x: Any, y: Any, bandwidth: Bandwidth, scales: Scales, estimator: Estimator
) -> Tensor | None:
    """The values of a large batch on the CPU, or None where there is only one block of problems."""
    if isinstance(bandwidth, Tensor):  # may differ from problem to problem
        return None
    blocks = blocks_of_problems(x, y)
    if len(blocks) < 2:
        return None

    def at_once(x: Tensor, y: Tensor) -> Tensor:
        return _at_once(x, y, bandwidth, scales, estimator)

    try:
        return torch.cat([at_once(*block) for block in blocks])
    except (TypeError, ValueError, RuntimeError) as error:
        if type(error) in (TypeError, ValueError, RuntimeError):
            at_once(x, y)  # if it is of the arguments, say it of the whole batch
        raise  # else a signal's handler may have raised it


def _sharded_mmd(
    x: Any,
    y: Any,
    bandwidth: Bandwidth,
    scales: Scales,
    estimator: Estimator,
    group: ProcessGroup,
) -> Tensor:
    world = world_of(group, x, y)

    def check() -> tuple[Tensor, Tensor]:
        points = [
            check_points("mmd", name, value, allow_empty=True)
            for name, value in (("x", x), ("y", y))
        ]
        check_alike(x=points[0], y=points[1])
        for name, value in zip("xy", points, strict=True):
            if value.dim() != 2:
                raise ValueError(f"{name} must have shape (n, d) with group, got {shape_of(value)}")
        check_width(*points)
        return points[0], points[1]

    own = agree(world, check, lambda found: (found[0].shape[1], FLOATING.index(found[0].dtype), 2))
    samples = shard(world, torch.cat(own), torch.tensor([len(own[0]), len(own[1])]))
    sizes = samples.group_sizes
    for name, size in zip("xy", sizes.tolist(), strict=True):
        if size == 0:
            raise ValueError(f"{name} must have at least one row (n >= 1) over all ranks, got none")
    check_unbiased(estimator, int(sizes.min()))
    weights = estimator_weights(sizes.to(samples.z.device, torch.float64), estimator)
    sums = sharded_rbf_sums(samples, sharded_gamma(samples, bandwidth, scales))
    value = weights.constant + (weights.square * sums[0]).sum()
    return value.to(result_dtype(own[0].dtype))
