"""The widths of the RBF kernels: given, or the median distance between the points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from awpf_ext.ops._arguments import (
    accepts_numpy,
    can_inspect,
    check_dense,
    check_values,
    result_dtype,
    shape_of,
    shown,
)
from awpf_ext.ops._constants import constant, repeated_constant
from awpf_ext.ops._rbf import median_square_distance
from awpf_ext.ops._samples import pool_batch, pool_one
from awpf_ext.ops._sharded import ShardedRows, median_subset
from awpf_ext.ops._types import Bandwidth, Scales, TensorOrArray

MEDIAN_ROWS = 1024
"""The median looks at pairs of up to this many rows; of more rows, as many are drawn with a fixed
seed."""

MEDIAN_SEED = 0


@accepts_numpy
def median_bandwidth(
    x: TensorOrArray, y: TensorOrArray | None = None, *, validate: bool = False
) -> TensorOrArray:
    """Median distance between the points of x and y pooled: the sigma of ``bandwidth="median"``.

    The median is the lower of the two middle values, over all pairs of up to 46 pooled points. Of
    more points at least 1,024 pairs are looked at: the points, or 1,024 of them, are put into a
    random order with a fixed seed, and each is compared with the next few. Computed in double
    precision, and without a gradient.

    Args:
        x: Points (..., n, d).
        y: More points (..., m, d), pooled with those of x.
        validate: As in :func:`awpf_ext.mmd`.

    Returns:
        One value for each batch dimension, float64 for float64 points, otherwise float32.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [3.0]])
        >>> awpf_ext.median_bandwidth(x)
        tensor(2.)
    """
    if y is None:
        z, rows, shape = pool_one("median_bandwidth", x, validate)
    else:
        z, rows, *_, shape = pool_batch("median_bandwidth", x, y, validate)
    squares = median_square_distance(z, rows, MEDIAN_ROWS, MEDIAN_SEED)
    sigma = squares.sqrt().reshape(shape).to(result_dtype(z.dtype))
    return sigma  # type: ignore[return-value]


def compute_gamma(
    bandwidth: Bandwidth,
    scales: Scales,
    z: Tensor,
    rows: Tensor,
    shape: tuple[int, ...],
    validate: bool = False,
) -> Tensor:
    """(problems, kernels) float64 gamma = 1 / (2 sigma^2 scale), for each bandwidth and scale."""
    factors = _positive("scales", scales)
    problems = rows.shape[0]
    if isinstance(bandwidth, str):
        if bandwidth != "median":
            raise ValueError(
                f'bandwidth must be a number, several, or "median", got {shown(bandwidth)}'
            )
        squares = median_square_distance(z, rows, MEDIAN_ROWS, MEDIAN_SEED).unsqueeze(-1)
    elif isinstance(bandwidth, Tensor):
        sigma = _sigma_tensor(bandwidth, shape, z)
        squares = sigma * sigma.abs()  # stays negative, so that kernels refuse it
    else:
        sigmas = _positive("bandwidth", bandwidth)
        variances = [(sigma * sigma) * factor for sigma in sigmas for factor in factors]
        if not all(0 < variance < math.inf for variance in variances):
            raise ValueError(
                "bandwidth^2 times scale must be within the range of float64, got bandwidth "
                f"{shown(bandwidth)} and scales {shown(scales)}"
            )
        return repeated_constant(
            tuple(0.5 / variance for variance in variances), problems, z.device
        )
    gamma = (0.5 / (squares.unsqueeze(-1) * constant(factors, z.device))).flatten(1).contiguous()
    needs_check = z.device.type != "cpu" and can_inspect(gamma, validate)  # CPU kernels check it
    if needs_check and not bool((gamma.isfinite() & (gamma > 0)).all()):
        raise ValueError(_NO_GAMMA)
    return gamma


_NO_GAMMA = (
    "bandwidth: every bandwidth must be a positive, finite number (the median is zero if at least "
    "half of the pairs of points are equal)"
)


def _positive(name: str, value: Any) -> tuple[float, ...]:
    """A number, or a sequence of numbers, as positive floats."""
    if isinstance(value, Tensor):  # from an array
        check_values(name, check_dense(name, value))
        value = value.tolist()
    try:
        several = isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray))
        items = value if several else [value]
        numbers = tuple(_as_float(item) for item in items)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name} must be a number or a sequence of numbers, got {shown(value)}"
        ) from None
    if not numbers:
        raise ValueError(f"{name} must hold at least one number, got none")
    for item, number in zip(items, numbers, strict=True):
        if not 0 < number < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {shown(item)}")
    return numbers


def _as_float(value: Any) -> float:
    if isinstance(value, (bool, str, bytes, np.bool_)):
        raise TypeError  # float() takes them
    if isinstance(value, (Tensor, np.ndarray)):
        value = torch.as_tensor(value)
        if value.requires_grad or value.is_meta or value.dtype == torch.bool:
            raise TypeError
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _sigma_tensor(bandwidth: Tensor, shape: tuple[int, ...], z: Tensor) -> Tensor:
    if bandwidth.requires_grad:
        raise ValueError("bandwidth must not require a gradient: pass bandwidth.detach()")
    if bandwidth.device != z.device:
        raise ValueError(f"bandwidth must be on {z.device} like x, got {bandwidth.device}")
    if not bandwidth.dtype.is_floating_point:
        raise TypeError(f"bandwidth must be a floating-point tensor, got {bandwidth.dtype}")
    check_dense("bandwidth", bandwidth)
    got = shape_of(bandwidth)
    sigma = bandwidth.to(torch.float64)
    problems = math.prod(shape)
    if got in ((), shape):
        return sigma.expand(shape).reshape(problems, 1)
    if got[:-1] == shape:
        return sigma.reshape(problems, got[-1])
    raise ValueError(
        f"bandwidth must have shape {shape} (one per problem) or {(*shape, 'kernels')}, got {got}"
    )


def sharded_gamma(samples: ShardedRows, bandwidth: Bandwidth, scales: Scales) -> Tensor:
    """`compute_gamma` for rows that are spread over several ranks."""
    if isinstance(bandwidth, str) and bandwidth == "median":
        z, rows = median_subset(samples, MEDIAN_ROWS, MEDIAN_SEED)
    else:
        z, rows = samples.z, samples.rows(samples.world.rank)
    return compute_gamma(bandwidth, scales, z, rows, ())
